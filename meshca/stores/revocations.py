"""Bans in SQL: rows that are added and, once, marked as lifted."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col

from meshca.errors import ErrorKind, MeshcaError, conflict, not_found
from meshca.spiffe.bans import Ban, BanKind, BanList
from meshca.stores.database import Database
from meshca.stores.mapping import ban, ban_values, to_seconds
from meshca.stores.queries import check_limit
from meshca.stores.tables import BanRow
from meshca.stores.writer import Writer

_STANDING = col(BanRow.lifted_at).is_(None)
# Rows are never removed, and lifted once at most: each change makes this greater.
_REVISION = select(func.count(col(BanRow.id)) + func.count(col(BanRow.lifted_at)))


class SqlRevocationStore:
    """`ports.RevocationStore` in SQL."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    def add(self, new: Ban) -> None:
        """Stores durably. Raises CONFLICT where a ban of the same subject stands, UNAVAILABLE where the database is
        out (it may be stored then, or not), INTERNAL for a time that is not in whole seconds."""
        table, values = ban_values(new)
        try:
            self._writer.run(lambda connection: connection.execute(insert(table).values(values)).close())
        except MeshcaError as error:
            if error.kind is not ErrorKind.CONFLICT:
                raise
            raise conflict(f"{new.kind.value} {new.subject} is revoked already") from error

    def lift(self, kind: BanKind, subject: str, at: datetime) -> Ban:
        """The ban, lifted durably. Raises NOT_FOUND where none stands, UNAVAILABLE as `add`."""
        seconds = to_seconds(at, "lifted_at")
        return self._writer.run(lambda connection: _lift(connection, kind, subject, seconds))

    def standing(self, known: BanList) -> BanList:
        """The bans that stand, oldest first; `known` itself where nothing changed since.

        Raises UNAVAILABLE where reading fails, INTERNAL where a ban cannot be read.
        """
        try:
            with self._database.reading() as connection, Session(connection) as session:
                revision = session.scalars(_REVISION).one()
                if revision == known.revision:
                    return known
                rows = session.scalars(select(BanRow).where(_STANDING).order_by(col(BanRow.id)))
                return BanList(revision, tuple(map(ban, rows)))
        except SQLAlchemyError as error:
            raise self._database.failure(error) from error

    def history(self, limit: int) -> tuple[Ban, ...]:
        """The latest `limit` bans, newest first. Raises INVALID for a bad limit, and as `standing`."""
        check_limit(limit)
        latest = select(BanRow).order_by(col(BanRow.id).desc()).limit(limit)
        try:
            with self._database.reading() as connection, Session(connection) as session:
                return tuple(map(ban, session.scalars(latest)))
        except SQLAlchemyError as error:
            raise self._database.failure(error) from error


def _lift(connection: Connection, kind: BanKind, subject: str, seconds: int) -> Ban:
    row = BanRow
    wanted = select(row).where(col(row.kind) == kind.value, col(row.subject) == subject, _STANDING)
    with Session(connection, expire_on_commit=False) as session:
        found = session.scalars(wanted).one_or_none()
        if found is None:
            raise not_found(f"{kind.value} {subject} is not revoked")
        session.expunge_all()
    connection.execute(update(row).where(col(row.id) == found.id).values(lifted_at=seconds))
    found.lifted_at = seconds
    return ban(found)
