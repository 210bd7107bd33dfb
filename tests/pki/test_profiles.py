"""What may be granted."""

from __future__ import annotations

from datetime import timedelta

import pytest

from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.profiles import Grant
from meshca.spiffe.ids import SpiffeId, TrustDomain

ID = SpiffeId.parse("spiffe://example.org/ns/a/sa/b")
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    "name", ["a", "a.b", "*.a.b", "xn--bcher-kva.example", "1.2.3.x", "a-b", "a" * 63, "a." * 126 + "a"]
)
def test_grants_a_host_name(name: str) -> None:
    assert Grant(ID, HOUR, (name,)).dns_names == (name,)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "A.b",
        "-a",
        "a-",
        "a_b",
        "a b",
        "a,b",
        "a\n",
        "a\0b",
        "*",
        "*a.b",
        "a.*.b",
        "**.a",
        "bücher.example",
        "a" * 64,
        "a." * 126 + "ab",
        "[::1]",
        "a/b",
        "spiffe://example.org/x",
    ],
)
def test_refuses_what_is_no_host_name(name: str) -> None:
    with pytest.raises(MeshcaError) as refused:
        Grant(ID, HOUR, (name,))
    assert refused.value.kind is ErrorKind.INVALID
    assert refused.value.message == f"DNS name {name!r} is not a lower-case host name"


def test_refuses_the_same_name_twice() -> None:
    with pytest.raises(MeshcaError) as refused:
        Grant(ID, HOUR, ("a.b", "c.d", "a.b"))
    assert refused.value.message == "a DNS name is granted twice: a.b, c.d, a.b"


def test_refuses_a_trust_domain_as_leaf() -> None:
    with pytest.raises(MeshcaError) as refused:
        Grant(TrustDomain("example.org").id, HOUR)
    assert refused.value.message == "a leaf cannot be issued to spiffe://example.org: it names a trust domain"


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(microseconds=999_999), timedelta(days=-1)])
def test_refuses_a_life_of_less_than_a_second(ttl: timedelta) -> None:
    with pytest.raises(MeshcaError) as refused:
        Grant(ID, ttl)
    assert refused.value.message == f"ttl is {ttl}: at least one second is needed"
