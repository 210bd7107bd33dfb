"""When issuing CAs are prepared, activated and pruned.

They travel in the chain of what they sign, so relying parties need nothing beforehand: the clock decides, and that the
active one is under the active root. While revocation lists are in use they do need something: the new one's list, or
they refuse what it signs. Then it waits until everybody who checks lists is known to have that. Their end, too, is a
matter of evidence.
"""

from __future__ import annotations

from datetime import datetime

from meshca.authority.actions import Action, Activate, IssuerPolicy, PrepareIssuer, Prune
from meshca.authority.evidence import Evidence
from meshca.authority.external import is_external
from meshca.authority.ring import Authority, AuthorityKind, AuthorityRing, AuthorityState


def decide_issuers(ring: AuthorityRing, policy: IssuerPolicy, now: datetime, evidence: Evidence) -> tuple[Action, ...]:
    """What to do now, in order. Empty when nothing is due; calling it again after each action is safe.

    What ends something goes by the evidence's own time, which does not leap. An issuer whose time has not come, since
    it was made while the clock was ahead, must not sign: what it signs would be good for nobody yet. Nothing is made
    under a root of that kind, without an active root, or under one whose key is not here: for that one, what was
    imported is put to use.
    """
    root = ring.active(AuthorityKind.ROOT)
    active = ring.active(AuthorityKind.ISSUER)
    then = evidence.at or now
    issuers = ring.of(AuthorityKind.ISSUER)
    spent = tuple(Prune(a.id) for a in issuers if _is_spent(a, ring, policy, then, evidence))
    if active is None:
        spent = ()  # those that are left tell why nothing signs
    if root is None or root.not_before > now:
        return spent
    prepared = [a for a in ring.of(AuthorityKind.ISSUER, AuthorityState.PREPARED) if _is_of_use(a, root, now)]
    usable = [a for a in prepared if a.not_before <= now]
    if active is None or _is_out_of_place(active, root, now) or _is_due(root, active, policy, policy.activate_at, now):
        return (*_replace(ring, root, usable, policy, now, evidence), *spent)
    if not prepared and not is_external(root) and _is_due(root, active, policy, policy.prepare_at, now):
        return (PrepareIssuer(), *spent)
    return spent


def is_listed(issuer: Authority, ring: AuthorityRing, policy: IssuerPolicy, evidence: Evidence) -> bool:
    """Whether what it signs would be accepted by everybody who checks revocation lists: all of them have its own, and
    no door gives out a bundle without; or none are in use, and those who had some have heard of that."""
    if not ring.crls and ring.withdrawn is None:
        return True
    known = ring.crl_of(issuer.id) if ring.crls else ring.withdrawn
    if known is None or known.since is None or evidence.at is None or known.since + policy.propagation > evidence.at:
        return False
    return evidence.least_checking is None or evidence.least_checking >= known.sequence


def is_next_due(ring: AuthorityRing, policy: IssuerPolicy, now: datetime) -> bool:
    """Whether the next issuing CA ought to wait by now, and none does."""
    root, active = ring.active(AuthorityKind.ROOT), ring.active(AuthorityKind.ISSUER)
    if root is None or active is None or not _is_due(root, active, policy, policy.prepare_at, now):
        return False
    return not any(_is_of_use(a, root, now) for a in ring.of(AuthorityKind.ISSUER, AuthorityState.PREPARED))


def _replace(
    ring: AuthorityRing,
    root: Authority,
    usable: list[Authority],
    policy: IssuerPolicy,
    now: datetime,
    evidence: Evidence,
) -> tuple[Action, ...]:
    """What lets another issuing CA sign: one that waits, once its list is known; or a new one. Under an external root,
    which makes none here, one that has signed before, where the one that signs must not."""
    ready = [a for a in usable if is_listed(a, ring, policy, evidence)]
    if ready:
        return (Activate(ready[0].id),)
    if usable:
        return ()
    return _former(ring, root, now) if is_external(root) else (PrepareIssuer(),)


def _former(ring: AuthorityRing, root: Authority, now: datetime) -> tuple[Action, ...]:
    active = ring.active(AuthorityKind.ISSUER)
    former = [a for a in ring.of(AuthorityKind.ISSUER, AuthorityState.OLD) if _is_of_use(a, root, now)]
    if active is None or not former or not _is_out_of_place(active, root, now):
        return ()
    return (Activate(max(former, key=lambda authority: authority.not_after).id),)


def _is_of_use(prepared: Authority, root: Authority, now: datetime) -> bool:
    return prepared.not_after > now and prepared.issuer_id == root.id


def _is_out_of_place(active: Authority, root: Authority, now: datetime) -> bool:
    """Whether it must not sign at all: its time has not come, or its root is not the one that everybody is to use."""
    return active.not_before > now or active.issuer_id != root.id


def _is_due(root: Authority, active: Authority, policy: IssuerPolicy, fraction: float, now: datetime) -> bool:
    """Past that fraction of its life, or too near its end to sign a leaf of full length (as after a change of policy).

    Never where a successor could live no longer: an issuing CA ends with its root at the latest.
    """
    if active.not_after >= root.not_after:
        return False
    moment = active.not_before + (active.not_after - active.not_before) * fraction
    return now >= min(moment, active.not_after - policy.max_leaf_ttl - policy.slack)


def _is_spent(
    authority: Authority, ring: AuthorityRing, policy: IssuerPolicy, then: datetime, evidence: Evidence
) -> bool:
    """Whether nothing alive depends on it, nor ever will."""
    if authority.state is AuthorityState.ACTIVE:
        return False
    if authority.state is AuthorityState.PREPARED:
        return not _waits(authority, ring, then)
    if authority.not_after <= then:
        return True
    everybody_heard = evidence.has_seen(authority.id, policy.propagation)
    return everybody_heard and evidence.at is not None and evidence.last_signed((authority.id,)) is None


def _waits(prepared: Authority, ring: AuthorityRing, then: datetime) -> bool:
    """Whether it may be put to use yet: under the active root, or one that is to become that; where none is active, no
    one can tell."""
    if ring.active(AuthorityKind.ROOT) is None:
        return True
    root = ring.find(prepared.issuer_id)
    return root is not None and root.state in _MAY_SIGN and _is_of_use(prepared, root, then)


_MAY_SIGN = (AuthorityState.ACTIVE, AuthorityState.PREPARED)
