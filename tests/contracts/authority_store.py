"""What every `AuthorityStore` does. Subclasses give the fixture `authorities`: an empty one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from meshca.authority.journal import JournalEntry
from meshca.authority.ring import (
    Authority,
    AuthorityKind,
    AuthorityRing,
    AuthorityState,
    CrossCertificate,
    IssuedCrl,
    ListsWithdrawn,
    PendingIssuer,
    RenewalOrder,
    RootRotation,
)
from meshca.errors import ErrorKind, MeshcaError
from meshca.ports import AuthorityStore, StoredRing
from meshca.spiffe.ids import TrustDomain
from tests.contracts.crowd import all_at_once

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def a_ring(sequence: int = 3) -> AuthorityRing:
    """A ring that uses every field there is. Stores do not look inside certificates, nor whether it makes sense."""
    root = Authority(
        id="aa" * 20,
        kind=AuthorityKind.ROOT,
        state=AuthorityState.ACTIVE,
        certificate=b"\x30\x03\x02\x01\x01",
        chain=(),
        issuer_id="aa" * 20,
        key_id="root-1",
        not_before=NOW,
        not_after=NOW + timedelta(days=3650),
        bundle_sequence=2,
        cross=CrossCertificate(b"\x30\x01\xfe", "cc" * 20, NOW + timedelta(days=300)),
    )
    issuer = replace(
        root,
        id="bb" * 20,
        kind=AuthorityKind.ISSUER,
        state=AuthorityState.TAINTED,
        certificate=bytes(range(256)),
        chain=(b"\x30\x00", b"\xff"),
        key_id="issuer-1",
        bundle_sequence=0,
        cross=None,
        since=NOW - timedelta(days=1),
        distrust_at=NOW + timedelta(days=7),
    )
    rotation = RootRotation("operator", "quarterly", NOW - timedelta(hours=2), "aa" * 20, "cc" * 20)
    renewal = RenewalOrder(("bb" * 20,), NOW - timedelta(hours=1), 60)
    held_since = NOW - timedelta(hours=3)
    pending = PendingIssuer("issuer-2", b"\x30\x01\xff", NOW - timedelta(hours=4))
    authorities = (root, issuer)
    mesh = TrustDomain("example.org")
    crls = (IssuedCrl("bb" * 20, b"\x30\x02\xff", 7, NOW, NOW + timedelta(days=7), 2, 3, NOW - timedelta(days=1)),)
    told = ("a root", "another")
    withdrawn = ListsWithdrawn(2, NOW - timedelta(days=2))
    return AuthorityRing(
        mesh, sequence, authorities, rotation, held_since, renewal, crls, pending, "a digest", told, withdrawn
    )


def an_entry(sequence: int, **changes: Any) -> JournalEntry:
    """What the schedule did at NOW, after which the bundle's sequence was `sequence`."""
    entry = JournalEntry(NOW, "schedule", "activate", "aa" * 20, "covered", forced=False, sequence=sequence)
    return replace(entry, **changes)


def _save(store: AuthorityStore, revision: int, sequence: int) -> StoredRing:
    return store.save(a_ring(sequence), expected_revision=revision, entries=[an_entry(sequence)])


class AuthorityStoreContract:
    def test_without_a_ring_there_is_nothing_to_load(self, authorities: AuthorityStore) -> None:
        with pytest.raises(MeshcaError) as caught:
            authorities.load()
        assert caught.value.kind is ErrorKind.NOT_FOUND

    def test_loads_what_was_saved(self, authorities: AuthorityStore) -> None:
        saved = authorities.save(a_ring(), expected_revision=0)
        assert saved == StoredRing(a_ring(), 1)
        assert authorities.load() == saved

    def test_each_save_is_the_next_revision(self, authorities: AuthorityStore) -> None:
        authorities.save(a_ring(1), expected_revision=0)
        authorities.save(a_ring(2), expected_revision=1)
        assert authorities.load() == StoredRing(a_ring(2), 2)

    @pytest.mark.parametrize("expected", [0, 1, 3])
    def test_a_save_that_expects_another_revision_is_a_conflict(
        self, authorities: AuthorityStore, expected: int
    ) -> None:
        authorities.save(a_ring(1), expected_revision=0)
        authorities.save(a_ring(2), expected_revision=1)
        with pytest.raises(MeshcaError) as caught:
            authorities.save(a_ring(9), expected_revision=expected)
        assert caught.value.kind is ErrorKind.CONFLICT
        assert authorities.load() == StoredRing(a_ring(2), 2)

    def test_a_first_save_must_expect_none(self, authorities: AuthorityStore) -> None:
        with pytest.raises(MeshcaError) as caught:
            authorities.save(a_ring(), expected_revision=1)
        assert caught.value.kind is ErrorKind.CONFLICT

    def test_of_many_savers_exactly_one_wins_each_revision(self, authorities: AuthorityStore) -> None:
        for revision in range(3):
            outcomes = all_at_once(8, partial(_save, authorities, revision))
            won = [outcome for outcome in outcomes if isinstance(outcome, StoredRing)]
            assert won == [authorities.load()]
            assert {o.kind for o in outcomes if isinstance(o, MeshcaError)} == {ErrorKind.CONFLICT}
            journal = authorities.journal(10)
            assert len(journal) == revision + 1
            assert journal[0].sequence == won[0].ring.sequence

    def test_an_empty_journal_has_no_entries(self, authorities: AuthorityStore) -> None:
        authorities.save(a_ring(), expected_revision=0)
        assert authorities.journal(10) == ()

    def test_the_journal_gives_back_every_field_newest_first(self, authorities: AuthorityStore) -> None:
        forced = JournalEntry(NOW + timedelta(hours=1), "uid 1000 (cårl)", "prune", "", "", forced=True, sequence=2**40)
        authorities.save(a_ring(1), expected_revision=0, entries=[an_entry(1), an_entry(2)])
        authorities.save(a_ring(2), expected_revision=1, entries=[forced])
        assert authorities.journal(10) == (forced, an_entry(2), an_entry(1))
        assert authorities.journal(2) == (forced, an_entry(2))

    def test_a_save_that_is_a_conflict_leaves_no_entry(self, authorities: AuthorityStore) -> None:
        authorities.save(a_ring(1), expected_revision=0, entries=[an_entry(1)])
        with pytest.raises(MeshcaError):
            authorities.save(a_ring(2), expected_revision=0, entries=[an_entry(2)])
        assert authorities.journal(10) == (an_entry(1),)

    @pytest.mark.parametrize("time", [NOW.replace(microsecond=1), NOW.replace(tzinfo=None)])
    def test_an_entry_that_would_not_come_back_the_same_is_refused_with_its_ring(
        self, authorities: AuthorityStore, time: datetime
    ) -> None:
        with pytest.raises(MeshcaError, match=r"^at ") as caught:
            authorities.save(a_ring(1), expected_revision=0, entries=[an_entry(1), an_entry(2, at=time)])
        assert caught.value.kind is ErrorKind.INTERNAL
        assert authorities.journal(10) == ()
        with pytest.raises(MeshcaError):
            authorities.load()

    @pytest.mark.parametrize("limit", [0, -1, 10_001])
    def test_a_limit_that_cannot_be_is_invalid(self, authorities: AuthorityStore, limit: int) -> None:
        with pytest.raises(MeshcaError) as caught:
            authorities.journal(limit)
        assert caught.value.kind is ErrorKind.INVALID
