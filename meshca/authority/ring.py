"""Authorities and the ring that holds them: values and the one table of legal transitions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from functools import reduce

from meshca.errors import conflict, internal, unreachable
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import TrustDomain


class AuthorityKind(Enum):
    """What an authority signs. Roots are in the trust bundle; issuers travel in the chain; JWT keys sign tokens."""

    ROOT = "root"
    ISSUER = "issuer"
    JWT = "jwt"


class AuthorityState(Enum):
    """Where an authority is in its life."""

    PREPARED = "prepared"  # exists and is published; signs nothing yet
    ACTIVE = "active"  # signs
    OLD = "old"  # signs no more; what it signed is still good
    TAINTED = "tainted"  # signs no more; what it signed must be replaced
    REVOKED = "revoked"  # distrusted; kept for the record until pruned


@dataclass(frozen=True, slots=True)
class Authority:
    """One signing key with its certificate.

    `id` is the lower-case hex of the subject key identifier; `certificate` is DER; `chain` holds the DER certificates
    between it and its root, without the root; `issuer_id` is the authority that signed it (its own id for a root);
    `key_id` is the key manager's name for its private key; `bundle_sequence` is the bundle in which it first appeared
    (roots; 0 otherwise); `last_leaf_not_after` bounds the life of whatever it signed, once it signs no more.
    """

    id: str
    kind: AuthorityKind
    state: AuthorityState
    certificate: bytes
    chain: tuple[bytes, ...]
    issuer_id: str
    key_id: str
    not_before: datetime
    not_after: datetime
    bundle_sequence: int = 0
    last_leaf_not_after: datetime | None = None


class Step(Enum):
    """What can happen to an authority that exists."""

    ACTIVATE = "activate"
    RETIRE = "retire"  # another one was activated in its place
    TAINT = "taint"
    REVOKE = "revoke"
    PRUNE = "prune"


# The one transition table. What is not here is illegal; None means that the authority leaves the ring.
TRANSITIONS: dict[tuple[AuthorityState, Step], AuthorityState | None] = {
    (AuthorityState.PREPARED, Step.ACTIVATE): AuthorityState.ACTIVE,
    (AuthorityState.OLD, Step.ACTIVATE): AuthorityState.ACTIVE,  # going back to the previous one
    (AuthorityState.ACTIVE, Step.RETIRE): AuthorityState.OLD,
    (AuthorityState.OLD, Step.TAINT): AuthorityState.TAINTED,
    (AuthorityState.TAINTED, Step.REVOKE): AuthorityState.REVOKED,
    (AuthorityState.PREPARED, Step.PRUNE): None,
    (AuthorityState.OLD, Step.PRUNE): None,
    (AuthorityState.TAINTED, Step.PRUNE): None,
    (AuthorityState.REVOKED, Step.PRUNE): None,
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A new authority exists: its key is made and its certificate signed."""

    authority: Authority


@dataclass(frozen=True, slots=True)
class Advanced:
    """A step was taken on an authority.

    `last_leaf_not_after` bounds what was signed by the one that stops signing: RETIRE's, or the active one that
    ACTIVATE replaces.
    """

    authority_id: str
    step: Step
    last_leaf_not_after: datetime | None = None


RingEvent = Prepared | Advanced


