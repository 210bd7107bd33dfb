"""Join tokens in SQL: redeemed by one conditional update, so that one of many redeemers wins."""

from __future__ import annotations

import math
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col

from meshca.errors import MeshcaError, unauthenticated
from meshca.stores.database import Database
from meshca.stores.mapping import join_token, join_token_row
from meshca.stores.tables import JoinTokenRow
from meshca.stores.writer import Writer
from meshca.tokens.join import JoinToken


class SqlJoinTokenStore:
    """`ports.JoinTokenStore` in SQL."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    def add(self, token: JoinToken) -> None:
        """Stores durably. Raises CONFLICT where the hash is known, UNAVAILABLE where the database is out."""
        values = join_token_row(token).model_dump()
        self._writer.run(lambda connection: connection.execute(insert(JoinTokenRow).values(values)).close())

    def find(self, token_hash: str, now: datetime) -> JoinToken:
        """The token, if it is unspent. Reads only: strangers who guess tokens never reach the writer.

        Raises UNAUTHENTICATED where it is unknown, used or expired, and UNAVAILABLE where the database is out.
        """
        try:
            with self._database.reading() as connection:
                row = _row(connection, token_hash)
        except SQLAlchemyError as error:
            raise self._database.failure(error) from error
        if row.used_at is not None or row.expires_at <= math.floor(now.timestamp()):
            raise _spent(row, math.floor(now.timestamp()))
        return join_token(row)

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
    found = _row(connection, token_hash)
    if not won:
        raise _spent(found, now)
    return join_token(found)


def _row(connection: Connection, token_hash: str) -> JoinTokenRow:
    with Session(connection, expire_on_commit=False) as session:
        found = session.scalars(select(JoinTokenRow).where(col(JoinTokenRow.token_hash) == token_hash)).one_or_none()
        session.expunge_all()
    if found is None:
        raise unauthenticated("join token is unknown: it was never made here, or expired long ago")
    return found


def _spent(row: JoinTokenRow, now: int) -> MeshcaError:
    fate = "expired" if row.expires_at <= now else "was used before"
    return unauthenticated(f"join token {row.token_hash[:16]} {fate}: ask for a new one")
