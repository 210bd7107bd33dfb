"""What somebody must do in time where a root's key is not here."""

from __future__ import annotations

from datetime import datetime

from meshca.authority.actions import RotationPolicy
from meshca.authority.external import NEEDS_REQUEST, can_sign, is_external
from meshca.authority.issuers import is_next_due
from meshca.authority.progress import Alarm, Severity
from meshca.authority.ring import AuthorityKind, AuthorityRing, AuthorityState

_ROOT, _ISSUER = AuthorityKind.ROOT, AuthorityKind.ISSUER


def import_alarms(ring: AuthorityRing, policy: RotationPolicy, now: datetime) -> tuple[Alarm, ...]:
    """What has to be imported, since nothing here can make it."""
    root, issuer = ring.active(_ROOT), ring.active(_ISSUER)
    waiting = ring.of(_ROOT, AuthorityState.PREPARED)
    found = []
    if root is not None and issuer is not None and is_external(root):
        if is_next_due(ring, policy.issuer, now):
            problem = f"{issuer.id} needs a successor before {issuer.not_after:%Y-%m-%dT%H:%M:%SZ}, which cannot be"
            found.append(
                Alarm(Severity.WARNING, "issuer", f"{problem} made here, without the root's key: {NEEDS_REQUEST}")
            )
        due = root.not_before + (root.not_after - root.not_before) * policy.root.rotate_at
        if now >= due and not waiting and ring.rotation is None:
            problem = f"the key of {root.id} is not here: have an issuing CA signed under the next root"
            found.append(Alarm(Severity.WARNING, "root", f"{problem} (`meshca authority csr`), and import both"))
    for each in waiting:
        if not can_sign(each, ring, now):
            problem = f"{each.id} waits for an issuing CA under it: {NEEDS_REQUEST}"
            found.append(Alarm(Severity.INFO, "root", problem))
    return tuple(found)
