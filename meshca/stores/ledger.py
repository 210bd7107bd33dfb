"""The certificate ledger in SQL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from meshca.authority.evidence import CertificateFact
from meshca.pki.certificates import HELD_KINDS
from meshca.pki.records import CertificateRecord, LedgerPage, LedgerQuery
from meshca.ports import Tail
from meshca.stores.database import Database
from meshca.stores.mapping import CERTIFICATE_FACT, certificate_fact, certificate_record, certificate_values
from meshca.stores.queries import check_query
from meshca.stores.tables import CertificateRow
from meshca.stores.tails import Log, read_tail
from meshca.stores.writer import Writer

HELD = Log(CertificateRow, CERTIFICATE_FACT, "not_after", col(CertificateRow.kind).in_([k.value for k in HELD_KINDS]))


class SqlLedger:
    """`ports.CertificateLedger` in SQL. Its writer shares durable flushes."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    @property
    def flushes(self) -> int:
        """How many durable transactions there were."""
        return self._writer.flushes

    @property
    def queue_depth(self) -> int:
        """How many records wait or are under way."""
        return self._writer.depth

    @property
    def alive(self) -> bool:
        """Whether the writer works; false means that nothing can be issued until a restart."""
        return self._writer.alive

    def lag(self) -> float:
        """Seconds that the oldest record has been waiting."""
        return self._writer.lag()

    def record(self, records: Sequence[CertificateRecord]) -> None:
        """Returns when all of `records` are durable.

        Raises CONFLICT where a serial is known, EXHAUSTED where too many wait already, and UNAVAILABLE otherwise. None
        of them is stored then, but for one case: after UNAVAILABLE for want of an answer in time they may be, or not.
        """
        if records:
            self._writer.write([certificate_values(record) for record in records])

    async def record_async(self, records: Sequence[CertificateRecord]) -> None:
        """`record` for coroutines; see `ports.CertificateLedger`."""
        if records:
            await self._writer.write_async([certificate_values(record) for record in records])

    def find(self, query: LedgerQuery) -> LedgerPage:
        """The records that match, newest first. Raises INVALID for a bad query, UNAVAILABLE where reading fails."""
        check_query(query)
        try:
            with self._database.reading() as connection, Session(connection) as session:
                rows = session.exec(_select(query)).all()
        except SQLAlchemyError as error:
            raise self._database.failure(error) from error
        page = rows[: query.limit]
        return LedgerPage(tuple(map(certificate_record, page)), page[-1].id if len(rows) > len(page) else None)

    def tail(self, after: int, now: datetime, limit: int) -> Tail[CertificateFact]:
        """What was recorded of leaves, and CAs below, after the cursor and has not expired by `now`, oldest first.

        Raises INVALID for a bad argument, UNAVAILABLE where reading fails, INTERNAL where a line cannot be read.
        """
        lines, cursor = read_tail(self._database, HELD, after, now, limit)
        return Tail(tuple(map(certificate_fact, lines)), cursor)


def _select(query: LedgerQuery) -> SelectOfScalar[CertificateRow]:
    """One row more than asked for, to know whether there is a next page."""
    row = CertificateRow
    found = select(row).order_by(col(row.id).desc()).limit(query.limit + 1)
    if query.before is not None:
        found = found.where(col(row.id) < query.before)
    if query.spiffe_id is not None:
        found = found.where(row.spiffe_id == query.spiffe_id)
    if query.serial is not None:  # "g" comes after every hex digit, so this is the prefix, by the index
        found = found.where(col(row.serial) >= query.serial, col(row.serial) < query.serial + "g")
    if query.since is not None:
        found = found.where(row.recorded_at >= math.ceil(query.since.timestamp()))
    if query.until is not None:
        found = found.where(row.recorded_at < math.ceil(query.until.timestamp()))
    if query.valid_at is not None:
        at = math.floor(query.valid_at.timestamp())
        found = found.where(row.not_before <= at, row.not_after > at)
    return found
