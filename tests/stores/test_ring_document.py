"""The ring's document: back and forth without loss, and no reading of what is not one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.authority.ring import Authority, AuthorityRing, RootRotation
from meshca.errors import ErrorKind, MeshcaError
from meshca.stores.ring_document import read_ring, write_ring
from tests.contracts.authority_store import a_ring


def test_a_ring_comes_back_as_it_was() -> None:
    assert read_ring(write_ring(a_ring())) == a_ring()


def test_a_ring_without_a_rotation_comes_back_without_one() -> None:
    ring = replace(a_ring(), rotation=None, held_since=None)
    assert read_ring(write_ring(ring)) == ring


def test_every_field_is_written() -> None:
    document = json.loads(write_ring(a_ring()))
    assert set(document) == {"format", *(field.name for field in fields(AuthorityRing))}
    assert set(document["authorities"][0]) == {field.name for field in fields(Authority)}
    assert set(document["rotation"]) == {field.name for field in fields(RootRotation)}


def test_a_document_of_format_1_is_read_without_what_it_did_not_know() -> None:
    document = json.loads(write_ring(a_ring()))
    document["format"] = 1
    for unknown in ("rotation", "held_since", "renewal", "crls", "pending", "directory", "announced", "withdrawn"):
        del document[unknown]
    for authority in document["authorities"]:
        del authority["since"], authority["distrust_at"], authority["cross"]
    ring = a_ring()
    authorities = tuple(replace(authority, since=None, distrust_at=None, cross=None) for authority in ring.authorities)
    old = replace(ring, authorities=authorities, rotation=None, held_since=None, renewal=None)
    old = replace(old, crls=(), pending=None, directory="", announced=(), withdrawn=None)
    assert read_ring(json.dumps(document)) == old


def test_a_document_of_format_2_is_read_without_revocation_lists_and_external_cas() -> None:
    document = json.loads(write_ring(a_ring()))
    document["format"] = 2
    for unknown in ("crls", "pending", "directory", "announced", "withdrawn"):
        del document[unknown]
    old = replace(a_ring(), crls=(), pending=None, directory="", announced=(), withdrawn=None)
    assert read_ring(json.dumps(document)) == old


def test_a_document_of_format_3_is_read_without_an_upstream_authority() -> None:
    document = json.loads(write_ring(a_ring()))
    document["format"] = 3
    del document["announced"], document["withdrawn"]
    assert read_ring(json.dumps(document)) == replace(a_ring(), announced=(), withdrawn=None)


def test_a_document_from_before_there_were_cross_certificates_is_read_without() -> None:
    document = json.loads(write_ring(a_ring()))
    for authority in document["authorities"]:
        del authority["cross"]
    del document["withdrawn"]
    authorities = tuple(replace(authority, cross=None) for authority in a_ring().authorities)
    assert read_ring(json.dumps(document)) == replace(a_ring(), authorities=authorities, withdrawn=None)


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("format"),
        lambda d: d.update(format=0),
        lambda d: d.update(format=5),
        lambda d: d.update(format="2"),
        lambda d: d.update(format=[2]),
        lambda d: d.update(format=True),
        lambda d: d.pop("sequence"),
        lambda d: d.update(sequence="3"),
        lambda d: d.update(sequence=True),
        lambda d: d.update(trust_domain="Example.org"),
        lambda d: d.update(trust_domain=None),
        lambda d: d.update(authorities={}),
        lambda d: d.update(authorities=[1]),
        lambda d: d["authorities"].append(d["authorities"][0]),
        lambda d: d["authorities"][0].update(state="happy"),
        lambda d: d["authorities"][0].update(certificate="not base64!"),
        lambda d: d["authorities"][0].update(certificate=None),
        lambda d: d["authorities"][0].update(not_after=10**20),
        lambda d: d["authorities"][0].update(key_id=7),
        lambda d: d["authorities"][0].update(cross="x"),
        lambda d: d.update(withdrawn="x"),
        lambda d: d["withdrawn"].pop("since"),
        lambda d: d["authorities"][0]["cross"].pop("signer_id"),
        lambda d: d["authorities"][0]["cross"].update(not_after=None),
        lambda d: d.pop("renewal"),
        lambda d: d["renewal"].update(issuer_ids="bb"),
        lambda d: d["renewal"].update(seconds=None),
        lambda d: d["authorities"][0].pop("since"),
        lambda d: d["authorities"][0].pop("distrust_at"),
        lambda d: d.pop("rotation"),
        lambda d: d.pop("held_since"),
        lambda d: d["authorities"][0].update(since="yesterday"),
        lambda d: d["authorities"][0].update(since=10**20),
        lambda d: d["authorities"][0].update(distrust_at=1.5),
        lambda d: d.update(held_since="yesterday"),
        lambda d: d.update(held_since=True),
        lambda d: d.update(rotation="operator"),
        lambda d: d.update(rotation={}),
        lambda d: d["rotation"].pop("since"),
        lambda d: d["rotation"].update(since=None),
        lambda d: d["rotation"].update(origin=None),
        lambda d: d["rotation"].update(reason=7),
        lambda d: d["rotation"].update(predecessor=None),
        lambda d: d["rotation"].pop("successor"),
    ],
)
def test_a_document_with_something_wrong_is_an_internal_error(change: Change) -> None:
    document = json.loads(write_ring(a_ring()))
    change(document)
    with pytest.raises(MeshcaError, match="authority ring cannot be read") as caught:
        read_ring(json.dumps(document))
    assert caught.value.kind is ErrorKind.INTERNAL


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda j: st.lists(j) | st.dictionaries(st.text(), j)
)


@given(st.text() | JSON.map(json.dumps))
def test_anything_else_is_an_internal_error(text: str) -> None:
    with pytest.raises(MeshcaError) as caught:
        read_ring(text)
    assert caught.value.kind is ErrorKind.INTERNAL
