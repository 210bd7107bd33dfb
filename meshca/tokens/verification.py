"""Verification of signed JWTs (RFC 7519, RFC 7515; the advice of RFC 8725).

PyJWT checks the signature; what is claimed is judged here against a time that the caller tells. No message holds a
token or a part of its signature.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from jwt.api_jws import PyJWS
from jwt.exceptions import PyJWTError

from meshca.errors import ErrorKind, MeshcaError, invalid, unauthenticated
from meshca.tokens.json_objects import parse_json_object
from meshca.tokens.jwks import ALGORITHMS, JwksDocument, JwksKey

MAX_TOKEN_BYTES = 16 * 1024
MAX_LEEWAY = timedelta(minutes=5)

# JWS Compact Serialization; an empty signature passes here, so that `alg: none` is refused by its name
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]*", re.ASCII)
# RFC 8725 section 3.11: other types (a proof, a logout token, a WIT-SVID) are no access tokens, whoever signed them
_TYPES = frozenset({"jwt", "jose", "at+jwt"})
_MAX_DATE = 253_402_300_799  # the last second of the year 9999
_JWS = PyJWS(algorithms=list(ALGORITHMS))


class UnknownKeyError(MeshcaError):
    """UNAUTHENTICATED because the key set lacks the key that the token names; a newer set may have it."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorKind.UNAUTHENTICATED, message)


@dataclass(frozen=True, slots=True)
class TokenRule:
    """What a token must be to be believed.

    `leeway` is how far the issuer's clock may differ from ours. With `max_lifetime`, `iat` is required and `exp - iat`
    is bounded. Raises INVALID for an empty issuer, no audience, no or unsafe algorithms, or a leeway out of bounds.
    """

    issuer: str
    audiences: tuple[str, ...]
    algorithms: tuple[str, ...]
    leeway: timedelta = timedelta(seconds=30)
    max_lifetime: timedelta | None = None

    def __post_init__(self) -> None:
        if not self.issuer:
            raise invalid("token rule: issuer is empty")
        if not self.audiences or "" in self.audiences:
            raise invalid(f"token rule of {self.issuer}: give at least one audience, and no empty one")
        if not self.algorithms or not ALGORITHMS.keys() >= set(self.algorithms):
            raise invalid(f"token rule of {self.issuer}: algorithms must be some of {_listed(ALGORITHMS)}")
        if not timedelta(0) <= self.leeway <= MAX_LEEWAY:
            raise invalid(f"token rule of {self.issuer}: leeway is {self.leeway}: it must lie in 0 to {MAX_LEEWAY}")
        if self.max_lifetime is not None and self.max_lifetime <= timedelta(0):
            raise invalid(f"token rule of {self.issuer}: max_lifetime must be positive")


@dataclass(frozen=True, slots=True)
class VerifiedClaims:
    """What a verified token claims. `subject` is `sub`, where the token has one; `claims` is everything."""

    issuer: str
    subject: str | None
    audiences: tuple[str, ...]
    expires_at: datetime
    claims: Mapping[str, object] = field(repr=False)


def verify_token(token: str, jwks: JwksDocument, rule: TokenRule, *, now: datetime) -> VerifiedClaims:
    """The claims of `token`, if it satisfies `rule` at `now` and a key of `jwks` signed it.

    Raises UNAUTHENTICATED with the precise reason; as `UnknownKeyError` where another key set might decide otherwise.
    """
    header_segment, payload_segment = _split(token)
    header = _parse_segment(header_segment, "header")
    algorithm = _check_algorithm(header, rule)
    _check_header(header)
    key = _select_key(header, algorithm, jwks)
    _verify_signature(token, key, algorithm)
    claims = _parse_segment(payload_segment, "payload")
    _check_issuer(claims, rule)
    audiences = _check_audience(claims, rule)
    expires_at = _check_times(claims, rule, now)
    return VerifiedClaims(rule.issuer, _subject(claims), audiences, expires_at, MappingProxyType(claims))


def unverified_issuer(token: str) -> str:
    """What `token` says its issuer is, to choose the rule to verify it by; believe nothing of it.

    Raises UNAUTHENTICATED where it is no JWT in compact form or has no `iss` string.
    """
    _, payload_segment = _split(token)
    return _issuer(_parse_segment(payload_segment, "payload"))


