"""Authorities and the ring that holds them: values and the one table of legal transitions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from functools import reduce

from meshca.errors import conflict, internal, unreachable
from meshca.spiffe.bundles import RevocationList, TrustBundle
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
class CrossCertificate:
    """A certificate (DER) of a root's name and key that the root `signer_id` has signed, and when it ends."""

    certificate: bytes
    signer_id: str
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Authority:
    """One signing key with its certificate.

    `id` is the lower-case hex of the subject key identifier, or of the certificate's own hash where another authority
    has that id; `certificate` is DER; `chain` holds the DER certificates between it and its root, without the root;
    `issuer_id` is the root that its chain leads to (its own id for a root); `key_id` is the key manager's name for its
    private key, "" for a root whose key is not here; `bundle_sequence` is the bundle in which it first appeared
    (roots; 0 otherwise); `since` is when it came into its state; `distrust_at` is when a tainted root leaves the bundle
    even if somebody depends on it; `cross` lets those find a path to a new root who trust only the one from before.
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
    since: datetime | None = None
    distrust_at: datetime | None = None
    cross: CrossCertificate | None = None


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
    (AuthorityState.PREPARED, Step.TAINT): AuthorityState.TAINTED,
    (AuthorityState.ACTIVE, Step.TAINT): AuthorityState.TAINTED,  # nothing signs until another one is trusted
    (AuthorityState.OLD, Step.TAINT): AuthorityState.TAINTED,
    (AuthorityState.TAINTED, Step.REVOKE): AuthorityState.REVOKED,
    (AuthorityState.PREPARED, Step.PRUNE): None,
    (AuthorityState.OLD, Step.PRUNE): None,
    (AuthorityState.TAINTED, Step.PRUNE): None,
    (AuthorityState.REVOKED, Step.PRUNE): None,
}


@dataclass(frozen=True, slots=True)
class IssuedCrl:
    """The revocation list (`crl`, DER) of one issuing CA.

    `revision` is that of the bans that it was made from; `sequence` the bundle in which its CA first had a list, and
    `since` when that was: both are the ring's to set.
    """

    issuer_id: str
    crl: bytes
    number: int
    this_update: datetime
    next_update: datetime
    revision: int
    sequence: int = 0
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class ListsWithdrawn:
    """Revocation lists are in use no more since then: the first bundle without them is that of `sequence`."""

    sequence: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Prepared:
    """A new authority exists: its key is made and its certificate signed."""

    authority: Authority


@dataclass(frozen=True, slots=True)
class PendingIssuer:
    """An issuing CA that an external root is asked for: its key here, and the PKCS #10 request (DER) made with it."""

    key_id: str
    request: bytes
    since: datetime


@dataclass(frozen=True, slots=True)
class IssuerRequested:
    """An external root is asked for an issuing CA; this takes the place of what it was asked for before."""

    pending: PendingIssuer


@dataclass(frozen=True, slots=True)
class DirectoryTaken:
    """What the watched CA directory holds was taken in; `digest` stands for it."""

    digest: str


@dataclass(frozen=True, slots=True)
class RootsAnnounced:
    """What an upstream authority says its roots are now: `digests` stand for them (see `root_digest`)."""

    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RenewalOrder:
    """Certificates of these issuing CAs are to be replaced early: from `start` on, spread over `seconds`."""

    issuer_ids: tuple[str, ...]
    start: datetime
    seconds: int


@dataclass(frozen=True, slots=True)
class Advanced:
    """A step was taken on an authority at `at`; `distrust_at` goes with TAINT, `renewal` with ACTIVATE."""

    authority_id: str
    step: Step
    at: datetime | None = None
    distrust_at: datetime | None = None
    renewal: RenewalOrder | None = None


@dataclass(frozen=True, slots=True)
class RotationBegun:
    """The trust domain is to have a new root."""

    rotation: RootRotation


@dataclass(frozen=True, slots=True)
class RotationFinished:
    """No other root is left, but for those that an upstream authority still tells of."""


@dataclass(frozen=True, slots=True)
class RotationAborted:
    """Back to the root that was active before; automatic rotation rests until an operator begins one."""

    at: datetime


@dataclass(frozen=True, slots=True)
class CrlsPublished:
    """The bundle has these revocation lists from `at` on: of each issuing CA that is not revoked, or none at all."""

    crls: tuple[IssuedCrl, ...]
    at: datetime


