"""What the signing door signs with right now: one frozen value, replaced whole, and good only while it is confirmed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from meshca.authority.external import why_nothing_signs
from meshca.authority.ring import Authority, AuthorityKind, AuthorityRing, AuthorityState
from meshca.errors import internal, unavailable
from meshca.pki.certificates import Issuer
from meshca.ports import KeyManager, Signer
from meshca.spiffe.bans import NO_BANS, BanList
from meshca.spiffe.bundles import TrustBundle

CONFIRMED_FOR = timedelta(seconds=10)
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class SigningState:
    """The ring, its trust bundle, the issuing CA with its key, and who is to get nothing. Consistent in itself.

    `issuing` is None where nothing may be issued: the active root is tainted and its successor not trusted yet, or the
    next issuing CA is yet to be made, or to be imported under an external root. `own` is what signs the server's own
    certificate: without one nobody could come for the next bundle, so there it is the issuing CA that was tainted; None
    where there has been none.
    """

    ring: AuthorityRing
    bundle: TrustBundle
    issuing: tuple[Issuer, Signer] | None
    own: tuple[Issuer, Signer] | None
    bans: BanList = NO_BANS

    @property
    def issuer(self) -> Issuer:
        """The issuing CA. Raises UNAVAILABLE (reason `CA_NOT_READY`) where there is none for now."""
        return self._issuing()[0]

    @property
    def signer(self) -> Signer:
        """Its key. Raises UNAVAILABLE as `issuer`."""
        return self._issuing()[1]

    def for_own(self) -> SigningState:
        """The state that signs the server's own certificate. Raises UNAVAILABLE where there is none for now."""
        return replace(self, issuing=self.own)

    @property
    def idle(self) -> str:
        """Why nothing may sign, where nothing may."""
        return why_nothing_signs(self.ring)

    def _issuing(self) -> tuple[Issuer, Signer]:
        if self.issuing is None:
            raise unavailable(self.idle, retry_after=_RETRY_SECONDS, reason="CA_NOT_READY")
        return self.issuing


@dataclass(frozen=True, slots=True)
class _Confirmed:
    """A state, and a moment at which it was what the store had."""

    state: SigningState
    moment: float


class Signing:
    """Holds the current state for every thread of the door; a reader takes it once per call.

    `monotonic` gives seconds that never go back. `confirmed_for` is how long a door signs with what it last saw in the
    store; past that, somebody else may have moved the ring on. One writer at a time publishes and confirms.
    """

    def __init__(self, monotonic: Callable[[], float], confirmed_for: timedelta = CONFIRMED_FOR) -> None:
        self._monotonic = monotonic
        self._confirmed_for = confirmed_for.total_seconds()
        self._held: _Confirmed | None = None
        self._followers: list[Callable[[SigningState], None]] = []

    def follow(self, hear: Callable[[SigningState], None]) -> None:
        """Has `hear` called with the state that there is, and with each that is published, by whoever publishes."""
        self._followers.append(hear)
        if self._held is not None:
            hear(self._held.state)

    def current(self) -> SigningState:
        """The state, to sign with. Raises INTERNAL (reason `CA_NOT_READY`) before the first one is published, and
        UNAVAILABLE (the same reason) where it was not confirmed within `confirmed_for`."""
        held = self._latest()
        doubt = self._doubt(held)
        if doubt is not None:
            raise unavailable(doubt, retry_after=_RETRY_SECONDS, reason="CA_NOT_READY")
        return held.state

    def latest(self) -> SigningState:
        """The state, to look at: however long ago it was confirmed. Raises INTERNAL (`CA_NOT_READY`) as `current`."""
        return self._latest().state

    def doubt(self) -> str | None:
        """Why nothing may be signed with the state for now; None where it may. Raises INTERNAL as `current`."""
        return self._doubt(self._latest())

    @property
    def is_ready(self) -> bool:
        """Whether there is a state."""
        return self._held is not None

    def moment(self) -> float:
        """Now, as `publish` and `confirm` want it: taken before the store is asked, for its answer may be slow."""
        return self._monotonic()

    def publish(self, state: SigningState, moment: float) -> None:
        """Makes `state`, which the store had at `moment` or later, the current one; calls under way finish with the
        one they took."""
        self._held = _Confirmed(state, moment)
        for hear in tuple(self._followers):
            hear(state)

    def confirm(self, moment: float) -> None:
        """The published state is still the one that the store has. Raises INTERNAL where there is none."""
        self._held = replace(self._latest(), moment=moment)

    def _latest(self) -> _Confirmed:
        if self._held is None:
            raise internal("no issuing CA is loaded yet", reason="CA_NOT_READY")
        return self._held

    def _doubt(self, held: _Confirmed) -> str | None:
        age = self._monotonic() - held.moment
        if age <= self._confirmed_for:
            return None
        return f"the authorities in the store could not be read for {age:.0f}s: nothing is signed until they can"


def open_state(ring: AuthorityRing, keys: KeyManager, bans: BanList = NO_BANS) -> SigningState:
    """The signing state of a stored ring and the bans that stand.

    Where no issuing CA is active, nothing is signed for now: rotation makes one, or somebody imports it. Raises
    INTERNAL where a key does not belong to its certificate, and whatever the key manager raises where a key is missing
    or cannot be opened: a server never makes up for lost state (law 6).
    """
    active = ring.active(AuthorityKind.ISSUER)
    if active is not None:
        issuing = _opened(active, ring, keys)
        return SigningState(ring, ring.bundle(), issuing, issuing, bans)
    tainted = ring.of(AuthorityKind.ISSUER, AuthorityState.TAINTED)
    return SigningState(ring, ring.bundle(), None, _opened(tainted[-1], ring, keys) if tainted else None, bans)


def _opened(authority: Authority, ring: AuthorityRing, keys: KeyManager) -> tuple[Issuer, Signer]:
    signer, cross = keys.signer(authority.key_id), ring.cross_of(authority)
    issuer = issuer_of(authority, signer)
    return (issuer if cross is None else replace(issuer, cross=cross.certificate)), signer


def issuer_of(authority: Authority, signer: Signer) -> Issuer:
    """The authority as an issuer. Raises INTERNAL where `signer` is not the key that its certificate names."""
    issuer = Issuer(authority.id, signer.algorithm, authority.certificate, authority.chain)
    if issuer.spki != signer.public_key_der:
        raise internal(f"key {authority.key_id} does not belong to the certificate of authority {authority.id}")
    return issuer
