"""A hub without sockets: peers that speak xDS to it, and an evidence store that does as it is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse, DiscoveryResponse

from meshca.authority.evidence import BundleFact
from meshca.errors import MeshcaError
from meshca.services.acknowledgements import AcknowledgementQueue
from meshca.services.distribution import Distribution, StreamLimits, TrustStream
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import SpiffeId
from meshca.spiffe.peers import AuthenticationMethod, Caller
from meshca.xds.stream import StreamMode
from tests.fakes.clock import SetClock
from tests.svids import TestCa, bundle_of, new_root
from tests.xds.envoys import SotwWire, Wire

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECONDS = 5.0
AFTERTHOUGHT = 0.05
DOMAIN = "example.org"
DOMAIN_ID = f"spiffe://{DOMAIN}"
RESPONSES = {StreamMode.SOTW: DiscoveryResponse, StreamMode.DELTA: DeltaDiscoveryResponse}
ROOTS = [new_root(f"root {n}") for n in range(4)]


def bundle(sequence: int, *roots: TestCa) -> TrustBundle:
    """The bundle of that sequence; of one root of its own unless roots are given."""
    return bundle_of(DOMAIN, *(roots or (ROOTS[sequence],)), sequence=sequence)


def holder(name: str = "web", serial: str = "", until: datetime = NOW + timedelta(hours=1)) -> Caller:
    """A caller with a certificate; its serial is its name unless given."""
    spiffe_id = SpiffeId.parse(f"{DOMAIN_ID}/{name}")
    return Caller(spiffe_id, AuthenticationMethod.X509_SVID, "", serial=serial or name, valid_until=until)


def token_bearer(name: str = "web") -> Caller:
    """A caller that has no certificate yet."""
    return Caller(SpiffeId.parse(f"{DOMAIN_ID}/{name}"), AuthenticationMethod.JWT, "")


@dataclass
class Record:
    """What is durable, batch by batch. Raises `failure` while there is one; holds each call until `gate` is set."""

    batches: list[tuple[BundleFact, ...]] = field(default_factory=list)
    failure: MeshcaError | None = None
    failed: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    thread: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def __call__(self, facts: Sequence[BundleFact]) -> None:
        self.thread = threading.get_ident()
        assert self.gate.wait(SECONDS), "nobody opened the gate"
        if self.failure is not None:
            self.failed += 1
            raise self.failure
        self.batches.append(tuple(facts))

    @property
    def facts(self) -> list[BundleFact]:
        return [fact for batch in self.batches for fact in batch]

    @property
    def known(self) -> list[tuple[str, int, str]]:
        """Serial, sequence, refusal of each fact."""
        return [(fact.serial, fact.bundle_sequence, fact.refusal) for fact in self.facts]


@dataclass
class Counts:
    """`StreamMetrics`."""

    open: int = 0
    pushes: int = 0
    acks: int = 0
    nacks: int = 0

    def streams_open(self, count: int) -> None:
        self.open = count

    def pushed(self) -> None:
        self.pushes += 1

    def acknowledged(self) -> None:
        self.acks += 1

    def push_refused(self) -> None:
        self.nacks += 1


class Client:
    """One peer and its stream. It reads only when it is asked to: `room` responses fit on the way."""

    def __init__(self, stream: TrustStream, wire: Wire, room: int) -> None:
        self.stream = stream
        self.wire = wire
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        self._responses: asyncio.Queue[Any] = asyncio.Queue(room)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self.stream.run(self._each(), self._write)
        finally:
            self.stream.close()

    async def _each(self) -> AsyncIterator[Any]:
        while (request := await self._requests.get()) is not None:
            yield request

    async def _write(self, body: bytes) -> None:
        await self._responses.put(RESPONSES[self.wire.mode].FromString(body))

    def subscribe(self, *names: str) -> None:
        self.send(self.wire.subscribe(*names))

    def send(self, request: Any) -> None:
        self._requests.put_nowait(request)

    def leave(self) -> None:
        self._requests.put_nowait(None)

    async def read(self) -> Any:
        return await asyncio.wait_for(self._responses.get(), SECONDS)

    async def ack(self) -> Any:
        """Takes the next response and acknowledges it."""
        response = await self.read()
        self.send(self.wire.ack(response))
        return response

    async def nack(self, reason: str = "no") -> Any:
        response = await self.read()
        self.send(self.wire.nack(response, reason))
        return response

    @property
    def unread(self) -> int:
        return self._responses.qsize()

    async def failure(self) -> MeshcaError:
        """The error with which the stream ends."""
        async with asyncio.timeout(SECONDS):
            try:
                await self.task
            except MeshcaError as error:
                return error
        raise AssertionError("the stream ended well")


class Hub:
    """A running hub, its record and its clients."""

    def __init__(
        self,
        limits: StreamLimits | None = None,
        *,
        waiting: int = 1000,
        sweep_seconds: float = 0.005,
        fetch_repeat: float = 3600.0,
    ) -> None:
        self.clock = SetClock(NOW)
        self.record = Record()
        self.counts = Counts()
        self.queue = AcknowledgementQueue(self.record, limit=waiting, retry_seconds=0.01)
        self.distribution = Distribution(
            self.clock,
            self.queue,
            self.counts,
            limits,
            sweep_seconds=sweep_seconds,
            afterthought=AFTERTHOUGHT,
            fetch_repeat=fetch_repeat,
        )
        self._clients: list[Client] = []
        self.running: asyncio.Task[None] | None = None

    def connect(
        self, wire: Wire | None = None, caller: Caller | None = None, *, aggregated: bool = True, room: int = 100
    ) -> Client:
        wire = wire or SotwWire()
        stream = self.distribution.open(wire.mode, caller or holder(), aggregated=aggregated)
        client = Client(stream, wire, room)
        self._clients.append(client)
        return client

    async def recorded(self) -> list[tuple[str, int, str]]:
        """What is durable once all that was offered is."""
        await asyncio.wait_for(self.queue.settled(), SECONDS)
        return self.record.known

    async def end(self) -> None:
        for task in (*(client.task for client in self._clients), self.running):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def running(
    limits: StreamLimits | None = None,
    *,
    waiting: int = 1000,
    sweep_seconds: float = 0.005,
    fetch_repeat: float = 3600.0,
    first: bool = True,
) -> AsyncIterator[Hub]:
    """A hub that serves the bundle of sequence 1 (unless not `first`)."""
    hub = Hub(limits, waiting=waiting, sweep_seconds=sweep_seconds, fetch_repeat=fetch_repeat)
    if first:
        hub.distribution.publish(bundle(1))
    hub.running = asyncio.create_task(hub.distribution.run())
    await asyncio.sleep(0)
    try:
        yield hub
    finally:
        await hub.end()
