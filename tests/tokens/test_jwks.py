"""Which keys of a key set are used, and which sets are refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.keys import KeyFamily, PrivateKey
from meshca.tokens.jwks import ALGORITHMS, MAX_JWKS_BYTES, MAX_KEYS, parse_jwks
from tests.jwts import document, key_set, p256, public_jwk

EC_KEY = p256()
RSA_KEY = rsa.generate_private_key(65537, 2048)
GOOD = public_jwk(EC_KEY, kid="good", use="sig", alg="ES256")


def refusal(data: bytes) -> str:
    with pytest.raises(MeshcaError) as caught:
        parse_jwks(data)
    assert caught.value.kind is ErrorKind.INVALID
    return caught.value.message


@pytest.mark.parametrize(
    ("key", "family"),
    [
        (EC_KEY, KeyFamily.P256),
        (ec.generate_private_key(ec.SECP384R1()), KeyFamily.P384),
        (ec.generate_private_key(ec.SECP521R1()), KeyFamily.P521),
        (RSA_KEY, KeyFamily.RSA),
        (ed25519.Ed25519PrivateKey.generate(), KeyFamily.ED25519),
    ],
    ids=lambda value: value.value if isinstance(value, KeyFamily) else "",
)
def test_a_key_of_each_supported_type_is_read(key: PrivateKey, family: KeyFamily) -> None:
    (read,) = document(public_jwk(key, kid="k")).keys
    assert (read.kid, read.algorithm, read.family) == ("k", None, family)
    assert read.public_key == key.public_key()


def without(member: str, jwk: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in jwk.items() if name != member}


IGNORED: dict[str, tuple[object, str]] = {
    "symmetric": ({"kty": "oct", "k": "c2VjcmV0"}, "is symmetric"),
    "unknown type": ({"kty": "AKP", "pub": "x"}, "is of a type that is not supported ('kty')"),
    "no type": (without("kty", GOOD), "is of a type that is not supported ('kty')"),
    "type that is no string": (GOOD | {"kty": ["EC"]}, "has a 'kty' that is no string"),
    "for encryption": (GOOD | {"use": "enc"}, "is not for signatures ('use')"),
    "use in other case": (GOOD | {"use": "SIG"}, "is not for signatures ('use')"),
    "use null": (GOOD | {"use": None}, "is not for signatures ('use')"),
    "not for verifying": (GOOD | {"key_ops": ["sign"]}, "is not for verifying ('key_ops')"),
    "operations no list": (GOOD | {"key_ops": "verify"}, "is not for verifying ('key_ops')"),
    "algorithm of another type": (GOOD | {"alg": "RS256"}, "declares an 'alg' that is unknown or not for its type"),
    "algorithm for encryption": (GOOD | {"alg": "ECDH-ES"}, "declares an 'alg' that is unknown or not for its type"),
    "symmetric algorithm": (GOOD | {"alg": "HS256"}, "declares an 'alg' that is unknown or not for its type"),
    "kid that is no string": (GOOD | {"kid": 7}, "has a 'kid' that is no string"),
    "coordinate missing": (without("y", GOOD), "lacks 'y'"),
    "coordinate that is no string": (GOOD | {"x": 7}, "has a 'x' that is no string"),
    "point off the curve": (GOOD | {"x": GOOD["y"]}, "does not parse"),
    "coordinate too short": (GOOD | {"x": "AAAA"}, "does not parse"),
    "coordinate no base64": (GOOD | {"x": "!"}, "does not parse"),
    "coordinate not ASCII": (GOOD | {"x": "é" * 43}, "does not parse"),
    "unknown curve": (GOOD | {"crv": "P-1"}, "does not parse"),
    "curve of the other world": (
        public_jwk(ec.generate_private_key(ec.SECP256K1())),
        "is not admitted: key: curve secp256k1 is not supported: use P-256 or P-384",
    ),
    "weak RSA": (
        public_jwk(rsa.generate_private_key(65537, 1024)),
        "is not admitted: key: RSA of 1024 bits is not supported: use 2048 to 8192 bits",
    ),
    "RSA of nothing": ({"kty": "RSA", "n": "AA", "e": "AQAB"}, "does not parse"),
    "huge RSA": ({"kty": "RSA", "n": "_" * 100_000, "e": "AQAB"}, "is not admitted: key: RSA of"),
    "no object": ("key", "is no object"),
}


@pytest.mark.parametrize("case", IGNORED)
def test_ignores_a_key_alone(case: str) -> None:
    jwk, reason = IGNORED[case]
    data = json.dumps({"keys": [jwk, GOOD]}).encode()
    assert [key.kid for key in parse_jwks(data).keys] == ["good"]
    assert refusal(json.dumps({"keys": [jwk]}).encode()).startswith(f"key set: it has no usable key (keys[0] {reason}")


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "key set: it is not JSON"),
    "list": (b"[]", "key set: it is JSON, but not an object"),
    "no keys": (b"{}", "key set: it has no list 'keys' (RFC 7517 section 5)"),
    "keys an object": (b'{"keys": {}}', "key set: it has no list 'keys' (RFC 7517 section 5)"),
    "no key": (b'{"keys": []}', "key set: it has no usable key (keys is empty)"),
    "keys twice": (b'{"keys": [], "keys": []}', "key set: it is JSON that names a member twice"),
    "too long": (b" " * (MAX_JWKS_BYTES + 1), "key set: it is longer than 262144 bytes"),
    "too many keys": (key_set(*[GOOD] * (MAX_KEYS + 1)), "key set: it has 101 keys: at most 100 are read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_the_set(case: str) -> None:
    data, reason = REFUSED[case]
    assert refusal(data) == reason


@pytest.mark.parametrize(
    "jwk",
    [
        ECAlgorithm.to_jwk(EC_KEY, as_dict=True),
        without("key_ops", RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True)),
        {"kty": "future", "d": "AAAA"},
        GOOD | {"d": None},
        GOOD | {"use": "enc", "d": "AAAA"},
    ],
    ids=["EC", "RSA", "unknown type", "null", "for encryption"],
)
def test_private_key_material_condemns_the_whole_set_and_is_not_repeated(jwk: dict[str, Any]) -> None:
    message = refusal(key_set(GOOD, jwk))
    assert message.startswith("key set: keys[1] holds the private member 'd': that key is no secret any more")
    assert not any(str(jwk[name]) in message for name in ("d", "p", "q") if jwk.get(name))


def test_the_largest_set_that_is_read() -> None:
    jwks = [public_jwk(EC_KEY, kid=str(number)) for number in range(MAX_KEYS)]
    assert len(document(*jwks).keys) == MAX_KEYS
    assert len(parse_jwks(key_set(GOOD).ljust(MAX_JWKS_BYTES)).keys) == 1


def test_the_same_key_twice_counts_once_and_different_keys_of_one_kid_are_both_kept() -> None:
    other = public_jwk(p256(), kid="good")
    assert len(document(GOOD, GOOD, other, GOOD | {"extra": 1}).keys) == 2


def test_the_hash_tells_one_content_from_another() -> None:
    assert document(GOOD).content_hash == document(GOOD).content_hash
    assert document(GOOD).content_hash != document(GOOD, public_jwk(p256())).content_hash


def test_a_key_fits_the_algorithms_of_its_type_that_the_set_does_not_exclude() -> None:
    def fitting(jwk: dict[str, Any]) -> set[str]:
        (key,) = document(jwk).keys
        return {algorithm for algorithm in [*ALGORITHMS, "none", "HS256"] if key.fits(algorithm)}

    assert fitting(public_jwk(RSA_KEY)) == {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    assert fitting(public_jwk(RSA_KEY, alg="PS384")) == {"PS384"}
    assert fitting(public_jwk(EC_KEY)) == {"ES256"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(GOOD["x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "d", "e", "n"]), inner),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "kid", "use", "alg", "key_ops", "n", "e"]), json_values)
)
def test_no_key_raises_anything_but_a_refusal(changes: dict[str, object]) -> None:
    with contextlib.suppress(MeshcaError):
        parse_jwks(key_set(GOOD | changes))
