"""Reading on in a log: what is behind a cursor and has not ended yet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import func, inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from meshca.stores.database import Database
from meshca.stores.queries import check_tail
from meshca.stores.tables import BundleFactRow, CertificateRow

R = TypeVar("R", CertificateRow, BundleFactRow)


def read_tail(
    database: Database, table: type[R], ends: str, after: int, now: datetime, limit: int
) -> tuple[Sequence[R], int]:
    """The oldest `limit` rows of `table` with an id above `after` that end later than `now`, by the column `ends`,
    which has an index; and the cursor behind them.

    A part that is not full was read to the end of the log, so its cursor is the newest id there is: what had ended is
    not looked at again. That skips nothing, because rows become visible in the order of their ids (see
    `Database.transaction`) and no id is given twice.

    Raises INVALID for a bad argument, UNAVAILABLE where reading fails.
    """
    check_tail(after, now, limit)
    try:
        with database.reading() as connection, Session(connection) as session:
            newest = session.exec(select(func.max(col(table.id)))).one() or 0
            if newest <= after:
                return (), after
            rows = session.exec(_select(table, ends, after, math.floor(now.timestamp()), limit)).all()
    except SQLAlchemyError as error:
        raise database.failure(error) from error
    return rows, rows[-1].id or 0 if len(rows) == limit else newest


def _select(table: type[R], ends: str, after: int, now: int, limit: int) -> SelectOfScalar[R]:
    """By id, which is quick for the little that is new. From the beginning by the index of ends, since most of a log
    has ended: that leads past it, to where the living are, and the parts that follow begin there.

    SQLite has no figures to choose by, so it is told: for an order by `id + 0` going by id is of no use.
    """
    row_id, end = col(table.id), inspect(table).columns[ends]
    found = select(table).order_by(row_id)
    if after > 0:
        return found.where(row_id > after, end > now).limit(limit)
    living = select(row_id).where(end > now).order_by(row_id + 0).limit(limit).correlate(None)
    return found.where(row_id.in_(living))
