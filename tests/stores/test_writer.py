"""The writer: limits, waiting, closing, and what happens when it dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from meshca.errors import ErrorKind, MeshcaError, unavailable
from meshca.stores.database import Row
from meshca.stores.sql import SqlStores, create_sqlite
from meshca.stores.tables import MetaRow
from meshca.stores.writer import Writer, WriterLimits
from tests.contracts.crowd import all_at_once
from tests.contracts.evidence_store import a_fact, numbers
from tests.contracts.join_token_store import a_token
from tests.contracts.ledger import a_record, serials
from tests.stores.blocking import writing_blocked


@contextmanager
def opened(path: Path, limits: WriterLimits) -> Iterator[SqlStores]:
    stores = create_sqlite(path, limits=limits)
    try:
        yield stores
    finally:
        stores.close()


def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; fails after 10 s."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited 10 s in vain"
        time.sleep(0.001)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meshca.db"


def test_a_caller_does_not_wait_for_ever_and_the_outcome_stands_later(path: Path) -> None:
    with opened(path, WriterLimits(timeout=0.1)) as stores:
        with writing_blocked(path):
            with pytest.raises(MeshcaError, match="no answer") as caught:
                stores.ledger.record([a_record(1)])
            assert caught.value.kind is ErrorKind.UNAVAILABLE
            assert stores.ledger.queue_depth == 1
            assert stores.ledger.lag() >= 0.1
        until(lambda: stores.ledger.queue_depth == 0)
        assert serials(stores.ledger) == [1]
        assert stores.ledger.lag() == 0


async def test_a_coroutine_does_not_wait_for_ever_nor_hold_its_loop(path: Path) -> None:
    with opened(path, WriterLimits(timeout=0.1)) as stores:
        with writing_blocked(path):
            began = time.monotonic()
            waiting = asyncio.create_task(stores.ledger.record_async([a_record(1)]))
            await asyncio.sleep(0)
            assert time.monotonic() - began < 0.1
            with pytest.raises(MeshcaError, match="no answer") as caught:
                await waiting
            assert caught.value.kind is ErrorKind.UNAVAILABLE
        until(lambda: stores.ledger.queue_depth == 0)
        assert serials(stores.ledger) == [1]


async def test_the_rows_of_a_cancelled_coroutine_are_written_still(path: Path) -> None:
    with opened(path, WriterLimits()) as stores:
        with writing_blocked(path):
            waiting = asyncio.create_task(stores.ledger.record_async([a_record(1)]))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait((waiting,))
            assert waiting.cancelled()
        until(lambda: stores.ledger.queue_depth == 0)
        assert serials(stores.ledger) == [1]


def test_a_loop_that_is_gone_stops_no_writer(path: Path) -> None:
    with opened(path, WriterLimits()) as stores:
        with writing_blocked(path):
            loop = asyncio.new_event_loop()
            waiting = loop.create_task(stores.ledger.record_async([a_record(1)]))
            loop.run_until_complete(asyncio.sleep(0))
            waiting.cancel()
            loop.run_until_complete(asyncio.wait((waiting,)))
            loop.close()
        stores.ledger.record([a_record(2)])
        assert sorted(serials(stores.ledger)) == [1, 2]


async def test_threads_and_coroutines_share_a_flush(path: Path) -> None:
    with opened(path, WriterLimits()) as stores:
        before = stores.ledger.flushes
        with writing_blocked(path):
            threads = [asyncio.to_thread(stores.ledger.record, [a_record(i)]) for i in range(3)]
            coroutines = [stores.ledger.record_async([a_record(10 + i)]) for i in range(10)]
            everybody = asyncio.gather(*threads, *coroutines)
            await asyncio.to_thread(until, lambda: stores.ledger.queue_depth == 13)
        await everybody
        assert stores.ledger.flushes - before <= 2
        assert len(serials(stores.ledger)) == 13


def test_what_would_wait_beyond_the_bound_is_refused_with_a_hint(path: Path) -> None:
    with opened(path, WriterLimits(capacity=4)) as stores:
        with writing_blocked(path):
            waiting = [Thread(target=stores.ledger.record, args=([a_record(i), a_record(10 + i)],)) for i in (1, 2)]
            for thread in waiting:
                thread.start()
            until(lambda: stores.ledger.queue_depth == 4)
            with pytest.raises(MeshcaError) as caught:
                stores.ledger.record([a_record(3)])
            assert caught.value.kind is ErrorKind.EXHAUSTED
            assert caught.value.retry_after is not None
        for thread in waiting:
            thread.join(10)
        stores.ledger.record([a_record(4)])
        assert sorted(serials(stores.ledger)) == [1, 2, 4, 11, 12]


def test_what_waits_during_one_flush_shares_the_next(path: Path) -> None:
    with opened(path, WriterLimits()) as stores:
        before = stores.ledger.flushes
        with writing_blocked(path):
            waiting = [Thread(target=stores.ledger.record, args=([a_record(i)],)) for i in range(20)]
            for thread in waiting:
                thread.start()
            until(lambda: stores.ledger.queue_depth == 20)
        for thread in waiting:
            thread.join(10)
        assert stores.ledger.flushes - before <= 2
        assert len(serials(stores.ledger)) == 20


def test_certificates_and_facts_that_wait_together_share_a_flush(path: Path) -> None:
    with opened(path, WriterLimits()) as stores:
        before = stores.ledger.flushes
        with writing_blocked(path):
            waiting = [Thread(target=stores.ledger.record, args=([a_record(i)],)) for i in range(10)]
            waiting += [Thread(target=stores.evidence.add, args=([a_fact(i)],)) for i in range(10)]
            for thread in waiting:
                thread.start()
            until(lambda: stores.ledger.queue_depth == 20)
        for thread in waiting:
            thread.join(10)
        assert stores.ledger.flushes - before <= 2
        assert len(serials(stores.ledger)) == len(numbers(stores.evidence)) == 10


def test_closing_writes_what_waits_and_refuses_what_comes(path: Path) -> None:
    with opened(path, WriterLimits()) as stores:
        with writing_blocked(path):
            waiting = [Thread(target=stores.ledger.record, args=([a_record(i)],)) for i in range(5)]
            waiting[0].start()
            until(lambda: len(stores._writer._batch) == 1)  # it is under way; the others will have to wait
            for thread in waiting[1:]:
                thread.start()
            until(lambda: stores.ledger.queue_depth == 5)
            closing = Thread(target=stores._writer.close)
            closing.start()
        closing.join(10)
        for thread in waiting:
            thread.join(10)
        assert len(serials(stores.ledger)) == 5
        assert not stores.ledger.alive
        with pytest.raises(MeshcaError, match="closed") as by_ledger:
            stores.ledger.record([a_record(9)])
        with pytest.raises(MeshcaError, match="closed") as by_tokens:
            stores.join_tokens.add(a_token())
        assert by_ledger.value.kind is by_tokens.value.kind is ErrorKind.UNAVAILABLE


A_ROW = Row(MetaRow, {})


class BrokenDatabase:
    """A `Database` whose every write raises what it is given, if anything."""

    def __init__(self, fault: Exception | None) -> None:
        self.fault = fault
        self.inserts = 0

    def insert_rows(self, rows: Sequence[Row]) -> None:
        self.inserts += 1
        if self.fault is not None:
            raise self.fault

    def transaction(self) -> AbstractContextManager[Connection]:
        raise AssertionError("not used")

    def reading(self) -> AbstractContextManager[Connection]:
        raise AssertionError("not used")

    def reset(self) -> None:
        pass

    def failure(self, error: SQLAlchemyError) -> MeshcaError:
        return unavailable(str(error))


def test_a_first_row_waits_for_company() -> None:
    database = BrokenDatabase(None)
    writer = Writer(database, WriterLimits(window=0.5))
    first = Thread(target=writer.write, args=([A_ROW],))
    first.start()
    until(lambda: writer.lag() > 0.1)  # still waiting, though the database is idle
    writer.write([A_ROW])
    first.join(10)
    writer.close()
    assert database.inserts == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_dies_leaves_nobody_waiting_and_is_seen() -> None:
    writer = Writer(BrokenDatabase(RuntimeError("a bug")), WriterLimits())
    started = time.monotonic()
    outcomes = all_at_once(8, lambda _: writer.write([A_ROW]))
    outcomes += all_at_once(8, lambda _: writer.write([A_ROW]))
    assert {o.kind for o in outcomes if o is not None} == {ErrorKind.UNAVAILABLE}
    assert len([o for o in outcomes if o is not None]) == 16
    assert time.monotonic() - started < 5  # callers would give up after 10 s
    until(lambda: not writer.alive)


def test_each_caller_of_a_failed_batch_gets_an_error_of_its_own_and_the_next_batch_is_tried() -> None:
    database = BrokenDatabase(OSError(5, "Input/output error"))
    writer = Writer(database, WriterLimits(window=0.05))
    outcomes = all_at_once(8, lambda _: writer.write([A_ROW]))
    assert [o.kind for o in outcomes if o is not None] == [ErrorKind.UNAVAILABLE] * 8
    assert len({id(o) for o in outcomes}) == 8
    database.fault = None
    writer.write([A_ROW])
    writer.close()
