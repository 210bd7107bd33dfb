"""Join tokens: for whom they may be made, how long they live, and that only their hash is kept."""

from __future__ import annotations

from datetime import timedelta

import pytest

from meshca.errors import ErrorKind, MeshcaError
from meshca.services.enrolment import Enrolment, check_assignable
from meshca.spiffe.ids import SpiffeId
from meshca.stores.memory import MemoryJoinTokenStore
from meshca.tokens.join import JoinToken, hash_join_token, looks_like_join_token
from tests.assets.authorities import FOUNDED, MESH
from tests.fakes.clock import SetClock

ID = "spiffe://example.org/ns/a/sa/b"


class Desk:
    """An enrolment with its store and clock."""

    def __init__(self) -> None:
        self.store, self.clock = MemoryJoinTokenStore(), SetClock(FOUNDED + timedelta(microseconds=999_999))
        self.enrolment = Enrolment(self.store, self.clock, MESH)


@pytest.mark.parametrize(
    ("seconds", "life"),
    [(0, timedelta(minutes=10)), (1, timedelta(seconds=1)), (7 * 86400, timedelta(days=7))],
)
def test_a_token_stands_for_the_id_as_long_as_asked(seconds: int, life: timedelta) -> None:
    text, token = Desk().enrolment.create(ID, seconds)
    assert token == JoinToken(hash_join_token(text), SpiffeId.parse(ID), FOUNDED, FOUNDED + life)
    assert looks_like_join_token(text)


def test_the_text_of_a_token_is_stored_nowhere_and_redeems_once() -> None:
    desk = Desk()
    text, token = desk.enrolment.create(ID, 60)
    assert text not in repr(token)
    assert desk.store.redeem(hash_join_token(text), desk.clock.now()) == token
    with pytest.raises(MeshcaError) as refused:
        desk.store.redeem(hash_join_token(text), desk.clock.now())
    assert refused.value.kind is ErrorKind.UNAUTHENTICATED


def test_no_two_tokens_are_the_same() -> None:
    desk = Desk()
    assert len({desk.enrolment.create(ID, 60)[0] for _ in range(200)}) == 200


@pytest.mark.parametrize("seconds", [-1, 7 * 86400 + 1, 2**63 - 1, -(2**63)])
def test_refuses_a_life_out_of_bounds(seconds: int) -> None:
    with pytest.raises(MeshcaError) as refused:
        Desk().enrolment.create(ID, seconds)
    assert (refused.value.kind, refused.value.message) == (
        ErrorKind.INVALID,
        f"ttl is {seconds}s: a join token lives between 1s and 7d",
    )


REFUSED = {
    "spiffe://example.com/x": (
        "spiffe_id spiffe://example.com/x is not of this trust domain: it must start with spiffe://example.org/"
    ),
    "spiffe://example.org.evil/x": (
        "spiffe_id spiffe://example.org.evil/x is not of this trust domain: it must start with spiffe://example.org/"
    ),
    "spiffe://example.org/meshca": (
        "spiffe_id spiffe://example.org/meshca is reserved: paths below /meshca/ are meshca's own"
    ),
    "spiffe://example.org/meshca/server": (
        "spiffe_id spiffe://example.org/meshca/server is reserved: paths below /meshca/ are meshca's own"
    ),
    "spiffe://example.org": (
        "SPIFFE id 'spiffe://example.org' names a trust domain: a workload's id needs a path such as /ns/a/sa/b"
    ),
    "": "SPIFFE id '' does not start with spiffe://",
    "spiffe://example.org/a/": "SPIFFE id path '/a/' has an empty segment: drop the trailing or doubled '/'",
}


@pytest.mark.parametrize("spiffe_id", REFUSED)
def test_refuses_an_id_that_nobody_may_be_given(spiffe_id: str) -> None:
    with pytest.raises(MeshcaError) as refused:
        Desk().enrolment.create(spiffe_id, 60)
    assert (refused.value.kind, refused.value.message) == (ErrorKind.INVALID, REFUSED[spiffe_id])


@pytest.mark.parametrize("path", ["/meshcat", "/meshca-agent/x", "/a/meshca/server", "/Meshca/server"])
def test_only_our_own_paths_are_reserved(path: str) -> None:
    identity = SpiffeId(MESH, path)
    assert check_assignable(identity, MESH) == identity


def test_pruning_forgets_what_expired() -> None:
    desk = Desk()
    for seconds in (60, 60, 120):
        desk.enrolment.create(ID, seconds)
    assert desk.enrolment.prune() == 0
    desk.clock.move(timedelta(seconds=60))
    assert desk.enrolment.prune() == 2
    assert desk.enrolment.prune() == 0
