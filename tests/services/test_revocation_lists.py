"""The lists in the bundle say what is banned, of every issuing CA, or are not there at all."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509

from meshca.authority.journal import entry_for
from meshca.authority.ring import AuthorityKind, AuthorityState, Prepared, Step
from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.crl import revoked_serials
from meshca.pki.keys import KeyAlgorithm
from meshca.services.control import Order
from meshca.services.issuance import Issuance, SigningRequest
from meshca.services.revocation_lists import FRESH, VALIDITY, ServedList, crl_validity
from meshca.services.signing import Signing
from meshca.spiffe.bans import BanKind
from meshca.spiffe.revocation_lists import check_revocation_lists
from tests.assets.authorities import FOUNDED
from tests.assets.csrs import good_pem, key_of
from tests.assets.founded import PROPAGATION, WORKLOAD, FoundedCa, found_ca
from tests.services.test_revocation import IDENTITY, OTHER, issued_serial

ISSUER, DAY = AuthorityKind.ISSUER, timedelta(days=1)
REQUEST = SigningRequest(good_pem(key_of(KeyAlgorithm.P256)))


def listed(ca: FoundedCa) -> dict[str, set[str]]:
    """The serials in each list of the stored ring, by issuer; the lists are good."""
    ring = ca.ring
    check_revocation_lists(ring.bundle(), ca.clock.moment)
    return {crl.issuer_id: {f"{serial:x}" for serial in revoked_serials(crl.crl)} for crl in ring.crls}


def issuer_id(ca: FoundedCa) -> str:
    active = ca.ring.active(ISSUER)
    assert active is not None
    return active.id


def test_without_bans_there_are_no_lists_and_nothing_is_changed() -> None:
    ca = found_ca()
    revision = ca.store.load().revision
    for _ in range(2):
        ca.lists.tick()
        ca.lists.follow()
        ca.lists.publish("operator", "x")
    assert ca.store.load().revision == revision


def served(ca: FoundedCa, authority_id: str) -> ServedList | None:
    state = ca.signing.latest()
    return ca.lists.served(state.ring, state.bans, authority_id)


def test_who_asks_for_a_list_gets_the_published_one_or_one_of_nothing_while_nothing_is_banned() -> None:
    ca = found_ca()
    nothing = served(ca, issuer_id(ca))
    assert nothing is not None
    assert served(ca, issuer_id(ca)) == nothing, "it is not signed anew each time"
    crl = x509.load_der_x509_crl(nothing.crl)
    issuer = x509.load_der_x509_certificate(ca.ring.active(ISSUER).certificate)  # type: ignore[union-attr]
    assert (list(crl), crl.is_signature_valid(issuer.public_key())) == ([], True)  # type: ignore[arg-type]
    assert (nothing.since, nothing.fresh_for) == (crl.last_update_utc, FRESH)
    assert not ca.ring.crls, "it is in no bundle"
    ca.clock.move(VALIDITY / 2)
    assert served(ca, issuer_id(ca)) != nothing
    issued_serial(ca)
    ca.revocations.revoke(IDENTITY, "", "stolen")
    listed_one = served(ca, issuer_id(ca))
    assert listed_one is not None
    assert listed_one.crl == ca.ring.crls[0].crl
    ca.revocations.unban(IDENTITY, "")
    again = served(ca, issuer_id(ca))
    assert again is not None
    assert list(x509.load_der_x509_crl(again.crl)) == []


def test_a_list_is_fresh_for_no_longer_than_it_says() -> None:
    ca = found_ca()
    ca.revocations.revoke(IDENTITY, "", "stolen")
    ca.clock.moment = ca.ring.crls[0].next_update - timedelta(seconds=7)
    assert served(ca, issuer_id(ca)).fresh_for == timedelta(seconds=7)  # type: ignore[union-attr]
    ca.clock.move(DAY)
    assert served(ca, issuer_id(ca)).fresh_for == timedelta(0)  # type: ignore[union-attr]


def test_there_are_no_lists_of_others_than_issuing_cas_that_are_accepted() -> None:
    ca = found_ca()
    root = ca.ring.active(AuthorityKind.ROOT)
    assert root is not None
    assert [served(ca, each) for each in (root.id, "", "ab12")] == [None] * 3


def test_no_list_of_nothing_is_given_out_while_something_is_banned_and_not_listed_yet() -> None:
    ca = found_ca()
    state = ca.signing.latest()
    ca.revocations.revoke(IDENTITY, "", "stolen")
    with pytest.raises(MeshcaError) as refused:
        ca.lists.served(state.ring, ca.signing.latest().bans, issuer_id(ca))
    assert refused.value.kind is ErrorKind.UNAVAILABLE


def test_a_revoked_identity_is_listed_with_every_certificate_that_it_has_at_once() -> None:
    ca = found_ca()
    serials = {issued_serial(ca) for _ in range(3)}
    issued_serial(ca, OTHER)
    sequence = ca.ring.sequence
    ca.revocations.revoke(IDENTITY, "", "stolen")
    assert listed(ca) == {issuer_id(ca): serials}
    assert ca.ring.sequence == sequence + 1
    bundle = ca.signing.latest().bundle
    assert (bundle.sequence, len(bundle.revocation_lists)) == (sequence + 1, 1)


def test_a_revoked_certificate_is_listed_alone() -> None:
    ca = found_ca()
    first, _ = issued_serial(ca), issued_serial(ca)
    ca.revocations.revoke("", first, "exposed")
    assert listed(ca) == {issuer_id(ca): {first}}


def test_a_ban_of_one_that_has_no_certificate_yet_makes_empty_lists() -> None:
    ca = found_ca()
    ca.revocations.revoke(IDENTITY, "", "never")
    assert listed(ca) == {issuer_id(ca): set()}


def test_with_the_last_ban_all_lists_go_and_with_another_only_its_entries() -> None:
    ca = found_ca()
    one, other = issued_serial(ca), issued_serial(ca, OTHER)
    ca.revocations.revoke(IDENTITY, "", "stolen")
    ca.revocations.revoke("", other, "exposed")
    assert listed(ca) == {issuer_id(ca): {one, other}}
    ca.revocations.unban(IDENTITY, "")
    assert listed(ca) == {issuer_id(ca): {other}}
    ca.revocations.unban("", other)
    assert (listed(ca), ca.signing.latest().bundle.revocation_lists) == ({}, ())


def test_what_has_ended_is_left_out_when_a_list_is_made() -> None:
    ca = found_ca()
    one, other = issued_serial(ca), issued_serial(ca, OTHER)
    ca.revocations.revoke(IDENTITY, "", "stolen")
    ca.revocations.revoke("", other, "exposed")
    ca.clock.moment = FOUNDED + timedelta(hours=2)
    assert listed(ca) == {issuer_id(ca): {one, other}}
    ca.lists.publish("operator", "anew")
    assert listed(ca) == {issuer_id(ca): set()}


def test_every_issuing_ca_has_one_also_a_new_one_at_the_next_look() -> None:
    ca = found_ca()
    serial = issued_serial(ca)
    ca.revocations.revoke(IDENTITY, "", "stolen")
    first, since = issuer_id(ca), ca.ring.crls[0].since
    prepared = ca.control.prepare(ISSUER, "spare")
    assert set(listed(ca)) == {first}
    ca.clock.moment += timedelta(seconds=5)
    ca.lists.follow()
    assert listed(ca) == {first: {serial}, prepared.id: set()}
    old, new = ca.ring.crl_of(first), ca.ring.crl_of(prepared.id)
    assert old is not None
    assert new is not None
    assert (old.since, new.since, new.sequence) == (since, ca.clock.moment, ca.ring.sequence)


def test_the_next_issuing_ca_is_used_once_everybody_has_its_list() -> None:
    ca = found_ca()
    ca.revocations.revoke(str(OTHER.id), "", "x")
    first = issuer_id(ca)
    for moment in (15 * DAY, 25 * DAY):
        ca.clock.moment = FOUNDED + moment
        ca.rotation.tick()
    assert issuer_id(ca) == first, "it has no list yet"
    ca.lists.follow()
    ca.rotation.tick()
    assert issuer_id(ca) == first, "some door may not have heard of it"
    ca.clock.moment += PROPAGATION
    ca.rotation.tick()
    assert issuer_id(ca) != first
    assert len(ca.ring.of(ISSUER, AuthorityState.PREPARED)) == 0


def test_an_operator_is_told_why_one_cannot_be_used_yet_and_may_force_it_once_it_has_a_list() -> None:
    ca = found_ca()
    ca.revocations.revoke(str(OTHER.id), "", "x")
    prepared = ca.control.prepare(ISSUER, "spare")
    for force in (False, True):
        with pytest.raises(MeshcaError, match="list") as caught:
            ca.control.carry_out(Order(Step.ACTIVATE, prepared.id, "now", force))
        assert caught.value.kind is ErrorKind.CONFLICT
    ca.lists.follow()
    with pytest.raises(MeshcaError, match="not everybody is known to have its revocation list"):
        ca.control.carry_out(Order(Step.ACTIVATE, prepared.id, "now"))
    ca.control.carry_out(Order(Step.ACTIVATE, prepared.id, "now", force=True))
    assert issuer_id(ca) == prepared.id


def test_lists_are_made_anew_at_half_their_life_with_a_higher_number() -> None:
    ca = found_ca()
    ca.revocations.revoke(IDENTITY, "", "stolen")
    (first,) = ca.ring.crls
    ca.clock.moment = FOUNDED + VALIDITY / 2 - timedelta(hours=1)
    ca.lists.follow()
    assert ca.ring.crls == (first,)
    ca.clock.moment = FOUNDED + VALIDITY / 2
    ca.lists.follow()
    (second,) = ca.ring.crls
    assert second.number > first.number
    assert second.next_update == ca.clock.moment + VALIDITY
    assert second.next_update - ca.clock.moment > crl_validity(timedelta(hours=24)) / 2


def test_what_is_left_of_a_list_is_longer_than_any_leaf_lives() -> None:
    for longest in (timedelta(hours=1), timedelta(days=10), timedelta(days=90)):
        assert crl_validity(longest) / 2 >= longest


def test_a_clock_that_was_set_back_makes_lists_that_are_valid_by_it() -> None:
    ca = found_ca()
    ca.clock.moment = FOUNDED + DAY
    ca.revocations.revoke(IDENTITY, "", "stolen")
    (first,) = ca.ring.crls
    ca.clock.moment = FOUNDED + timedelta(hours=1)
    ca.lists.follow()
    assert listed(ca) == {issuer_id(ca): set()}
    assert ca.ring.crls[0].number == first.number + 1, "and their numbers grow all the same"


def test_a_certificate_from_a_door_that_had_not_heard_is_found_at_the_next_tick() -> None:
    ca = found_ca()
    late = Signing(ca.watch)
    ca.second_keeper(late).refresh()
    ca.revocations.revoke(IDENTITY, "", "stolen")
    ca.issuance = Issuance(late, ca.ledger, ca.join_tokens, ca.clock, ca.profile)
    serial = issued_serial(ca)
    ca.lists.follow()
    assert listed(ca) == {issuer_id(ca): set()}
    ca.lists.tick()
    assert listed(ca) == {issuer_id(ca): {serial}}
    revision = ca.store.load().revision
    ca.lists.tick()
    assert ca.store.load().revision == revision


def test_what_a_crash_left_undone_is_done_at_the_next_look() -> None:
    """The ban is durable first: nothing more is issued, and the lists follow."""
    ca = found_ca()
    serial = issued_serial(ca)
    ca.store.fail_before = True
    with pytest.raises(MeshcaError, match="is revoked, but relying parties cannot be told yet"):
        ca.revocations.revoke(IDENTITY, "", "stolen")
    assert ca.ring.crls == ()
    ca.restart()
    ca.lists.follow()
    assert listed(ca) == {issuer_id(ca): {serial}}
    assert ca.signing.latest().bans.has_identity(WORKLOAD.id)


def test_the_journal_tells_who_had_lists_published_and_why() -> None:
    ca = found_ca()
    ca.revocations.revoke(IDENTITY, "", "stolen")
    ca.revocations.unban(IDENTITY, "")
    lines = [(entry.actor, entry.step, entry.reason, entry.sequence) for entry in ca.store.journal(2)]
    sequence = ca.ring.sequence
    assert lines == [
        ("operator", "withdraw revocation lists", "unban", sequence),
        ("operator", "publish revocation lists", "stolen", sequence - 1),
    ]


def test_somebody_who_moves_the_ring_meanwhile_is_no_obstacle() -> None:
    ca = found_ca()
    ca.revocations.revoke(IDENTITY, "", "stolen")
    made = Prepared(ca.maker.make_issuer(ca.ring, KeyAlgorithm.P256, 30 * DAY))
    other = ca.second_keeper(Signing(ca.watch))
    entry = entry_for(made, ca.ring, at=FOUNDED, actor="schedule")
    ca.store.overtake = lambda: other.change(other.refresh(), (made,), entry)
    ca.revocations.revoke(str(OTHER.id), "", "stolen, too")
    assert len(listed(ca)) == 2


def test_leaves_of_the_listed_are_refused_by_a_verifier_that_checks() -> None:
    """A second opinion on the whole: the list that is published names the leaf that was issued."""
    ca = found_ca()
    leaf = x509.load_der_x509_certificate(ca.issue(WORKLOAD, REQUEST).certificate.der)
    ca.revocations.revoke(IDENTITY, "", "stolen")
    (each,) = ca.signing.latest().bundle.revocation_lists
    crl = x509.load_der_x509_crl(each.crl)
    assert crl.issuer == leaf.issuer
    assert crl.get_revoked_certificate_by_serial_number(leaf.serial_number) is not None
    assert ca.revocations.listing(1, lifted=False)[0].kind is BanKind.IDENTITY
