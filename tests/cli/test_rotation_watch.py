"""What has become of a rotation that is watched, told from one status after another."""

from __future__ import annotations

import pytest

from meshca.cli.moments import from_now, in_words
from meshca.cli.rotation_watch import Outcome, Watch
from meshca.proto.meshca.v1 import admin_pb2 as pb
from tests.fakes.admin_service import (
    DAY,
    NEW_ROOT,
    NOW,
    OLD_ISSUER,
    OLD_ROOT,
    at_rest,
    distributing,
    issuer,
    root,
    switched,
)


def seen(*statuses: pb.GetStatusResponse, predecessor: str = OLD_ROOT, linger: int = 120) -> list[Outcome]:
    watch = Watch(predecessor, linger)
    return [watch.look(status) for status in statuses]


def test_it_is_over_when_the_old_root_has_left() -> None:
    last = at_rest(NOW + 90, NEW_ROOT)
    assert seen(distributing(), switched(NOW + 25), last) == [Outcome.UNDER_WAY, Outcome.UNDER_WAY, Outcome.OVER]


def test_an_end_that_was_missed_is_seen_by_who_signs() -> None:
    assert seen(distributing(), at_rest(NOW + DAY, NEW_ROOT))[-1] is Outcome.OVER
    assert seen(distributing(), at_rest(NOW + DAY, OLD_ROOT))[-1] is Outcome.ABORTED


def test_the_next_rotation_does_not_keep_a_watch_going() -> None:
    following = distributing(NOW + 200)
    following.rotation.since = NOW + 150
    following.rotation.predecessor = NEW_ROOT
    del following.authorities[:]
    following.authorities.extend([root(NEW_ROOT, "active"), issuer(OLD_ISSUER, "active", NEW_ROOT)])
    assert seen(switched(NOW + 25), following)[-1] is Outcome.OVER


def test_an_abort_after_the_switch_is_seen() -> None:
    assert seen(switched(NOW + 25, renewed=1), at_rest(NOW + 40, OLD_ROOT))[-1] is Outcome.ABORTED


def test_a_rotation_that_replaces_a_tainted_root_is_watched_though_nothing_signs() -> None:
    tainted = distributing()
    tainted.rotation.predecessor = ""
    tainted.authorities[0].state = "tainted"
    after = switched(NOW + 25, old_ends=NOW + DAY)
    assert seen(tainted, after, predecessor="") == [Outcome.UNDER_WAY, Outcome.RENEWED]
    given_up = at_rest(NOW + 30)
    given_up.authorities[0].state = "tainted"
    assert seen(tainted, given_up, predecessor="")[-1] is Outcome.ABORTED


def test_holders_that_have_not_renewed_are_waited_for_even_where_the_old_root_is_gone() -> None:
    left = at_rest(NOW + 90, NEW_ROOT, phase="renewing", renewed=1)
    assert seen(switched(NOW + 25, renewed=1), left)[-1] is Outcome.UNDER_WAY


@pytest.mark.parametrize(
    ("old_ends", "linger", "outcome"),
    [
        (NOW + 145, 120, Outcome.UNDER_WAY),
        (NOW + 146, 120, Outcome.RENEWED),
        (0, 120, Outcome.UNDER_WAY),  # the last one has ended: the next tick takes the root away
        (0, 0, Outcome.RENEWED),
    ],
)
def test_it_stays_for_the_old_root_only_as_long_as_it_may(old_ends: int, linger: int, outcome: Outcome) -> None:
    assert seen(switched(NOW + 25, old_ends=old_ends), linger=linger) == [outcome]


def test_time_is_counted_from_the_rotations_beginning_and_not_below_zero() -> None:
    watch = Watch(OLD_ROOT, 0)
    assert watch.elapsed == 0
    watch.look(distributing(NOW + 61))
    assert watch.elapsed == 61
    watch.look(distributing(NOW - 5))
    assert watch.elapsed == 0


def test_lengths_of_time_in_words() -> None:
    lengths = {0: "0s", 3: "3s", 65: "1m 5s", 3600: "1h", 3661: "1h 1m", 90000: "1d 1h", 31_536_000: "365d"}
    assert {seconds: in_words(seconds) for seconds in lengths} == lengths
    assert [from_now(moment, 10) for moment in (10, 13, 4)] == ["now", "in 3s", "6s ago"]