RingEvent = (
    Prepared
    | Advanced
    | RotationBegun
    | RotationFinished
    | RotationAborted
    | CrlsPublished
    | IssuerRequested
    | DirectoryTaken
    | RootsAnnounced
)


@dataclass(frozen=True, slots=True)
class RootRotation:
    """A rotation of the root under way: who wanted it, why, since when.

    `origin` is `operator` or `schedule`; `predecessor` is the root that was active when it began ("" where none was);
    `successor` the root that it brings in ("" until it is made).
    """

    origin: str
    reason: str
    since: datetime
    predecessor: str = ""
    successor: str = ""


@dataclass(frozen=True, slots=True)
class AuthorityRing:
    """All authorities of a trust domain and the sequence number of its trust bundle.

    At most one authority of a kind is ACTIVE. `apply` is the only way to a next ring. `rotation` is the rotation of the
    root under way; `held_since` says that one was aborted, and that the schedule begins no other by itself; `renewal`
    is the latest order to replace certificates. `crls` are the revocation lists in use: where there is any, verifiers
    refuse what an issuing CA without one has signed; `withdrawn` says since when none are, where some were. `pending`
    is the issuing CA that an external root is asked for; `directory` stands for what was last taken from the watched CA
    directory ("" for nothing); `announced` for the roots of an upstream authority, as it last told of them.
    """

    trust_domain: TrustDomain
    sequence: int = 0
    authorities: tuple[Authority, ...] = ()
    rotation: RootRotation | None = None
    held_since: datetime | None = None
    renewal: RenewalOrder | None = None
    crls: tuple[IssuedCrl, ...] = ()
    pending: PendingIssuer | None = None
    directory: str = ""
    announced: tuple[str, ...] = ()
    withdrawn: ListsWithdrawn | None = None

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

    def under(self, root_id: str) -> tuple[Authority, ...]:
        """The authorities that a root has signed, in ring order, without itself."""
        return tuple(a for a in self.authorities if a.issuer_id == root_id and a.id != root_id)

    @property
    def successor(self) -> Authority | None:
        """The root that the rotation under way brings in, if it exists and is of use."""
        found = None if self.rotation is None else self.find(self.rotation.successor)
        return found if found is not None and found.state in (AuthorityState.PREPARED, AuthorityState.ACTIVE) else None

    @property
    def renewing(self) -> RenewalOrder | None:
        """The order to replace certificates, as far as their issuing CAs are still here."""
        ids = tuple(i for i in self.renewal.issuer_ids if self.find(i) is not None) if self.renewal is not None else ()
        return replace(self.renewal, issuer_ids=ids) if self.renewal is not None and ids else None

    def is_announced(self, root: Authority) -> bool:
        """Whether an upstream authority still tells of this root: others may sign under it, though we do not."""
        return bool(self.announced) and root_digest(root.certificate) in self.announced

    @property
    def trusted(self) -> tuple[Authority, ...]:
        """The roots that the bundle holds: all that are not revoked."""
        return tuple(a for a in self.of(AuthorityKind.ROOT) if a.state is not AuthorityState.REVOKED)

    @property
    def leaf_issuers(self) -> tuple[Authority, ...]:
        """The issuing CAs whose leaves are to be accepted: all that are not revoked."""
        return tuple(a for a in self.of(AuthorityKind.ISSUER) if a.state is not AuthorityState.REVOKED)

    def cross_of(self, issuer: Authority) -> CrossCertificate | None:
        """What goes into the chains of an issuing CA for those who do not trust its root yet: that root's cross
        certificate, while neither the root nor the one that signed it is given up."""
        root = self.find(issuer.issuer_id)
        if root is None or root.cross is None or root.state not in _IN_USE:
            return None
        signer = self.find(root.cross.signer_id)
        return root.cross if signer is not None and signer.state in _IN_USE else None

    def crl_of(self, issuer_id: str) -> IssuedCrl | None:
        """The revocation list of that issuing CA, or None."""
        return next((crl for crl in self.crls if crl.issuer_id == issuer_id), None)

    def bundle(self) -> TrustBundle:
        """The trust bundle: every root that is not revoked, and the revocation lists of the issuing CAs under them.

        Raises INVALID rather than give an empty one.
        """
        roots = {root.id: root.certificate for root in self.trusted}
        lists = tuple(
            RevocationList(crl.crl, (issuer.certificate, *issuer.chain))
            for issuer in self.leaf_issuers
            if issuer.issuer_id in roots and (crl := self.crl_of(issuer.id)) is not None
        )
        return TrustBundle(self.trust_domain, tuple(roots.values()), self.sequence, revocation_lists=lists)


