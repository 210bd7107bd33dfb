"""What every `EvidenceStore` does. Subclasses give the fixture `evidence`: an empty one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from meshca.authority.evidence import BundleFact, Channel
from meshca.errors import ErrorKind, MeshcaError
from meshca.ports import EvidenceStore
from tests.contracts.crowd import all_at_once
from tests.contracts.tails import parts, read_meanwhile

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def a_fact(number: int, **changes: Any) -> BundleFact:
    """A fact about the certificate whose serial is `number`, which ends an hour after NOW."""
    fact = BundleFact(
        serial=f"{number:032x}",
        spiffe_id="spiffe://example.org/ns/shop/sa/cart",
        bundle_sequence=7,
        channel=Channel.STREAM,
        until=NOW + 3600 * SECOND,
        at=NOW,
    )
    return replace(fact, **changes)


def numbers(store: EvidenceStore, after: int = 0, now: datetime = NOW) -> list[int]:
    """The serial numbers of the facts behind a cursor, in their order."""
    return [int(fact.serial, 16) for fact in store.tail(after, now, 1000).items]


class EvidenceStoreContract:
    @pytest.mark.parametrize("channel", Channel)
    def test_gives_back_every_field_as_it_was_added(self, evidence: EvidenceStore, channel: Channel) -> None:
        fact = BundleFact(
            serial="0f" * 16,
            spiffe_id="spiffe://example.org/a",
            bundle_sequence=2**40,
            channel=channel,
            until=datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),
            at=NOW - timedelta(days=1),
            refusal="listener 'a': cårt",
        )
        evidence.add([fact])
        assert evidence.tail(0, NOW, 10).items == (fact,)

    def test_without_facts_there_is_nothing_behind_a_cursor(self, evidence: EvidenceStore) -> None:
        evidence.add([])
        for after in (0, 5):
            part = evidence.tail(after, NOW, 10)
            assert (part.items, part.cursor) == ((), after)

    def test_facts_come_in_the_order_of_adding(self, evidence: EvidenceStore) -> None:
        evidence.add([a_fact(3), a_fact(1)])
        evidence.add([a_fact(2)])
        assert numbers(evidence) == [3, 1, 2]

    def test_the_same_fact_may_be_added_again(self, evidence: EvidenceStore) -> None:
        evidence.add([a_fact(1), a_fact(1)])
        evidence.add([a_fact(1)])
        assert numbers(evidence) == [1, 1, 1]

    @pytest.mark.parametrize(("total", "sizes"), [(6, [3, 3, 0]), (7, [3, 3, 1, 0]), (0, [0])])
    def test_parts_hold_each_fact_once(self, evidence: EvidenceStore, total: int, sizes: list[int]) -> None:
        evidence.add([a_fact(i) for i in range(total)])
        found = parts(evidence.tail, NOW, limit=3)
        assert [len(part.items) for part in found] == sizes
        assert [int(fact.serial, 16) for part in found for fact in part.items] == list(range(total))

    def test_behind_the_cursor_is_what_came_since(self, evidence: EvidenceStore) -> None:
        evidence.add([a_fact(1), a_fact(2)])
        cursor = evidence.tail(0, NOW, 10).cursor
        assert numbers(evidence, cursor) == []
        evidence.add([a_fact(3)])
        assert numbers(evidence, cursor) == [3]

    def test_a_fact_is_left_out_from_its_end_on_and_not_before(self, evidence: EvidenceStore) -> None:
        evidence.add([a_fact(1, until=NOW + 10 * SECOND), a_fact(2)])
        assert numbers(evidence, now=NOW + 9.9 * SECOND) == [1, 2]
        assert numbers(evidence, now=NOW + 10 * SECOND) == [2]
        before = evidence.tail(0, NOW, 1).cursor
        evidence.add([a_fact(3, until=NOW + 10 * SECOND), a_fact(4)])
        assert numbers(evidence, before, NOW + 9.9 * SECOND) == [2, 3, 4]
        assert numbers(evidence, before, NOW + 10 * SECOND) == [2, 4]

    def test_a_part_is_filled_up_past_what_has_ended(self, evidence: EvidenceStore) -> None:
        evidence.add([a_fact(i, until=NOW + (3600 * SECOND if i % 4 == 3 else SECOND)) for i in range(16)])
        found = parts(evidence.tail, NOW + SECOND, limit=2)
        assert [[int(fact.serial, 16) for fact in part.items] for part in found] == [[3, 7], [11, 15], []]

    def test_what_comes_after_nothing_but_ended_facts_is_found(self, evidence: EvidenceStore) -> None:
        evidence.add([a_fact(1), a_fact(2)])
        part = evidence.tail(0, NOW + 3600 * SECOND, 10)
        assert part.items == ()
        evidence.add([a_fact(3)])
        assert numbers(evidence, part.cursor) == [3]

    def test_the_newest_is_what_was_added_last_whenever_that_was(self, evidence: EvidenceStore) -> None:
        assert evidence.newest() is None
        evidence.add([a_fact(1, at=NOW + 9 * SECOND, until=NOW), a_fact(2, at=NOW + 5 * SECOND)])
        assert evidence.newest() == NOW + 5 * SECOND
        evidence.add([a_fact(1, at=NOW + 7 * SECOND, until=NOW)])
        assert evidence.newest() == NOW + 7 * SECOND
        evidence.prune(NOW)
        assert evidence.newest() == NOW + 5 * SECOND

    def test_pruning_forgets_exactly_what_has_ended(self, evidence: EvidenceStore) -> None:
        evidence.add([a_fact(i, until=NOW + i * SECOND) for i in (1, 5, 6)])
        assert evidence.prune(NOW + 5 * SECOND) == 2
        assert evidence.prune(NOW + 5 * SECOND) == 0
        assert numbers(evidence) == [6]

    def test_what_comes_after_everything_was_pruned_is_behind_every_cursor(self, evidence: EvidenceStore) -> None:
        evidence.add([a_fact(i) for i in range(10)])
        cursor = evidence.tail(0, NOW, 100).cursor
        assert evidence.prune(NOW + 3600 * SECOND) == 10
        evidence.add([a_fact(11)])
        assert numbers(evidence, cursor) == [11]

    def test_a_cursor_never_goes_back(self, evidence: EvidenceStore) -> None:
        evidence.add([a_fact(i) for i in range(10)])
        cursor = evidence.tail(0, NOW, 100).cursor
        evidence.prune(NOW + 3600 * SECOND)
        assert evidence.tail(cursor, NOW, 100).cursor == cursor

    @pytest.mark.parametrize(
        ("after", "now", "limit"),
        [(-1, NOW, 10), (0, NOW, 0), (0, NOW, 10_001), (0, NOW.replace(tzinfo=None), 10)],
    )
    def test_a_part_that_cannot_be_is_invalid(
        self, evidence: EvidenceStore, after: int, now: datetime, limit: int
    ) -> None:
        with pytest.raises(MeshcaError) as caught:
            evidence.tail(after, now, limit)
        assert caught.value.kind is ErrorKind.INVALID

    @pytest.mark.parametrize("field", ["until", "at"])
    @pytest.mark.parametrize("time", [NOW.replace(microsecond=1), NOW.replace(tzinfo=None)])
    def test_a_time_that_would_not_come_back_the_same_is_refused(
        self, evidence: EvidenceStore, field: str, time: datetime
    ) -> None:
        with pytest.raises(MeshcaError, match=rf"^{field}") as caught:
            evidence.add([a_fact(1), a_fact(2, **{field: time})])
        assert caught.value.kind is ErrorKind.INTERNAL
        assert numbers(evidence) == []

    def test_a_cursor_skips_nothing_while_many_threads_add_and_one_prunes(self, evidence: EvidenceStore) -> None:
        def act(thread: int) -> None:
            for i in range(25):
                evidence.add([a_fact(1000 * thread + i)])
                if thread == 0:
                    evidence.prune(NOW)

        found = read_meanwhile(evidence.tail, NOW, lambda: all_at_once(8, act))
        serials = [int(fact.serial, 16) for fact in found]
        assert sorted(serials) == sorted(1000 * t + i for t in range(8) for i in range(25))
        for thread in range(8):
            own = [serial for serial in serials if serial // 1000 == thread]
            assert own == sorted(own)
