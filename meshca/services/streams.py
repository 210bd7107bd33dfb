"""One discovery stream on the loop: requests in, responses out, a mailbox of one. Hubs say what is in the responses."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from meshca.errors import MeshcaError
from meshca.xds.effects import Effect, Send
from meshca.xds.snapshot import Snapshot
from meshca.xds.stream import XdsStream

Write = Callable[[bytes], Awaitable[None]]


def new_nonces() -> Callable[[], str]:
    """A source of nonces: a new one each time, also after a restart."""
    prefix, numbers = secrets.token_hex(8), itertools.count(1)
    return lambda: f"{prefix}-{next(numbers):x}"


class DiscoveryStream(ABC):
    """A stream, from its opening to its end. It is told that there is news, not which: a slow peer skips versions, and
    slows nobody else. At rest it holds no task but the one that runs it.
    """

    __slots__ = ("_error", "_is_over", "_is_stale", "_pushing", "_running", "_turn", "_write", "xds")

    def __init__(self, xds: XdsStream) -> None:
        self.xds = xds
        self._turn = (
            asyncio.Lock()
        )  # who holds it may ask `xds` and write; responses leave in the order of their making
        self._write: Write | None = None
        self._running: asyncio.Task[Any] | None = None
        self._pushing: asyncio.Task[None] | None = None
        self._is_stale = False
        self._is_over = False
        self._error: Exception | None = None

    @abstractmethod
    async def ready(self) -> None:
        """Returns once there is something to serve. Until then no request is even looked at: an answer from nothing
        could tell a delta client that its resources are gone."""

    @abstractmethod
    def visible(self) -> Snapshot:
        """What this peer may see now."""

    @abstractmethod
    def heard(self, effects: Sequence[Effect]) -> None:
        """What was learnt of the peer and is about to be sent to it. Raises MeshcaError to end the stream."""

    async def before_sending(self) -> None:  # noqa: B027  # most have nothing to wait for
        """Returns when what was made may be sent; after `heard`."""

    def receive(self, request: Any) -> list[Effect]:
        """Takes a request. Raises what `XdsStream.receive` raises."""
        return self.xds.receive(request, self.visible())

    def wake(self) -> None:
        """There is something new."""
        self._is_stale = True
        if self._write is not None and self._pushing is None:
            self._pushing = asyncio.get_running_loop().create_task(self._push())

    def end(self, error: MeshcaError | None = None) -> None:
        """Ends the stream at once: `run` returns, or raises `error`."""
        self._finish(error)

    async def run(self, requests: AsyncIterator[Any], write: Write) -> None:
        """Serves until the peer ends the stream or `end` does.

        Raises what `receive` and `heard` raise, what `end` was given, and what `requests` and `write` raise.
        """
        self._running = running = asyncio.current_task()
        assert running is not None
        try:
            if not self._is_over:
                await self._serve(requests, write)
        except asyncio.CancelledError:
            if not self._is_over:
                raise  # the peer went away, or the server stops
            running.uncancel()
        finally:
            self._running = self._write = None
            await self._stop_pushing()
        if self._error is not None:
            raise self._error

    async def _serve(self, requests: AsyncIterator[Any], write: Write) -> None:
        await self.ready()
        self._write = write
        async for request in requests:
            async with self._turn:
                await self._answer(self.receive(request))

    async def _push(self) -> None:
        try:
            while self._is_stale:
                async with self._turn:
                    self._is_stale = False
                    await self._answer(self.xds.push(self.visible()))
        except Exception as error:  # noqa: BLE001  # it is that of the task that runs the stream, which raises it
            self._finish(error)
        finally:
            self._pushing = None

    async def _answer(self, effects: Sequence[Effect]) -> None:
        """A peer that does not read is waited for here, and holds up nobody but itself."""
        self.heard(effects)
        sends = [effect for effect in effects if isinstance(effect, Send)]
        if sends:
            await self.before_sending()
        for send in sends:
            assert self._write is not None
            await self._write(send.body)

    def _finish(self, error: Exception | None) -> None:
        if self._is_over:
            return
        self._is_over, self._error = True, error
        if self._running is not None:
            self._running.cancel()

    async def _stop_pushing(self) -> None:
        if self._pushing is not None:
            self._pushing.cancel()
            await asyncio.gather(self._pushing, return_exceptions=True)
            self._pushing = None  # one that had not begun