_IN_USE = (AuthorityState.ACTIVE, AuthorityState.OLD)


def apply(ring: AuthorityRing, event: RingEvent) -> AuthorityRing:  # noqa: PLR0911  # one line for each event
    """The ring after `event`. Raises CONFLICT for a transition that the table does not hold, or that would leave the
    trust bundle empty."""
    match event:
        case Prepared(authority):
            return _add(ring, authority)
        case Advanced():
            return _ADVANCE.get(event.step, _advance)(ring, event)
        case RotationBegun(rotation):
            return _begin(ring, rotation)
        case RotationFinished():
            return replace(ring, rotation=None)
        case RotationAborted():
            return _abort(ring, event)
        case CrlsPublished():
            return _publish(ring, event)
        case IssuerRequested() | DirectoryTaken() | RootsAnnounced():
            return _note(ring, event)
        case _:
            unreachable(event)


def _note(ring: AuthorityRing, event: IssuerRequested | DirectoryTaken | RootsAnnounced) -> AuthorityRing:
    """What is remembered, and changes no authority."""
    if isinstance(event, IssuerRequested):
        return replace(ring, pending=event.pending)
    if isinstance(event, RootsAnnounced):
        return replace(ring, announced=event.digests)
    return replace(ring, directory=event.digest)


def root_digest(certificate: bytes) -> str:
    """What stands for a root: the hex SHA-256 of its certificate (DER)."""
    return hashlib.sha256(certificate).hexdigest()


def apply_all(ring: AuthorityRing, *events: RingEvent) -> AuthorityRing:
    """The ring after `events`, in order."""
    return reduce(apply, events, ring)


def _add(ring: AuthorityRing, authority: Authority) -> AuthorityRing:
    if authority.state is not AuthorityState.PREPARED:
        raise conflict(f"a new authority starts as prepared, not as {authority.state.value}")
    if ring.find(authority.id) is not None:
        raise conflict(f"authority {authority.id} is in the ring already")
    if ring.pending is not None and authority.key_id == ring.pending.key_id:
        ring = replace(ring, pending=None)
    if authority.kind is not AuthorityKind.ROOT:
        return replace(ring, authorities=(*ring.authorities, replace(authority, bundle_sequence=0)))
    sequence, rotation = ring.sequence + 1, ring.rotation
    if rotation is not None and ring.successor is None:
        rotation = replace(rotation, successor=authority.id)
    added = replace(authority, bundle_sequence=sequence)
    return replace(ring, sequence=sequence, authorities=(*ring.authorities, added), rotation=rotation)


def _activate(ring: AuthorityRing, event: Advanced) -> AuthorityRing:
    authority = _get(ring, event.authority_id)
    if ring.crls and authority.kind is AuthorityKind.ISSUER and ring.crl_of(authority.id) is None:
        raise conflict(f"cannot activate authority {authority.id}: revocation lists are in use, and it has none yet")
    current = ring.active(authority.kind)
    if current is not None and current.id != event.authority_id:
        ring = _advance(ring, replace(event, authority_id=current.id, step=Step.RETIRE))
    return replace(_advance(ring, event), renewal=event.renewal or ring.renewal)


def _taint(ring: AuthorityRing, event: Advanced) -> AuthorityRing:
    """Whatever a tainted root has signed is tainted with it."""
    ring = _advance(ring, event)
    for authority in ring.under(event.authority_id):
        if (authority.state, Step.TAINT) in TRANSITIONS:
            ring = _advance(ring, replace(event, authority_id=authority.id, distrust_at=None))
    return ring


def _advance(ring: AuthorityRing, event: Advanced) -> AuthorityRing:
    authority, step = _get(ring, event.authority_id), event.step
    if (authority.state, step) not in TRANSITIONS:
        raise conflict(f"cannot {step.value} authority {authority.id}: it is {authority.state.value}")
    state = TRANSITIONS[authority.state, step]
    changed = None if state is None else _changed(authority, state, event)
    after = replace(ring, authorities=_replaced(ring.authorities, authority, changed))
    accepted = {issuer.id for issuer in after.leaf_issuers}
    after = replace(after, crls=tuple(crl for crl in ring.crls if crl.issuer_id in accepted))
    if len(after.trusted) == len(ring.trusted) and after.crls == ring.crls:
        return after
    if not after.trusted:
        raise conflict(f"cannot {step.value} authority {authority.id}: the trust bundle would be empty without it")
    return replace(after, sequence=ring.sequence + 1)


