"""What is read from a call about its peer, as values; `test_door` has the calls."""

from __future__ import annotations

import pytest

from meshca.pki.certificates import der_to_pem
from meshca.rpc.peers import MAX_CHAIN_PEM_BYTES, bearer_tokens, parse_chain, peer_address, peer_network
from meshca.spiffe.peers import Peer
from tests.svids import new_root, uris


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:4711", "127.0.0.1"),
        ("ipv4:10.1.2.3:1", "10.1.2.3"),
        ("ipv6:%5B::1%5D:4711", "::1"),
        ("ipv6:[::1]:4711", "::1"),
        ("ipv6:%5B2001:db8::7%5D:443", "2001:db8::7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:443", "fe80::1%eth0"),
        ("unix:", "unix"),
        ("unix:/run/x", "unix"),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_an_address_comes_without_its_port(peer: str, address: str) -> None:
    assert peer_address(peer) == address


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:0:1::7", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::7", "2001:db8:0:2::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_a_flood_from_all_addresses_of_one_network_comes_from_one_peer(address: str, peer: str) -> None:
    assert peer_network(address) == peer


@pytest.mark.parametrize(
    ("metadata", "tokens"),
    [
        ([], ()),
        ([("authorization", "Bearer a.b.c")], ("a.b.c",)),
        ([("authorization", "Bearer a.b.c\n")], ("a.b.c",)),
        ([("authorization", "Bearer  a ")], ("a",)),
        ([("authorization", "Basic x"), ("authorization", "Bearer a"), ("authorization", "Bearer b")], ("a", "b")),
        ([("authorization", "bearer a"), ("authorization", "BEARER a"), ("authorization", "Bearera")], ()),
        ([("Authorization", "Bearer a"), ("x-authorization", "Bearer a")], ()),
        ([("authorization", b"Bearer a")], ()),
        ([("authorization", "Bearer ")], ("",)),
        ([("clusterid", "Kubernetes"), ("authorization", "Bearer a"), ("user-agent", "x")], ("a",)),
    ],
)
def test_bearer_tokens_are_those_with_the_exact_prefix(
    metadata: list[tuple[str, str | bytes]], tokens: tuple[str, ...]
) -> None:
    assert bearer_tokens(metadata) == tokens


def test_the_chain_of_a_handshake_is_leaf_first_and_each_certificate_once() -> None:
    root = new_root()
    issuer = root.intermediate("issuer")
    leaf = issuer.svid(*uris("spiffe://example.org/a"))
    pems = [as_pem(der) for der in (leaf, issuer.der, root.der)]
    assert parse_chain((pems[0],), (pems[1] + pems[2],)) == (leaf, issuer.der, root.der)
    assert parse_chain((pems[0],), (pems[0] + pems[1],)) == (leaf, issuer.der)
    assert parse_chain((pems[0],), ()) == (leaf,)
    assert parse_chain((), ()) == ()


def test_a_chain_that_would_fill_our_memory_is_none() -> None:
    leaf = as_pem(new_root().svid(*uris("spiffe://example.org/a")))
    most = leaf + b"\n" * (MAX_CHAIN_PEM_BYTES - len(leaf))
    assert len(parse_chain((leaf,), (most[len(leaf) :],))) == 1
    assert parse_chain((leaf,), (most[len(leaf) :] + b"\n",)) == ()


def as_pem(der: bytes) -> bytes:
    return der_to_pem(der).encode()


def test_a_peers_repr_tells_no_token() -> None:
    peer = Peer("10.0.0.1", (b"x",), ("secret",))
    assert repr(peer) == "Peer('10.0.0.1', 1 certificates, 1 tokens)"
