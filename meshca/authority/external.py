"""Roots whose key is not here: what can be done under them is what was imported."""

from __future__ import annotations

from datetime import datetime

from meshca.authority.ring import Authority, AuthorityKind, AuthorityRing, AuthorityState

_READY = (AuthorityState.PREPARED, AuthorityState.ACTIVE, AuthorityState.OLD)
NEEDS_REQUEST = "have one signed: `meshca authority csr`, then `meshca authority import`"


def is_external(root: Authority) -> bool:
    """Whether the root's key is elsewhere, so that nothing can be signed with it here."""
    return not root.key_id


def is_next_imported(ring: AuthorityRing) -> bool:
    """Whether the next root is one that is imported, as the active one was: who keeps its root elsewhere does not want
    one that is made here. Where none is active, the latest that was distrusted counts."""
    given_up = ring.of(AuthorityKind.ROOT, AuthorityState.TAINTED, AuthorityState.REVOKED)
    latest = ring.active(AuthorityKind.ROOT) or max(given_up, key=lambda root: root.bundle_sequence, default=None)
    return latest is not None and is_external(latest)


def why_no_cross(ring: AuthorityRing, now: datetime) -> str | None:
    """Why the active root can sign no certificate of its successor; None where it can."""
    active = ring.active(AuthorityKind.ROOT)
    if active is None:
        return "no root is active"
    if is_external(active):
        return f"the key of root {active.id} is not here"
    return None if active.not_before <= now < active.not_after else f"root {active.id} is not valid now"


def can_sign(root: Authority, ring: AuthorityRing, now: datetime) -> bool:
    """Whether there will be something to sign with under `root`: its own key, or an issuing CA that was imported."""
    issuers = ring.of(AuthorityKind.ISSUER, *_READY)
    return not is_external(root) or any(_is_usable(issuer, root, now) for issuer in issuers)


def imported_in_line(ring: AuthorityRing, now: datetime) -> Authority | None:
    """The imported root that waits, with an issuing CA that waits under it: it is there to be used. None where there is
    none, or an operator has aborted a rotation."""
    if ring.held_since is not None:
        return None
    waiting = ring.of(AuthorityKind.ROOT, AuthorityState.PREPARED)
    return next((root for root in waiting if is_external(root) and can_sign(root, ring, now)), None)


def needs_import(ring: AuthorityRing) -> bool:
    """Whether nothing signs until an issuing CA is imported: the active root's key is not here, and none waits."""
    root = ring.active(AuthorityKind.ROOT)
    if root is None or not is_external(root) or ring.active(AuthorityKind.ISSUER) is not None:
        return False
    waiting = ring.of(AuthorityKind.ISSUER, AuthorityState.PREPARED)
    return all(issuer.issuer_id != root.id for issuer in waiting)


def why_nothing_signs(ring: AuthorityRing) -> str:
    """Why no issuing CA is active, and what helps."""
    root = ring.active(AuthorityKind.ROOT)
    if root is None:
        return "no issuing CA may sign: the root was tainted, and its successor is not trusted everywhere yet"
    if needs_import(ring):
        return f"there is no issuing CA under root {root.id}, whose key is not here: {NEEDS_REQUEST}"
    fate = "waits to be used" if is_external(root) else "is yet to be made"
    return f"no issuing CA may sign: the next one under the active root {fate}"


def _is_usable(issuer: Authority, root: Authority, now: datetime) -> bool:
    return issuer.issuer_id == root.id and issuer.not_before <= now < issuer.not_after
