"""SVIDs with their key: parsed once, and silent about the key."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.errors import ErrorKind, MeshcaError
from meshca.spiffe.ids import SpiffeId
from meshca.spiffe.svids import X509Svid
from tests.svids import new_root, uris

ID = SpiffeId.parse("spiffe://example.org/a")
ROOT = new_root()
LEAF = ROOT.svid(*uris(str(ID)))
KEY = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"


def test_the_leaf_comes_first_in_every_form() -> None:
    svid = X509Svid(ID, (LEAF, ROOT.der), KEY)
    assert svid.leaf.public_bytes(Encoding.DER) == LEAF
    assert [c.public_bytes(Encoding.DER) for c in svid.certificates] == [LEAF, ROOT.der]
    assert list(svid.certificates) == x509.load_pem_x509_certificates(svid.chain_pem.encode())


def test_the_key_is_not_in_the_repr() -> None:
    assert "c2VjcmV0" not in repr(X509Svid(ID, (LEAF,), KEY))
    assert "PRIVATE" not in repr(X509Svid(ID, (LEAF,), KEY))


@pytest.mark.parametrize(
    ("chain", "key", "why"),
    [
        ((), KEY, "has no certificate"),
        ((LEAF,), b"", "has no private key"),
        ((LEAF, b"junk"), KEY, r"chain\[1\] is not a DER certificate"),
        ((LEAF + b"junk",), KEY, r"chain\[0\] is not a DER certificate"),
    ],
)
def test_what_is_no_svid_is_refused(chain: tuple[bytes, ...], key: bytes, why: str) -> None:
    with pytest.raises(MeshcaError, match=why) as refusal:
        X509Svid(ID, chain, key)
    assert refusal.value.kind is ErrorKind.INVALID
