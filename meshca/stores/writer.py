"""The one writer of a process: a thread that shares each durable flush among everybody who waits for it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Condition, Lock, Thread
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, insert
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, ProgrammingError, SQLAlchemyError

from meshca.errors import MeshcaError, detached, exhausted, internal, unavailable
from meshca.stores.database import Database, FaultyRows, Row, by_table

T = TypeVar("T")

# What one item may do to a statement by its content; it must not hurt the others.
_POISON = (IntegrityError, DataError, InterfaceError, ProgrammingError, ValueError, TypeError, OverflowError)


@dataclass(frozen=True, slots=True)
class WriterLimits:
    """`window`: seconds that a first item waits for company; `capacity`: rows that may wait or be under way;
    `timeout`: seconds after which a caller stops waiting.
    """

    window: float = 0.002
    capacity: int = 10_000
    timeout: float = 10.0


class _Job:
    """Something to write, and its outcome: no error means that it is durable."""

    __slots__ = ("error", "rows", "since", "size")

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.size = len(rows) or 1
        self.since = time.monotonic()
        self.error: MeshcaError | None = None

    def raise_error(self) -> None:
        """Raises what went wrong, once."""
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # else its traceback holds this frame and this frame holds it, until a collector comes by


class _ThreadsJob(_Job):
    """A job that a thread waits for. `done` is locked until the outcome stands."""

    __slots__ = ("done",)

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__(rows)
        self.done = Lock()  # a bare lock: an Event costs ten times as much to make
        self.done.acquire()


class _LoopsJob(_Job):
    """A job that a coroutine waits for. `done` has a result when the outcome stands."""

    __slots__ = ("done", "loop")

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__(rows)
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()


class _Work(_ThreadsJob, Generic[T]):
    """A function that needs a transaction of its own."""

    __slots__ = ("function", "result")

    def __init__(self, function: Callable[[Connection], T]) -> None:
        super().__init__(())
        self.function = function
        self.result: T | None = None


class Writer:
    """Takes rows and functions from any thread or loop, writes them in one thread, answers when they are durable.

    Rows that wait together go in one transaction; if that fails, each of their callers gets UNAVAILABLE, none of the
    rows is stored, and the next transaction tries anew. An item that is itself at fault fails alone. `flushes` counts
    durable transactions, `depth` is the number of rows that wait or are under way, `alive` whether the thread works.
    """

    def __init__(self, database: Database, limits: WriterLimits) -> None:
        self.flushes = 0
        self.depth = 0
        self._database = database
        self._limits = limits
        self._queue: deque[_Job] = deque()
        self._batch: Sequence[_Job] = ()
        self._changed = Condition(Lock())
        self._closed: str | None = None
        self._thread = Thread(target=self._run, name="meshca-writer", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread works; false means that every call will be refused."""
        return self._thread.is_alive()

    def lag(self) -> float:
        """Seconds that the oldest unanswered item has waited; 0 where there is none."""
        with self._changed:
            oldest = next(iter([*self._batch[:1], *self._queue]), None)
        return 0.0 if oldest is None else time.monotonic() - oldest.since

    def write(self, rows: Sequence[Row]) -> None:
        """Returns when `rows` are durable.

        Raises CONFLICT (they break a constraint), INTERNAL (they cannot be stored as they are), EXHAUSTED (too much
        waits already), UNAVAILABLE (not stored; but after a timeout they may yet be, or not).
        """
        self._wait(_ThreadsJob(rows))

    async def write_async(self, rows: Sequence[Row]) -> None:
        """`write` for coroutines, which share its flushes. Who is cancelled while it waits has its rows written still.

        Raises as `write` does.
        """
        job = _LoopsJob(rows)
        self._submit(job)
        try:
            async with asyncio.timeout(self._limits.timeout):
                await job.done
        except TimeoutError:
            raise self._no_answer() from None
        job.raise_error()

    def run(self, function: Callable[[Connection], T]) -> T:
        """What `function` returns, when its own transaction is durable; what it raises, when it is undone.

        Raises EXHAUSTED and UNAVAILABLE as `write` does.
        """
        work = _Work(function)
        self._wait(work)
        return work.result  # type: ignore[return-value]  # no error, so the function has returned a T

    def close(self) -> None:
        """Writes what waits, then stops. Calls after it get UNAVAILABLE."""
        with self._changed:
            self._closed = self._closed or "it is closed"
            self._changed.notify()
        self._thread.join(self._limits.timeout)

    def _submit(self, job: _Job) -> None:
        with self._changed:
            if self._closed is not None:
                raise unavailable(f"the database takes no writes: {self._closed}")
            if self.depth + job.size > self._limits.capacity:
                raise exhausted(f"{self.depth} records wait to be written already: try later", retry_after=1.0)
            self.depth += job.size
            self._queue.append(job)
            self._changed.notify()

    def _wait(self, job: _ThreadsJob) -> None:
        self._submit(job)
        if not job.done.acquire(timeout=self._limits.timeout):
            raise self._no_answer()
        job.raise_error()

    def _no_answer(self) -> MeshcaError:
        return unavailable(f"no answer from the disk within {self._limits.timeout:g} s: it may yet be stored, or not")

    def _run(self) -> None:
        """The thread. However it ends, nobody is left waiting."""
        reason = "it is closed"
        try:
            while self._take():
                self._write_batch()
                self._settle()
        except BaseException:
            reason = "its writer has failed; restart the server"
            raise
        finally:
            self._stop(reason)

    def _take(self) -> bool:
        """Waits until the oldest item has been there for the window, then takes all; false when closed and drained."""
        with self._changed:
            while not self._queue:
                if self._closed is not None:
                    return False
                self._changed.wait()
            age = time.monotonic() - self._queue[0].since
        if age < self._limits.window and self._closed is None:
            time.sleep(self._limits.window - age)
        with self._changed:
            self._batch = tuple(self._queue)
            self._queue.clear()
        return True

    def _write_batch(self) -> None:
        rows = [job for job in self._batch if not isinstance(job, _Work)]
        if rows:
            self._write_rows(rows)
        for job in self._batch:
            if isinstance(job, _Work):
                self._write_work(job)

    def _settle(self) -> None:
        """Lets go whoever waits for the batch. The room comes first: they may be back at once."""
        with self._changed:
            batch, self._batch = self._batch, ()
            self.depth -= sum(job.size for job in batch)
        _let_go(batch)

    def _write_rows(self, jobs: Sequence[_Job]) -> None:
        try:
            self._database.insert_rows([row for job in jobs for row in job.rows])
            self.flushes += 1
        except FaultyRows:
            self._write_each(jobs)
        except (MeshcaError, OSError) as error:
            self._fail(jobs, error)

    def _write_each(self, jobs: Sequence[_Job]) -> None:
        """One durable flush still, but each job in a savepoint, so that only the faulty ones fail."""
        try:
            with self._database.transaction() as connection:
                for job in jobs:
                    self._try(connection, job)
            self.flushes += 1
        except (SQLAlchemyError, MeshcaError, OSError) as error:
            self._fail(jobs, error)

    def _try(self, connection: Connection, job: _Job) -> None:
        try:
            with connection.begin_nested():
                for table, values in by_table(job.rows).items():
                    connection.execute(insert(table), values)
        except _POISON as error:
            job.error = self._poisoned(error)

    def _write_work(self, work: _Work[Any]) -> None:
        try:
            with self._database.transaction() as connection:
                work.result = work.function(connection)
            self.flushes += 1
        except _POISON as error:
            work.error = self._poisoned(error)
        except MeshcaError as error:
            work.error = error
        except (SQLAlchemyError, OSError) as error:
            self._fail([work], error)

    def _fail(self, jobs: Sequence[_Job], error: Exception) -> None:
        """Every caller gets an error of its own: one exception raised in many threads would mix up their tracebacks."""
        self._database.reset()
        for job in jobs:
            job.error = self._translated(error)

    def _translated(self, error: Exception) -> MeshcaError:
        if isinstance(error, MeshcaError):
            return detached(error)
        if isinstance(error, SQLAlchemyError):
            return self._database.failure(error)
        return unavailable(f"the database cannot be written: {error}", retry_after=1.0)

    def _poisoned(self, error: Exception) -> MeshcaError:
        if isinstance(error, IntegrityError):
            return self._database.failure(error)
        return internal(f"a record cannot be stored as it is: {type(error).__name__}")

    def _stop(self, reason: str) -> None:
        with self._changed:
            self._closed = reason
            left = [*self._batch, *self._queue]
            self._queue.clear()
        for job in left:
            job.error = unavailable(f"the database takes no writes: {reason}")
        _let_go(left)


def _let_go(jobs: Iterable[_Job]) -> None:
    """Lets go whoever waits for the jobs. A loop is woken once for all of its own: each time costs a system call."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_LoopsJob]] = {}
    for job in jobs:
        if isinstance(job, _ThreadsJob):
            job.done.release()
        elif isinstance(job, _LoopsJob):
            by_loop.setdefault(job.loop, []).append(job)
    for loop, its_jobs in by_loop.items():
        with suppress(RuntimeError):  # a loop that is closed has nobody left who waits
            loop.call_soon_threadsafe(_finish, its_jobs)


def _finish(jobs: Iterable[_LoopsJob]) -> None:
    """On the jobs' loop. Who was cancelled, or has waited too long, is not there any more."""
    for job in jobs:
        if not job.done.done():
            job.done.set_result(None)
