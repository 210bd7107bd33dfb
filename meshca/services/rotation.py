"""Rotation: the scheduler's tick moves the ring on, one durable step at a time."""

from __future__ import annotations

import threading
from datetime import datetime

import structlog

from meshca.authority.ring import Advanced, AuthorityRing, Prepared, RingEvent, Step, apply
from meshca.authority.schedule import Action, Activate, IssuerPolicy, PrepareIssuer, Prune, decide
from meshca.errors import ErrorKind, MeshcaError, internal, unreachable
from meshca.pki.keys import KeyAlgorithm
from meshca.ports import AuthorityStore, Clock, KeyManager, StoredRing
from meshca.services.authorities import AuthorityMaker
from meshca.services.signing import CONFIRMED_FOR, Signing, open_state

_log = structlog.get_logger("meshca.rotation")

# A door that has not yet heard of an activation may sign with the old issuer for this long after the activation's time
# was taken: until its last confirmation is too old, and as much again for the activation to become durable.
PROPAGATION = 2 * CONFIRMED_FOR
_MAX_STEPS = 16


class Rotation:
    """Loads the ring, keeps the signing state current, and carries out what `decide` says.

    `refresh` may be called on any thread, also during a `tick`; of ticks there is one at a time.
    """

    def __init__(
        self,
        store: AuthorityStore,
        keys: KeyManager,
        maker: AuthorityMaker,
        signing: Signing,
        clock: Clock,
        policy: IssuerPolicy,
        algorithm: KeyAlgorithm,
    ) -> None:
        self._store = store
        self._keys = keys
        self._maker = maker
        self._signing = signing
        self._clock = clock
        self._policy = policy
        self._algorithm = algorithm
        self._revision = 0
        # what is read or saved is published before anything else is read or saved: nothing older comes after it
        self._publishing = threading.Lock()

    def refresh(self) -> AuthorityRing:
        """Reads the stored ring and publishes it if it is news, confirms what is published otherwise; what the door
        signs with follows the store.

        Raises INTERNAL where the stored state cannot be used, UNAVAILABLE where the store is out: unconfirmed, what
        was published is soon signed with no more.
        """
        with self._publishing:
            moment = self._signing.moment()
            stored = self._store.load()
            if stored.revision == self._revision:
                self._signing.confirm(moment)
            else:
                self._publish(stored, moment)
        return stored.ring

    def tick(self) -> int:
        """Takes every step that is due; how many. Each is durable before the next is considered.

        Raises CONFLICT where somebody else moved the ring meanwhile: the next tick starts from theirs.
        """
        for taken in range(_MAX_STEPS):
            stored = self._store.load()
            actions = decide(stored.ring, self._policy, self._clock.now())
            if not actions:
                self.refresh()
                return taken
            self._carry_out(actions[0], stored)
        raise internal(f"rotation did not come to rest after {_MAX_STEPS} steps")

    def _carry_out(self, action: Action, stored: StoredRing) -> None:
        event = self._event(action, stored.ring)
        ring = apply(stored.ring, event)
        if isinstance(action, Activate):
            open_state(ring, self._keys)  # before it is durable: what cannot sign must not become the active one
        with self._publishing:
            moment = self._signing.moment()
            self._publish(self._save(ring, event, stored.revision), moment)
        if isinstance(action, Prune):
            self._destroy_key(stored.ring, action.authority_id)
        _log.info("authority_step", step=type(action).__name__, authority=_subject(event))

    def _save(self, ring: AuthorityRing, event: RingEvent, revision: int) -> StoredRing:
        try:
            return self._store.save(ring, expected_revision=revision)
        except MeshcaError as error:
            # only a conflict tells for sure that the ring was not saved
            if error.kind is ErrorKind.CONFLICT and isinstance(event, Prepared):
                self._maker.discard(event.authority)
            raise

    def _event(self, action: Action, ring: AuthorityRing) -> RingEvent:
        match action:
            case PrepareIssuer():
                return Prepared(self._maker.make_issuer(ring, self._algorithm, self._policy.ttl))
            case Activate(authority_id):
                return Advanced(authority_id, Step.ACTIVATE, self._last_leaf(self._clock.now()))
            case Prune(authority_id):
                return Advanced(authority_id, Step.PRUNE)
            case _:
                unreachable(action)

    def _last_leaf(self, now: datetime) -> datetime:
        return (now + self._policy.max_leaf_ttl + PROPAGATION).replace(microsecond=0)

    def _publish(self, stored: StoredRing, moment: float) -> None:
        self._signing.publish(open_state(stored.ring, self._keys), moment)
        self._revision = stored.revision

    def _destroy_key(self, ring: AuthorityRing, authority_id: str) -> None:
        authority = ring.find(authority_id)
        if authority is not None:
            self._keys.delete(authority.key_id)


def _subject(event: RingEvent) -> str:
    return event.authority.id if isinstance(event, Prepared) else event.authority_id
