"""What every `JoinTokenStore` does. Subclasses give the fixture `join_tokens`: an empty one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from meshca.errors import ErrorKind, MeshcaError
from meshca.ports import JoinTokenStore
from meshca.spiffe.ids import SpiffeId
from meshca.tokens.join import JoinToken, hash_join_token
from tests.contracts.crowd import all_at_once

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def a_token(name: str = "one", *, minutes: int = 10) -> JoinToken:
    """A token made at NOW that lives for `minutes`."""
    identity = SpiffeId.parse(f"spiffe://example.org/agent/{name}")
    return JoinToken(hash_join_token(name), identity, NOW, NOW + minutes * MINUTE)


def refusal(store: JoinTokenStore, token: JoinToken, now: datetime) -> ErrorKind:
    """Why the token is not redeemed; the refusal tells no more of it than its short id."""
    with pytest.raises(MeshcaError) as caught:
        store.redeem(token.token_hash, now)
    assert token.token_hash not in caught.value.message
    return caught.value.kind


class JoinTokenStoreContract:
    def test_a_token_is_redeemed_once(self, join_tokens: JoinTokenStore) -> None:
        join_tokens.add(a_token())
        assert join_tokens.redeem(a_token().token_hash, NOW + MINUTE) == a_token()
        assert refusal(join_tokens, a_token(), NOW + MINUTE) is ErrorKind.UNAUTHENTICATED

    def test_looking_at_a_token_spends_nothing(self, join_tokens: JoinTokenStore) -> None:
        join_tokens.add(a_token())
        for _ in range(2):
            assert join_tokens.find(a_token().token_hash, NOW) == a_token()
        assert join_tokens.redeem(a_token().token_hash, NOW) == a_token()
        for token, now in ((a_token(), NOW), (a_token("unknown"), NOW)):
            with pytest.raises(MeshcaError) as caught:
                join_tokens.find(token.token_hash, now)
            assert caught.value.kind is ErrorKind.UNAUTHENTICATED

    def test_an_expired_token_is_not_found(self, join_tokens: JoinTokenStore) -> None:
        join_tokens.add(a_token(minutes=10))
        with pytest.raises(MeshcaError):
            join_tokens.find(a_token().token_hash, NOW + 10 * MINUTE)

    def test_redeeming_one_token_leaves_the_others(self, join_tokens: JoinTokenStore) -> None:
        join_tokens.add(a_token("one"))
        join_tokens.add(a_token("two"))
        join_tokens.redeem(a_token("one").token_hash, NOW)
        assert join_tokens.redeem(a_token("two").token_hash, NOW) == a_token("two")

    def test_an_unknown_token_is_refused(self, join_tokens: JoinTokenStore) -> None:
        join_tokens.add(a_token("one"))
        assert refusal(join_tokens, a_token("two"), NOW) is ErrorKind.UNAUTHENTICATED

    def test_a_token_ends_at_its_expiry_and_not_before(self, join_tokens: JoinTokenStore) -> None:
        token = a_token(minutes=10)
        join_tokens.add(token)
        assert refusal(join_tokens, token, NOW + 10 * MINUTE) is ErrorKind.UNAUTHENTICATED
        assert join_tokens.redeem(token.token_hash, NOW + 10 * MINUTE - timedelta(milliseconds=1)) == token

    def test_a_known_hash_is_a_conflict_and_does_not_revive_a_used_token(self, join_tokens: JoinTokenStore) -> None:
        join_tokens.add(a_token())
        join_tokens.redeem(a_token().token_hash, NOW)
        with pytest.raises(MeshcaError) as caught:
            join_tokens.add(a_token())
        assert caught.value.kind is ErrorKind.CONFLICT
        assert refusal(join_tokens, a_token(), NOW) is ErrorKind.UNAUTHENTICATED

    def test_pruning_forgets_exactly_the_expired(self, join_tokens: JoinTokenStore) -> None:
        for minutes in (1, 5, 6):
            join_tokens.add(a_token(f"t{minutes}", minutes=minutes))
        assert join_tokens.prune(NOW + 5 * MINUTE) == 2
        assert join_tokens.prune(NOW + 5 * MINUTE) == 0
        assert join_tokens.redeem(a_token("t6", minutes=6).token_hash, NOW + 5 * MINUTE).short_id

    def test_pruning_keeps_used_tokens_until_they_expire(self, join_tokens: JoinTokenStore) -> None:
        join_tokens.add(a_token())
        join_tokens.redeem(a_token().token_hash, NOW)
        assert join_tokens.prune(NOW + MINUTE) == 0
        assert refusal(join_tokens, a_token(), NOW + MINUTE) is ErrorKind.UNAUTHENTICATED

    def test_of_many_threads_exactly_one_redeems(self, join_tokens: JoinTokenStore) -> None:
        join_tokens.add(a_token())
        outcomes = all_at_once(32, lambda _: join_tokens.redeem(a_token().token_hash, NOW))
        assert [o for o in outcomes if isinstance(o, JoinToken)] == [a_token()]
        assert {o.kind for o in outcomes if isinstance(o, MeshcaError)} == {ErrorKind.UNAUTHENTICATED}
