"""When roots are prepared, activated, distrusted and pruned: trust before use, use before distrust (law 4).

Evidence decides. The clock only says when a rotation begins, and when a tainted root goes at the latest.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from meshca.authority.actions import (
    Action,
    Activate,
    BeginRotation,
    FinishRotation,
    PrepareRoot,
    Prune,
    Revoke,
    RootPolicy,
)
from meshca.authority.evidence import UNKNOWN, Evidence
from meshca.authority.external import can_sign, imported_in_line, is_next_imported
from meshca.authority.ring import Authority, AuthorityKind, AuthorityRing, AuthorityState

_ROOT = AuthorityKind.ROOT
# A root that waits to be used and whose time comes later than that was made while the clock was ahead: another one is
# made in its place, rather than waiting for a time that may be years away.
EARLY = timedelta(hours=1)


def decide_roots(ring: AuthorityRing, policy: RootPolicy, now: datetime, evidence: Evidence) -> tuple[Action, ...]:
    """What to do now, in order. Empty when nothing is due; calling it again after each action is safe.

    What takes trust away, or relies on trust, goes by the evidence's own time, which does not leap.
    """
    early = tuple(Prune(root.id) for root in ring.of(_ROOT, AuthorityState.PREPARED) if root.not_before - now > EARLY)
    return (*_advance(ring, policy, now, evidence), *early, *_retire(ring, policy, evidence.at or now, evidence))


def is_covered(root: Authority, ring: AuthorityRing, policy: RootPolicy, evidence: Evidence) -> bool:
    """Whether every holder is known to have had a bundle with `root` in it for as long as the policy asks."""
    coverage = evidence.coverage.get(root.bundle_sequence)
    if coverage is None or coverage.complete_since is None or evidence.at is None:
        return False
    return coverage.complete_since + soak_of(ring, policy) <= evidence.at


def soak_of(ring: AuthorityRing, policy: RootPolicy) -> timedelta:
    """For how long everybody must have had the successor: never less than doors need to hear of a step, and no more
    than that where nothing signs, since the active root is tainted."""
    return max(policy.soak, policy.propagation) if ring.active(_ROOT) is not None else policy.propagation


def _advance(ring: AuthorityRing, policy: RootPolicy, now: datetime, evidence: Evidence) -> tuple[Action, ...]:
    """The rotation under way, a step on; or its beginning."""
    if ring.rotation is None:
        return _begin(ring, policy, now)
    successor = ring.successor
    if successor is None:
        return () if is_next_imported(ring) else (PrepareRoot(),)
    if successor.state is AuthorityState.PREPARED:
        return _activation(successor, ring, policy, now, evidence)
    old = [root for root in ring.of(_ROOT, AuthorityState.OLD) if not ring.is_announced(root)]
    return () if old or ring.of(_ROOT, AuthorityState.TAINTED) else (FinishRotation(),)


def _begin(ring: AuthorityRing, policy: RootPolicy, now: datetime) -> tuple[Action, ...]:
    imported = imported_in_line(ring, now)
    if imported is not None:
        return (BeginRotation(f"root {imported.id} was imported, with an issuing CA", imported.id),)
    reason = _reason_to_begin(ring, policy, now)
    return () if reason is None else (BeginRotation(reason),)


def _reason_to_begin(ring: AuthorityRing, policy: RootPolicy, now: datetime) -> str | None:
    active = ring.active(_ROOT)
    if active is None:
        return "no root is active" if ring.of(_ROOT) else None
    due = active.not_before + (active.not_after - active.not_before) * policy.rotate_at
    if policy.automatic and ring.held_since is None and now >= due and not is_next_imported(ring):
        return f"the active root is past {policy.rotate_at:.0%} of its life"
    return None


def _activation(
    successor: Authority, ring: AuthorityRing, policy: RootPolicy, now: datetime, evidence: Evidence
) -> tuple[Action, ...]:
    if successor.not_before > now or successor.not_after <= now or not can_sign(successor, ring, now):
        return ()
    if is_covered(successor, ring, policy, evidence):
        return (Activate(successor.id),)
    if _is_forced(ring, policy, evidence.at or now):
        return (Activate(successor.id, "force_at_expiry: the active root ends before a leaf of full length would"),)
    return ()


def _is_forced(ring: AuthorityRing, policy: RootPolicy, now: datetime) -> bool:
    """Whether the active root's own end is near and the operator has decided beforehand what then counts more."""
    active = ring.active(_ROOT)
    return policy.force_at_expiry and active is not None and active.not_after - now <= policy.max_leaf_ttl


def _retire(ring: AuthorityRing, policy: RootPolicy, now: datetime, evidence: Evidence) -> tuple[Action, ...]:
    """Distrust for whatever nobody depends on any more; the bundle is never left without a root that may be used."""
    spent = [root for root in ring.of(_ROOT) if _is_spent(root, ring, policy, now, evidence)]
    if not any(_is_usable(root, now) for root in ring.trusted):
        # only the way to the next one is cleared
        spent = [root for root in spent if root.state is AuthorityState.PREPARED]
    return tuple(Revoke(root.id) if root.state is AuthorityState.TAINTED else Prune(root.id) for root in spent)


def _is_usable(root: Authority, now: datetime) -> bool:
    may_sign = root.state in (AuthorityState.ACTIVE, AuthorityState.PREPARED)
    return may_sign and root.not_before <= now < root.not_after


def _is_spent(root: Authority, ring: AuthorityRing, policy: RootPolicy, now: datetime, evidence: Evidence) -> bool:
    match root.state:
        case AuthorityState.ACTIVE:
            return False
        case AuthorityState.PREPARED | AuthorityState.REVOKED:
            return root.not_after <= now
        case AuthorityState.OLD:
            # its issuing CAs leave the ring with the last certificate that they signed
            unused = is_unused(root, ring, policy, evidence) and not ring.is_announced(root)
            return root.not_after <= now or unused
        case AuthorityState.TAINTED:
            return is_forsaken(root, ring, policy, evidence) or _is_overdue(root, now)


def is_unused(root: Authority, ring: AuthorityRing, policy: RootPolicy, evidence: Evidence) -> bool:
    """Whether every door has heard that it signs no more, and nothing alive may come from under it."""
    if evidence.at is None or ring.under(root.id) or evidence.last_signed((root.id,)) is not None:
        return False
    return evidence.has_seen(root.id, policy.propagation)


def is_forsaken(root: Authority, ring: AuthorityRing, policy: RootPolicy, evidence: Evidence) -> bool:
    """Whether another root signs, and everybody is known to use newer certificates than those from under this one."""
    if evidence.at is None or ring.active(AuthorityKind.ISSUER) is None:
        return False
    below = (authority.id for authority in ring.under(root.id))  # servers below this one depend on the root itself
    return evidence.has_seen(root.id, policy.propagation) and not evidence.depend_on((root.id, *below, UNKNOWN))


def _is_overdue(root: Authority, now: datetime) -> bool:
    return root.not_after <= now or (root.distrust_at is not None and root.distrust_at <= now)