def _changed(authority: Authority, state: AuthorityState, event: Advanced) -> Authority:
    return replace(
        authority,
        state=state,
        since=event.at or authority.since,
        distrust_at=event.distrust_at if event.step is Step.TAINT else authority.distrust_at,
    )


def _replaced(
    authorities: tuple[Authority, ...], authority: Authority, changed: Authority | None
) -> tuple[Authority, ...]:
    everyone = (changed if a is authority else a for a in authorities)
    return tuple(a for a in everyone if a is not None)


def _begin(ring: AuthorityRing, rotation: RootRotation) -> AuthorityRing:
    if ring.rotation is not None:
        raise conflict(f"a rotation of the root is under way since {ring.rotation.since:%Y-%m-%dT%H:%M:%SZ}")
    active = ring.active(AuthorityKind.ROOT)
    waiting = [root.id for root in ring.of(AuthorityKind.ROOT, AuthorityState.PREPARED)]
    if rotation.successor and rotation.successor not in waiting:
        raise conflict(f"root {rotation.successor} does not wait to be used: it cannot be the next one")
    successor = rotation.successor or next(iter(waiting), "")
    begun = replace(rotation, predecessor=active.id if active else "", successor=successor)
    return replace(ring, rotation=begun, held_since=None)


def _abort(ring: AuthorityRing, event: RotationAborted) -> AuthorityRing:
    rotation = ring.rotation
    if rotation is None:
        raise conflict("no rotation of the root is under way: there is nothing to abort")
    successor, predecessor = ring.find(rotation.successor), ring.find(rotation.predecessor)
    if successor is not None and successor.state is AuthorityState.PREPARED:
        if ring.active(AuthorityKind.ROOT) is None:
            raise conflict("no root is active: there is none to go back to, and the successor is on its way")
        ring = _advance(ring, Advanced(successor.id, Step.PRUNE, at=event.at))
    elif successor is not None and (predecessor is None or predecessor.state is not AuthorityState.ACTIVE):
        if predecessor is None or predecessor.state is not AuthorityState.OLD:
            fate = "gone" if predecessor is None else predecessor.state.value
            raise conflict(
                f"root {rotation.predecessor or '(none)'} is {fate}, so there is no way back to it: rotate again"
            )
        ring = _activate(ring, Advanced(predecessor.id, Step.ACTIVATE, event.at))
    return replace(_uncrossed(ring, rotation.successor), rotation=None, held_since=event.at)


def _uncrossed(ring: AuthorityRing, root_id: str) -> AuthorityRing:
    """Without the cross certificate of a root that is not to be used after all."""
    authorities = (replace(a, cross=None) if a.id == root_id else a for a in ring.authorities)
    return replace(ring, authorities=tuple(authorities))


def _publish(ring: AuthorityRing, event: CrlsPublished) -> AuthorityRing:
    """Half the lists would make verifiers refuse the leaves of the other half."""
    given = [crl.issuer_id for crl in event.crls]
    if given and sorted(given) != sorted(issuer.id for issuer in ring.leaf_issuers):
        raise conflict("revocation lists are published of every issuing CA, or of none")
    sequence = ring.sequence + 1
    withdrawn = ListsWithdrawn(sequence, event.at) if ring.crls and not event.crls else None
    crls = tuple(_kept(ring, crl, sequence, event.at) for crl in event.crls)
    return replace(ring, sequence=sequence, crls=crls, withdrawn=withdrawn if ring.crls or crls else ring.withdrawn)


def _kept(ring: AuthorityRing, crl: IssuedCrl, sequence: int, at: datetime) -> IssuedCrl:
    """The list, with when its CA first had one: then, or now."""
    before = ring.crl_of(crl.issuer_id)
    if before is None:
        return replace(crl, sequence=sequence, since=at)
    return replace(crl, sequence=before.sequence, since=before.since)


def _get(ring: AuthorityRing, authority_id: str) -> Authority:
    authority = ring.find(authority_id)
    if authority is None:
        raise conflict(f"there is no authority {authority_id} in the ring")
    return authority


# Steps that touch more than one authority.
_ADVANCE: dict[Step, Callable[[AuthorityRing, Advanced], AuthorityRing]] = {
    Step.ACTIVATE: _activate,
    Step.TAINT: _taint,
}
