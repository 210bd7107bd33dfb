"""Revocation lists in the ring: of every issuing CA or none, and none signs before everybody has its list."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from meshca.authority.actions import Activate, IssuerPolicy, PrepareIssuer
from meshca.authority.evidence import Evidence
from meshca.authority.issuers import decide_issuers, is_listed
from meshca.authority.ring import (
    Advanced,
    AuthorityKind,
    AuthorityRing,
    AuthorityState,
    CrlsPublished,
    IssuedCrl,
    ListsWithdrawn,
    Prepared,
    Step,
    apply,
    apply_all,
)
from meshca.errors import ErrorKind, MeshcaError
from tests.assets.authorities import FOUNDED
from tests.assets.rings import authority, ring_of

ROOT, ISSUER = AuthorityKind.ROOT, AuthorityKind.ISSUER
PREPARED, ACTIVE, OLD, TAINTED, REVOKED = AuthorityState
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
NOW = FOUNDED + 26 * DAY
POLICY = IssuerPolicy(30 * DAY, 1 / 2, 5 / 6, DAY, propagation=20 * SECOND)

ring = ring_of(
    authority(1, ROOT, ACTIVE, ttl=3650 * DAY, bundle_sequence=1),
    authority(1, ISSUER, ACTIVE),
    authority(2, ISSUER, OLD, issuer_id="root1"),
)
WAITING = authority(3, ISSUER, PREPARED, issuer_id="root1")


def crl(issuer_id: str, number: int = 1) -> IssuedCrl:
    return IssuedCrl(issuer_id, f"{issuer_id} {number}".encode(), number, NOW, NOW + 7 * DAY, revision=1)


def published(before: AuthorityRing, *ids: str, at: datetime = NOW, number: int = 1) -> AuthorityRing:
    return apply(before, CrlsPublished(tuple(crl(each, number) for each in ids), at))


def conflict(before: AuthorityRing, event: CrlsPublished | Advanced) -> str:
    with pytest.raises(MeshcaError) as caught:
        apply(before, event)
    assert caught.value.kind is ErrorKind.CONFLICT
    return caught.value.message


LISTED = published(ring, "issuer1", "issuer2")


def test_where_lists_were_withdrawn_who_had_some_is_to_have_heard_of_it() -> None:
    assert ring.withdrawn is None
    assert LISTED.withdrawn is None
    without = published(LISTED, at=NOW)
    assert without.withdrawn == ListsWithdrawn(3, NOW)
    assert published(without, at=NOW + DAY).withdrawn == without.withdrawn, "none were in use"
    assert published(without, "issuer1", "issuer2", at=NOW + DAY).withdrawn is None
    known = Evidence(at=NOW + 20 * SECOND, least_checking=3)
    assert is_listed(WAITING, without, POLICY, known)
    assert is_listed(WAITING, without, POLICY, replace(known, least_checking=None))
    assert not is_listed(WAITING, without, POLICY, replace(known, least_checking=2))
    assert not is_listed(WAITING, without, POLICY, replace(known, at=NOW + 19 * SECOND))
    assert not is_listed(WAITING, without, POLICY, replace(known, at=None))


def test_lists_are_news_of_the_bundle() -> None:
    assert LISTED.sequence == ring.sequence + 1
    bundle = LISTED.bundle()
    assert [each.crl for each in bundle.revocation_lists] == [b"issuer1 1", b"issuer2 1"]
    assert [each.issuers for each in bundle.revocation_lists] == [(a.certificate,) for a in LISTED.of(ISSUER)]
    assert ring.bundle().revocation_lists == ()


def test_a_newer_list_is_news_and_its_issuer_had_one_since_the_first() -> None:
    again = published(LISTED, "issuer1", "issuer2", at=NOW + DAY, number=2)
    assert again.sequence == LISTED.sequence + 1
    assert {(each.number, each.sequence, each.since) for each in again.crls} == {(2, LISTED.sequence, NOW)}


def test_all_lists_go_at_once() -> None:
    gone = published(LISTED)
    assert (gone.crls, gone.sequence) == ((), LISTED.sequence + 1)
    back = published(gone, "issuer1", "issuer2", at=NOW + DAY)
    assert {(each.sequence, each.since) for each in back.crls} == {(back.sequence, NOW + DAY)}


@pytest.mark.parametrize("ids", [("issuer1",), ("issuer1", "issuer1"), ("issuer1", "issuer2", "issuer9")])
def test_lists_of_some_are_refused(ids: tuple[str, ...]) -> None:
    assert "every issuing CA, or of none" in conflict(ring, CrlsPublished(tuple(map(crl, ids)), NOW))


def test_an_issuer_that_leaves_takes_its_list_along_which_is_news() -> None:
    pruned = apply(LISTED, Advanced("issuer2", Step.PRUNE, NOW))
    assert [each.issuer_id for each in pruned.crls] == ["issuer1"]
    assert pruned.sequence == LISTED.sequence + 1
    assert apply(ring, Advanced("issuer2", Step.PRUNE, NOW)).sequence == ring.sequence


def test_what_a_revoked_issuer_signed_is_accepted_no_more() -> None:
    taint, revoke = (Advanced("issuer2", step, NOW) for step in (Step.TAINT, Step.REVOKE))
    tainted = apply(LISTED, taint)
    assert tainted.crls == LISTED.crls
    revoked = apply(tainted, revoke)
    assert [each.issuer_id for each in revoked.crls] == ["issuer1"]
    published(revoked, "issuer1")


def test_lists_of_issuers_whose_root_is_not_trusted_are_not_in_the_bundle() -> None:
    """Nothing could vouch for them there, and the whole bundle would be refused."""
    two = ring_of(*ring.authorities, authority(5, ROOT, TAINTED), authority(5, ISSUER, TAINTED))
    listed = published(two, "issuer1", "issuer2", "issuer5")
    assert len(listed.bundle().revocation_lists) == 3
    assert len(apply(listed, Advanced("root5", Step.REVOKE, NOW)).bundle().revocation_lists) == 2


def test_none_signs_without_a_list_where_lists_are_in_use_whatever_an_operator_forces() -> None:
    waiting = apply(LISTED, Prepared(WAITING))
    assert "it has none yet" in conflict(waiting, Advanced("issuer3", Step.ACTIVATE, NOW))
    listed = published(waiting, "issuer1", "issuer2", "issuer3")
    assert apply(listed, Advanced("issuer3", Step.ACTIVATE, NOW)).active(ISSUER) is not None
    apply_all(ring, Prepared(WAITING), Advanced("issuer3", Step.ACTIVATE, NOW))


# When the next issuing CA is put to use: the active one is past five sixths of its life.

LATE = NOW + DAY
WAITING_LISTED = published(apply(LISTED, Prepared(WAITING)), "issuer1", "issuer2", "issuer3")
NEEDED = WAITING_LISTED.sequence


def decided(before: AuthorityRing, least: int | None, *, now: datetime = LATE) -> list[object]:
    evidence = Evidence(at=now, least_checking=least, signed_until={"issuer2": LATE + DAY})
    return list(decide_issuers(before, POLICY, now, evidence))


def test_it_waits_until_everybody_who_checks_has_its_list() -> None:
    assert decided(WAITING_LISTED, NEEDED - 1) == []
    assert decided(WAITING_LISTED, 0) == []
    assert decided(WAITING_LISTED, NEEDED) == [Activate("issuer3")]
    assert decided(WAITING_LISTED, NEEDED + 3) == [Activate("issuer3")]


def test_where_nobody_checks_nobody_is_waited_for() -> None:
    assert decided(WAITING_LISTED, None) == [Activate("issuer3")]


def test_it_waits_until_no_door_gives_out_a_bundle_without_its_list() -> None:
    assert decided(WAITING_LISTED, NEEDED, now=NOW + 19 * SECOND) == []
    assert decided(WAITING_LISTED, NEEDED, now=NOW + 20 * SECOND) == [Activate("issuer3")]


def test_without_a_list_it_waits_for_that_and_no_further_one_is_made() -> None:
    assert decided(apply(LISTED, Prepared(WAITING)), 99) == []


def test_where_nothing_is_known_it_waits() -> None:
    assert decide_issuers(WAITING_LISTED, POLICY, LATE, Evidence()) == ()


def test_without_lists_it_waits_for_nobody() -> None:
    assert decided(apply(ring, Prepared(WAITING)), 0) == [Activate("issuer3")]


def test_one_whose_time_has_not_come_is_replaced_all_the_same() -> None:
    early = replace(WAITING, not_before=LATE + DAY)
    assert decided(apply(LISTED, Prepared(early)), 0) == [PrepareIssuer()]