def shown(value: object) -> str:
    """A value that a peer chose, quoted and cut for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _split(token: str) -> tuple[str, str]:
    if len(token) > MAX_TOKEN_BYTES:
        raise unauthenticated(f"token: it is {len(token)} characters long: at most {MAX_TOKEN_BYTES} are read")
    match = _COMPACT.fullmatch(token)
    if match is None:
        raise unauthenticated("token: it is not three base64url segments (JWS compact serialization)")
    return match[1], match[2]


def _parse_segment(segment: str, name: str) -> dict[str, object]:
    try:
        data = base64.b64decode(segment + "=" * (-len(segment) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise unauthenticated(f"token: its {name} is not base64url") from error
    try:
        return parse_json_object(data)
    except ValueError as error:
        raise unauthenticated(f"token: its {name} is {error}") from error


def _check_algorithm(header: Mapping[str, object], rule: TokenRule) -> str:
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in rule.algorithms:
        raise unauthenticated(f"token: alg {shown(algorithm)} is not one of {_listed(rule.algorithms)}")
    return algorithm


def _check_header(header: Mapping[str, object]) -> None:
    """Keys that a header brings or points to (jwk, jku, x5c, x5u) are never looked at."""
    if "crit" in header:
        raise unauthenticated("token: its header has 'crit': no critical extension is understood")
    if header.get("b64", True) is not True:
        raise unauthenticated("token: its header has 'b64': unencoded payloads are not understood")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        raise unauthenticated(f"token: typ {shown(kind)} is not that of an access token")


def _select_key(header: Mapping[str, object], algorithm: str, jwks: JwksDocument) -> JwksKey:
    """The one key that the token may be signed with: by its `kid`, else by being the only one that fits."""
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise unauthenticated("token: kid is not a string")
    named = [key for key in jwks.keys if kid is None or key.kid == kid]
    if not named:
        raise UnknownKeyError(f"token: kid {shown(kid)} is not in the issuer's key set")
    fitting = {key.spki: key for key in named if key.fits(algorithm)}
    if not fitting and kid is None:
        raise UnknownKeyError(f"token: it has no kid, and no key of the issuer is for {algorithm}")
    if not fitting:
        raise unauthenticated(f"token: the key of kid {shown(kid)} is not for {algorithm}")
    if len(fitting) > 1:
        which = "it has no kid" if kid is None else f"kid {shown(kid)} is ambiguous"
        raise unauthenticated(f"token: {which}, and {len(fitting)} keys of the issuer are for {algorithm}")
    return next(iter(fitting.values()))


def _verify_signature(token: str, key: JwksKey, algorithm: str) -> None:
    try:
        _JWS.decode_complete(token, key.public_key, algorithms=[algorithm])
    except PyJWTError as error:
        raise unauthenticated(f"token: its signature does not verify with the key of kid {shown(key.kid)}") from error


def _issuer(claims: Mapping[str, object]) -> str:
    issuer = claims.get("iss")
    if not isinstance(issuer, str):
        raise unauthenticated("token: iss is missing or not a string")
    return issuer


def _check_issuer(claims: Mapping[str, object], rule: TokenRule) -> None:
    issuer = _issuer(claims)
    if issuer != rule.issuer:
        raise unauthenticated(f"token: iss {shown(issuer)} is not {rule.issuer!r}")


def _check_audience(claims: Mapping[str, object], rule: TokenRule) -> tuple[str, ...]:
    """RFC 7519 section 4.1.3: a string or a list of strings, and we are in it."""
    value = claims.get("aud")
    audiences = [value] if isinstance(value, str) else value
    if not isinstance(audiences, list) or not all(isinstance(audience, str) for audience in audiences):
        raise unauthenticated("token: aud is missing or neither a string nor a list of strings")
    if set(rule.audiences).isdisjoint(audiences):
        raise unauthenticated(f"token: aud {shown(value)} has none of {_listed(rule.audiences)}")
    return tuple(audiences)


def _check_times(claims: Mapping[str, object], rule: TokenRule, now: datetime) -> datetime:
    """RFC 7519 sections 4.1.4 to 4.1.6; when the token expires."""
    present, leeway = now.timestamp(), rule.leeway.total_seconds()
    expires, not_before, issued = (_numeric_date(claims, name) for name in ("exp", "nbf", "iat"))
    if expires is None:
        raise unauthenticated("token: exp is missing")
    if present >= expires + leeway:
        raise unauthenticated(f"token: it expired at {_utc(expires)} (leeway {leeway:g} s)")
    if not_before is not None and present < not_before - leeway:
        raise unauthenticated(f"token: it is not valid before {_utc(not_before)} (leeway {leeway:g} s)")
    if issued is not None and present < issued - leeway:
        raise unauthenticated(f"token: it was issued in the future, at {_utc(issued)} (leeway {leeway:g} s)")
    if rule.max_lifetime is not None:
        _check_lifetime(expires, issued, rule.max_lifetime)
    return datetime.fromtimestamp(expires, UTC)


def _check_lifetime(expires: float, issued: float | None, bound: timedelta) -> None:
    if issued is None:
        raise unauthenticated("token: iat is missing, without which its lifetime cannot be bounded")
    if expires - issued > bound.total_seconds():
        raise unauthenticated(f"token: its lifetime is {expires - issued:g} s: at most {bound.total_seconds():g} s")


def _numeric_date(claims: Mapping[str, object], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise unauthenticated(f"token: {name} is not a number")
    if not 0 <= value <= _MAX_DATE:
        raise unauthenticated(f"token: {name} is out of range")
    return value


def _subject(claims: Mapping[str, object]) -> str | None:
    subject = claims.get("sub")
    if "sub" in claims and not isinstance(subject, str):
        raise unauthenticated("token: sub is not a string")
    return subject if isinstance(subject, str) else None


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
