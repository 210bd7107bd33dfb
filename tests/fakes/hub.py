"""A discovery hub that does as it is told, on the mTLS listener of the fake certificate authority.

ca = FakeAuthority(hub=(hub := FakeHub()))
hub.offer(bundle_of(TRUST_DOMAIN, root, sequence=2))
hub.acked, hub.nacked   # what agents said, in order
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from envoy.service.discovery.v3 import ads_pb2_grpc

from meshca.compile.bundles import bundle_message
from meshca.proto.meshca.v1 import discovery_pb2
from meshca.spiffe.bundles import TrustBundle
from meshca.xds.effects import Acked, Effect, Nacked, Send
from meshca.xds.snapshot import Resource, Snapshot, content_version
from meshca.xds.stream import StreamMode, XdsStream

BUNDLE_TYPE = "type.googleapis.com/meshca.v1.TrustBundle"
DIRECTIVE_TYPE = "type.googleapis.com/meshca.v1.RenewalDirective"


@dataclass(frozen=True, slots=True)
class Heard:
    """One verdict: on which type, of which versions by name, and why it was refused ("" where it was not)."""

    type_url: str
    versions: dict[str, str]
    reason: str = ""


class FakeHub(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]  # ships no types
    """Serves one bundle and one directive; versions are `<sequence>` of a bundle, and a digest of other bodies."""

    def __init__(self) -> None:
        self._resources: dict[str, dict[str, Resource]] = {BUNDLE_TYPE: {}, DIRECTIVE_TYPE: {}}
        self._woken: set[asyncio.Event] = set()
        self._ended = asyncio.Event()
        self.verdicts: list[Heard] = []
        self.nodes: list[str] = []  # of each stream that was opened
        self.peers: list[str] = []  # the serial of the certificate that each was opened with
        self._barriers = 0
        self.refuse: grpc.StatusCode | None = None

    @property
    def acked(self) -> list[str]:
        """The versions of bundles that were accepted, in order."""
        return [
            v
            for each in self.verdicts
            if each.type_url == BUNDLE_TYPE and not each.reason
            for v in each.versions.values()
        ]

    @property
    def nacked(self) -> list[Heard]:
        """What was refused, in order."""
        return [each for each in self.verdicts if each.reason]

    @property
    def open_streams(self) -> int:
        """How many there are now."""
        return len(self._woken)

    def offer(self, bundle: TrustBundle) -> None:
        """Serves a bundle from now on."""
        message = bundle_message(bundle)
        self.offer_raw(str(bundle.trust_domain.id), message.SerializeToString(), str(bundle.sequence))

    def offer_raw(self, name: str, body: bytes, version: str, type_url: str = BUNDLE_TYPE) -> None:
        """Serves any bytes as a resource."""
        self._resources[type_url][name] = Resource(name, version, body)
        self._wake()

    def withdraw(self, type_url: str) -> None:
        """Has nothing of that type any more."""
        self._resources[type_url].clear()
        self._wake()

    def direct(self, *issuer_ids: str, start: float, seconds: int) -> None:
        """Serves a directive from now on."""
        message = discovery_pb2.RenewalDirective(issuer_ids=issuer_ids, window_start=int(start), window_seconds=seconds)
        body = message.SerializeToString()
        self.offer_raw("renewal", body, content_version(body), DIRECTIVE_TYPE)

    async def heard_all(self) -> None:
        """Returns once the agent's answers to all that was sent before are here, if it means to answer at all: streams
        keep their order, so the answer to something else that is sent now comes later."""
        self._barriers += 1
        before = len(self.verdicts)
        self.direct(start=0, seconds=self._barriers)
        async with asyncio.timeout(5):
            while not any(each.type_url == DIRECTIVE_TYPE for each in self.verdicts[before:]):
                await asyncio.sleep(0.002)

    def end_streams(self) -> None:
        """Ends all streams, as when a certificate ended."""
        self._ended.set()
        self._ended = asyncio.Event()

    async def DeltaAggregatedResources(  # noqa: N802  # gRPC's name
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        if self.refuse is not None:
            await context.abort(self.refuse, "refused by the test")
        stream = XdsStream(StreamMode.DELTA, frozenset(self._resources), lambda: secrets.token_hex(8), aggregated=True)
        woken = asyncio.Event()
        parts = (
            asyncio.create_task(self._read(stream, requests, context)),
            asyncio.create_task(self._push(stream, woken, context)),
            asyncio.create_task(self._ended.wait()),
        )
        self._woken.add(woken)
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._woken.discard(woken)
            for part in parts:
                part.cancel()
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the certificate has ended")

    async def _read(self, stream: XdsStream, requests: AsyncIterator[Any], context: Any) -> None:
        async for request in requests:
            if not stream.node_id:
                self.nodes.append(request.node.id)
                pem = context.auth_context()["x509_pem_cert"][0]
                self.peers.append(f"{x509.load_pem_x509_certificate(pem).serial_number:x}")
            await self._act(stream.receive(request, self._snapshot()), context)

    async def _push(self, stream: XdsStream, woken: asyncio.Event, context: Any) -> None:
        while True:
            await woken.wait()
            woken.clear()
            await self._act(stream.push(self._snapshot()), context)

    async def _act(self, effects: list[Effect], context: Any) -> None:
        for effect in effects:
            if isinstance(effect, Acked):
                self.verdicts.append(Heard(effect.type_url, dict(effect.versions)))
            elif isinstance(effect, Nacked):
                self.verdicts.append(Heard(effect.type_url, dict(effect.versions), effect.reason))
            elif isinstance(effect, Send):
                await context.write(effect.response)

    def _snapshot(self) -> Snapshot:
        return Snapshot(self._resources)

    def _wake(self) -> None:
        for woken in self._woken:
            woken.set()
