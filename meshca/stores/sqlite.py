"""SQLite: how its file is made, how connections are set up, whose turn it is to write, its errors in words."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect
from sqlalchemy.dialects import sqlite as dialect
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import QueuePool
from sqlmodel import SQLModel

from meshca.errors import MeshcaError, conflict, internal, not_found, unavailable
from meshca.stores.database import FaultyRows, Row, by_table

DEFAULT_BUSY_TIMEOUT = 5.0
_CACHE_KIB = 64 * 1024  # of the writing connection: keeps the inner pages of a large ledger's indexes at hand
_READERS = 8
_READER_TIMEOUT = 10.0

# What a row may do to a statement by its content.
_POISON = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    ValueError,
    TypeError,
    OverflowError,
)

# By prefix of SQLite's error names (https://www.sqlite.org/rescode.html); the first that fits.
_CAUSES = {
    "SQLITE_FULL": "the disk is full",
    "SQLITE_READONLY": "it is read-only",
    "SQLITE_BUSY": "it is locked by another process",
    "SQLITE_LOCKED": "it is locked by another process",
    "SQLITE_IOERR": "the disk reports an input/output error",
    "SQLITE_CANTOPEN": "it cannot be opened",
    "SQLITE_PERM": "access to it is denied",
    "SQLITE_CORRUPT": "it is damaged",
    "SQLITE_NOTADB": "it is not an SQLite database",
}


def create_file(path: Path) -> None:
    """An empty SQLite database in WAL mode, 0600. Raises CONFLICT where `path` exists, UNAVAILABLE where it fails."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError as error:
        raise conflict(f"database {path} exists already: it is never overwritten") from error
    except OSError as error:
        raise unavailable(f"database {path} cannot be made: {error.strerror}") from error
    _set_wal(path)
    _sync_directory(path.parent)


