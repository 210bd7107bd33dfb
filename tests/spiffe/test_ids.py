"""SPIFFE ids: what the specification allows is accepted, and nothing else."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import ErrorKind, MeshcaError
from meshca.spiffe.ids import SpiffeId, TrustDomain, parse_workload_id


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://example.org",
        "spiffe://example.org/a",
        "spiffe://example.org/ns/a/sa/b",
        "spiffe://1.2.3.4/a",
        "spiffe://a..b/x",
        "spiffe://.a/x",
        "spiffe://-a_/x",
        "spiffe://a./x",
        "spiffe://a/...",
        "spiffe://a/.x/..x",
        "spiffe://a/A-Z_0.9",
        "spiffe://" + "a" * 255 + "/x",
        "spiffe://a/" + "b" * 2037,
    ],
)
def test_accepts_and_spells_back(text: str) -> None:
    assert str(SpiffeId.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "spiffe:/",
        "spiffe://",
        "spiffe:///x",
        "Spiffe://a/x",
        "http://a/x",
        " spiffe://a/x",
        "spiffe://a/x ",
        "spiffe://a/x\n",
        "spiffe://A/x",
        "spiffe://a/",
        "spiffe://a//x",
        "spiffe://a/x/",
        "spiffe://a/.",
        "spiffe://a/x/..",
        "spiffe://a/x%41",
        "spiffe://a/x?y",
        "spiffe://a?y",
        "spiffe://a/x#y",
        "spiffe://u@a/x",
        "spiffe://a:1/x",
        "spiffe://[::1]/x",
        "spiffe://a/ä",
        "spiffe://ä/x",
        "spiffe://a/\u0661",
        "spiffe://" + "a" * 256 + "/x",
        "spiffe://a/" + "b" * 2038,
    ],
)
def test_refuses(text: str) -> None:
    with pytest.raises(MeshcaError) as caught:
        SpiffeId.parse(text)
    assert caught.value.kind is ErrorKind.INVALID


@pytest.mark.parametrize("byte", range(256))
def test_each_byte_is_allowed_exactly_where_the_specification_says(byte: int) -> None:
    character = chr(byte)
    parsed = {}
    for where, text in (("trust domain", f"spiffe://a{character}b/x"), ("path", f"spiffe://a/x{character}y")):
        parsed[where] = False
        with contextlib.suppress(MeshcaError):
            parsed[where] = str(SpiffeId.parse(text)) == text
    slash = character == "/"
    assert parsed["trust domain"] == (slash or bool(re.fullmatch(r"[a-z0-9._-]", character)))
    assert parsed["path"] == (slash or bool(re.fullmatch(r"[A-Za-z0-9._-]", character)))


@given(st.text(max_size=40) | st.text("abz/.:@%A", max_size=20).map(lambda rest: "spiffe://" + rest))
def test_whatever_is_accepted_is_spelt_back_unchanged(text: str) -> None:
    with contextlib.suppress(MeshcaError):
        assert str(SpiffeId.parse(text)) == text


def test_a_workloads_id_has_a_path() -> None:
    assert parse_workload_id("spiffe://a/x").path == "/x"
    with pytest.raises(MeshcaError, match="names a trust domain"):
        parse_workload_id("spiffe://a")


def test_a_trust_domains_own_id_has_none() -> None:
    assert str(TrustDomain("example.org").id) == "spiffe://example.org"


def test_a_path_without_leading_slash_is_refused() -> None:
    with pytest.raises(MeshcaError, match="does not start with '/'"):
        SpiffeId(TrustDomain("a"), "x")
