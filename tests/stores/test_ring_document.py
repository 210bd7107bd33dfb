"""The ring's document: back and forth without loss, and no reading of what is not one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.authority.ring import Authority
from meshca.errors import ErrorKind, MeshcaError
from meshca.stores.ring_document import read_ring, write_ring
from tests.contracts.authority_store import a_ring


def test_a_ring_comes_back_as_it_was() -> None:
    assert read_ring(write_ring(a_ring())) == a_ring()


def test_every_field_of_an_authority_is_written() -> None:
    written = json.loads(write_ring(a_ring()))["authorities"][0]
    assert set(written) == {field.name for field in fields(Authority)}


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("format"),
        lambda d: d.update(format=2),
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
        lambda d: d["authorities"][0].pop("last_leaf_not_after"),
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
