"""Reading on in a log: what is behind a cursor and has not ended yet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select, true
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import SQLModel

from meshca.stores.database import Database
from meshca.stores.queries import check_tail


@dataclass(frozen=True, slots=True)
class Log:
    """Those lines of `table` that are `wanted`, and what is read of each: the first of `columns` is its id. The column
    `ends` tells when a line is over, and has an index."""

    table: type[SQLModel]
    columns: tuple[str, ...]
    ends: str
    wanted: ColumnElement[bool] = field(default_factory=true)

    def column(self, name: str) -> ColumnElement[Any]:
        """One of its columns."""
        column: ColumnElement[Any] = self.table.__table__.columns[name]  # type: ignore[attr-defined]
        return column


def read_tail(
    database: Database, log: Log, after: int, now: datetime, limit: int
) -> tuple[Sequence[Sequence[Any]], int]:
    """The oldest `limit` lines of `log` with an id above `after` that end later than `now`; and the cursor behind them.

    A part that is not full was read to the end of the log, so its cursor is the newest id there is: what had ended is
    not looked at again. That skips nothing, because rows become visible in the order of their ids (see
    `Database.transaction`) and no id is given twice.

    Raises INVALID for a bad argument, UNAVAILABLE where reading fails.
    """
    check_tail(after, now, limit)
    try:
        with database.reading() as connection:
            newest = connection.execute(select(func.max(log.column("id")))).scalar_one() or 0
            if newest <= after:
                return (), after
            lines = connection.execute(_select(log, after, math.floor(now.timestamp()), limit)).all()
    except SQLAlchemyError as error:
        raise database.failure(error) from error
    return lines, lines[-1][0] if len(lines) == limit else newest


def _select(log: Log, after: int, now: int, limit: int) -> Select[Any]:
    """By id, which is quick for the little that is new. From the beginning by the index of ends, since most of a log
    has ended: that leads past it, to where the living are, and the parts that follow begin there.

    SQLite has no figures to choose by, so it is told: for an order by `id + 0` going by id is of no use.
    """
    row_id, end = log.column("id"), log.column(log.ends)
    found = select(*map(log.column, log.columns)).order_by(row_id)
    if after > 0:
        return found.where(row_id > after, end > now, log.wanted).limit(limit)
    living = select(row_id).where(end > now, log.wanted).order_by(row_id + 0).limit(limit).correlate(None)
    return found.where(row_id.in_(living))
