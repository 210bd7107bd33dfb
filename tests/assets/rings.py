"""Authorities and rings for tests of the ring itself: their certificates are real, but nothing is signed."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache

from meshca.authority.ring import Authority, AuthorityKind, AuthorityRing, AuthorityState
from meshca.pki.keys import KeyAlgorithm
from tests.assets.authorities import FOUNDED, MESH, new_root, signer_of


@cache
def root_der(index: int) -> bytes:
    """A root certificate of its own for each index."""
    return new_root(signer=signer_of(KeyAlgorithm.P256, 1000 + index)).der


def authority(
    index: int,
    kind: AuthorityKind = AuthorityKind.ISSUER,
    state: AuthorityState = AuthorityState.PREPARED,
    *,
    not_before: datetime = FOUNDED,
    ttl: timedelta = timedelta(days=30),
    issuer_id: str | None = None,
    since: datetime | None = None,
    bundle_sequence: int = 0,
) -> Authority:
    """An authority whose id tells its kind and index; unless told otherwise an issuer is under a root of its own."""
    return Authority(
        id=f"{kind.value}{index}",
        kind=kind,
        state=state,
        certificate=root_der(index),
        chain=(),
        issuer_id=f"root{index}" if issuer_id is None else issuer_id,
        key_id=f"{kind.value}-key-{index}",
        not_before=not_before,
        not_after=not_before + ttl,
        bundle_sequence=bundle_sequence,
        since=since,
    )


def ring_of(*authorities: Authority, sequence: int = 1) -> AuthorityRing:
    """A ring that holds these."""
    return AuthorityRing(MESH, sequence, authorities)
