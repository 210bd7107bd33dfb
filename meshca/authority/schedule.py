"""`decide` looks at a ring, at what is known of relying parties and at the time, and says what to do."""

from __future__ import annotations

from datetime import datetime

from meshca.authority.actions import Action, Prune, RotationPolicy
from meshca.authority.evidence import Evidence
from meshca.authority.issuers import decide_issuers
from meshca.authority.ring import AuthorityKind, AuthorityRing, AuthorityState
from meshca.authority.roots import decide_roots


def decide(ring: AuthorityRing, policy: RotationPolicy, now: datetime, evidence: Evidence) -> tuple[Action, ...]:
    """What to do now, the urgent first: progress of roots, of issuing CAs, then what can be forgotten.

    Empty when nothing is due. Each action stands for itself: where one fails, the next may be tried.
    """
    actions = (*decide_roots(ring, policy.root, now, evidence), *decide_issuers(ring, policy.issuer, now, evidence))
    return tuple(sorted(actions, key=lambda action: isinstance(action, Prune)))


def sequences_in_question(ring: AuthorityRing) -> tuple[int, ...]:
    """The bundle sequences whose coverage decides: those in which the roots that wait to be used appeared."""
    waiting = ring.of(AuthorityKind.ROOT, AuthorityState.PREPARED, AuthorityState.OLD)
    return tuple(dict.fromkeys((*(root.bundle_sequence for root in waiting), ring.sequence)))
