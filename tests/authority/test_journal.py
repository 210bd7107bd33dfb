"""Every step on the ring has a line that names it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from meshca.authority.journal import SCHEDULE, JournalEntry, entry_for
from meshca.authority.ring import (
    Advanced,
    AuthorityKind,
    AuthorityState,
    CrlsPublished,
    DirectoryTaken,
    IssuedCrl,
    IssuerRequested,
    PendingIssuer,
    Prepared,
    RingEvent,
    RootRotation,
    RootsAnnounced,
    RotationAborted,
    RotationBegun,
    RotationFinished,
    Step,
)
from tests.assets.authorities import FOUNDED
from tests.assets.rings import authority, ring_of

ROOT, ACTIVE = AuthorityKind.ROOT, AuthorityState.ACTIVE
NOW = FOUNDED + timedelta(hours=1)
ROTATION = RootRotation("operator", "because", FOUNDED, predecessor="root1", successor="root2")
IDLE = ring_of(authority(1, ROOT, ACTIVE), sequence=7)
ROTATING = replace(IDLE, rotation=ROTATION, authorities=(*IDLE.authorities, authority(2, ROOT)))

A_CRL = IssuedCrl("issuer1", b"crl", 1, FOUNDED, NOW, 1)

EVENTS: list[tuple[RingEvent, str, str]] = [
    *((Prepared(authority(3, kind)), f"prepare {kind.value}", f"{kind.value}3") for kind in AuthorityKind),
    *((Advanced("root2", step, NOW), step.value, "root2") for step in Step),
    (RotationBegun(ROTATION), "begin rotation", ""),
    (RotationFinished(), "finish rotation", "root2"),
    (RotationAborted(NOW), "abort rotation", "root2"),
    (CrlsPublished((A_CRL,), NOW), "publish revocation lists", ""),
    (CrlsPublished((), NOW), "withdraw revocation lists", ""),
    (IssuerRequested(PendingIssuer("issuer-1", b"request", NOW)), "request issuer", ""),
    (DirectoryTaken("digest"), "read ca_dir", ""),
    (RootsAnnounced(("digest",)), "hear roots", ""),
]


@pytest.mark.parametrize(("event", "step", "authority_id"), EVENTS)
def test_each_event_is_named_with_what_it_was_done_to(event: RingEvent, step: str, authority_id: str) -> None:
    assert entry_for(event, ROTATING, at=NOW, actor=SCHEDULE) == JournalEntry(
        NOW, "schedule", step, authority_id, "", forced=False, sequence=7
    )


def test_the_cases_are_all_there_are() -> None:
    assert {type(event) for event, _, _ in EVENTS} == set(RingEvent.__args__)
    assert len({step for _, step, _ in EVENTS}) == len(EVENTS), "no two are called the same"


@pytest.mark.parametrize("event", [RotationFinished(), RotationAborted(NOW)])
def test_the_end_of_a_rotation_that_is_not_there_names_nobody(event: RingEvent) -> None:
    assert entry_for(event, IDLE, at=NOW, actor=SCHEDULE).authority_id == ""


def test_it_is_told_who_wanted_it_why_and_whether_it_was_forced() -> None:
    entry = entry_for(Advanced("root1", Step.TAINT), IDLE, at=NOW, actor="operator", reason="key leaked", forced=True)
    assert (entry.actor, entry.reason, entry.forced) == ("operator", "key leaked", True)
