"""What the server knows of relying parties is read from its stores, and is never lost to an outage of one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from meshca.authority.journal import JournalEntry
from meshca.authority.ring import AuthorityRing
from meshca.errors import ErrorKind, MeshcaError
from meshca.services.evidence import RelyingParties
from meshca.stores.memory import MemoryAuthorityStore, MemoryEvidenceStore, MemoryLedger
from tests.assets.authorities import MESH
from tests.contracts.evidence_store import a_fact
from tests.contracts.ledger import NOW, a_record
from tests.fakes.clock import SetClock, Stopwatch
from tests.fakes.failing import JournalledLedger

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
RECORD = a_record(1)


class Server:
    """The evidence of a server whose stores are in memory."""

    def __init__(self) -> None:
        self.ledger = JournalledLedger(MemoryLedger())
        self.store = MemoryEvidenceStore()
        self.authorities = MemoryAuthorityStore()
        self.clock = SetClock(NOW + 10 * SECOND)
        self.watch = Stopwatch()
        self.parties = self.opened()

    def opened(self) -> RelyingParties:
        return RelyingParties(self.ledger, self.store, self.authorities, self.clock, self.watch, HOUR)

    def acknowledge(self, serial: str, sequence: int) -> None:
        fact = a_fact(1, serial=serial, bundle_sequence=sequence, until=RECORD.not_after)
        self.store.add([fact])

    def counts(self, sequence: int) -> tuple[int, int]:
        """The holders, and those who are known to have that bundle."""
        coverage = self.parties.evidence((sequence,)).coverage[sequence]
        return coverage.holders, coverage.covered

    def wait(self, seconds: float, leap: float = 0) -> None:
        self.watch.seconds += seconds
        self.clock.move(timedelta(seconds=seconds + leap))


def test_what_is_recorded_and_acknowledged_is_known_at_the_next_look() -> None:
    server = Server()
    assert server.counts(4) == (0, 0)
    server.ledger.record([RECORD])
    assert server.counts(4) == (1, 0)
    server.acknowledge(RECORD.serial, 4)
    assert server.counts(4) == (1, 1)


def test_it_is_known_again_after_a_restart() -> None:
    server = Server()
    server.ledger.record([RECORD])
    server.acknowledge(RECORD.serial, 4)
    server.parties = server.opened()
    assert server.counts(4) == (1, 1)


def test_only_leaves_make_relying_parties() -> None:
    server = Server()
    kinds = ["leaf", "server", "issuer", "root"]
    server.ledger.record([a_record(number, kind=kind) for number, kind in enumerate(kinds, 1)])
    assert server.counts(1)[0] == 1


def test_certificates_prove_the_bundle_that_came_along_but_for_meshcas_own_renewals() -> None:
    server = Server()
    first, again = a_record(1, protocol="istio", bundle_sequence=4), a_record(2, protocol="istio", bundle_sequence=5)
    server.ledger.record([first, replace(again, renews=first.serial)])
    assert server.counts(5) == (2, 1)
    first, again = a_record(3, protocol="meshca", bundle_sequence=4), a_record(4, protocol="meshca", bundle_sequence=5)
    server.ledger.record([first, replace(again, renews=first.serial)])
    assert (server.counts(4), server.counts(5)) == ((3, 3), (3, 1))


@pytest.mark.parametrize("read_before", [False, True])
def test_an_acknowledgement_is_not_lost_where_the_ledger_cannot_be_read(read_before: bool) -> None:
    """A rotation waited for a holder that had acknowledged while the ledger was out."""
    server = Server()
    server.ledger.record([RECORD])
    if read_before:
        server.counts(4)
    server.acknowledge(RECORD.serial, 4)
    server.ledger.unreadable = True
    with pytest.raises(MeshcaError) as refused:
        server.counts(4)
    assert refused.value.kind is ErrorKind.UNAVAILABLE
    server.ledger.unreadable = False
    assert server.counts(4) == (1, 1)


def test_a_leap_of_the_clock_ends_nobody_and_makes_nothing_older() -> None:
    server = Server()
    server.ledger.record([RECORD])
    server.acknowledge(RECORD.serial, 4)
    first = server.parties.evidence((4,))
    assert first.coverage[4].complete_since == first.at == NOW + 10 * SECOND
    server.wait(30, leap=7200)
    later = server.parties.evidence((4,))
    assert later.at == NOW + 40 * SECOND
    assert later.coverage[4] == first.coverage[4]


def test_a_soak_goes_by_what_has_passed_when_a_leap_comes_to_count() -> None:
    server = Server()
    server.parties.evidence(())
    server.wait(0, leap=7200)
    server.parties.evidence(())
    server.wait(3599)
    since = server.parties.evidence((4,)).coverage[4].complete_since
    assert since == NOW + 3609 * SECOND
    server.wait(1)
    later = server.parties.evidence((4,))
    assert later.at == NOW + (3610 + 7200) * SECOND
    assert later.at - SECOND == later.coverage[4].complete_since


def test_acknowledgements_by_certificates_that_ended_are_forgotten() -> None:
    server = Server()
    server.acknowledge(RECORD.serial, 4)
    assert server.parties.prune() == 0
    server.wait(3600)
    assert server.parties.prune() == 1


NEWEST: dict[str, Callable[[Server], object]] = {
    "a record": lambda server: server.ledger.record([a_record(9, recorded_at=NOW)]),
    "an acknowledgement": lambda server: server.store.add([a_fact(9, at=NOW)]),
    "a step": lambda server: server.authorities.save(
        AuthorityRing(MESH), expected_revision=0, entries=[JournalEntry(NOW, "", "", "", "", forced=False, sequence=0)]
    ),
}


@pytest.mark.parametrize("kind", NEWEST)
def test_a_process_that_begins_while_the_clock_is_ahead_takes_nobody_for_gone(kind: str) -> None:
    server = Server()
    server.ledger.record([a_record(1, recorded_at=NOW - HOUR)])
    NEWEST[kind](server)
    server.clock.move(3 * HOUR)
    server.parties = server.opened()
    known = server.parties.evidence((1,))
    assert known.at == NOW
    assert known.coverage[1].holders >= 1
    server.wait(3599)
    assert server.parties.evidence(()).at == NOW + 3599 * SECOND
    server.wait(1)
    assert server.parties.evidence((1,)).coverage[1].holders == 0


def test_what_was_recorded_within_minutes_is_no_reason_to_doubt_the_clock() -> None:
    server = Server()
    server.ledger.record([RECORD])
    server.clock.moment = RECORD.recorded_at + 300 * SECOND
    assert server.opened().evidence(()).at == server.clock.now()
    server.clock.move(SECOND)
    assert server.opened().evidence(()).at == RECORD.recorded_at


def test_without_anything_to_go_by_the_clock_is_believed() -> None:
    server = Server()
    assert server.parties.evidence(()).at == server.clock.now()


def test_where_the_stores_cannot_be_read_the_clock_is_believed_no_sooner() -> None:
    server = Server()
    server.ledger.record([RECORD])
    server.clock.move(3 * HOUR)
    server.ledger.unreadable = True
    with pytest.raises(MeshcaError):
        server.parties.evidence(())
    server.ledger.unreadable = False
    assert server.parties.evidence(()).at == RECORD.recorded_at
