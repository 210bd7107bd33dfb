"""From a verified token's claims to a SPIFFE id. Claims fill whole path segments; they never make or break one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from meshca.errors import MeshcaError, invalid, unauthenticated
from meshca.spiffe.ids import SpiffeId, TrustDomain
from meshca.tokens.verification import VerifiedClaims, shown

KUBERNETES = "kubernetes"
MAX_SEGMENT_LENGTH = 253  # a DNS subdomain's; longer names are nobody's service

_SEGMENT = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\}", re.ASCII)
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


class IdentityMapping(Protocol):
    """How claims become an identity."""

    def spiffe_id(self, claims: VerifiedClaims, trust_domain: TrustDomain) -> SpiffeId:
        """The id. Raises UNAUTHENTICATED where the claims do not give one."""
        ...


class KubernetesIdentity:
    """`sub` `system:serviceaccount:<ns>:<sa>` becomes `/ns/<ns>/sa/<sa>`.

    A namespace is a DNS label and a service account's name a DNS subdomain, as Kubernetes itself demands.
    """

    def spiffe_id(self, claims: VerifiedClaims, trust_domain: TrustDomain) -> SpiffeId:
        """The id. Raises UNAUTHENTICATED where `sub` is not of exactly that form."""
        if claims.subject is None:
            raise unauthenticated("token: sub is missing")
        parts = claims.subject.split(":")
        if len(parts) != 4 or parts[:2] != ["system", "serviceaccount"]:
            raise unauthenticated(f"token: sub {shown(claims.subject)} is not system:serviceaccount:<ns>:<sa>")
        _, _, namespace, account = parts
        if not _DNS_LABEL.fullmatch(namespace):
            raise unauthenticated(f"token: sub has namespace {shown(namespace)}, which is no DNS label")
        if not _is_dns_subdomain(account):
            raise unauthenticated(f"token: sub has service account {shown(account)}, which is no DNS subdomain")
        return SpiffeId(trust_domain, f"/ns/{namespace}/sa/{account}")


@dataclass(frozen=True, slots=True)
class _Literal:
    text: str


@dataclass(frozen=True, slots=True)
class _Claim:
    """The names to walk from the claims to a value."""

    names: tuple[str, ...]


class PathTemplate:
    """A path whose segments are literals or single claims, such as `/repo/{repository}/env/{deployment.name}`.

    A claim takes a whole segment, so that different claims can never give the same path. Raises INVALID for a template
    that is no such path or has no claim (every token of the issuer would get the same identity).
    """

    def __init__(self, text: str) -> None:
        self._segments = _parse_template(text)
        if not any(isinstance(segment, _Claim) for segment in self._segments):
            raise invalid(f"identity template {text!r} has no {{claim}}: all tokens would get the same identity")

    def spiffe_id(self, claims: VerifiedClaims, trust_domain: TrustDomain) -> SpiffeId:
        """The id. Raises UNAUTHENTICATED where a claim is missing, no string, or not a SPIFFE id segment."""
        segments = [_fill(segment, claims) for segment in self._segments]
        try:
            return SpiffeId(trust_domain, "/" + "/".join(segments))
        except MeshcaError as error:
            raise unauthenticated(f"token: its claims make no SPIFFE id: {error.message}") from error


def identity_mapping(text: str) -> IdentityMapping:
    """`kubernetes`, or a path template. Raises INVALID for anything else."""
    return KubernetesIdentity() if text == KUBERNETES else PathTemplate(text)


def _parse_template(text: str) -> list[_Literal | _Claim]:
    if not text.startswith("/"):
        raise invalid(f"identity template {text!r} is neither {KUBERNETES!r} nor a path that starts with '/'")
    return [_parse_template_segment(text, segment) for segment in text[1:].split("/")]


def _parse_template_segment(text: str, segment: str) -> _Literal | _Claim:
    placeholder = _PLACEHOLDER.fullmatch(segment)
    if placeholder is not None:
        return _Claim(tuple(placeholder[1].split(".")))
    if not _is_segment(segment):
        raise invalid(
            f"identity template {text!r}: segment {segment!r} is neither a SPIFFE id segment (a-z, A-Z, 0-9, '.', '_',"
            " '-') nor a single {claim} or {claim.member}"
        )
    return _Literal(segment)


def _fill(segment: _Literal | _Claim, claims: VerifiedClaims) -> str:
    if isinstance(segment, _Literal):
        return segment.text
    name = ".".join(segment.names)
    value: object = claims.claims
    for step in segment.names:
        if not isinstance(value, Mapping) or step not in value:
            raise unauthenticated(f"token: claim {name} is missing")
        value = value[step]
    if not isinstance(value, str):
        raise unauthenticated(f"token: claim {name} is not a string")
    if len(value) > MAX_SEGMENT_LENGTH:
        raise unauthenticated(f"token: claim {name} is {len(value)} long: at most {MAX_SEGMENT_LENGTH} are allowed")
    if not _is_segment(value):
        raise unauthenticated(f"token: claim {name} has {shown(value)}, which is no SPIFFE id segment")
    return value


def _is_segment(text: str) -> bool:
    return _SEGMENT.fullmatch(text) is not None and text not in (".", "..")


def _is_dns_subdomain(text: str) -> bool:
    return len(text) <= MAX_SEGMENT_LENGTH and all(_DNS_LABEL.fullmatch(label) for label in text.split("."))
