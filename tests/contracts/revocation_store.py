"""What every `RevocationStore` does. Subclasses give the fixture `revocations`: an empty one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from meshca.errors import ErrorKind, MeshcaError
from meshca.ports import RevocationStore
from meshca.spiffe.bans import NO_BANS, Ban, BanKind
from tests.contracts.crowd import all_at_once

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def a_ban(number: int = 1, **fields: Any) -> Ban:
    """A ban of an identity that has the number in its name."""
    spiffe_id = f"spiffe://example.org/ns/a/sa/w{number}"
    return replace(Ban(BanKind.IDENTITY, spiffe_id, spiffe_id, "stolen", "operator", NOW), **fields)


def a_serial_ban(number: int = 1, **fields: Any) -> Ban:
    """A ban of one certificate."""
    serial = f"{0xABC000 + number:x}"
    known = {"kind": BanKind.SERIAL, "subject": serial, "issuer_id": "a1" * 20, "until": NOW + 60 * MINUTE}
    return a_ban(number, **{**known, **fields})


def standing(store: RevocationStore) -> tuple[Ban, ...]:
    """What stands, freshly read."""
    return store.standing(NO_BANS).bans


class RevocationStoreContract:
    def test_in_an_empty_store_nothing_stands(self, revocations: RevocationStore) -> None:
        assert revocations.standing(NO_BANS) is NO_BANS
        assert revocations.history(10) == ()

    def test_bans_come_back_as_they_were_in_order(self, revocations: RevocationStore) -> None:
        bans = (a_ban(1), a_serial_ban(2), a_ban(3, reason="left the “team” ✓"))
        for ban in bans:
            revocations.add(ban)
        assert standing(revocations) == bans
        assert revocations.history(10) == bans[::-1]

    def test_only_the_latest_are_in_a_short_history(self, revocations: RevocationStore) -> None:
        for number in range(5):
            revocations.add(a_ban(number))
        assert revocations.history(2) == (a_ban(4), a_ban(3))

    def test_a_lifted_ban_no_longer_stands_but_is_remembered(self, revocations: RevocationStore) -> None:
        revocations.add(a_ban(1))
        revocations.add(a_serial_ban(2))
        lifted = replace(a_ban(1), lifted_at=NOW + MINUTE)
        assert revocations.lift(BanKind.IDENTITY, a_ban(1).subject, NOW + MINUTE) == lifted
        assert standing(revocations) == (a_serial_ban(2),)
        assert revocations.history(10) == (a_serial_ban(2), lifted)

    def test_what_was_lifted_can_be_banned_and_lifted_again(self, revocations: RevocationStore) -> None:
        for minute in range(3):
            revocations.add(a_ban(1, at=NOW + minute * MINUTE))
            revocations.lift(BanKind.IDENTITY, a_ban(1).subject, NOW + minute * MINUTE)
        assert standing(revocations) == ()
        assert len(revocations.history(10)) == 3

    def test_what_stands_cannot_be_banned_again(self, revocations: RevocationStore) -> None:
        revocations.add(a_ban(1))
        with pytest.raises(MeshcaError, match="is revoked already") as caught:
            revocations.add(a_ban(1, reason="again"))
        assert caught.value.kind is ErrorKind.CONFLICT
        assert standing(revocations) == (a_ban(1),)

    def test_an_identity_and_a_serial_of_the_same_letters_are_two_things(self, revocations: RevocationStore) -> None:
        revocations.add(a_serial_ban(1))
        with pytest.raises(MeshcaError) as caught:
            revocations.lift(BanKind.IDENTITY, a_serial_ban(1).subject, NOW)
        assert caught.value.kind is ErrorKind.NOT_FOUND
        assert standing(revocations) == (a_serial_ban(1),)

    def test_what_was_never_banned_or_is_lifted_cannot_be_lifted(self, revocations: RevocationStore) -> None:
        revocations.add(a_ban(1))
        revocations.lift(BanKind.IDENTITY, a_ban(1).subject, NOW)
        for number in (1, 2):
            with pytest.raises(MeshcaError, match="is not revoked") as caught:
                revocations.lift(BanKind.IDENTITY, a_ban(number).subject, NOW + MINUTE)
            assert caught.value.kind is ErrorKind.NOT_FOUND
        assert revocations.history(1) == (replace(a_ban(1), lifted_at=NOW),)

    def test_every_change_is_news_and_nothing_else_is(self, revocations: RevocationStore) -> None:
        known = revocations.standing(NO_BANS)
        changes = (
            lambda: revocations.add(a_ban(1)),
            lambda: revocations.add(a_ban(2)),
            lambda: revocations.lift(BanKind.IDENTITY, a_ban(1).subject, NOW),
            lambda: revocations.add(a_ban(1)),
        )
        for change in changes:
            assert revocations.standing(known) is known
            change()
            newer = revocations.standing(known)
            assert newer.revision > known.revision
            known = newer

    @pytest.mark.parametrize("limit", [0, 10_001])
    def test_a_history_of_impossible_length_is_invalid(self, revocations: RevocationStore, limit: int) -> None:
        with pytest.raises(MeshcaError) as caught:
            revocations.history(limit)
        assert caught.value.kind is ErrorKind.INVALID

    @pytest.mark.parametrize("time", [NOW.replace(microsecond=1), NOW.replace(tzinfo=None)])
    @pytest.mark.parametrize("field", ["at", "until"])
    def test_a_time_that_would_not_come_back_the_same_is_refused(
        self, revocations: RevocationStore, field: str, time: datetime
    ) -> None:
        with pytest.raises(MeshcaError, match=rf"^{field}") as caught:
            revocations.add(a_serial_ban(1, **{field: time}))
        assert caught.value.kind is ErrorKind.INTERNAL
        assert standing(revocations) == ()

    def test_of_many_who_ban_the_same_exactly_one_does(self, revocations: RevocationStore) -> None:
        outcomes = all_at_once(16, lambda _: revocations.add(a_ban(1)))
        assert outcomes.count(None) == 1
        assert {o.kind for o in outcomes if isinstance(o, MeshcaError)} == {ErrorKind.CONFLICT}
        assert standing(revocations) == (a_ban(1),)
