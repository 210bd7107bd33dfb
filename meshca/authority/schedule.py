"""When issuing CAs are prepared, activated and pruned: `decide` looks at a ring and a moment and says what to do.

Issuing CAs travel in the chain of what they sign, so relying parties need nothing beforehand; the clock alone decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from meshca.authority.ring import Authority, AuthorityKind, AuthorityRing, AuthorityState


@dataclass(frozen=True, slots=True)
class IssuerPolicy:
    """Thresholds as fractions of an issuer's lifetime; `max_leaf_ttl` bounds what it signs, `slack` how late a decision
    may be carried out.

    A leaf is never cut short by its issuer's end as long as `max_leaf_ttl <= ttl * (1 - activate_at)` and
    `slack <= ttl * (activate_at - prepare_at)`.
    """

    ttl: timedelta
    prepare_at: float
    activate_at: float
    max_leaf_ttl: timedelta
    slack: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class PrepareIssuer:
    """Make the next issuing CA."""


@dataclass(frozen=True, slots=True)
class Activate:
    """Let a prepared authority sign from now on."""

    authority_id: str


@dataclass(frozen=True, slots=True)
class Prune:
    """Forget an authority, and destroy its key: nothing alive depends on it."""

    authority_id: str


Action = PrepareIssuer | Activate | Prune


def decide(ring: AuthorityRing, policy: IssuerPolicy, now: datetime) -> tuple[Action, ...]:
    """What to do now, in order. Empty when nothing is due; calling it again after each action is safe.

    An issuer whose time has not come, since it was made while the clock was ahead, must not sign: what it signs would
    be good for nobody yet. Nothing is made under a root of that kind.
    """
    active = ring.active(AuthorityKind.ISSUER)
    prepared = [a for a in ring.of(AuthorityKind.ISSUER, AuthorityState.PREPARED) if a.not_after > now]
    usable = [a for a in prepared if _has_begun(a, now)]
    spent = [Prune(a.id) for a in ring.of(AuthorityKind.ISSUER) if _is_spent(a, now)]
    if not _has_begun(ring.active(AuthorityKind.ROOT), now):
        return tuple(spent)
    if active is None or not _has_begun(active, now) or _is_due(ring, active, policy, policy.activate_at, now):
        next_one = [Activate(usable[0].id)] if usable else [PrepareIssuer()]
        return (*next_one, *spent)
    if not prepared and _is_due(ring, active, policy, policy.prepare_at, now):
        return (PrepareIssuer(), *spent)
    return tuple(spent)


def _is_due(ring: AuthorityRing, active: Authority, policy: IssuerPolicy, fraction: float, now: datetime) -> bool:
    """Past that fraction of its life, or too near its end to sign a leaf of full length (as after a change of policy).

    Never where a successor could live no longer: an issuing CA ends with its root at the latest.
    """
    root = ring.find(active.issuer_id)
    if root is not None and active.not_after >= root.not_after:
        return False
    return now >= min(_moment(active, fraction), active.not_after - policy.max_leaf_ttl - policy.slack)


def _has_begun(authority: Authority | None, now: datetime) -> bool:
    return authority is None or authority.not_before <= now


def _moment(authority: Authority, fraction: float) -> datetime:
    return authority.not_before + (authority.not_after - authority.not_before) * fraction


def _is_spent(authority: Authority, now: datetime) -> bool:
    if authority.state is AuthorityState.ACTIVE:
        return False
    if authority.state is AuthorityState.PREPARED:
        return authority.not_after <= now
    return min(authority.not_after, authority.last_leaf_not_after or authority.not_after) <= now
