"""The SQL stores together: how a database is made and opened, and that it is ours and of a schema that we know."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, insert, inspect, select
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col

from meshca.errors import MeshcaError, internal
from meshca.stores.authorities import SqlAuthorityStore
from meshca.stores.evidence import SqlEvidenceStore
from meshca.stores.join_tokens import SqlJoinTokenStore
from meshca.stores.ledger import SqlLedger
from meshca.stores.migrations import Migrations
from meshca.stores.revocations import SqlRevocationStore
from meshca.stores.sqlite import DEFAULT_BUSY_TIMEOUT, SqliteDatabase, check_file, create_file
from meshca.stores.tables import MetaRow
from meshca.stores.writer import Writer, WriterLimits

APPLICATION = "meshca"
_MARKER = "application"


class SqlStores:
    """The stores of one database and the writer that they share."""

    def __init__(self, database: SqliteDatabase, limits: WriterLimits) -> None:
        self._database = database
        self._writer = Writer(database, limits)
        self.ledger = SqlLedger(database, self._writer)
        self.evidence = SqlEvidenceStore(database, self._writer)
        self.authorities = SqlAuthorityStore(database, self._writer)
        self.revocations = SqlRevocationStore(database, self._writer)
        self.join_tokens = SqlJoinTokenStore(database, self._writer)

    def close(self) -> None:
        """Writes what waits, then closes the database; what the disk still holds up after that is left to the exit."""
        self._writer.close()
        if not self._writer.alive:
            self._database.close()


def create_sqlite(path: Path, *, limits: WriterLimits | None = None) -> SqlStores:
    """The stores of a new database at `path`, which must not exist (CONFLICT); UNAVAILABLE where it cannot be made."""
    create_file(path)
    database = SqliteDatabase(path)
    try:
        with database.transaction() as connection:
            _found(connection)
    except SQLAlchemyError as error:
        raise _abandoned(database, database.failure(error)) from error
    except MeshcaError as error:
        raise _abandoned(database, error) from error
    return SqlStores(database, limits or WriterLimits())


def open_sqlite(
    path: Path,
    *,
    limits: WriterLimits | None = None,
    busy_timeout: float = DEFAULT_BUSY_TIMEOUT,
    migrations: Migrations | None = None,
) -> SqlStores:
    """The stores of the database at `path`; an older schema of ours is brought up to date, nothing is ever created.

    Raises NOT_FOUND where there is none, INTERNAL where it is not ours or of a newer schema, UNAVAILABLE where it
    cannot be read or written now.
    """
    check_file(path)
    database = SqliteDatabase(path, busy_timeout=busy_timeout)
    try:
        _check_and_migrate(database, migrations or Migrations())
    except SQLAlchemyError as error:
        database.close()
        raise database.opening_failure(error) from error
    except MeshcaError:
        database.close()
        raise
    return SqlStores(database, limits or WriterLimits())


def _found(connection: Connection) -> None:
    Migrations().upgrade(connection)
    connection.execute(insert(MetaRow).values(key=_MARKER, value=APPLICATION))


def _abandoned(database: SqliteDatabase, error: MeshcaError) -> MeshcaError:
    database.close()
    database.remove_files()
    return error


def _check_and_migrate(database: SqliteDatabase, migrations: Migrations) -> None:
    known = migrations.known()
    with database.reading() as connection:
        _check_ours(connection, database.path)
        revision = migrations.current(connection)
    if revision not in known:
        raise internal(
            f"database {database.path} has schema {revision}, this meshca knows up to {known[0]}: use a newer meshca"
        )
    database.ensure_wal()
    if revision != known[0]:
        with database.transaction() as connection:
            migrations.upgrade(connection)


def _check_ours(connection: Connection, path: Path) -> None:
    tables = inspect(connection)
    columns = tables.get_columns("meta") if tables.has_table("meta") else []
    has_marker = {column["name"] for column in columns} == {"key", "value"}
    marker = select(col(MetaRow.value)).where(col(MetaRow.key) == _MARKER)
    if not has_marker or connection.scalar(marker) != APPLICATION:
        raise internal(f"database {path} is not meshca's: point data-dir at meshca's own, or restore it from a backup")
