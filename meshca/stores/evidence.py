"""What relying parties have shown to hold, in SQL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col, select

from meshca.authority.evidence import BundleFact
from meshca.ports import Tail
from meshca.stores.database import Database
from meshca.stores.mapping import BUNDLE_FACT, bundle_fact, bundle_fact_values, line_of
from meshca.stores.tables import BundleFactRow
from meshca.stores.tails import Log, read_tail
from meshca.stores.writer import Writer

FACTS = Log(BundleFactRow, BUNDLE_FACT, "until")


class SqlEvidenceStore:
    """`ports.EvidenceStore` in SQL. It shares durable flushes with the ledger."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    def add(self, facts: Sequence[BundleFact]) -> None:
        """Returns when all of `facts` are durable.

        Raises EXHAUSTED where too many rows wait already, UNAVAILABLE (none is stored then; but after no answer in time
        they may be, or not), INTERNAL for a value that no fact may have, such as a time with a fraction of a second.
        """
        if facts:
            self._writer.write([bundle_fact_values(fact) for fact in facts])

    def tail(self, after: int, now: datetime, limit: int) -> Tail[BundleFact]:
        """What was added after the cursor and has not ended by `now`, oldest first.

        Raises INVALID for a bad argument, UNAVAILABLE where reading fails, INTERNAL where a line cannot be read.
        """
        lines, cursor = read_tail(self._database, FACTS, after, now, limit)
        return Tail(tuple(map(bundle_fact, lines)), cursor)

    def newest(self) -> datetime | None:
        """When the last of them was taken down; None without any.

        Raises UNAVAILABLE where reading fails, INTERNAL where the line cannot be read.
        """
        last = select(BundleFactRow).order_by(col(BundleFactRow.id).desc()).limit(1)
        try:
            with self._database.reading() as connection, Session(connection) as session:
                row = session.exec(last).first()
        except SQLAlchemyError as error:
            raise self._database.failure(error) from error
        return None if row is None else bundle_fact(line_of(row, BUNDLE_FACT)).at

    def prune(self, now: datetime) -> int:
        """Forgets facts that ended; how many. Raises UNAVAILABLE where the database is out."""
        ended = delete(BundleFactRow).where(col(BundleFactRow.until) <= math.floor(now.timestamp()))
        return self._writer.run(lambda connection: connection.execute(ended).rowcount)
