"""The ring and the bans as they are stored, and the signing state that follows them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from meshca.authority.journal import JournalEntry
from meshca.authority.ring import AuthorityKind, AuthorityRing, AuthorityState, RingEvent, apply_all
from meshca.ports import AuthorityStore, KeyManager, RevocationStore, StoredRing
from meshca.services.signing import Signing, open_state
from meshca.spiffe.bans import NO_BANS, BanList


class RingKeeper:
    """Reads the ring and the bans, and changes the ring; whatever it reads or saves is what doors go by from then on.

    `monotonic` gives seconds that never go back. May be used on any thread.
    """

    def __init__(
        self,
        store: AuthorityStore,
        revocations: RevocationStore,
        keys: KeyManager,
        signing: Signing,
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._revocations = revocations
        self._keys = keys
        self._signing = signing
        self._monotonic = monotonic
        self._revision = 0
        self._states: dict[tuple[str, AuthorityState, datetime | None], float] = {}
        self._bans = NO_BANS
        # what is read or saved is published before anything else is read or saved: nothing older comes after it
        self._publishing = threading.Lock()

    @property
    def bans(self) -> BanList:
        """The bans as of the last look at the store."""
        return self._bans

    def refresh(self) -> StoredRing:
        """Reads the stored ring and the bans and publishes them if they are news, confirms what is published otherwise.

        Raises INTERNAL where the stored state cannot be used, UNAVAILABLE where the store is out: unconfirmed, what
        was published is soon signed with no more.
        """
        with self._publishing:
            moment = self._signing.moment()
            bans, stored = self._revocations.standing(self._bans), self._store.load()
            if stored.revision == self._revision and bans is self._bans:
                self._signing.confirm(moment)
            else:
                self._bans = bans
                self._publish(stored, moment)
        return stored

    def seen(self) -> dict[str, timedelta]:
        """For how long this process has seen each authority in the state in which it saw it last.

        What waits for every door to hear of a step goes by that, and not by when the step was taken: that is told by
        the clock of whoever took it.
        """
        now = self._monotonic()
        return {authority_id: timedelta(seconds=now - since) for (authority_id, *_), since in self._states.items()}

    def change(self, stored: StoredRing, events: Sequence[RingEvent], entry: JournalEntry) -> StoredRing:
        """The ring after `events`, saved durably with `entry` in the journal, and published.

        Raises CONFLICT where an event is illegal or somebody else changed the ring since `stored` was read (nothing is
        saved then), UNAVAILABLE where the store is out (it may yet be saved), and what the key manager raises where a
        new issuing CA cannot sign: then it does not become the active one.
        """
        ring = apply_all(stored.ring, *events)
        if ring.active(AuthorityKind.ISSUER) != stored.ring.active(AuthorityKind.ISSUER):
            open_state(ring, self._keys)
        with self._publishing:
            moment = self._signing.moment()
            saved = self._store.save(
                ring, expected_revision=stored.revision, entries=(replace(entry, sequence=ring.sequence),)
            )
            self._publish(saved, moment)
        return saved

    def forget_key(self, ring: AuthorityRing, authority_id: str) -> None:
        """Destroys the key of an authority of `ring` that signs no more. Raises what the key manager raises."""
        authority = ring.find(authority_id)
        if authority is not None and authority.key_id:
            self._keys.delete(authority.key_id)

    def _publish(self, stored: StoredRing, moment: float) -> None:
        self._signing.publish(open_state(stored.ring, self._keys, self._bans), moment)
        now = self._monotonic()
        states = ((a.id, a.state, a.since) for a in stored.ring.authorities)  # it may have left a state and come back
        self._states = {state: self._states.get(state, now) for state in states}
        self._revision = stored.revision
