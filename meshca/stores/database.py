"""What the SQL stores need of a database. Whatever differs between databases is behind this."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from meshca.errors import MeshcaError

Row = dict[str, Any]


class FaultyRows(Exception):
    """Some row of a bulk insert cannot be stored for what it holds; none was. One by one will show which."""


class Database(Protocol):
    """One database: a turn to write, connections to read, and its errors in words."""

    def transaction(self) -> AbstractContextManager[Connection]:
        """A writing transaction, alone among all processes; durable when the block ends, undone when it raises."""
        ...

    def insert_certificates(self, rows: Sequence[Row]) -> None:
        """Inserts ledger lines in one durable transaction, by the fastest way there is; all or none.

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
