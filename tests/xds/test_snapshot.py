"""Snapshots: immutable, named rightly, versioned by content."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import ErrorKind, MeshcaError
from meshca.xds.snapshot import SECRET_TYPE, Resource, Snapshot, content_version, joint_version


def test_a_snapshot_does_not_change_with_the_mapping_it_was_made_of() -> None:
    named = {"a": Resource("a", "1", b"x")}
    types = {SECRET_TYPE: named}
    snapshot = Snapshot(types)
    named["b"] = Resource("b", "1", b"y")
    types.clear()
    assert list(snapshot.named(SECRET_TYPE)) == ["a"]


def test_a_snapshot_cannot_be_written_to() -> None:
    snapshot: Any = Snapshot.of(SECRET_TYPE, [Resource("a", "1", b"x")])
    with pytest.raises(TypeError):
        snapshot.resources["t"] = {}
    with pytest.raises(TypeError):
        snapshot.named(SECRET_TYPE)["b"] = Resource("b", "1", b"y")
    with pytest.raises(TypeError):
        snapshot.named("unknown")["b"] = Resource("b", "1", b"y")


def test_a_resource_under_a_foreign_name_is_refused() -> None:
    with pytest.raises(MeshcaError, match="stands under the name") as refusal:
        Snapshot({SECRET_TYPE: {"default": Resource("other", "1", b"x")}})
    assert refusal.value.kind is ErrorKind.INTERNAL


@pytest.mark.parametrize(("name", "version"), [("", "1"), ("a", "")])
def test_a_resource_without_name_or_version_is_refused(name: str, version: str) -> None:
    with pytest.raises(MeshcaError, match="needs a name and a version"):
        Resource(name, version, b"")


def test_reprs_do_not_show_bodies() -> None:
    resource = Resource("default", "1", b"-----BEGIN PRIVATE KEY-----")
    assert "PRIVATE" not in repr(resource)
    assert "PRIVATE" not in repr(Snapshot.of(SECRET_TYPE, [resource]))


def test_a_resource_is_packed_as_the_type_it_stands_under() -> None:
    packed = Resource("a", "1", b"body").packed(SECRET_TYPE)
    assert (packed.type_url, packed.value) == (SECRET_TYPE, b"body")


def test_the_version_of_a_type_follows_from_its_content_alone() -> None:
    a, b = Resource("a", "1", b"x"), Resource("b", "2", b"y")
    version = Snapshot.of(SECRET_TYPE, [a, b]).version(SECRET_TYPE)
    assert version == Snapshot.of(SECRET_TYPE, [b, a]).version(SECRET_TYPE)
    assert version != Snapshot.of(SECRET_TYPE, [a, Resource("b", "3", b"y")]).version(SECRET_TYPE)
    assert version != Snapshot.of(SECRET_TYPE, [a]).version(SECRET_TYPE)


def test_the_joint_version_of_one_resource_is_its_own() -> None:
    assert joint_version([Resource("a", "v7", b"")]) == "v7"


TEXT = st.text(min_size=1, max_size=5)


@given(st.dictionaries(TEXT, TEXT, min_size=2, max_size=4), st.dictionaries(TEXT, TEXT, min_size=2, max_size=4))
def test_different_resources_have_different_joint_versions(one: dict[str, str], other: dict[str, str]) -> None:
    versions = [joint_version(Resource(name, version, b"") for name, version in v.items()) for v in (one, other)]
    assert (versions[0] == versions[1]) == (one == other)


def test_the_border_between_parts_counts_for_a_content_version() -> None:
    assert content_version(b"ab", b"c") != content_version(b"a", b"bc")
    assert content_version(b"ab", b"c") == content_version(b"ab", b"c")
