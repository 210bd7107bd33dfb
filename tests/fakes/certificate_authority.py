"""A certificate authority that does as it is told: a real gRPC server on loopback, TLS on both listeners.

    async with FakeAuthority() as ca:
        ca.behaviour = Behaviour(ttl=timedelta(seconds=3))
        ca.calls   # who asked, and how

It knows join tokens (each good once) and bearer tokens, and gives whoever has one `ca.spiffe_id`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from envoy.service.discovery.v3 import ads_pb2_grpc

from meshca.compile.bundles import bundle_message
from meshca.pki.keys import spki_der
from meshca.proto.meshca.v1 import certificates_pb2 as pb
from meshca.proto.meshca.v1 import certificates_pb2_grpc
from meshca.spiffe.bundles import RevocationList
from tests.fakes.hub import FakeHub
from tests.svids import DAY, TestCa, bundle_of, new_key, new_root, uris

SPIFFE_ID = "spiffe://example.org/ns/shop/sa/cart"
TRUST_DOMAIN = "example.org"


def fresh_root(name: str = "root") -> TestCa:
    """A root that is valid now."""
    now = datetime.now(UTC)
    return new_root(name, not_before=now - DAY, not_after=now + 100 * DAY)


@dataclass(frozen=True, slots=True)
class Call:
    """One call as the server saw it."""

    listener: str  # "token" or "mtls"
    authorization: str | None
    peer_serial: int | None
    key: bytes  # the DER public key of the CSR
    ttl_seconds: int


Answer = Callable[[pb.SignCertificatesResponse], pb.SignCertificatesResponse]


@dataclass(frozen=True)
class Behaviour:
    """How to answer from now on. `twist` gets the honest answer and gives the one to send."""

    ttl: timedelta = timedelta(hours=1)
    refuse: grpc.StatusCode | None = None
    refuse_on: tuple[str, ...] = ("token", "mtls")
    detail: str = "refused by the test"
    trailing: tuple[tuple[str, str], ...] = ()
    spiffe_id: str = SPIFFE_ID
    public_key: ec.EllipticCurvePublicKey | None = None  # certify this key instead of the caller's
    twist: Answer = field(default=lambda answer: answer)


class FakeAuthority:
    """The authority. `root` issues and is trusted; `roots` is the whole bundle that is handed out."""

    def __init__(
        self, *, join_tokens: tuple[str, ...] = (), bearer_tokens: tuple[str, ...] = (), hub: FakeHub | None = None
    ) -> None:
        self.hub = hub
        self.root = fresh_root()
        self.roots: tuple[TestCa, ...] = (self.root,)
        self.sequence = 1
        self.revocation_lists: tuple[RevocationList, ...] = ()
        self.behaviour = Behaviour()
        self.calls: list[Call] = []
        self.join_tokens = set(join_tokens)
        self.bearer_tokens = set(bearer_tokens)
        self.token_port = 0
        self.mtls_port = 0
        self.mtls_address: str | None = None  # what callers are told; None: the truth
        self._servers: dict[str, grpc.aio.Server] = {}

    @property
    def trust_pem(self) -> bytes:
        """What an operator would put into --trust-bundle."""
        return b"".join(root.certificate.public_bytes(Encoding.PEM) for root in self.roots)

    @property
    def token_address(self) -> str:
        """host:port for --server."""
        return f"127.0.0.1:{self.token_port}"

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.down()

    async def up(self, *listeners: str) -> None:
        """Opens the listeners (all that are down), on the ports they had before."""
        for listener in listeners or ("token", "mtls"):
            if listener not in self._servers:
                await self._open(listener)

    async def down(self, *listeners: str) -> None:
        """Closes the listeners (all that are up) at once."""
        for listener in listeners or tuple(self._servers):
            await self._servers.pop(listener).stop(None)

    async def rotate(self, *, keep_old: bool = True) -> None:
        """A new root signs from now on, also the server's own certificate after the next `up`."""
        new = fresh_root(f"root {self.sequence + 1}")
        self.roots = (*self.roots, new) if keep_old else (new,)
        self.root = new
        self.sequence += 1

    async def _open(self, listener: str) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        certificates_pb2_grpc.add_CertificateServiceServicer_to_server(_Service(self, listener), server)
        if listener == "mtls" and self.hub is not None:
            ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self.hub, server)
        port = self.token_port if listener == "token" else self.mtls_port
        bound = server.add_secure_port(f"127.0.0.1:{port}", self._credentials(listener))
        if listener == "token":
            self.token_port = bound
        else:
            self.mtls_port = bound
        await server.start()
        self._servers[listener] = server

    def _credentials(self, listener: str) -> grpc.ServerCredentials:
        key = new_key()
        name = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("ca.test")])
        now = datetime.now(UTC)
        leaf = self.root.issue("", key.public_key(), [(name, True)], not_before=now - DAY, not_after=now + DAY)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return grpc.ssl_server_credentials(
            [(pem, leaf.public_bytes(Encoding.PEM))],
            root_certificates=self.trust_pem if listener == "mtls" else None,
            require_client_auth=listener == "mtls",
        )

    async def sign(self, listener: str, request: pb.SignCertificatesRequest, context: Any) -> Any:
        """Answers one call."""
        csr = x509.load_der_x509_csr(request.requests[0].csr)
        public_key: Any = csr.public_key()
        metadata = dict(context.invocation_metadata())
        authorization = metadata.get("authorization")
        peer = context.auth_context().get("x509_pem_cert", [None])[0]
        serial = x509.load_pem_x509_certificate(peer).serial_number if peer else None
        self.calls.append(Call(listener, authorization, serial, spki_der(public_key), request.requests[0].ttl_seconds))
        how = self.behaviour
        if how.refuse is not None and listener in how.refuse_on:
            await context.abort(how.refuse, how.detail, how.trailing)
        if listener == "token" and not self._redeem(authorization):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure")
        return how.twist(self._honest(listener, csr, how))

    def _redeem(self, authorization: str | None) -> bool:
        token = (authorization or "").removeprefix("Bearer ")
        if token in self.join_tokens:
            self.join_tokens.remove(token)
            return True
        return token in self.bearer_tokens

    def _honest(
        self, listener: str, csr: x509.CertificateSigningRequest, how: Behaviour
    ) -> pb.SignCertificatesResponse:
        now = datetime.now(UTC)
        public_key: Any = how.public_key or csr.public_key()
        leaf = certificate_for(self.root, public_key, how.spiffe_id, not_after=now + how.ttl)
        bundle = bundle_of(TRUST_DOMAIN, *self.roots, sequence=self.sequence)
        told = f"127.0.0.1:{self.mtls_port}" if self.mtls_address is None else self.mtls_address
        return pb.SignCertificatesResponse(
            results=[pb.SigningResult(certificate=pb.Certificate(spiffe_id=how.spiffe_id, chain=[leaf]))],
            bundle=bundle_message(replace(bundle, revocation_lists=self.revocation_lists)),
            mtls_address=told if listener == "token" else "",
        )


class _Service(certificates_pb2_grpc.CertificateServiceServicer):
    def __init__(self, authority: FakeAuthority, listener: str) -> None:
        self._authority = authority
        self._listener = listener

    async def SignCertificates(self, request: pb.SignCertificatesRequest, context: Any) -> Any:  # noqa: N802
        return await self._authority.sign(self._listener, request, context)


@dataclass(frozen=True)
class _KeyHolder:
    """A public key in the place of a private one: all that `TestCa.svid` asks of its key."""

    key: Any

    def public_key(self) -> Any:
        return self.key


def certificate_for(
    root: TestCa, public_key: Any, spiffe_id: str, *, not_after: datetime, not_before: datetime | None = None
) -> bytes:
    """A leaf's DER for a public key."""
    holder: Any = _KeyHolder(public_key)
    start = not_before or min(datetime.now(UTC), not_after) - timedelta(hours=1)
    return root.svid(*uris(spiffe_id), key=holder, not_before=start, not_after=not_after)
