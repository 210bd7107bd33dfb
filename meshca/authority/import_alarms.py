"""What somebody must do in time where a root's key is not here."""

from __future__ import annotations

from datetime import datetime

from meshca.authority.actions import RotationPolicy
from meshca.authority.external import NEEDS_REQUEST, can_sign, is_external, is_next_imported
from meshca.authority.issuers import is_next_due
from meshca.authority.progress import Alarm, Severity
from meshca.authority.ring import AuthorityKind, AuthorityRing, AuthorityState

_ROOT, _ISSUER = AuthorityKind.ROOT, AuthorityKind.ISSUER


def import_alarms(ring: AuthorityRing, policy: RotationPolicy, now: datetime) -> tuple[Alarm, ...]:
    """What has to be imported, since nothing here can make it."""
    root, issuer = ring.active(_ROOT), ring.active(_ISSUER)
    found = []
    if root is not None and issuer is not None and is_external(root) and is_next_due(ring, policy.issuer, now):
        problem = f"{issuer.id} needs a successor before {issuer.not_after:%Y-%m-%dT%H:%M:%SZ}, which cannot be made"
        found.append(Alarm(Severity.WARNING, "issuer", f"{problem} here, without the root's key: {NEEDS_REQUEST}"))
    if _needs_root(ring, policy, now):
        problem = "the next root must be imported: have an issuing CA signed under it (`meshca authority csr`)"
        found.append(Alarm(Severity.WARNING, "root", f"{problem}, and import both (`meshca authority import`)"))
    for each in ring.of(_ROOT, AuthorityState.PREPARED):
        if not can_sign(each, ring, now) and not ring.is_announced(each):  # an upstream tells of them ahead of use
            problem = f"{each.id} waits for an issuing CA under it: {NEEDS_REQUEST}"
            found.append(Alarm(Severity.INFO, "root", problem))
    return tuple(found)


def _needs_root(ring: AuthorityRing, policy: RotationPolicy, now: datetime) -> bool:
    """Whether the next root ought to be here, and has to come from elsewhere."""
    if not is_next_imported(ring) or ring.of(_ROOT, AuthorityState.PREPARED):
        return False
    root = ring.active(_ROOT)
    if root is None or (ring.rotation is not None and ring.successor is None):
        return True
    due = root.not_before + (root.not_after - root.not_before) * policy.root.rotate_at
    return ring.rotation is None and now >= due
