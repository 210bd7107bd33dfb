"""The smallest SDS server that real Envoys accept, and certificates for them: for tests of what an Envoy does with a
configuration. It knows no ACKs, no rotation and no refusals; meshca's own SDS is tested on its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc

from meshca.compile.envoy_addresses import PipeAddress

SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class TestRoot:
    """A root that signs leaves directly, for an hour."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    name: x509.Name = field(default_factory=lambda: _name(f"test root {x509.random_serial_number():x}"))
    __test__ = False

    @property
    def pem(self) -> bytes:
        """Its own certificate."""
        usage = _key_usage(certs=True)
        builder = _builder(self.name, self.name, self.key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage, critical=True)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(self, spiffe_id: str) -> Leaf:
        """A leaf for `spiffe_id`, with a fresh P-256 key."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(x509.Name([]), self.name, key.public_key())
        sans = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)])
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(sans, critical=True).add_extension(usages, critical=False)
        builder = builder.add_extension(_key_usage(certs=False), critical=True)
        pem = builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Leaf(pem, private)


def leaf_secret(leaf: Leaf, name: str = "default") -> secret_pb2.Secret:
    """A certificate and key as Envoy takes them."""
    secret = secret_pb2.Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_bytes = leaf.certificate
    secret.tls_certificate.private_key.inline_bytes = leaf.key
    return secret


def trust_secret(*roots: bytes, name: str = "ROOTCA") -> secret_pb2.Secret:
    """A trust bundle as Envoy takes it; without roots the empty one, which must never be believed."""
    secret = secret_pb2.Secret(name=name)
    secret.validation_context.SetInParent()
    if roots:
        secret.validation_context.trusted_ca.inline_bytes = b"".join(roots)
    return secret


class SdsServer(sds_pb2_grpc.SecretDiscoveryServiceServicer):  # type: ignore[misc]  # ships no types
    """Answers every subscription with the secret of that name, and again whenever `put` changed it."""

    def __init__(self, secrets: Mapping[str, secret_pb2.Secret]) -> None:
        self._secrets = dict(secrets)
        self._version = 1
        self._changed = asyncio.Condition()

    async def put(self, secret: secret_pb2.Secret) -> None:
        """Sends a secret to whoever subscribed to its name."""
        async with self._changed:
            self._secrets[secret.name] = secret
            self._version += 1
            self._changed.notify_all()

    async def StreamSecrets(  # noqa: N802  # gRPC's name
        self, requests: AsyncIterator[discovery_pb2.DiscoveryRequest], _context: object
    ) -> AsyncIterator[discovery_pb2.DiscoveryResponse]:
        """State of the world: the one name that the first request asks for."""
        name = (await anext(requests)).resource_names[0]
        async for version, secret in self._versions(name):
            response = discovery_pb2.DiscoveryResponse(version_info=version, nonce=version, type_url=SECRET_TYPE)
            response.resources.add().Pack(secret)
            yield response

    async def DeltaSecrets(  # noqa: N802
        self, requests: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest], _context: object
    ) -> AsyncIterator[discovery_pb2.DeltaDiscoveryResponse]:
        """The same, incremental."""
        name = (await anext(requests)).resource_names_subscribe[0]
        async for version, secret in self._versions(name):
            response = discovery_pb2.DeltaDiscoveryResponse(nonce=version, type_url=SECRET_TYPE)
            resource = response.resources.add(name=name, version=version)
            resource.resource.Pack(secret)
            yield response

    async def _versions(self, name: str) -> AsyncIterator[tuple[str, secret_pb2.Secret]]:
        sent = None
        while True:
            async with self._changed:
                while self._secrets[name] is sent:
                    await self._changed.wait()
                sent, version = self._secrets[name], str(self._version)
            yield version, sent


@asynccontextmanager
async def serving(address: PipeAddress, secrets: Mapping[str, secret_pb2.Secret]) -> AsyncIterator[SdsServer]:
    """An SDS server on a Unix socket."""
    servicer, server = SdsServer(secrets), grpc.aio.server()
    sds_pb2_grpc.add_SecretDiscoveryServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{address.path}")
    await server.start()
    try:
        yield servicer
    finally:
        await server.stop(None)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer_name=issuer, subject_name=subject, public_key=key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - timedelta(minutes=1)).not_valid_after(now + timedelta(hours=1))


def _key_usage(*, certs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certs,
        crl_sign=certs,
        encipher_only=False,
        decipher_only=False,
    )
