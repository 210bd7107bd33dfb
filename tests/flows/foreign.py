"""Clients of Istio's protocol, as pilot-agent and ztunnel are: each certificate comes with the roots, and they have no
stream to the server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.pki.keys import PrivateKey
from meshca.proto.istio.v1.auth import ca_pb2, ca_pb2_grpc
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import SpiffeId, TrustDomain
from meshca.spiffe.verification import verify_x509_svid
from tests import jwts
from tests.doors import csr_pem, private_pem
from tests.programs import TRUST_DOMAIN, Server

_SECONDS = 15


@dataclass(frozen=True)
class Holding:
    """A certificate with its key and issuers, and the roots that came with it; PEM."""

    key: bytes
    chain: bytes
    roots: bytes

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate itself."""
        return x509.load_pem_x509_certificate(self.chain)

    def verify(self, root: bytes) -> None:
        """Raises MeshcaError where its chain does not lead to that root (DER)."""
        chain = [each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(self.chain)]
        bundle = TrustBundle(TrustDomain(TRUST_DOMAIN), (root,), 1)
        verify_x509_svid(chain, {bundle.trust_domain: bundle}, now=datetime.now(UTC))

    def write(self, directory: Path) -> Path:
        """Writes `key.pem`, `chain.pem` and `roots.pem` into a new directory, and gives that."""
        directory.mkdir()
        for name in ("key", "chain", "roots"):
            (directory / f"{name}.pem").write_bytes(getattr(self, name))
        return directory


class Cluster:
    """Where service accounts get their tokens; a server whose configuration has `config` believes them."""

    def __init__(self, directory: Path) -> None:
        self._key: PrivateKey = jwts.p256()
        jwks = directory / "jwks.json"
        jwks.write_bytes(jwts.key_set(jwts.public_jwk(self._key, kid="k1")))
        self.config = f'[[jwt_issuers]]\nissuer = "{jwts.ISSUER}"\naudiences = ["meshca"]\njwks_file = "{jwks}"\n'

    def token(self, identity: SpiffeId) -> str:
        """A token for the service account of an identity `…/ns/<namespace>/sa/<account>`."""
        _, _, namespace, _, account = identity.path.split("/")
        now = int(datetime.now(UTC).timestamp())
        subject = f"system:serviceaccount:{namespace}:{account}"
        return jwts.token(self._key, sub=subject, iat=now - 60, nbf=now - 60, exp=now + 600)


async def enrol(server: Server, token: str, seconds: int) -> Holding:
    """A first certificate, good for that many seconds, for whoever the token names."""
    roots = (await asyncio.to_thread(server.bundle)).encode()
    credentials = grpc.ssl_channel_credentials(roots)
    metadata = (("authorization", f"Bearer {token}"),)
    return await _create(server.facts["token"], credentials, metadata, seconds)


async def renew(server: Server, held: Holding, seconds: int) -> Holding:
    """The next certificate, for the one that is held."""
    credentials = grpc.ssl_channel_credentials(held.roots, held.key, held.chain)
    return await _create(server.facts["mtls"], credentials, (), seconds)


async def _create(
    address: str, credentials: grpc.ChannelCredentials, metadata: tuple[tuple[str, str], ...], seconds: int
) -> Holding:
    key = jwts.p256()
    request = ca_pb2.IstioCertificateRequest(csr=csr_pem(key), validity_duration=seconds)
    async with grpc.aio.secure_channel(address, credentials) as channel:
        stub = ca_pb2_grpc.IstioCertificateServiceStub(channel)
        answer = await stub.CreateCertificate(request, metadata=metadata, timeout=_SECONDS)
    *chain, roots = answer.cert_chain
    return Holding(private_pem(key), "".join(chain).encode(), roots.encode())