@dataclass(frozen=True, slots=True)
class AuthorityRing:
    """All authorities of a trust domain and the sequence number of its trust bundle.

    At most one authority of a kind is ACTIVE. `apply` is the only way to a next ring.
    """

    trust_domain: TrustDomain
    sequence: int = 0
    authorities: tuple[Authority, ...] = ()

    def __post_init__(self) -> None:
        for kind in AuthorityKind:
            active = [a.id for a in self.authorities if a.kind is kind and a.state is AuthorityState.ACTIVE]
            if len(active) > 1:
                raise internal(f"two active {kind.value} authorities in one ring: {', '.join(active)}")
        if len({a.id for a in self.authorities}) != len(self.authorities):
            raise internal("the same authority stands twice in one ring")

    def find(self, authority_id: str) -> Authority | None:
        """The authority of that id, or None."""
        return next((a for a in self.authorities if a.id == authority_id), None)

    def of(self, kind: AuthorityKind, *states: AuthorityState) -> tuple[Authority, ...]:
        """The authorities of a kind, in ring order; only those in `states`, if any are named."""
        return tuple(a for a in self.authorities if a.kind is kind and (not states or a.state in states))

    def active(self, kind: AuthorityKind) -> Authority | None:
        """The one that signs, or None."""
        return next(iter(self.of(kind, AuthorityState.ACTIVE)), None)

    def bundle(self) -> TrustBundle:
        """The trust bundle: every root that is not revoked. Raises INVALID rather than give an empty one."""
        roots = (a.certificate for a in self.of(AuthorityKind.ROOT) if a.state is not AuthorityState.REVOKED)
        return TrustBundle(self.trust_domain, tuple(roots), self.sequence)


def apply(ring: AuthorityRing, event: RingEvent) -> AuthorityRing:
    """The ring after `event`. Raises CONFLICT for a transition that the table does not hold."""
    match event:
        case Prepared(authority):
            return _add(ring, authority)
        case Advanced(authority_id, Step.ACTIVATE, last_leaf):
            return _activate(ring, authority_id, last_leaf)
        case Advanced(authority_id, step, last_leaf):
            return _advance(ring, authority_id, step, last_leaf)
        case _:
            unreachable(event)


def apply_all(ring: AuthorityRing, *events: RingEvent) -> AuthorityRing:
    """The ring after `events`, in order."""
    return reduce(apply, events, ring)


def _add(ring: AuthorityRing, authority: Authority) -> AuthorityRing:
    if authority.state is not AuthorityState.PREPARED:
        raise conflict(f"a new authority starts as prepared, not as {authority.state.value}")
    if ring.find(authority.id) is not None:
        raise conflict(f"authority {authority.id} is in the ring already")
    sequence = ring.sequence + 1 if authority.kind is AuthorityKind.ROOT else ring.sequence
    published = sequence if authority.kind is AuthorityKind.ROOT else 0
    added = replace(authority, bundle_sequence=published)
    return replace(ring, sequence=sequence, authorities=(*ring.authorities, added))


def _activate(ring: AuthorityRing, authority_id: str, last_leaf: datetime | None) -> AuthorityRing:
    authority = _get(ring, authority_id)
    current = ring.active(authority.kind)
    if current is not None and current.id != authority_id:
        ring = _advance(ring, current.id, Step.RETIRE, last_leaf)
    return _advance(ring, authority_id, Step.ACTIVATE, None)


def _advance(ring: AuthorityRing, authority_id: str, step: Step, last_leaf: datetime | None) -> AuthorityRing:
    authority = _get(ring, authority_id)
    if (authority.state, step) not in TRANSITIONS:
        raise conflict(f"cannot {step.value} authority {authority_id}: it is {authority.state.value}")
    state = TRANSITIONS[authority.state, step]
    was_trusted = _in_bundle(authority)
    if state is None:
        rest = tuple(a for a in ring.authorities if a.id != authority_id)
        return replace(ring, sequence=ring.sequence + was_trusted, authorities=rest)
    signed_until = last_leaf if step in (Step.ACTIVATE, Step.RETIRE) else authority.last_leaf_not_after
    changed = replace(authority, state=state, last_leaf_not_after=signed_until)
    return replace(
        ring,
        sequence=ring.sequence + (was_trusted and not _in_bundle(changed)),
        authorities=tuple(changed if a.id == authority_id else a for a in ring.authorities),
    )


def _in_bundle(authority: Authority) -> bool:
    return authority.kind is AuthorityKind.ROOT and authority.state is not AuthorityState.REVOKED


def _get(ring: AuthorityRing, authority_id: str) -> Authority:
    authority = ring.find(authority_id)
    if authority is None:
        raise conflict(f"there is no authority {authority_id} in the ring")
    return authority
