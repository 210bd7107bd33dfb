"""Trust bundles are never empty and hold CAs only."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.errors import ErrorKind, MeshcaError
from meshca.spiffe.bundles import TrustBundle, parse_bundle_pem
from meshca.spiffe.ids import TrustDomain
from tests.svids import TestCa, bundle_of, new_root, uris

DOMAIN = TrustDomain("example.org")
ROOT, OTHER = new_root("root"), new_root("other")


def pem(*roots: TestCa) -> bytes:
    return b"".join(root.certificate.public_bytes(Encoding.PEM) for root in roots)


def test_a_pem_file_and_its_bundle_hold_the_same_roots_in_the_same_order() -> None:
    bundle = parse_bundle_pem(DOMAIN, pem(ROOT, OTHER), sequence=7)
    assert bundle == bundle_of("example.org", ROOT, OTHER, sequence=7)
    assert bundle.pem.encode() == pem(ROOT, OTHER)


def test_a_root_that_a_pem_file_repeats_counts_once() -> None:
    assert parse_bundle_pem(DOMAIN, pem(ROOT, OTHER, ROOT)).x509_authorities == (ROOT.der, OTHER.der)


def odd_version() -> bytes:
    changed = bytearray(ROOT.der)
    changed[changed.index(b"\xa0\x03\x02\x01\x02") + 4] = 7
    return bytes(changed)


LEAF = ROOT.svid(*uris("spiffe://example.org/a"))


@pytest.mark.parametrize(
    ("authorities", "problem"),
    [
        ((), "is empty"),
        ((ROOT.der, ROOT.der), "the same certificate twice"),
        ((ROOT.der, LEAF), "is no CA"),
        ((ROOT.svid(*uris("spiffe://example.org/a"), ca=None),), "is no CA"),
        ((b"garbage",), "something that is no certificate"),
        ((odd_version(),), "something that is no certificate"),
    ],
    ids=["empty", "twice", "leaf", "without basic constraints", "garbage", "version 8"],
)
def test_refuses_authorities(authorities: tuple[bytes, ...], problem: str) -> None:
    with pytest.raises(MeshcaError, match=problem) as caught:
        TrustBundle(DOMAIN, authorities, 1)
    assert caught.value.kind is ErrorKind.INVALID


@pytest.mark.parametrize("data", [b"", b"\n", b"garbage", ROOT.der])
def test_refuses_a_file_without_pem_certificates(data: bytes) -> None:
    with pytest.raises(MeshcaError, match="not PEM certificates") as caught:
        parse_bundle_pem(DOMAIN, data)
    assert caught.value.kind is ErrorKind.INVALID
