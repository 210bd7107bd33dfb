"""The authority ring in SQL: one row, compare-and-swap, and the journal of what was done to it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col

from meshca.authority.journal import JournalEntry
from meshca.authority.ring import AuthorityRing
from meshca.errors import conflict, not_found
from meshca.ports import StoredRing
from meshca.stores.database import Database, Row
from meshca.stores.mapping import journal_entry, journal_entry_values
from meshca.stores.queries import check_limit
from meshca.stores.ring_document import read_ring, write_ring
from meshca.stores.tables import AuthorityRingRow, JournalEntryRow
from meshca.stores.writer import Writer

_ID = 1
_REVISION = col(AuthorityRingRow.revision)
_DOCUMENT = col(AuthorityRingRow.document)


class SqlAuthorityStore:
    """`ports.AuthorityStore` in SQL."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    def load(self) -> StoredRing:
        """The ring. Raises NOT_FOUND where none was ever saved, INTERNAL where it is unreadable, UNAVAILABLE."""
        try:
            with self._database.reading() as connection:
                row = connection.execute(select(_REVISION, _DOCUMENT)).one_or_none()
        except SQLAlchemyError as error:
            raise self._database.failure(error) from error
        if row is None:
            raise not_found("the database holds no authority: run `meshca init` or restore a backup")
        return StoredRing(read_ring(row.document), row.revision)

    def save(self, ring: AuthorityRing, *, expected_revision: int, entries: Sequence[JournalEntry] = ()) -> StoredRing:
        """Saves durably, with `entries` in the journal, if the stored revision is `expected_revision` (0: none).

        Raises CONFLICT otherwise, INTERNAL for a time that is not in whole seconds, and UNAVAILABLE where the database
        is out; then load again to see what stands.
        """
        document, lines = write_ring(ring), [journal_entry_values(entry) for entry in entries]
        self._writer.run(lambda connection: _swap(connection, document, expected_revision, lines))
        return StoredRing(ring, expected_revision + 1)

    def journal(self, limit: int) -> tuple[JournalEntry, ...]:
        """The latest `limit` entries, newest first.

        Raises INVALID for a bad limit, UNAVAILABLE where reading fails, INTERNAL where a line cannot be read.
        """
        check_limit(limit)
        latest = select(JournalEntryRow).order_by(col(JournalEntryRow.id).desc()).limit(limit)
        try:
            with self._database.reading() as connection, Session(connection) as session:
                return tuple(map(journal_entry, session.scalars(latest)))
        except SQLAlchemyError as error:
            raise self._database.failure(error) from error


def _swap(connection: Connection, document: str, expected: int, lines: Sequence[Row]) -> None:
    stored = connection.execute(select(_REVISION)).scalar_one_or_none() or 0
    if stored != expected:
        raise conflict(f"the authority ring was changed meanwhile: its revision is {stored}, not {expected}")
    values = {"revision": expected + 1, "document": document}
    if expected == 0:
        connection.execute(insert(AuthorityRingRow).values(id=_ID, **values))
    else:
        connection.execute(update(AuthorityRingRow).values(**values))
    for line in lines:
        connection.execute(insert(line.table), line.values)
