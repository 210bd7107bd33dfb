"""What the SQL stores need of a database. Whatever differs between databases is behind this."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import SQLModel

from meshca.errors import MeshcaError


class Row(NamedTuple):
    """A row to insert: its table, and the values of its columns but for the id, which the database gives."""

    table: type[SQLModel]
    values: dict[str, Any]


def by_table(rows: Iterable[Row]) -> dict[type[SQLModel], list[dict[str, Any]]]:
    """The values of `rows` by table, each in the order of `rows`: what one statement for each can insert."""
    tables: dict[type[SQLModel], list[dict[str, Any]]] = {}
    for table, values in rows:
        tables.setdefault(table, []).append(values)
    return tables


class FaultyRows(Exception):
    """Some row of a bulk insert cannot be stored for what it holds; none was. One by one will show which."""


class Database(Protocol):
    """One database: a turn to write, connections to read, and its errors in words."""

    def transaction(self) -> AbstractContextManager[Connection]:
        """A writing transaction, alone among all processes; durable when the block ends, undone when it raises.

        Since writers take turns, rows become visible in the order of their ids: whoever has read up to an id has missed
        none before it. Cursors rely on that (see `tails`).
        """
        ...

    def insert_rows(self, rows: Sequence[Row]) -> None:
        """Inserts rows of any tables in one such transaction, by the fastest way there is; all or none.

        Raises FaultyRows where a row is at fault, UNAVAILABLE where the database is out.
        """
        ...

    def reading(self) -> AbstractContextManager[Connection]:
        """A consistent view that no writer waits for; it cannot write."""
        ...

    def reset(self) -> None:
        """Drops idle connections, so that the next use connects anew."""
        ...

    def failure(self, error: SQLAlchemyError) -> MeshcaError:
        """The error for callers: CONFLICT for a broken constraint, else UNAVAILABLE with the cause in words."""
        ...
