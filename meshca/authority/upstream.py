"""Roots whose key an upstream authority has: when it is asked for an issuing CA, and which of its roots are let go."""

from __future__ import annotations

from datetime import datetime

from meshca.authority.actions import IssuerPolicy
from meshca.authority.evidence import Evidence
from meshca.authority.external import can_sign, is_external
from meshca.authority.issuers import is_next_due
from meshca.authority.ring import Authority, AuthorityKind, AuthorityRing, AuthorityState, root_digest

_ROOT, _ISSUER = AuthorityKind.ROOT, AuthorityKind.ISSUER


def is_mint_due(ring: AuthorityRing, root: Authority, policy: IssuerPolicy, now: datetime) -> bool:
    """Whether an issuing CA is to be had now under `root`, the one that the upstream signs with.

    Under the active root, where none signs or the next one ought to wait; under a root that waits, so that it can be
    used as soon as everybody trusts it.
    """
    if any(_is_usable(issuer, root, now) for issuer in ring.of(_ISSUER, AuthorityState.PREPARED)):
        return False
    if root.state is AuthorityState.PREPARED:
        return not can_sign(root, ring, now)
    active = ring.active(_ISSUER)
    if root.state is not AuthorityState.ACTIVE:
        return False
    return active is None or active.issuer_id != root.id or is_next_due(ring, policy, now)


def trusted_by_all(ring: AuthorityRing, evidence: Evidence) -> tuple[Authority, ...]:
    """The roots that every holder is known to trust; `evidence` has the coverage of the bundles in which they came."""
    return tuple(
        root
        for root in ring.trusted
        if (coverage := evidence.coverage.get(root.bundle_sequence)) is not None and coverage.complete_since is not None
    )


def oldest_in_use(ring: AuthorityRing) -> Authority | None:
    """The oldest issuing CA from the upstream that certificates may still depend on; it stays until none does."""
    used = ring.of(_ISSUER, AuthorityState.ACTIVE, AuthorityState.OLD, AuthorityState.TAINTED)
    roots = {root.id for root in ring.of(_ROOT) if ring.is_announced(root)}
    return next((issuer for issuer in used if issuer.issuer_id in roots), None)


def withdrawn(ring: AuthorityRing, digests: tuple[str, ...]) -> tuple[Authority, ...]:
    """The roots that wait, and that the upstream told of but does not any more: nothing was ever signed under them."""
    successor = ring.rotation.successor if ring.rotation is not None else ""
    return tuple(
        root
        for root in ring.of(_ROOT, AuthorityState.PREPARED)
        if is_external(root) and ring.is_announced(root) and root_digest(root.certificate) not in digests
        if root.id != successor and not ring.under(root.id)
    )


def _is_usable(issuer: Authority, root: Authority, now: datetime) -> bool:
    return issuer.issuer_id == root.id and issuer.not_before <= now < issuer.not_after
