"""Plug-ins in process: entry points as installed packages have them."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from meshca.errors import ErrorKind, MeshcaError
from meshca.plugins.loader import UPSTREAM_AUTHORITIES, load_upstream
from meshca.ports import UpstreamAuthority
from tests.contracts.upstream_authority import UpstreamAuthorityContract
from tests.fakes.upstream import FakeUpstream


def entry(name: str, value: str = "tests.fakes.upstream:from_options") -> EntryPoint:
    return EntryPoint(name, value, UPSTREAM_AUTHORITIES)


class TestTheFake(UpstreamAuthorityContract):
    @pytest.fixture
    def upstream(self) -> UpstreamAuthority:
        return FakeUpstream()


class TestInProcess(UpstreamAuthorityContract):
    @pytest.fixture
    def upstream(self) -> UpstreamAuthority:
        return load_upstream("fake", {}, [entry("other"), entry("fake")])


@pytest.mark.parametrize(
    ("offered", "options", "kind", "message"),
    [
        (
            [entry("b"), entry("a")],
            {},
            ErrorKind.NOT_FOUND,
            "there is no plug-in 'fake' of the group meshca.upstream_authorities: installed are a, b",
        ),
        ([], {}, ErrorKind.NOT_FOUND, "installed are none"),
        ([entry("fake"), entry("fake")], {}, ErrorKind.INVALID, "plug-in 'fake' is there 2 times"),
        ([entry("fake")], {"x": 1}, ErrorKind.INVALID, "plug-in 'fake': options: x is not known"),
        ([entry("fake", "tests.fakes.upstream:nothing")], {}, ErrorKind.INVALID, "cannot be used: AttributeError"),
        ([entry("fake", "no.such.module:x")], {}, ErrorKind.INVALID, "cannot be used: ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(
    offered: list[EntryPoint], options: dict[str, object], kind: ErrorKind, message: str
) -> None:
    with pytest.raises(MeshcaError) as refused:
        load_upstream("fake", options, offered)
    assert refused.value.kind is kind
    assert message in refused.value.message


def test_what_a_plug_in_says_when_it_breaks_is_not_repeated_since_it_may_hold_its_options() -> None:
    broken = entry("fake", "tests.fakes.upstream:that_breaks")
    with pytest.raises(MeshcaError) as refused:
        load_upstream("fake", {"password": "hunter2"}, [broken])
    assert refused.value.message == ("plug-in 'fake' (tests.fakes.upstream:that_breaks) cannot be used: RuntimeError")


def test_the_installed_ones_are_looked_through() -> None:
    with pytest.raises(MeshcaError) as refused:
        load_upstream("none of that name", {})
    assert refused.value.kind is ErrorKind.NOT_FOUND
