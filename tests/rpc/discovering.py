"""The server's hub behind real listeners on loopback: one for tokens, one for mutual TLS."""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub

from meshca.errors import MeshcaError, unauthenticated
from meshca.rpc.calls import BoundedCalls
from meshca.rpc.discovery import discovery_handlers
from meshca.rpc.distribution import DiscoveryDoor
from meshca.rpc.limits import STREAM_BURST, Pace, PeerLimiter
from meshca.rpc.peers import mtls_peer, token_peer
from meshca.services.acknowledgements import AcknowledgementQueue
from meshca.services.authentication import Authentication, SvidAuthenticator
from meshca.services.distribution import Distribution, StreamLimits
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import SpiffeId, TrustDomain
from meshca.spiffe.peers import AuthenticationMethod, Caller, Peer
from tests.agent.discovery import Delta, Sotw
from tests.fakes.certificate_authority import certificate_for, fresh_root
from tests.fakes.clock import OffsetClock, Stopwatch
from tests.services.hubs import SECONDS, Counts, Record
from tests.svids import DAY, TestCa, bundle_of, new_key

DOMAIN = TrustDomain("example.org")
TOKEN = "good"  # of the test
ROOT, NEXT = fresh_root("root"), fresh_root("next")


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and key, PEM, with its serial as evidence knows it."""

    chain: bytes
    key: bytes
    serial: str


def identity(name: str = "web", *, root: TestCa = ROOT, lasts: timedelta = timedelta(hours=1)) -> Identity:
    """A new certificate for `spiffe://example.org/<name>`."""
    key = new_key()
    end = datetime.now(UTC).replace(microsecond=0) + lasts
    leaf = certificate_for(root, key.public_key(), f"spiffe://{DOMAIN}/{name}", not_after=end)
    certificate = x509.load_der_x509_certificate(leaf)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Identity(certificate.public_bytes(Encoding.PEM), private, f"{certificate.serial_number:x}")


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that carries a token."""
    return (("authorization", f"Bearer {token}"),)


class OneToken:
    """`ports.Authenticator` that knows one token; it may be out."""

    def __init__(self) -> None:
        self.failure: MeshcaError | None = None

    def authenticate(self, peer: Peer, now: datetime) -> Caller | None:
        if self.failure is not None:
            raise self.failure
        if TOKEN in peer.bearer_tokens:
            return Caller(SpiffeId(DOMAIN, "/token"), AuthenticationMethod.JWT, "")
        if peer.bearer_tokens:
            raise unauthenticated("token: a precise reason that is for our log only")
        return None


class Rig:
    """The hub of `example.org` on two listeners, its clients, and what it records."""

    def __init__(self, *, limits: StreamLimits | None = None, burst: int = 1000, requests: int = STREAM_BURST) -> None:
        self.clock = OffsetClock()
        self.record, self.counts, self.tokens = Record(), Counts(), OneToken()
        self.queue = AcknowledgementQueue(self.record, retry_seconds=0.01)
        self.hub = Distribution(self.clock, self.queue, self.counts, limits, sweep_seconds=0.01, afterthought=0.05)
        self._watch = Stopwatch()
        self._limits = PeerLimiter(1, burst, self._watch)
        self._requests = requests  # of a stream, for good: the watch stands still
        svids = SvidAuthenticator(lambda: {DOMAIN: bundle_of("example.org", ROOT)}, DOMAIN)
        self._authentication = Authentication((svids, self.tokens))
        self._stack = AsyncExitStack()
        self.token_port = self.mtls_port = 0

    async def __aenter__(self) -> Self:
        running = asyncio.create_task(self.hub.run())
        self._stack.push_async_callback(_ended, running)
        self.token_port = await self._listen(token_peer, client_certificates=False)
        self.mtls_port = await self._listen(mtls_peer, client_certificates=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.hub.close()
        await self._stack.aclose()

    def publish(self, sequence: int, *roots: TestCa) -> TrustBundle:
        bundle = bundle_of("example.org", *roots, sequence=sequence)
        self.hub.publish(bundle)
        return bundle

    async def recorded(self) -> list[tuple[str, int, str]]:
        await asyncio.wait_for(self.queue.settled(), SECONDS)
        return self.record.known

    def channel(self, who: Identity | None, *options: tuple[str, int]) -> grpc.aio.Channel:
        """To the mTLS listener with a certificate, to the token listener without."""
        key, chain = (who.key, who.chain) if who else (None, None)
        credentials = grpc.ssl_channel_credentials(_pem(ROOT), key, chain)
        address = f"127.0.0.1:{self.mtls_port if who else self.token_port}"
        chosen = [("grpc.use_local_subchannel_pool", 1), *options]
        channel = grpc.aio.secure_channel(address, credentials, chosen)
        self._stack.push_async_callback(channel.close)
        return channel

    def sotw(self, channel: grpc.aio.Channel, service: str = "sds", **call: Any) -> Sotw:
        if service == "sds":
            return Sotw(SecretDiscoveryServiceStub(channel).StreamSecrets(**call))
        return Sotw(AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources(**call))

    def delta(self, channel: grpc.aio.Channel, service: str = "sds", **call: Any) -> Delta:
        if service == "sds":
            return Delta(SecretDiscoveryServiceStub(channel).DeltaSecrets(**call))
        return Delta(AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources(**call))

    async def _listen(self, read_peer: Any, *, client_certificates: bool) -> int:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        door = DiscoveryDoor(self.hub, self._authentication, self._limits, self.clock, read_peer)
        handlers = discovery_handlers(door, lambda: Pace(self._watch, burst=self._requests))
        server.add_generic_rpc_handlers((BoundedCalls(handlers, 100, 32 * 1024, timedelta(seconds=5)),))
        port = server.add_secure_port("127.0.0.1:0", _server_credentials(client_certificates))
        await server.start()
        self._stack.push_async_callback(server.stop, 1)
        return port


async def _ended(task: asyncio.Task[None]) -> None:
    assert not task.done(), "the hub ended by itself"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _pem(root: TestCa) -> bytes:
    return root.certificate.public_bytes(Encoding.PEM)


def _server_credentials(client_certificates: bool) -> grpc.ServerCredentials:
    key = new_key()
    names = x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.UniformResourceIdentifier(f"spiffe://{DOMAIN}/ca")]
    )
    now = datetime.now(UTC)
    leaf = ROOT.issue("", key.public_key(), [(names, True)], not_before=now - DAY, not_after=now + DAY)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return grpc.ssl_server_credentials(
        [(pem, leaf.public_bytes(Encoding.PEM))], _pem(ROOT) if client_certificates else None, client_certificates
    )
