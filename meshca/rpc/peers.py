"""What a gRPC call tells of its peer, as values."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.spiffe.peers import Peer

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

_BEARER = "Bearer "
_LEAF = "x509_pem_cert"
_CHAIN = "x509_pem_cert_chain"
_SPIFFE_ID = "peer_spiffe_id"
MAX_CHAIN_PEM_BYTES = 32 * 1024


def peer_address(peer: str) -> str:
    """The network address in gRPC's `ipv4:1.2.3.4:567`, `ipv6:%5B::1%5D:567` or `unix:…`, without the port."""
    family, _, rest = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return family
    return unquote(rest).rpartition(":")[0].strip("[]")


def bearer_tokens(metadata: Iterable[tuple[str, str | bytes]] | None) -> tuple[str, ...]:
    """The values of `authorization: Bearer …`, stripped: some clients send a token file's newline along."""
    return tuple(
        value[len(_BEARER) :].strip()
        for key, value in metadata or ()
        if key == "authorization" and isinstance(value, str) and value.startswith(_BEARER)
    )


def token_peer(context: Context) -> tuple[Peer, str]:
    """The peer on the token listener, and its name for the limiter: its network."""
    address = peer_address(context.peer())
    return Peer(address, (), bearer_tokens(context.invocation_metadata())), peer_network(address)


@lru_cache(maxsize=4096)
def peer_network(address: str) -> str:
    """What counts as one peer: an IPv4 address, or the /64 of an IPv6 address, since whoever has one address of such a
    network has all 2^64 of them. Anything else stands for itself.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))


def mtls_peer(context: Context) -> tuple[Peer, str]:
    """The peer on the mTLS listener, and its name for the limiter: the identity in its (TLS-verified) certificate."""
    auth = cast("Mapping[str, Sequence[bytes]]", context.auth_context())
    address = peer_address(context.peer())
    ids = auth.get(_SPIFFE_ID, ())
    name = ids[0].decode("ascii", "replace") if ids else peer_network(address)
    chain = parse_chain(tuple(auth.get(_LEAF, ())), tuple(auth.get(_CHAIN, ())))
    return Peer(address, chain, bearer_tokens(context.invocation_metadata())), name


def parse_chain(leaf: tuple[bytes, ...], rest: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The DER certificates of a handshake, leaf first.

    gRPC gives the leaf apart; on a server the chain beside it usually lacks the leaf. What does not parse is no
    certificate at all; nor is what is longer than any chain of ours, with which a peer might fill the cache.
    """
    pem = b"".join((*leaf, *rest))
    return _parse_pem(pem) if 0 < len(pem) <= MAX_CHAIN_PEM_BYTES else ()


@lru_cache(maxsize=2048)
def _parse_pem(pem: bytes) -> tuple[bytes, ...]:
    """All calls of a connection bring the same, hence the cache."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion):  # beside a good leaf a peer may send anything
        return ()
    return tuple(dict.fromkeys(certificate.public_bytes(Encoding.DER) for certificate in certificates))
