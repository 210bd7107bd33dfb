"""What the signing door signs with right now: one frozen value, replaced whole."""

from __future__ import annotations

from dataclasses import dataclass

from meshca.authority.ring import Authority, AuthorityKind, AuthorityRing
from meshca.errors import internal
from meshca.pki.certificates import Issuer
from meshca.ports import KeyManager, Signer
from meshca.spiffe.bundles import TrustBundle


@dataclass(frozen=True, slots=True)
class SigningState:
    """The ring, its trust bundle, and the issuing CA with its key. Consistent in itself."""

    ring: AuthorityRing
    bundle: TrustBundle
    issuer: Issuer
    signer: Signer


class Signing:
    """Holds the current state for every thread of the door; a reader takes it once per call."""

    def __init__(self) -> None:
        self._state: SigningState | None = None

    def current(self) -> SigningState:
        """The state. Raises INTERNAL (reason `CA_NOT_READY`) before the first one is published."""
        if self._state is None:
            raise internal("no issuing CA is loaded yet", reason="CA_NOT_READY")
        return self._state

    @property
    def is_ready(self) -> bool:
        """Whether there is a state."""
        return self._state is not None

    def publish(self, state: SigningState) -> None:
        """Makes `state` the current one; calls under way finish with the one they took."""
        self._state = state


def open_state(ring: AuthorityRing, keys: KeyManager) -> SigningState:
    """The signing state of a stored ring.

    Raises INTERNAL where the ring has no active issuer or a key does not belong to its certificate, and whatever the
    key manager raises where a key is missing or cannot be opened: a server never makes up for lost state (law 6).
    """
    active = ring.active(AuthorityKind.ISSUER)
    if active is None:
        raise internal("the stored state has no active issuing CA: restore it from a backup")
    signer = keys.signer(active.key_id)
    issuer = issuer_of(active, signer)
    return SigningState(ring, ring.bundle(), issuer, signer)


def issuer_of(authority: Authority, signer: Signer) -> Issuer:
    """The authority as an issuer. Raises INTERNAL where `signer` is not the key that its certificate names."""
    issuer = Issuer(authority.id, signer.algorithm, authority.certificate, authority.chain)
    if issuer.spki != signer.public_key_der:
        raise internal(f"key {authority.key_id} does not belong to the certificate of authority {authority.id}")
    return issuer
