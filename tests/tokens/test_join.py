"""Join tokens: their form, and that only a hash of them is kept."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import MeshcaError
from meshca.tokens.join import JoinToken, format_join_token, hash_join_token, looks_like_join_token
from tests.jwts import p256, token


@given(st.binary(min_size=32, max_size=32))
def test_every_join_token_looks_like_one(entropy: bytes) -> None:
    assert looks_like_join_token(format_join_token(entropy))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_join_token_takes_exactly_32_random_bytes(size: int) -> None:
    with pytest.raises(MeshcaError, match="takes 32 random bytes"):
        format_join_token(bytes(size))


GOOD = format_join_token(bytes(range(32)))


@pytest.mark.parametrize("text", ["", GOOD[:-1], GOOD + "A", GOOD + "\n", " " + GOOD, GOOD.upper(), "mjt_" + "é" * 43])
def test_nothing_else_looks_like_a_join_token(text: str) -> None:
    assert not looks_like_join_token(text)


def test_a_jwt_does_not_look_like_a_join_token() -> None:
    assert not looks_like_join_token(token(p256()))


def test_the_hash_is_sha_256_and_its_name_for_logs_a_piece_of_it() -> None:
    digest = hash_join_token(GOOD)
    assert digest == hashlib.sha256(GOOD.encode()).hexdigest()
    assert JoinToken(digest, None, None, None).short_id == digest[:16]  # type: ignore[arg-type]  # only the hash counts
