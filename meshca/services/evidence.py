"""Evidence: what the ledger and the relying parties' own acknowledgements say about who holds which trust bundle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TypeVar

from meshca.authority.evidence import Evidence, EvidenceBook
from meshca.authority.steady import SteadyTime
from meshca.pki.records import LedgerQuery
from meshca.ports import AuthorityStore, CertificateLedger, Clock, EvidenceStore, Tail
from meshca.spiffe.bans import NO_BANS, BanList

_PAGE = 10_000

T = TypeVar("T")


class RelyingParties:
    """Keeps the book of holders up to date from the ledger and the evidence store; both are only ever read on.

    `settling` is the longest life of a certificate that is relied on; `monotonic` gives seconds that never go back.
    What the stores know of the time bounds what a clock may claim that is ahead when this begins. `bans` tells who is
    left out. May be used on any
    thread.
    """

    def __init__(
        self,
        ledger: CertificateLedger,
        store: EvidenceStore,
        authorities: AuthorityStore,
        clock: Clock,
        monotonic: Callable[[], float],
        settling: timedelta,
        bans: Callable[[], BanList] = lambda: NO_BANS,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._authorities = authorities
        self._clock = clock
        self._monotonic = monotonic
        self._settling = settling
        self._bans = bans
        self._time: SteadyTime | None = None
        self._book = EvidenceBook()
        self._certificates = 0
        self._facts = 0
        self._reading = threading.Lock()

    def evidence(self, sequences: Iterable[int]) -> Evidence:
        """What is known now, with the coverage of each of these bundle sequences.

        Raises UNAVAILABLE where the store cannot be read: what is not known is not guessed.
        """
        with self._reading:
            monotonic = self._monotonic()
            now = self._catch_up(monotonic)
            self._book.heed(self._bans())
            return self._book.evidence(sequences, now, monotonic)

    def prune(self) -> int:
        """Forgets acknowledgements by certificates that ended; how many. Raises UNAVAILABLE as `evidence`."""
        with self._reading:
            return self._store.prune(self._now(self._monotonic()))

    def _now(self, monotonic: float) -> datetime:
        if self._time is None:
            self._time = SteadyTime(self._settling, self._newest())
        return self._time.now(self._clock.now(), monotonic)

    def _newest(self) -> datetime | None:
        """The time of the last thing that was recorded, as far as it is known."""
        records = self._ledger.find(LedgerQuery(limit=1)).records
        known = (
            *(record.recorded_at for record in records),
            *(entry.at for entry in self._authorities.journal(1)),
            self._store.newest(),
        )
        return max((time for time in known if time is not None), default=None)

    def _catch_up(self, monotonic: float) -> datetime:
        """Reads on. Acknowledgements are read first and learnt last: each comes after the certificate that it was made
        with, so that one is in the ledger by then. Where one of the two cannot be read, neither has been read on."""
        now = self._now(monotonic)
        facts, after_facts = _read_on(self._store.tail, self._facts, now)
        certificates, after_certificates = _read_on(self._ledger.tail, self._certificates, now)
        self._facts, self._certificates = after_facts, after_certificates
        self._book.learn(certificates, now)
        self._book.learn(facts, now)
        return now


def _read_on(tail: Callable[[int, datetime, int], Tail[T]], cursor: int, now: datetime) -> tuple[list[T], int]:
    """Everything behind the cursor, and the next cursor."""
    found: list[T] = []
    while True:
        page = tail(cursor, now, _PAGE)
        cursor = page.cursor
        found.extend(page.items)
        if len(page.items) < _PAGE:
            return found, cursor
