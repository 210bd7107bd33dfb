"""The server's own certificate: issued by our own CA, swapped live, renewed at half its life."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshca.pki.certificates import CertificateKind, Issuer
from meshca.pki.csr import CertificateRequest
from meshca.pki.keys import KeyAlgorithm, KeyFamily, generate_private_key, spki_der
from meshca.pki.profiles import Grant, IPAddress
from meshca.ports import Clock
from meshca.services.issuance import Issuance, IssuedChain
from meshca.services.signing import Signing
from meshca.spiffe.ids import SpiffeId, TrustDomain
from meshca.spiffe.peers import AuthenticationMethod, Caller

SERVER_PATH = "/meshca/server"


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What a listener presents and what it verifies clients with; PEM, one frozen set."""

    private_key: bytes = field(repr=False)
    chain: bytes
    roots: bytes
    serial: str
    not_before: datetime
    not_after: datetime
    issuer_id: str


@dataclass(frozen=True, slots=True)
class ServerNames:
    """The names under which clients reach the server."""

    dns_names: tuple[str, ...]
    ip_addresses: tuple[IPAddress, ...]


def server_names(configured: Iterable[str], listen_hosts: Iterable[str]) -> ServerNames:
    """The configured names (DNS or IP) and what the listening addresses stand for, without doubles, in order.

    A wildcard address stands for loopback (both of them, if it is IPv6's); loopback is also called `localhost`.
    """
    dns: dict[str, None] = {}
    addresses: dict[IPAddress, None] = {}
    for name in (*listen_hosts, *configured):
        named = _addresses(name)
        if not named:
            dns[name] = None
        for address in named:
            addresses[address] = None
            if address.is_loopback:
                dns["localhost"] = None
    return ServerNames(tuple(dns), tuple(addresses))


class ServerIdentity:
    """Keeps the server's TLS material. One writer (a tick); listeners read `material` on any thread."""

    def __init__(
        self,
        issuance: Issuance,
        signing: Signing,
        clock: Clock,
        trust_domain: TrustDomain,
        names: ServerNames,
        ttl: timedelta,
    ) -> None:
        self._issuance = issuance
        self._signing = signing
        self._clock = clock
        self._id = SpiffeId(trust_domain, SERVER_PATH)
        self._names = names
        self._ttl = ttl
        self._material: TlsMaterial | None = None

    @property
    def material(self) -> TlsMaterial | None:
        """The current set, or None before the first `ensure`."""
        return self._material

    def ensure(self) -> TlsMaterial:
        """The current set, renewed first where it is past half its life (or before its beginning: the clock was set
        back) or its issuer is no longer the active one, or has another chain.

        Raises what issuance raises; the old certificate then stays in use, with the roots of now.
        """
        state = self._signing.latest().for_own()
        roots = state.bundle.pem.encode("ascii")
        if self._material is not None and self._material.roots != roots:
            self._material = replace(self._material, roots=roots)
        if self._material is None or self._is_due(self._material, state.issuer):
            self._material = self._renew()
        return self._material

    def _is_due(self, material: TlsMaterial, issuer: Issuer) -> bool:
        half = material.not_before + (material.not_after - material.not_before) / 2
        now = self._clock.now()
        return not material.not_before <= now < half or not material.chain.endswith(_path(issuer, material.not_after))

    def _renew(self) -> TlsMaterial:
        key = generate_private_key(KeyAlgorithm.P256)
        request = CertificateRequest(spki_der(key.public_key()), KeyFamily.P256)
        grant = Grant(self._id, self._ttl, self._names.dns_names, self._names.ip_addresses)
        caller = Caller(self._id, AuthenticationMethod.LOCAL, "server")
        issued = self._issuance.issue_granted(caller, request, grant, CertificateKind.SERVER)
        return _material(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), issued)


def _material(private_key: bytes, issued: IssuedChain) -> TlsMaterial:
    prepared = issued.certificate.prepared
    return TlsMaterial(
        private_key=private_key,
        chain=issued.certificate.pem.encode("ascii") + _path(issued.state.issuer, prepared.not_after),
        roots=issued.state.bundle.pem.encode("ascii"),
        serial=prepared.serial_hex,
        not_before=prepared.not_before,
        not_after=prepared.not_after,
        issuer_id=prepared.issuer_id,
    )


def _path(issuer: Issuer, end: datetime) -> bytes:
    return "".join(issuer.pem_path_for(end)).encode("ascii")


def _addresses(name: str) -> tuple[IPAddress, ...]:
    """The addresses that a listening host or a configured name stands for; none for a DNS name."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if name == "localhost" else name)
    except ValueError:
        return ()
    if not address.is_unspecified:
        return (address,)
    loopback = ("127.0.0.1",) if address.version == 4 else ("::1", "127.0.0.1")
    return tuple(ipaddress.ip_address(text) for text in loopback)