def check_file(path: Path) -> None:
    """Raises NOT_FOUND where there is nothing at `path`, INTERNAL where it is out of reach, no file or empty."""
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise not_found(f"database {path} does not exist: run `meshca init` or restore a backup") from error
    except OSError as error:
        raise internal(f"database {path} is out of reach: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise internal(f"database {path} is not a file")
    if found.st_size == 0:
        raise internal(f"database {path} is empty: restore it from a backup, or remove it and run `meshca init`")


class SqliteDatabase:
    """One SQLite file that exists. Nothing here ever creates it.

    Writers of all processes take turns by a lock on `<path>.lock`, which is fair and cheap where SQLite's own way
    (try, sleep, try again) is neither. `busy_timeout` (seconds) is for foreign programs that lock the file.
    """

    def __init__(self, path: Path, *, busy_timeout: float = DEFAULT_BUSY_TIMEOUT) -> None:
        self.path = path
        self._busy_timeout = busy_timeout
        self._identity = _identity(path)
        self._wal_path = Path(f"{path}-wal")
        self._wal: tuple[int, int] | None = None  # of the write-ahead log that our connections use
        self._writers = _engine(lambda: self._connected(_connect_writer), "BEGIN IMMEDIATE", size=1)
        self._readers = _engine(lambda: self._connected(_connect_reader), "BEGIN", size=_READERS)
        self._bulk: sqlite3.Connection | None = None
        self._lock: int | None = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A writing transaction. Only one thread at a time may write: the lock excludes processes, not threads.

        Raises UNAVAILABLE where the file that was opened is no longer the one at the path.
        """
        with self._turn(), self._writers.begin() as connection:
            yield connection

    def insert_rows(self, rows: Sequence[Row]) -> None:
        """Inserts rows in a transaction of their own, past SQLAlchemy, which costs 100 µs a time.

        Raises FaultyRows, and UNAVAILABLE with the cause in words.
        """
        with self._turn():
            try:
                connection = self._bulk = self._bulk or self._connected(_connect_writer)
                connection.execute("BEGIN IMMEDIATE")
                for table, values in by_table(rows).items():
                    connection.executemany(_insert(table), values)
                connection.execute("COMMIT")
            except _POISON as error:
                self._drop_bulk()
                raise FaultyRows from error
            except sqlite3.Error as error:
                self._drop_bulk()
                raise self._unavailable(_words(error)) from error

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A consistent view; writers do not wait for it, nor it for them.

        Raises UNAVAILABLE where the write-ahead log is not in its place: a new connection would not see what is in it.
        """
        self._check_wal()
        with self._readers.connect() as connection:
            yield connection

    def reset(self) -> None:
        """Drops idle connections; not where they are all that is left of the write-ahead log."""
        if self._has_wal():
            self._drop()

    def close(self) -> None:
        """Closes everything; SQLite folds its write-ahead log into the file when the last connection goes."""
        self._drop()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remove_files(self) -> None:
        """Removes what `create_file` and the first transaction made."""
        for suffix in ("", "-wal", "-shm", ".lock"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def ensure_wal(self) -> None:
        """Switches a file that was restored without its write-ahead mode back to it."""
        _set_wal(self.path)

    def failure(self, error: SQLAlchemyError) -> MeshcaError:
        """CONFLICT for a broken constraint, else UNAVAILABLE that says in words what is wrong with the file."""
        if isinstance(error, IntegrityError):
            return conflict(f"database {self.path}: {error.orig}")
        return self._unavailable(_cause(error))

    def opening_failure(self, error: SQLAlchemyError) -> MeshcaError:
        """As `failure`, but INTERNAL where waiting cannot help: the file is damaged or no database."""
        if _error_name(getattr(error, "orig", None)).startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            return internal(f"database {self.path} is damaged or no SQLite database: restore it from a backup")
        return self.failure(error)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Whoever holds it may write, alone among all processes."""
        lock = self._lock_file()
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            self._check_in_place()
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)

    def _lock_file(self) -> int:
        """Opened when first needed: a file that turns out not to be ours gets no lock beside it."""
        if self._lock is None:
            try:
                self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise self._unavailable(f"its lock file cannot be opened: {error.strerror}") from error
        return self._lock

    def _connected(self, connect: Callable[[Path, float], sqlite3.Connection]) -> sqlite3.Connection:
        """A new connection, and with the first one the identity of the log that it opens."""
        connection = connect(self.path, self._busy_timeout)
        if self._wal is None:
            connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
            self._wal = _identity(self._wal_path) if self._wal_path.exists() else None
        return connection

    def _drop(self) -> None:
        self._drop_bulk()
        self._writers.dispose()
        self._readers.dispose()
        self._wal = None

    def _drop_bulk(self) -> None:
        """Closes the connection, which undoes what it has not committed."""
        connection, self._bulk = self._bulk, None
        if connection is not None:
            connection.close()

    def _unavailable(self, cause: str) -> MeshcaError:
        return unavailable(f"database {self.path}: {cause}", retry_after=1.0)

    def _check_in_place(self) -> None:
        """SQLite goes on writing into a file that was removed or replaced; such records would be lost."""
        try:
            in_place = _identity(self.path) == self._identity
        except OSError:
            in_place = False
        if not in_place:
            raise unavailable(
                f"database {self.path} was removed or replaced: put it back, or restart to use the new one"
            )
        self._check_wal()

    def _check_wal(self) -> None:
        """SQLite goes on writing into a log that was removed, too; what is in it would be gone with this process."""
        if not self._has_wal():
            raise unavailable(
                f"{self._wal_path} was removed: stop the server by SIGTERM, so that it saves what was in it, and"
                " start it again"
            )

    def _has_wal(self) -> bool:
        if self._wal is None:
            return True
        try:
            return _identity(self._wal_path) == self._wal
        except OSError:
            return False


@cache
def _insert(table: type[SQLModel]) -> str:
    columns = [column.name for column in inspect(table).columns if column.name != "id"]
    return str(insert(table).compile(dialect=dialect.dialect(paramstyle="named"), column_keys=columns))


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=rw"  # rw: never creates
    connection = sqlite3.connect(uri, uri=True, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


def _connect_reader(path: Path, busy_timeout: float) -> sqlite3.Connection:
    connection = _connect(path, busy_timeout)
    connection.execute("PRAGMA query_only=ON")
    return connection


def _connect_writer(path: Path, busy_timeout: float) -> sqlite3.Connection:
    connection = _connect(path, busy_timeout)
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    return connection


def _engine(creator: Callable[[], sqlite3.Connection], begin: str, *, size: int) -> Engine:
    engine = create_engine(
        "sqlite://",
        creator=creator,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        pool_timeout=_READER_TIMEOUT,
    )

    # Python's sqlite3 is told to leave transactions alone, for it would begin them late and deferred.
    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _set_wal(path: Path) -> None:
    connection = None
    try:
        connection = _connect(path, DEFAULT_BUSY_TIMEOUT)
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    except sqlite3.Error as error:
        raise unavailable(f"database {path}: {_words(error)}") from error
    finally:
        if connection is not None:
            connection.close()
    if mode != "wal":
        raise unavailable(f"database {path}: its file system cannot carry SQLite's write-ahead log; use a local disk")


def _cause(error: SQLAlchemyError) -> str:
    original = getattr(error, "orig", None)
    return _words(original) if isinstance(original, sqlite3.Error) else str(error)


def _error_name(error: BaseException | None) -> str:
    return getattr(error, "sqlite_errorname", "")


def _words(error: sqlite3.Error) -> str:
    name = _error_name(error)
    words = next((words for prefix, words in _CAUSES.items() if name.startswith(prefix)), str(error))
    return f"{words} ({name or type(error).__name__})"
