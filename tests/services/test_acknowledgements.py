"""Facts on their way into the store: in batches, off the loop, late but never lost, and never counted too soon."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from meshca.authority.evidence import BundleFact, Channel
from meshca.errors import ErrorKind, MeshcaError, exhausted, internal, unavailable
from meshca.services.acknowledgements import MAX_BATCH, AcknowledgementQueue
from tests.agent.discovery import until
from tests.services.hubs import NOW, SECONDS, Record


def fact(serial: str, sequence: int = 1, refusal: str = "", channel: Channel = Channel.STREAM) -> BundleFact:
    return BundleFact(serial, f"spiffe://example.org/{serial}", sequence, channel, NOW, NOW, refusal)


@pytest.fixture
def record() -> Record:
    return Record()


@pytest.fixture
async def queue(record: Record) -> AsyncIterator[AcknowledgementQueue]:
    queue = AcknowledgementQueue(record, limit=3, retry_seconds=0.01)
    running = asyncio.create_task(queue.run())
    yield queue
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def settled(queue: AcknowledgementQueue) -> None:
    await asyncio.wait_for(queue.settled(), SECONDS)


async def test_what_comes_within_moments_is_one_write_on_another_thread(
    queue: AcknowledgementQueue, record: Record
) -> None:
    for serial in "abc":
        queue.offer(fact(serial))
    await settled(queue)
    assert [[each.serial for each in batch] for batch in record.batches] == [["a", "b", "c"]]
    assert record.thread != threading.get_ident()


async def test_the_loop_goes_on_while_the_store_is_slow_and_what_comes_meanwhile_follows(
    queue: AcknowledgementQueue, record: Record
) -> None:
    record.gate.clear()
    queue.offer(fact("a"))
    await until(lambda: len(queue) == 0)  # it is being written
    assert record.batches == []
    queue.offer(fact("b"))
    settling = asyncio.create_task(queue.settled())
    await asyncio.sleep(0)
    assert not settling.done()
    record.gate.set()
    await asyncio.wait_for(settling, SECONDS)
    assert record.known == [("a", 1, ""), ("b", 1, "")]


@pytest.mark.parametrize("outage", [unavailable("out"), exhausted("full")])
async def test_a_write_that_fails_is_logged_and_tried_again_until_it_is_durable(
    queue: AcknowledgementQueue, record: Record, outage: MeshcaError
) -> None:
    record.failure = outage
    with capture_logs() as logs:
        queue.offer(fact("a"))
        queue.offer(fact("b"))
        await until(lambda: record.failed >= 2)
    assert record.batches == []
    assert logs[0]["event"] == "acknowledgements_not_recorded"
    assert (logs[0]["count"], logs[0]["reason"]) == (2, outage.message)
    record.failure = None
    await settled(queue)
    assert record.known == [("a", 1, ""), ("b", 1, "")]


async def test_after_an_outage_only_the_newest_of_each_certificate_is_written(
    queue: AcknowledgementQueue, record: Record
) -> None:
    record.failure = unavailable("out")
    queue.offer(fact("a", 1))
    queue.offer(fact("a", 2, "no"))
    queue.offer(fact("b", 1))
    await until(lambda: record.failed >= 1)
    queue.offer(fact("a", 3))  # it took the third, so the refusal of the second is history
    queue.offer(fact("b", 2, "no"))
    record.failure = None
    await settled(queue)
    assert record.known == [("b", 1, ""), ("a", 3, ""), ("b", 2, "no")]


async def test_a_refusal_is_not_lost_where_the_older_bundle_is_accepted_once_more(
    queue: AcknowledgementQueue, record: Record
) -> None:
    record.gate.clear()
    queue.offer(fact("other"))
    await until(lambda: not len(queue))  # that one is being written; what follows waits
    queue.offer(fact("a", 2))
    queue.offer(fact("a", 2, "no"))
    queue.offer(fact("a", 1))
    record.gate.set()
    await settled(queue)
    assert record.known == [("other", 1, ""), ("a", 2, "no"), ("a", 1, "")]


async def test_what_is_fetched_takes_the_place_of_nothing_that_was_said_on_a_stream(
    queue: AcknowledgementQueue, record: Record
) -> None:
    record.failure = unavailable("out")
    queue.offer(fact("a", 1))
    queue.offer(fact("a", 2, "no"))
    for sequence in (2, 3):
        queue.offer(fact("a", sequence, channel=Channel.FETCH))
    await until(lambda: record.failed >= 1)
    record.failure = None
    await settled(queue)
    assert record.known == [("a", 1, ""), ("a", 2, "no"), ("a", 3, "")]


async def test_it_is_bounded_and_says_so_but_news_of_one_that_waits_is_always_taken(
    queue: AcknowledgementQueue, record: Record
) -> None:
    record.gate.clear()
    for serial in "abc":
        queue.offer(fact(serial))
    with pytest.raises(MeshcaError) as refused:
        queue.offer(fact("d"))
    assert refused.value.kind is ErrorKind.UNAVAILABLE
    queue.offer(fact("a", 2))
    record.gate.set()
    await settled(queue)
    assert sorted(record.known) == [("a", 2, ""), ("b", 1, ""), ("c", 1, "")]


async def test_a_failure_that_no_waiting_mends_ends_the_queue() -> None:
    record = Record(failure=internal("a fact that cannot be"))
    queue = AcknowledgementQueue(record)
    queue.offer(fact("a"))
    with pytest.raises(MeshcaError, match="cannot be"):
        await asyncio.wait_for(queue.run(), SECONDS)


async def test_more_than_the_store_takes_at_once_goes_there_in_parts_oldest_first(record: Record) -> None:
    """As after an outage in the middle of a push to a large fleet: the writer refuses a job above its capacity."""
    queue = AcknowledgementQueue(record)
    for number in range(2 * MAX_BATCH + 1):
        queue.offer(fact(str(number)))
    running = asyncio.create_task(queue.run())
    await settled(queue)
    assert [len(batch) for batch in record.batches] == [MAX_BATCH, MAX_BATCH, 1]
    assert [each.serial for batch in record.batches for each in batch] == [str(n) for n in range(2 * MAX_BATCH + 1)]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
