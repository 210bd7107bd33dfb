"""Join tokens in SQL: redeemed by one conditional update, so that one of many redeemers wins."""

from __future__ import annotations

import math
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update
from sqlmodel import Session, col

from meshca.errors import unauthenticated
from meshca.stores.mapping import join_token, join_token_row
from meshca.stores.tables import JoinTokenRow
from meshca.stores.writer import Writer
from meshca.tokens.join import JoinToken


class SqlJoinTokenStore:
    """`ports.JoinTokenStore` in SQL."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def add(self, token: JoinToken) -> None:
        """Stores durably. Raises CONFLICT where the hash is known, UNAVAILABLE where the database is out."""
        values = join_token_row(token).model_dump()
        self._writer.run(lambda connection: connection.execute(insert(JoinTokenRow).values(values)).close())

    def redeem(self, token_hash: str, now: datetime) -> JoinToken:
        """The token, used up in the same durable step.

        Raises UNAUTHENTICATED where it is unknown, used or expired, and UNAVAILABLE where the database is out; after
        that the token may be used up.
        """
        return self._writer.run(lambda connection: _redeem(connection, token_hash, math.floor(now.timestamp())))

    def prune(self, now: datetime) -> int:
        """Forgets expired tokens; how many. Raises UNAVAILABLE where the database is out."""
        expired = delete(JoinTokenRow).where(col(JoinTokenRow.expires_at) <= math.floor(now.timestamp()))
        return self._writer.run(lambda connection: connection.execute(expired).rowcount)


def _redeem(connection: Connection, token_hash: str, now: int) -> JoinToken:
    row = JoinTokenRow
    unspent = update(row).where(
        col(row.token_hash) == token_hash, col(row.used_at).is_(None), col(row.expires_at) > now
    )
    won = connection.execute(unspent.values(used_at=now)).rowcount == 1
    with Session(connection) as session:
        found = session.scalars(select(row).where(col(row.token_hash) == token_hash)).one_or_none()
        if found is None:
            raise unauthenticated("join token is unknown: it was never made here, or expired long ago")
        if not won:
            fate = "expired" if found.expires_at <= now else "was used before"
            raise unauthenticated(f"join token {token_hash[:16]} {fate}: ask for a new one")
        return join_token(found)
