"""Which tokens are believed, and the exact reason why the others are not."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.keys import PrivateKey
from meshca.tokens.jwks import ALGORITHMS, JwksDocument
from meshca.tokens.verification import (
    MAX_TOKEN_BYTES,
    TokenRule,
    UnknownKeyError,
    VerifiedClaims,
    unverified_issuer,
    verify_token,
)
from tests.jwts import AUDIENCE, EPOCH, ISSUER, NOW, SUBJECT, b64, claims, compact, document, p256, public_jwk, token

KEY = p256()
RSA_KEY = rsa.generate_private_key(65537, 2048)
STRANGER = p256()
JWKS = document(public_jwk(KEY, kid="k1"), public_jwk(RSA_KEY, kid="r1"))
RULE = TokenRule(ISSUER, (AUDIENCE, "second"), ("ES256", "RS256"), leeway=timedelta(seconds=30))
HEADER: dict[str, object] = {"alg": "ES256", "kid": "k1"}
RSA_PEM = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
RSA_SPKI = RSA_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def verify(text: str, *, jwks: JwksDocument = JWKS, rule: TokenRule = RULE, now: datetime = NOW) -> VerifiedClaims:
    return verify_token(text, jwks, rule, now=now)


def refusal(text: str, *, jwks: JwksDocument = JWKS, rule: TokenRule = RULE, now: datetime = NOW) -> str:
    with pytest.raises(MeshcaError) as caught:
        verify(text, jwks=jwks, rule=rule, now=now)
    assert caught.value.kind is ErrorKind.UNAUTHENTICATED
    message = caught.value.message
    assert not any(len(part) > 8 and part in message for part in text.split(".")), (
        "a part of the token is in the message"
    )
    return message


def test_a_good_token_gives_its_claims() -> None:
    verified = verify(token(KEY, extra={"deep": 1}))
    assert (verified.issuer, verified.subject, verified.audiences) == (ISSUER, SUBJECT, (AUDIENCE,))
    assert verified.expires_at == NOW + timedelta(seconds=600)
    assert verified.claims["extra"] == {"deep": 1}


def header(**changes: object) -> dict[str, object]:
    return {name: value for name, value in {**HEADER, **changes}.items() if value is not None}


def hs256(secret: bytes, **changes: object) -> str:
    """Signed with a public key as HMAC secret. PyJWT refuses to make such a token, so the signature is made by hand."""
    unsigned = compact(header(alg="HS256", **changes), claims()).rpartition(".")[0]
    return f"{unsigned}.{b64(hmac.new(secret, unsigned.encode(), hashlib.sha256).digest())}"


def der_signature(signing_input: str) -> bytes:
    """A right signature in the wrong encoding: JWS wants r and s side by side."""
    return KEY.sign(signing_input.encode(), ec.ECDSA(hashes.SHA256()))


ACCEPTED: dict[str, Callable[[], str]] = {
    "RS256": lambda: token(RSA_KEY, "r1", alg="RS256"),
    "no kid, one key fits": lambda: token(KEY, None),
    "audience list": lambda: token(KEY, aud=["other", AUDIENCE]),
    "another of our audiences": lambda: token(KEY, aud="second"),
    "no nbf, no iat": lambda: token(KEY, nbf=None, iat=None),
    "no sub": lambda: token(KEY, sub=None),
    "fractional times": lambda: token(KEY, exp=EPOCH + 0.5, iat=EPOCH - 0.5),
    "no typ": lambda: compact(HEADER, claims(), KEY),
    "typ in other case": lambda: compact(header(typ="jwt"), claims(), KEY),
    "typ access token": lambda: compact(header(typ="application/at+jwt"), claims(), KEY),
    "unknown header": lambda: compact(header(unknown=1), claims(), KEY),
    "foreign keys in the header, ignored": lambda: compact(
        header(jwk=public_jwk(STRANGER), jku="https://evil.example/", x5u="https://evil.example/", x5c=["AA"]),
        claims(),
        KEY,
    ),
    "expired within the leeway": lambda: token(KEY, exp=EPOCH - 29),
    "valid within the leeway": lambda: token(KEY, nbf=EPOCH + 30),
    "issued within the leeway": lambda: token(KEY, iat=EPOCH + 30),
    "the largest": lambda: token(KEY, pad="x" * 12000),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_believes(case: str) -> None:
    assert verify(ACCEPTED[case]()).issuer == ISSUER


NOT_COMPACT = "token: it is not three base64url segments (JWS compact serialization)"
BAD_SIGNATURE = "token: its signature does not verify with the key of kid 'k1'"
NOT_ALLOWED = "is not one of ES256, RS256"

HOSTILE: dict[str, tuple[Callable[[], str], str]] = {
    "alg none": (lambda: compact(header(alg="none"), claims()), f"token: alg 'none' {NOT_ALLOWED}"),
    "alg None": (lambda: compact(header(alg="None"), claims()), f"token: alg 'None' {NOT_ALLOWED}"),
    "alg none with a signature": (
        lambda: compact(header(alg="none"), claims(), KEY),
        f"token: alg 'none' {NOT_ALLOWED}",
    ),
    "alg missing": (lambda: compact(header(alg=None), claims(), KEY), f"token: alg None {NOT_ALLOWED}"),
    "alg a list": (lambda: compact(header(alg=["ES256"]), claims(), KEY), f"token: alg ['ES256'] {NOT_ALLOWED}"),
    "alg in other case": (lambda: compact(header(alg="es256"), claims(), KEY), f"token: alg 'es256' {NOT_ALLOWED}"),
    "alg not in the rule": (
        lambda: token(RSA_KEY, "r1", alg="PS256"),
        f"token: alg 'PS256' {NOT_ALLOWED}",
    ),
    "HS256 with the public key's PEM": (lambda: hs256(RSA_PEM, kid="r1"), f"token: alg 'HS256' {NOT_ALLOWED}"),
    "HS256 with the public key's DER": (lambda: hs256(RSA_SPKI, kid="r1"), f"token: alg 'HS256' {NOT_ALLOWED}"),
    "signature cut off": (lambda: token(KEY).rpartition(".")[0] + ".", BAD_SIGNATURE),
    "signature of another token": (
        lambda: token(KEY, sub="other").rpartition(".")[0] + "." + token(KEY).rpartition(".")[2],
        BAD_SIGNATURE,
    ),
    "signature of zeros": (lambda: compact(HEADER, claims()) + b64(bytes(64)), BAD_SIGNATURE),
    "signature in DER": (
        lambda: compact(HEADER, claims()) + b64(der_signature(compact(HEADER, claims())[:-1])),
        BAD_SIGNATURE,
    ),
    "stranger's key under our kid": (lambda: token(STRANGER), BAD_SIGNATURE),
    "stranger's key in jwk": (
        lambda: compact(header(jwk=public_jwk(STRANGER)), claims(), STRANGER),
        BAD_SIGNATURE,
    ),
    "stranger's key behind jku and x5u": (
        lambda: compact(header(jku="https://evil.example/", x5u="https://evil.example/"), claims(), STRANGER),
        BAD_SIGNATURE,
    ),
    "stranger's key in jwk, no kid": (
        lambda: compact(header(kid=None, jwk=public_jwk(STRANGER)), claims(), STRANGER),
        BAD_SIGNATURE,
    ),
    "wrong curve": (
        lambda: compact(HEADER, claims(), ec.generate_private_key(ec.SECP384R1()), alg="ES384"),
        BAD_SIGNATURE,
    ),
    "kid of a key for another algorithm": (
        lambda: compact(header(kid="r1"), claims(), KEY),
        "token: the key of kid 'r1' is not for ES256",
    ),
    "RS256 with an EC kid": (
        lambda: compact(header(alg="RS256"), claims(), RSA_KEY, alg="RS256"),
        "token: the key of kid 'k1' is not for RS256",
    ),
    "kid as a path": (
        lambda: compact(header(kid="../../../dev/null"), claims(), STRANGER),
        "token: kid '../../../dev/null' is not in the issuer's key set",
    ),
    "kid as a query": (
        lambda: compact(header(kid="' OR 1=1 --"), claims(), STRANGER),
        "token: kid \"' OR 1=1 --\" is not in the issuer's key set",
    ),
    "kid with line breaks": (
        lambda: compact(header(kid="a\nlevel=info\x1b[2J"), claims(), STRANGER),
        "token: kid 'a\\nlevel=info\\x1b[2J' is not in the issuer's key set",
    ),
    "kid of a thousand letters": (
        lambda: compact(header(kid="k" * 1000), claims(), STRANGER),
        "token: kid '" + "k" * 76 + "... is not in the issuer's key set",
    ),
    "kid a lone surrogate": (
        lambda: compact(header(kid="\ud800"), claims(), STRANGER),
        "token: kid '\\ud800' is not in the issuer's key set",
    ),
    "kid a number": (lambda: compact(header(kid=1), claims(), KEY), "token: kid is not a string"),
    "kid an object": (lambda: compact(header(kid={"a": 1}), claims(), KEY), "token: kid is not a string"),
    "crit": (
        lambda: compact(header(crit=["exp"]), claims(), KEY),
        "token: its header has 'crit': no critical extension is understood",
    ),
    "crit, empty": (
        lambda: compact(header(crit=[]), claims(), KEY),
        "token: its header has 'crit': no critical extension is understood",
    ),
    "crit with b64": (
        lambda: compact(header(crit=["b64"], b64=False), b"", KEY),
        NOT_COMPACT,
    ),
    "b64 false": (
        lambda: compact(header(b64=False), claims(), KEY),
        "token: its header has 'b64': unencoded payloads are not understood",
    ),
    "typ of a proof": (
        lambda: compact(header(typ="dpop+jwt"), claims(), KEY),
        "token: typ 'dpop+jwt' is not that of an access token",
    ),
    "typ of a WIT-SVID": (
        lambda: compact(header(typ="wit+jwt"), claims(), KEY),
        "token: typ 'wit+jwt' is not that of an access token",
    ),
    "typ a number": (lambda: compact(header(typ=1), claims(), KEY), "token: typ 1 is not that of an access token"),
    "nested token": (
        lambda: compact(header(cty="JWT"), token(KEY).encode(), KEY),
        "token: its payload is not JSON",
    ),
    "payload a string": (
        lambda: compact(HEADER, "claims", KEY),
        "token: its payload is JSON, but not an object",
    ),
    "payload a list": (lambda: compact(HEADER, [claims()], KEY), "token: its payload is JSON, but not an object"),
    "payload with a member twice": (
        lambda: compact(HEADER, json.dumps(claims())[:-1].encode() + b', "sub": "root"}', KEY),
        "token: its payload is JSON that names a member twice",
    ),
    "payload not UTF-8": (lambda: compact(HEADER, b'{"iss": "\xff"}', KEY), "token: its payload is not UTF-8"),
    "header with a member twice": (
        lambda: compact(b'{"alg": "none", "alg": "ES256", "kid": "k1"}', claims(), KEY),
        "token: its header is JSON that names a member twice",
    ),
    "header not JSON": (lambda: compact(b"header", claims(), KEY), "token: its header is not JSON"),
    "header a list": (lambda: compact([HEADER], claims(), KEY), "token: its header is JSON, but not an object"),
    "header nested deeply": (
        lambda: compact(b'{"a":' + b"[" * 9000, claims(), KEY),
        "token: its header is JSON that is nested too deeply",
    ),
    "header of one letter": (lambda: "a.e30.AA", "token: its header is not base64url"),
    "empty": (lambda: "", NOT_COMPACT),
    "dots": (lambda: "..", NOT_COMPACT),
    "two segments": (lambda: token(KEY).rpartition(".")[0], NOT_COMPACT),
    "five segments (JWE)": (lambda: "e30.e30.e30.e30.e30", NOT_COMPACT),
    "padded base64": (lambda: token(KEY).replace(".", "=.", 1), NOT_COMPACT),
    "line break at the end": (lambda: token(KEY) + "\n", NOT_COMPACT),
    "blank inside": (lambda: token(KEY).replace(".", " .", 1), NOT_COMPACT),
    "not ASCII": (lambda: token(KEY).replace(".", "é.", 1), NOT_COMPACT),
    "JSON serialization": (lambda: '{"payload": "e30", "signatures": []}', NOT_COMPACT),
    "huge": (lambda: "a" * (MAX_TOKEN_BYTES + 1), "token: it is 16385 characters long: at most 16384 are read"),
    "expired": (lambda: token(KEY, exp=EPOCH - 30), "token: it expired at 2026-06-01T11:59:30Z (leeway 30 s)"),
    "no exp": (lambda: token(KEY, exp=None), "token: exp is missing"),
    "exp null": (
        lambda: compact(HEADER, claims() | {"exp": None}, KEY),
        "token: exp is not a number",
    ),
    "exp a string": (lambda: token(KEY, exp=str(EPOCH + 600)), "token: exp is not a number"),
    "exp true": (lambda: token(KEY, exp=True), "token: exp is not a number"),
    "exp in the far future": (lambda: token(KEY, exp=10**30), "token: exp is out of range"),
    "exp infinite": (
        lambda: compact(HEADER, json.dumps(claims()).replace(str(EPOCH + 600), "1e999").encode(), KEY),
        "token: exp is out of range",
    ),
    "exp not a number": (
        lambda: compact(HEADER, json.dumps(claims()).replace(str(EPOCH + 600), "NaN").encode(), KEY),
        "token: its payload is JSON with NaN or Infinity",
    ),
    "exp negative": (lambda: token(KEY, exp=-1), "token: exp is out of range"),
    "nbf in the future": (
        lambda: token(KEY, nbf=EPOCH + 31),
        "token: it is not valid before 2026-06-01T12:00:31Z (leeway 30 s)",
    ),
    "nbf a string": (lambda: token(KEY, nbf="0"), "token: nbf is not a number"),
    "iat in the future": (
        lambda: token(KEY, iat=EPOCH + 31),
        "token: it was issued in the future, at 2026-06-01T12:00:31Z (leeway 30 s)",
    ),
    "iat a list": (lambda: token(KEY, iat=[EPOCH]), "token: iat is not a number"),
    "aud wrong": (lambda: token(KEY, aud="istio-ca"), "token: aud 'istio-ca' has none of meshca, second"),
    "aud a prefix of ours": (lambda: token(KEY, aud="mesh"), "token: aud 'mesh' has none of meshca, second"),
    "aud ours in other case": (lambda: token(KEY, aud="Meshca"), "token: aud 'Meshca' has none of meshca, second"),
    "aud list without us": (lambda: token(KEY, aud=["a", "b"]), "token: aud ['a', 'b'] has none of meshca, second"),
    "aud empty list": (lambda: token(KEY, aud=[]), "token: aud [] has none of meshca, second"),
    "aud missing": (
        lambda: token(KEY, aud=None),
        "token: aud is missing or neither a string nor a list of strings",
    ),
    "aud a number": (lambda: token(KEY, aud=1), "token: aud is missing or neither a string nor a list of strings"),
    "aud an object": (
        lambda: token(KEY, aud={AUDIENCE: 1}),
        "token: aud is missing or neither a string nor a list of strings",
    ),
    "aud list with a number": (
        lambda: token(KEY, aud=[AUDIENCE, 1]),
        "token: aud is missing or neither a string nor a list of strings",
    ),
    "iss wrong": (
        lambda: token(KEY, iss="https://evil.example"),
        "token: iss 'https://evil.example' is not 'https://issuer.example'",
    ),
    "iss with a slash more": (
        lambda: token(KEY, iss=ISSUER + "/"),
        "token: iss 'https://issuer.example/' is not 'https://issuer.example'",
    ),
    "iss missing": (lambda: token(KEY, iss=None), "token: iss is missing or not a string"),
    "iss a list": (lambda: token(KEY, iss=[ISSUER]), "token: iss is missing or not a string"),
    "sub a number": (lambda: token(KEY, sub=1), "token: sub is not a string"),
    "sub null": (lambda: compact(HEADER, claims() | {"sub": None}, KEY), "token: sub is not a string"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_refuses(case: str) -> None:
    make, reason = HOSTILE[case]
    assert refusal(make()) == reason


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_every_algorithm_that_a_rule_may_allow_is_verified(alg: str) -> None:
    keys: dict[str, PrivateKey] = {
        "ES256": KEY,
        "ES384": ec.generate_private_key(ec.SECP384R1()),
        "ES512": ec.generate_private_key(ec.SECP521R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    key = keys.get(alg, RSA_KEY)
    jwks = document(public_jwk(key, kid="k1"))
    rule = replace(RULE, algorithms=(alg,))
    assert verify(token(key, alg=alg), jwks=jwks, rule=rule).issuer == ISSUER
    broken = token(key, alg=alg, sub="x").rpartition(".")[0] + "." + token(key, alg=alg).rpartition(".")[2]
    assert refusal(broken, jwks=jwks, rule=rule) == BAD_SIGNATURE


def test_an_unknown_kid_and_a_missing_key_can_be_told_from_other_refusals() -> None:
    only_rsa = document(public_jwk(RSA_KEY, kid="r1"))
    for text, jwks in ((token(KEY, "new"), JWKS), (token(KEY, None), only_rsa)):
        with pytest.raises(UnknownKeyError):
            verify(text, jwks=jwks)
    with pytest.raises(MeshcaError) as caught:
        verify(token(STRANGER))
    assert not isinstance(caught.value, UnknownKeyError)


def test_without_kid_a_token_is_refused_where_two_keys_fit() -> None:
    jwks = document(public_jwk(KEY, kid="k1"), public_jwk(STRANGER, kid="k2"))
    assert refusal(token(KEY, None), jwks=jwks) == "token: it has no kid, and 2 keys of the issuer are for ES256"


def test_a_kid_that_names_two_keys_is_refused_unless_the_algorithm_decides() -> None:
    both = document(public_jwk(KEY, kid="k1"), public_jwk(STRANGER, kid="k1"))
    assert refusal(token(KEY), jwks=both) == "token: kid 'k1' is ambiguous, and 2 keys of the issuer are for ES256"
    mixed = document(public_jwk(KEY, kid="k1"), public_jwk(RSA_KEY, kid="k1"))
    assert verify(token(KEY), jwks=mixed).issuer == ISSUER


def test_the_same_key_under_two_declarations_is_not_ambiguous() -> None:
    jwks = document(public_jwk(KEY, kid="k1"), public_jwk(KEY, kid="k1", alg="ES256"))
    assert verify(token(KEY), jwks=jwks).issuer == ISSUER


def test_a_key_is_not_used_for_an_algorithm_that_the_set_does_not_declare_for_it() -> None:
    jwks = document(public_jwk(RSA_KEY, kid="k1", alg="PS256"))
    text = token(RSA_KEY, alg="RS256")
    assert refusal(text, jwks=jwks) == "token: the key of kid 'k1' is not for RS256"


def test_a_bounded_lifetime_needs_iat_and_is_counted_from_it() -> None:
    rule = replace(RULE, max_lifetime=timedelta(hours=1))
    assert verify(token(KEY, iat=EPOCH, exp=EPOCH + 3600), rule=rule).issuer == ISSUER
    assert (
        refusal(token(KEY, iat=EPOCH, exp=EPOCH + 3601), rule=rule) == "token: its lifetime is 3601 s: at most 3600 s"
    )
    missing = refusal(token(KEY, iat=None), rule=rule)
    assert missing == "token: iat is missing, without which its lifetime cannot be bounded"


def test_the_verdict_does_not_depend_on_the_zone_that_now_is_told_in() -> None:
    tokyo = NOW.astimezone(timezone(timedelta(hours=9)))
    assert verify(token(KEY, exp=EPOCH - 29), now=tokyo).expires_at.tzinfo is UTC
    assert "expired" in refusal(token(KEY, exp=EPOCH - 30), now=tokyo)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"issuer": ""}, "issuer is empty"),
        ({"audiences": ()}, "give at least one audience"),
        ({"audiences": ("a", "")}, "no empty one"),
        ({"algorithms": ()}, "algorithms must be some of"),
        ({"algorithms": ("ES256", "none")}, "algorithms must be some of"),
        ({"algorithms": ("HS256",)}, "algorithms must be some of"),
        ({"leeway": timedelta(seconds=-1)}, "leeway is"),
        ({"leeway": timedelta(minutes=6)}, "leeway is"),
        ({"max_lifetime": timedelta(0)}, "max_lifetime must be positive"),
    ],
)
def test_a_rule_that_would_believe_too_much_is_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(MeshcaError, match=problem) as caught:
        replace(RULE, **changes)  # type: ignore[arg-type]  # the table has values of many types
    assert caught.value.kind is ErrorKind.INVALID


def test_the_unverified_issuer_is_read_from_any_token() -> None:
    assert unverified_issuer(token(STRANGER, iss="https://anyone.example")) == "https://anyone.example"
    for text, reason in (("x", NOT_COMPACT), ("e30.e30.", "token: iss is missing or not a string")):
        with pytest.raises(MeshcaError) as caught:
            unverified_issuer(text)
        assert caught.value.message == reason


GOOD = token(KEY)


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="ascii"))
def test_no_change_of_one_character_is_believed(position: int, character: str) -> None:
    changed = GOOD[:position] + character + GOOD[position + 1 :]
    if changed != GOOD:
        refusal(changed)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10)
members = st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "x"])
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(members, inner), max_leaves=5
)


@given(st.dictionaries(members, anything))
def test_no_signed_claims_raise_anything_but_a_refusal(changes: dict[str, object]) -> None:
    with contextlib.suppress(MeshcaError):
        verify(compact(HEADER, claims() | changes, KEY))


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]), anything))
def test_no_header_raises_anything_but_a_refusal(changes: dict[str, object]) -> None:
    with contextlib.suppress(MeshcaError):
        verify(compact(HEADER | changes, claims(), KEY))


@given(st.text(alphabet="aAeyJ0.-_=", max_size=60) | st.text(max_size=60))
def test_no_text_raises_anything_but_a_refusal(text: str) -> None:
    refusal(text)
