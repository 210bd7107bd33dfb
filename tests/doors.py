"""The real signing door in this process: a fresh data directory, real gRPC over TLS on loopback, and its clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any, Self, TypeVar

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshca.http.metrics import Metrics
from meshca.pki.keys import KeyAlgorithm, PrivateKey
from meshca.pki.records import LedgerQuery
from meshca.proto.istio.v1.auth import ca_pb2, ca_pb2_grpc
from meshca.proto.meshca.v1 import certificates_pb2 as pb
from meshca.proto.meshca.v1 import certificates_pb2_grpc
from meshca.rpc.listeners import Listener, ListenerLimits
from meshca.settings.server import ServerSettings
from meshca.spiffe.ids import TrustDomain
from meshca.wiring.clock import SystemClock
from meshca.wiring.core import Core, build_core
from meshca.wiring.data_dir import Founding, create_data_dir
from meshca.wiring.door import Door, DoorAddresses
from tests.assets.csrs import good, key_of
from tests.fakes.clock import Stopwatch

MESH = "door.test"
WORKLOAD = f"spiffe://{MESH}/ns/a/sa/b"
PASSPHRASE = b"a passphrase for tests"
LIMITS = ListenerLimits(max_concurrent_calls=100, max_connection_age=timedelta(hours=1))
Metadata = Sequence[tuple[str, str | bytes]]
T = TypeVar("T")


class LoopThread:
    """A running loop in a thread of its own, so that a test's own thread can be the door's blocking client."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="door-loop")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What the coroutine gives."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)


@dataclass
class RunningDoor:
    """An open door and what is behind it."""

    loop: LoopThread
    door: Door
    core: Core
    metrics: Metrics
    addresses: DoorAddresses
    watch: Stopwatch  # the age of what it signs with, which nobody confirms; stands still

    def join_token(self, spiffe_id: str = WORKLOAD) -> str:
        """A new join token."""
        return self.core.enrolment.create(spiffe_id, 0)[0]

    @property
    def root(self) -> bytes:
        """The trust bundle, PEM."""
        return self.core.signing.latest().bundle.pem.encode()

    @contextlib.contextmanager
    def channel(
        self, *, credentials: tuple[bytes, bytes] | None = None, root: bytes | None = None, to: str | None = None
    ) -> Iterator[grpc.Channel]:
        """A channel to the token listener; with `credentials` (key, chain) to the mTLS listener; or `to` an address."""
        target = to or (self.addresses.token if credentials is None else self.addresses.mtls)
        key, chain = credentials or (None, None)
        tls = grpc.ssl_channel_credentials(root or self.root, key, chain)
        # a pool of its own: channels of other tests must not lend their connections
        with grpc.secure_channel(target, tls, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            yield channel

    def create(self, request: ca_pb2.IstioCertificateRequest, metadata: Metadata = ()) -> list[str]:
        """Istio's CreateCertificate on the token listener; the chain."""
        with self.channel() as channel:
            stub = ca_pb2_grpc.IstioCertificateServiceStub(channel)
            return list(stub.CreateCertificate(request, metadata=tuple(metadata), timeout=10).cert_chain)

    def sign(
        self,
        *wishes: pb.SigningRequest,
        metadata: Metadata = (),
        credentials: tuple[bytes, bytes] | None = None,
    ) -> pb.SignCertificatesResponse:
        """Our SignCertificates, on the listener that `credentials` call for."""
        with self.channel(credentials=credentials) as channel:
            stub = certificates_pb2_grpc.CertificateServiceStub(channel)
            request = pb.SignCertificatesRequest(requests=wishes)
            return stub.SignCertificates(request, metadata=tuple(metadata), timeout=10)

    def svid(self, spiffe_id: str = WORKLOAD, *, ttl_seconds: int = 0) -> tuple[bytes, bytes]:
        """Key and chain (PEM) of a new SVID, obtained by a join token."""
        key = key_of(KeyAlgorithm.P256, 7)
        wish = pb.SigningRequest(csr=good(key).public_bytes(Encoding.DER), ttl_seconds=ttl_seconds)
        answer = self.sign(wish, metadata=bearer(self.join_token(spiffe_id)))
        chain = [x509.load_der_x509_certificate(der) for der in answer.results[0].certificate.chain]
        return private_pem(key), b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)

    def issued(self) -> int:
        """How many leaves are in the ledger."""
        page = self.core.stores.ledger.find(LedgerQuery(limit=10_000))
        return sum(record.kind == "leaf" for record in page.records)


@contextlib.contextmanager
def open_door(directory: Path, **settings: Any) -> Iterator[RunningDoor]:
    """A door on a new CA; `settings` go over the defaults of `ServerSettings`."""
    data_dir = directory / "ca"
    passphrase = directory / "passphrase"
    passphrase.write_bytes(PASSPHRASE)
    passphrase.chmod(0o600)
    create_data_dir(data_dir, Founding(TrustDomain(MESH)), PASSPHRASE, SystemClock())
    base: Mapping[str, Any] = {
        "data_dir": data_dir,
        "token_listen": "127.0.0.1:0",
        "mtls_listen": "127.0.0.1:0",
        "passphrase_file": passphrase,
        "shutdown_grace": 0,
    }
    chosen = ServerSettings(**{**base, **settings})
    watch = Stopwatch()
    core = build_core(chosen, watch)
    try:
        core.identity.ensure()
        metrics = Metrics(lambda: core.signing.latest().ring, ledger=core.stores.ledger)
        with LoopThread() as loop:
            door, addresses = loop.run(_opened(core, chosen, metrics))
            try:
                yield RunningDoor(loop, door, core, metrics, addresses, watch)
            finally:
                loop.run(door.close())  # once more does nothing
    finally:
        core.stores.close()


@contextlib.contextmanager
def listening(
    door: RunningDoor, handlers: Sequence[grpc.GenericRpcHandler] = (), limits: ListenerLimits = LIMITS
) -> Iterator[str]:
    """One more token listener, for `handlers`, with the door's certificate on its loop; its address."""

    async def serve() -> tuple[Listener, int]:
        listener = Listener(handlers, (), limits)
        port = listener.bind_tls("127.0.0.1:0", lambda: door.core.identity.material, client_certificates=False)
        await listener.start()
        return listener, port

    listener, port = door.loop.run(serve())
    try:
        yield f"127.0.0.1:{port}"
    finally:
        door.loop.run(listener.stop(timedelta(0)))


async def _opened(core: Core, settings: ServerSettings, metrics: Metrics) -> tuple[Door, DoorAddresses]:
    door = Door(core, settings, metrics)
    return door, await door.open()


def bearer(token: str) -> Metadata:
    """The metadata that carries a token."""
    return (("authorization", f"Bearer {token}"),)


def csr_pem(key: PrivateKey | None = None) -> str:
    """A plain request."""
    return good(key or key_of(KeyAlgorithm.P256)).public_bytes(Encoding.PEM).decode()


def private_pem(key: PrivateKey) -> bytes:
    """A private key, PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
