"""One stream on the loop: one writer at a time, and an end that reaches whoever runs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from meshca.errors import MeshcaError, unavailable
from meshca.services.streams import DiscoveryStream, new_nonces
from meshca.xds.effects import Effect
from meshca.xds.snapshot import Snapshot
from meshca.xds.stream import StreamMode
from tests.agent.discovery import SECONDS, until
from tests.xds.envoys import DeltaWire, new_stream, secrets


class Plain(DiscoveryStream):
    """A stream of one snapshot, which the test replaces."""

    __slots__ = ("snapshot",)

    def __init__(self) -> None:
        super().__init__(new_stream(StreamMode.DELTA))
        self.snapshot = secrets(root="root-1")

    async def ready(self) -> None:
        pass

    def visible(self) -> Snapshot:
        return self.snapshot

    def heard(self, effects: Sequence[Effect]) -> None:
        pass


class Line:
    """What carries a stream: requests are given, writes wait until `gate` is set, and fail while there is a failure."""

    def __init__(self) -> None:
        self.stream = Plain()
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.begun = self.at_once = self.most_at_once = 0
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        self.task = asyncio.create_task(self._run())
        self.cancelling = -1  # what the task says of itself once the stream is over

    async def _run(self) -> None:
        try:
            await self.stream.run(self._each(), self._write)
        finally:
            task = asyncio.current_task()
            assert task is not None
            self.cancelling = task.cancelling()

    async def _each(self) -> AsyncIterator[Any]:
        while True:
            yield await self._requests.get()

    async def _write(self, _: bytes) -> None:
        self.begun += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
            if self.failure is not None:
                raise self.failure
        finally:
            self.at_once -= 1

    async def subscribed(self, *names: str) -> None:
        """Asks for these; returns when the first answer is on its way."""
        begun = self.begun
        self._requests.put_nowait(DeltaWire().subscribe(*names))
        await until(lambda: self.begun > begun)

    def ask(self, name: str) -> None:
        self._requests.put_nowait(DeltaWire().subscribe(name))

    async def over(self) -> None:
        async with asyncio.timeout(SECONDS):
            await self.task


async def test_a_request_that_comes_while_a_push_is_written_waits_for_its_turn() -> None:
    line = Line()
    await line.subscribed("root")
    line.gate.clear()
    line.stream.snapshot = secrets(root="root-2", leaf="leaf-1")
    line.stream.wake()
    await until(lambda: line.begun == 2)
    line.ask("leaf")
    await asyncio.sleep(0)
    line.gate.set()
    await until(lambda: line.begun == 3)
    line.stream.end()
    await line.over()
    assert line.most_at_once == 1


@pytest.mark.parametrize("writing", [False, True])
async def test_it_can_be_ended_at_any_time_and_whoever_ran_it_goes_on(writing: bool) -> None:
    line = Line()
    await line.subscribed("root")
    if writing:
        line.gate.clear()
        line.stream.snapshot = secrets(root="root-2")
        line.stream.wake()
        await until(lambda: line.begun == 2)
    line.stream.end(unavailable("enough"))
    with pytest.raises(MeshcaError, match="enough"):
        await line.over()
    assert line.cancelling == 0, "it was not its task that was cancelled"
    assert line.at_once == 0


async def test_one_that_was_ended_before_it_began_serves_nothing() -> None:
    line = Line()
    line.stream.end()
    line.ask("root")
    await line.over()
    assert line.begun == 0


async def test_a_push_that_cannot_be_written_ends_the_stream_with_that_failure() -> None:
    line = Line()
    await line.subscribed("root")
    line.failure = ConnectionResetError("gone")
    line.stream.snapshot = secrets(root="root-2")
    line.stream.wake()
    with pytest.raises(ConnectionResetError):
        await line.over()
    assert line.cancelling == 0


async def test_who_cancels_the_task_that_runs_it_is_obeyed() -> None:
    line = Line()
    await line.subscribed("root")
    line.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await line.over()


def test_nonces_are_new_each_time_and_after_each_restart() -> None:
    before, after = new_nonces(), new_nonces()
    assert len({*(before() for _ in range(100)), *(after() for _ in range(100))}) == 200
