"""What every `CertificateLedger` does. Subclasses give the fixture `ledger`: an empty one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from meshca.authority.evidence import CertificateFact, proves_bundle
from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.records import CertificateRecord, LedgerQuery
from meshca.ports import CertificateLedger
from tests.contracts.crowd import all_at_once
from tests.contracts.tails import parts, read_meanwhile

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def a_record(number: int, **changes: Any) -> CertificateRecord:
    """A record whose serial is `number` and which was written `number` seconds after NOW."""
    at = NOW + number * SECOND
    record = CertificateRecord(
        serial=f"{number:032x}",
        kind="leaf",
        spiffe_id="spiffe://example.org/ns/shop/sa/cart",
        dns_names=(),
        caller_id="spiffe://example.org/ns/shop/sa/cart",
        method="svid",
        attested="mtls",
        key_fingerprint=f"{number:064x}",
        issuer_id="ab" * 20,
        not_before=at - 60 * SECOND,
        not_after=at + 3600 * SECOND,
        bundle_sequence=1,
        recorded_at=at,
    )
    return replace(record, **changes)


def serials(ledger: CertificateLedger, **filters: Any) -> list[int]:
    """The serial numbers that a query finds, in its order."""
    return [int(record.serial, 16) for record in ledger.find(LedgerQuery(**filters)).records]


def fact_of(record: CertificateRecord) -> CertificateFact:
    """What evidence is to learn of a leaf's record."""
    return CertificateFact(
        serial=record.serial,
        renews=record.renews,
        spiffe_id=record.spiffe_id,
        issuer_id=record.issuer_id,
        not_after=record.not_after,
        bundle_sequence=record.bundle_sequence,
        proves=proves_bundle(record.protocol, record.renews),
        with_lists=record.protocol != "istio",
        at=record.recorded_at,
    )


def numbers(ledger: CertificateLedger, after: int = 0, now: datetime = NOW) -> list[int]:
    """The serial numbers behind a cursor, in their order."""
    return [int(record.serial, 16) for record in ledger.tail(after, now, 1000).items]


class LedgerContract:
    def test_gives_back_every_field_as_it_was_recorded(self, ledger: CertificateLedger) -> None:
        record = a_record(
            7,
            kind="server",
            spiffe_id="spiffe://example.org/a",
            dns_names=("a.example.org", "b.example.org"),
            caller_id="system:serviceaccount:shop:cårt",
            method="jwt",
            attested='issuer "https://k8s"',
            issuer_id="cd" * 20,
            not_before=NOW - timedelta(days=1),
            not_after=datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),
            bundle_sequence=2**40,
            protocol="istio",
            renews="0f" * 16,
        )
        ledger.record([record])
        assert ledger.find(LedgerQuery()).records == (record,)

    def test_an_empty_ledger_has_an_empty_last_page(self, ledger: CertificateLedger) -> None:
        page = ledger.find(LedgerQuery())
        assert (page.records, page.next_before) == ((), None)

    def test_recording_nothing_is_no_error(self, ledger: CertificateLedger) -> None:
        ledger.record([])
        assert serials(ledger) == []

    def test_newest_records_come_first(self, ledger: CertificateLedger) -> None:
        ledger.record([a_record(3), a_record(1)])
        ledger.record([a_record(2)])
        assert serials(ledger) == [2, 1, 3]

    @pytest.mark.parametrize(("total", "sizes"), [(6, [3, 3]), (7, [3, 3, 1]), (3, [3])])
    def test_pages_hold_each_record_once_and_the_last_has_no_cursor(
        self, ledger: CertificateLedger, total: int, sizes: list[int]
    ) -> None:
        ledger.record([a_record(i) for i in range(total)])
        pages = [ledger.find(LedgerQuery(limit=3))]
        while pages[-1].next_before is not None:
            pages.append(ledger.find(LedgerQuery(limit=3, before=pages[-1].next_before)))
        assert [len(page.records) for page in pages] == sizes
        assert [int(r.serial, 16) for page in pages for r in page.records] == list(reversed(range(total)))

    def test_a_page_is_not_shifted_by_records_that_come_meanwhile(self, ledger: CertificateLedger) -> None:
        ledger.record([a_record(i) for i in range(4)])
        first = ledger.find(LedgerQuery(limit=2))
        ledger.record([a_record(9)])
        assert serials(ledger, limit=2, before=first.next_before) == [1, 0]

    def test_finds_by_spiffe_id(self, ledger: CertificateLedger) -> None:
        ledger.record([a_record(1), a_record(2, spiffe_id="spiffe://example.org/other"), a_record(3)])
        assert serials(ledger, spiffe_id="spiffe://example.org/other") == [2]
        assert serials(ledger, spiffe_id="spiffe://example.org/oth") == []

    def test_finds_by_serial_and_by_its_beginning(self, ledger: CertificateLedger) -> None:
        known = ["abcd0", "abcdf", "abce0", "abcc9", "0abcd"]
        ledger.record([a_record(i, serial=serial) for i, serial in enumerate(known)])
        found = ledger.find(LedgerQuery(serial="abcd")).records
        assert {record.serial for record in found} == {"abcd0", "abcdf"}
        assert [record.serial for record in ledger.find(LedgerQuery(serial="abce0")).records] == ["abce0"]

    def test_since_is_inclusive_and_until_is_not(self, ledger: CertificateLedger) -> None:
        ledger.record([a_record(i) for i in range(5)])
        assert serials(ledger, since=NOW + SECOND, until=NOW + 3 * SECOND) == [2, 1]
        half = timedelta(milliseconds=500)
        assert serials(ledger, since=NOW + SECOND + half, until=NOW + 3 * SECOND + half) == [3, 2]

    def test_valid_at_includes_not_before_and_excludes_not_after(self, ledger: CertificateLedger) -> None:
        ledger.record([a_record(0, not_before=NOW, not_after=NOW + 10 * SECOND)])
        times = [NOW - SECOND, NOW, NOW + 9.9 * SECOND, NOW + 10 * SECOND]
        assert [len(serials(ledger, valid_at=time)) for time in times] == [0, 1, 1, 0]

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            (LedgerQuery(limit=0), "limit"),
            (LedgerQuery(limit=10_001), "limit"),
            (LedgerQuery(serial="abc"), "serial"),
            (LedgerQuery(serial="ABCD"), "serial"),
            (LedgerQuery(serial="%%%%"), "serial"),
            (LedgerQuery(before=0), "before"),
            (LedgerQuery(since=datetime(2026, 1, 1)), "since"),  # noqa: DTZ001  # the point of the case
            (LedgerQuery(valid_at=datetime(2026, 1, 1)), "valid_at"),  # noqa: DTZ001
        ],
    )
    def test_a_bad_query_is_invalid_and_its_field_named(
        self, ledger: CertificateLedger, query: LedgerQuery, field: str
    ) -> None:
        with pytest.raises(MeshcaError, match=rf"^{field} ") as caught:
            ledger.find(query)
        assert caught.value.kind is ErrorKind.INVALID

    def test_a_known_serial_is_a_conflict_and_nothing_of_that_call_is_kept(self, ledger: CertificateLedger) -> None:
        ledger.record([a_record(1)])
        with pytest.raises(MeshcaError) as caught:
            ledger.record([a_record(2), a_record(1)])
        assert caught.value.kind is ErrorKind.CONFLICT
        assert serials(ledger) == [1]

    def test_a_serial_twice_in_one_call_is_a_conflict(self, ledger: CertificateLedger) -> None:
        with pytest.raises(MeshcaError) as caught:
            ledger.record([a_record(1), a_record(1)])
        assert caught.value.kind is ErrorKind.CONFLICT
        assert serials(ledger) == []

    @pytest.mark.parametrize("time", [NOW.replace(microsecond=1), NOW.replace(tzinfo=None)])
    def test_a_time_that_would_not_come_back_the_same_is_refused(
        self, ledger: CertificateLedger, time: datetime
    ) -> None:
        with pytest.raises(MeshcaError, match=r"^recorded_at") as caught:
            ledger.record([a_record(1, recorded_at=time)])
        assert caught.value.kind is ErrorKind.INTERNAL
        assert serials(ledger) == []

    def test_an_empty_ledger_has_nothing_behind_a_cursor(self, ledger: CertificateLedger) -> None:
        for after in (0, 5):
            part = ledger.tail(after, NOW, 10)
            assert (part.items, part.cursor) == ((), after)

    @pytest.mark.parametrize(("total", "sizes"), [(6, [3, 3, 0]), (7, [3, 3, 1, 0])])
    def test_a_tail_gives_each_leaf_once_in_the_order_of_recording(
        self, ledger: CertificateLedger, total: int, sizes: list[int]
    ) -> None:
        records = [
            a_record(i, protocol=("istio", "meshca")[i % 2], renews=f"{i + 1:x}" * (i % 3), bundle_sequence=i)
            for i in reversed(range(total))
        ]
        others = [a_record(100 + i, kind=kind) for i, kind in enumerate(("server", "issuer", "root", "trial"))]
        ledger.record([*others[:2], *records[:4], others[2], *records[4:], others[3]])
        found = parts(ledger.tail, NOW, limit=3)
        assert [len(part.items) for part in found] == sizes
        assert [fact for part in found for fact in part.items] == list(map(fact_of, records))

    def test_a_ca_below_is_told_of_like_a_leaf_and_proves_nothing(self, ledger: CertificateLedger) -> None:
        ledger.record([a_record(1, kind="downstream", protocol="upstream", renews=""), a_record(2, renews="")])
        assert [fact.proves for fact in ledger.tail(0, NOW, 10).items] == [False, True]

    def test_behind_the_cursor_is_what_was_recorded_since(self, ledger: CertificateLedger) -> None:
        ledger.record([a_record(1), a_record(2)])
        cursor = ledger.tail(0, NOW, 10).cursor
        assert numbers(ledger, cursor) == []
        ledger.record([a_record(3)])
        assert numbers(ledger, cursor) == [3]

    def test_a_tail_leaves_a_record_out_from_its_expiry_on_and_not_before(self, ledger: CertificateLedger) -> None:
        ledger.record([a_record(1, not_after=NOW + 10 * SECOND), a_record(2)])
        assert numbers(ledger, now=NOW + 9.9 * SECOND) == [1, 2]
        assert numbers(ledger, now=NOW + 10 * SECOND) == [2]
        before = ledger.tail(0, NOW, 1).cursor
        ledger.record([a_record(3, not_after=NOW + 10 * SECOND), a_record(4)])
        assert numbers(ledger, before, NOW + 9.9 * SECOND) == [2, 3, 4]
        assert numbers(ledger, before, NOW + 10 * SECOND) == [2, 4]

    def test_a_part_is_filled_up_past_what_has_expired(self, ledger: CertificateLedger) -> None:
        ledger.record([a_record(i, not_after=NOW + (3600 * SECOND if i % 4 == 3 else SECOND)) for i in range(16)])
        found = parts(ledger.tail, NOW + SECOND, limit=2)
        assert [[int(record.serial, 16) for record in part.items] for part in found] == [[3, 7], [11, 15], []]

    def test_what_comes_after_nothing_but_expired_records_is_found(self, ledger: CertificateLedger) -> None:
        ledger.record([a_record(1), a_record(2)])
        part = ledger.tail(0, NOW + 7200 * SECOND, 10)
        assert part.items == ()
        ledger.record([a_record(3)])
        assert numbers(ledger, part.cursor) == [3]

    @pytest.mark.parametrize(
        ("after", "now", "limit"),
        [(-1, NOW, 10), (0, NOW, 0), (0, NOW, 10_001), (0, NOW.replace(tzinfo=None), 10)],
    )
    def test_a_part_that_cannot_be_is_invalid(
        self, ledger: CertificateLedger, after: int, now: datetime, limit: int
    ) -> None:
        with pytest.raises(MeshcaError) as caught:
            ledger.tail(after, now, limit)
        assert caught.value.kind is ErrorKind.INVALID

    def test_a_cursor_skips_nothing_while_many_threads_record(self, ledger: CertificateLedger) -> None:
        def act(thread: int) -> None:
            for i in range(20):
                ledger.record([a_record(1000 * thread + i)])

        found = read_meanwhile(ledger.tail, NOW, lambda: all_at_once(8, act))
        order = [int(record.serial, 16) for record in found]
        assert order == list(reversed(serials(ledger, limit=1000)))
        assert sorted(order) == sorted(1000 * t + i for t in range(8) for i in range(20))

    def test_many_threads_lose_nothing(self, ledger: CertificateLedger) -> None:
        def act(thread: int) -> None:
            for i in range(20):
                ledger.record([a_record(1000 * thread + i)])

        assert all_at_once(8, act) == [None] * 8
        assert sorted(serials(ledger, limit=1000)) == sorted(1000 * t + i for t in range(8) for i in range(20))

    def test_of_many_threads_with_one_serial_exactly_one_records_it(self, ledger: CertificateLedger) -> None:
        outcomes = all_at_once(8, lambda thread: ledger.record([a_record(100 + thread), a_record(5)]))
        assert outcomes.count(None) == 1
        assert {o.kind for o in outcomes if o is not None} == {ErrorKind.CONFLICT}
        assert serials(ledger) == [5, 100 + outcomes.index(None)]

    async def test_coroutines_record_as_threads_do(self, ledger: CertificateLedger) -> None:
        await ledger.record_async([a_record(1), a_record(2)])
        await ledger.record_async([])
        with pytest.raises(MeshcaError) as caught:
            await ledger.record_async([a_record(3), a_record(1)])
        assert caught.value.kind is ErrorKind.CONFLICT
        with pytest.raises(MeshcaError, match=r"^recorded_at") as refused:
            await ledger.record_async([a_record(4, recorded_at=NOW.replace(microsecond=1))])
        assert refused.value.kind is ErrorKind.INTERNAL
        assert serials(ledger) == [2, 1]

    async def test_many_coroutines_lose_nothing(self, ledger: CertificateLedger) -> None:
        await asyncio.gather(*(ledger.record_async([a_record(i)]) for i in range(100)))
        assert sorted(serials(ledger, limit=1000)) == list(range(100))

    async def test_of_many_coroutines_with_one_serial_exactly_one_records_it(self, ledger: CertificateLedger) -> None:
        both = (ledger.record_async([a_record(100 + i), a_record(5)]) for i in range(8))
        outcomes = await asyncio.gather(*both, return_exceptions=True)
        assert outcomes.count(None) == 1
        assert {o.kind for o in outcomes if isinstance(o, MeshcaError)} == {ErrorKind.CONFLICT}
        assert serials(ledger) == [5, 100 + outcomes.index(None)]

    async def test_whoever_is_cancelled_has_recorded_once_or_not_at_all_and_hurts_nobody(
        self, ledger: CertificateLedger
    ) -> None:
        tasks = [asyncio.create_task(ledger.record_async([a_record(i)])) for i in range(20)]
        await asyncio.sleep(0)  # all of them have begun
        for task in tasks[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert outcomes[1::2] == [None] * 10
        await ledger.record_async([a_record(100)])  # whatever waited before it has its outcome now
        kept = serials(ledger, limit=1000)
        assert len(kept) == len(set(kept))
        assert set(range(1, 20, 2)) | {100} <= set(kept) <= set(range(20)) | {100}
