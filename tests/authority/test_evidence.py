"""Who relies on the trust bundle, and what each is known to have: nothing is assumed, nothing counted twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshca.authority.evidence import (
    MAX_LAGGARDS,
    UNKNOWN,
    BundleFact,
    CertificateFact,
    Channel,
    Coverage,
    Evidence,
    EvidenceBook,
    Fact,
    Laggard,
    proves_bundle,
)
from meshca.spiffe.bans import NO_BANS, Ban, BanKind, BanList
from tests.assets.authorities import FOUNDED

HOUR = 60
NONE, CERTIFICATE, STREAM, FETCH = Channel


def at(minute: float) -> datetime:
    return FOUNDED + timedelta(minutes=minute)


def certificate(
    serial: str,
    renews: str = "",
    *,
    name: str = "",
    issuer: str = "issuer1",
    ends: float = HOUR,
    sequence: int = 1,
    proves: bool = False,
    when: float = 0,
    with_lists: bool = False,
) -> CertificateFact:
    """A line of the ledger; the holder's name is made of the serial unless it is told."""
    name = name or f"id/{serial}"
    return CertificateFact(serial, renews, name, issuer, at(ends), sequence, proves, at(when), with_lists)


def accepted(
    serial: str, sequence: int, *, channel: Channel = STREAM, until: float = HOUR, when: float = 1, refusal: str = ""
) -> BundleFact:
    return BundleFact(serial, f"id/{serial}", sequence, channel, at(until), at(when), refusal)


def refused(serial: str, sequence: int, why: str = "no") -> BundleFact:
    return accepted(serial, sequence, refusal=why)


def book_of(*facts: Fact, now: float = 1) -> EvidenceBook:
    book = EvidenceBook()
    book.learn(facts, at(now))
    return book


def laggards(book: EvidenceBook, sequence: int = 99, now: float = 1) -> list[tuple[str, int, Channel]]:
    return [(each.serial, each.sequence, each.channel) for each in book.coverage(sequence, at(now), now).laggards]


def bans(*subjects: str, revision: int = 1) -> BanList:
    """Of serials, and of identities where they are ids."""
    kinds = [BanKind.IDENTITY if "/" in subject else BanKind.SERIAL for subject in subjects]
    stand = (Ban(kind, each, each, "x", "operator", at(0)) for kind, each in zip(kinds, subjects, strict=True))
    return BanList(revision, tuple(stand))


HELD: dict[str, tuple[tuple[Fact, ...], list[tuple[str, int, Channel]]]] = {
    "nobody without facts": ((), []),
    "a certificate makes a holder, of whom nothing is known": ((certificate("a"),), [("a", 0, NONE)]),
    "one that proves the bundle that came with it": (
        (certificate("a", sequence=4, proves=True),),
        [("a", 4, CERTIFICATE)],
    ),
    "one that it acknowledged": ((certificate("a"), accepted("a", 4)), [("a", 4, STREAM)]),
    "one that it fetched": ((certificate("a"), accepted("a", 4, channel=FETCH)), [("a", 4, FETCH)]),
    "a renewal belongs to the same holder": (
        (certificate("a"), accepted("a", 4), certificate("b", "a")),
        [("a", 4, STREAM)],
    ),
    "what is said by any of its certificates counts": (
        (certificate("a"), certificate("b", "a"), certificate("c", "b"), accepted("b", 4)),
        [("a", 4, STREAM)],
    ),
    "a renewal that is tried again belongs to the same holder": (
        (certificate("a"), certificate("b", "a"), certificate("c", "a"), accepted("c", 4)),
        [("a", 4, STREAM)],
    ),
    "a renewal of what is not known is a holder of its own": (
        (certificate("a"), certificate("c", "b")),
        [("a", 0, NONE), ("c", 0, NONE)],
    ),
    "two certificates without a word of each other are two holders": (
        (certificate("a"), certificate("b", name="id/a")),
        [("a", 0, NONE), ("b", 0, NONE)],
    ),
    "who proves itself by a certificate that is not in the ledger is a holder": (
        (accepted("x", 4),),
        [("x", 4, STREAM)],
    ),
    "also where it only refuses": ((refused("x", 4),), [("x", 0, NONE)]),
    "its certificate may come to light later": (
        (accepted("x", 4), certificate("x"), certificate("y", "x")),
        [("x", 4, STREAM)],
    ),
    "it never goes back": ((certificate("a"), accepted("a", 5), accepted("a", 4)), [("a", 5, STREAM)]),
    "a renewal that proves its bundle is a holder of its own, since it may never have arrived": (
        (certificate("a", sequence=3, proves=True), certificate("b", "a", sequence=4, proves=True)),
        [("a", 3, CERTIFICATE), ("b", 4, CERTIFICATE)],
    ),
    "one that it acknowledges, too, is known by its stream: that reaches it": (
        (certificate("a", sequence=4, proves=True), accepted("a", 4)),
        [("a", 4, STREAM)],
    ),
    "what is known already does not change the channel otherwise": (
        (certificate("a"), accepted("a", 4), accepted("a", 4, channel=FETCH)),
        [("a", 4, STREAM)],
    ),
    "whoever fetches what came with its certificate is known by that: it gets revocation lists": (
        (certificate("a", sequence=4, proves=True), accepted("a", 4, channel=FETCH)),
        [("a", 4, FETCH)],
    ),
    "a fetch does not outweigh what a stream says of the same holder": (
        (certificate("a"), accepted("a", 4), accepted("a", 5, channel=FETCH)),
        [("a", 4, STREAM)],
    ),
    "nor where it was made with the next certificate": (
        (certificate("a"), accepted("a", 4), certificate("b", "a"), accepted("b", 5, channel=FETCH)),
        [("a", 4, STREAM)],
    ),
    "it counts once no stream can be open any more": (
        (certificate("a", ends=90), accepted("a", 4, until=1), accepted("a", 5, channel=FETCH)),
        [("a", 5, FETCH)],
    ),
    "a stream outweighs what was fetched": (
        (certificate("a"), accepted("a", 5, channel=FETCH), refused("a", 5)),
        [("a", 0, NONE)],
    ),
    "what was refused it does not have because it was fetched with the next certificate": (
        (
            certificate("a"),
            refused("a", 4),
            certificate("b", "a", sequence=3, proves=True),
            accepted("b", 4, channel=FETCH),
        ),
        [("a", 0, NONE), ("b", 0, NONE)],
    ),
    "but has the one after that, if it was fetched": (
        (
            certificate("a"),
            refused("a", 4),
            certificate("b", "a", sequence=3, proves=True),
            accepted("b", 5, channel=FETCH),
        ),
        [("a", 0, NONE), ("b", 5, FETCH)],
    ),
    "the channel is that of the newest": (
        (certificate("a", sequence=4, proves=True), accepted("a", 5)),
        [("a", 5, STREAM)],
    ),
    "a refusal takes nothing away that it has": (
        (certificate("a"), accepted("a", 4), refused("a", 5)),
        [("a", 4, STREAM)],
    ),
    "who refuses what came with its certificate does not have it, whatever such clients do": (
        (certificate("a", sequence=4, proves=True), refused("a", 4)),
        [("a", 0, NONE)],
    ),
    "nor something from after that": ((certificate("a", sequence=5, proves=True), refused("a", 4)), [("a", 0, NONE)]),
    "it has what it says then": (
        (certificate("a", sequence=4, proves=True), refused("a", 4), accepted("a", 3)),
        [("a", 3, STREAM)],
    ),
    "also where its refusal is known before its certificate": (
        (refused("a", 4), certificate("a", sequence=4, proves=True)),
        [("a", 0, NONE)],
    ),
    "who refused a bundle does not have it because its next certificate brought it along": (
        (
            certificate("a", sequence=3, proves=True),
            refused("a", 4),
            certificate("b", "a", sequence=4, proves=True),
            certificate("c", "b", sequence=4, proves=True),
        ),
        [("a", 3, CERTIFICATE), ("b", 0, NONE), ("c", 0, NONE)],
    ),
    "but has the one after that": (
        (certificate("a"), refused("a", 4), certificate("b", "a", sequence=5, proves=True)),
        [("a", 0, NONE), ("b", 5, CERTIFICATE)],
    ),
    "who accepted a bundle and refuses it on another stream does not have it everywhere": (
        (certificate("a"), accepted("a", 4), refused("a", 4)),
        [("a", 0, NONE)],
    ),
    "and has it when it accepts it everywhere": (
        (certificate("a"), accepted("a", 4), refused("a", 4), accepted("a", 4)),
        [("a", 4, STREAM)],
    ),
    "a line that is told twice changes nothing": (
        (certificate("a"), accepted("a", 4), certificate("a")),
        [("a", 4, STREAM)],
    ),
    "a certificate that ended is nobody's": ((certificate("a", ends=1),), []),
    "an acknowledgement by one that ended is nobody's": ((accepted("a", 4, until=1),), []),
    "no serial is not the same as another that has none": (
        (accepted("", 4), certificate("a"), certificate("b")),
        [("", 4, STREAM), ("a", 0, NONE), ("b", 0, NONE)],
    ),
}


@pytest.mark.parametrize("case", HELD)
def test_of_holders_is_known(case: str) -> None:
    facts, held = HELD[case]
    book = book_of(*facts)
    assert laggards(book) == held
    assert len(book) == len(held)
    book.expire(at(2 * HOUR))
    assert (len(book), book.evidence((0,), at(2 * HOUR), 2 * HOUR).coverage[0].covered) == (0, 0)


def test_a_laggard_tells_since_when_it_has_what_it_has_and_until_when_it_lives() -> None:
    book = book_of(
        certificate("a", when=0.5),
        certificate("b", name="id/b", when=0),
        accepted("b", 4, when=0.75),
        certificate("c", "b", ends=90),
        refused("b", 5, "too big"),
    )
    assert book.coverage(5, at(1), 1).laggards == (
        Laggard("b", "id/b", 4, STREAM, at(0.75), at(90), "too big"),
        Laggard("a", "id/a", 0, NONE, at(0.5), at(HOUR)),
    )


def test_a_holder_lives_as_long_as_its_longest_certificate() -> None:
    book = book_of(certificate("a", ends=90), certificate("b", "a", ends=30))
    assert book.coverage(1, at(1), 1).laggards[0].until == at(90)
    assert len(book_at(book, 89)) == 1
    assert len(book_at(book, 90)) == 0


def book_at(book: EvidenceBook, now: float) -> EvidenceBook:
    book.expire(at(now))
    return book


REFUSALS: dict[str, tuple[tuple[Fact, ...], str]] = {
    "is told": ((refused("a", 5, "why"),), "why"),
    "is the latest": ((refused("a", 5, "one"), refused("a", 5, "two")), "two"),
    "is over when it accepts a later one": ((refused("a", 5), accepted("a", 6)), ""),
    "is over when it accepts the same one": ((refused("a", 5), accepted("a", 5)), ""),
    "is over when it accepts what it was known to have": ((accepted("a", 5), refused("a", 5), accepted("a", 5)), ""),
    "is not over when it says again what it has": ((accepted("a", 4), refused("a", 5), accepted("a", 4)), "no"),
    "is not over with a renewal": ((refused("a", 5), certificate("b", "a")), "no"),
    "comes after an acceptance": ((accepted("a", 4), refused("a", 5)), "no"),
    "of something newer stands while only older ones are accepted": (
        (refused("a", 5), refused("a", 3), accepted("a", 4)),
        "no",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal(case: str) -> None:
    facts, refusal = REFUSALS[case]
    book = book_of(certificate("a"), *facts)
    assert [laggard.refusal for laggard in book.coverage(99, at(1), 1).laggards] == [refusal]


def test_a_refusal_of_what_all_were_thought_to_have_begins_the_soak_anew() -> None:
    book = book_of(certificate("a", sequence=4, proves=True), certificate("b", sequence=4, proves=True))
    assert book.coverage(4, at(1), 60).complete_since == at(1)
    book.learn([refused("b", 4)], at(2))
    coverage = book.coverage(4, at(2), 120)
    assert (coverage.covered, coverage.complete_since) == (1, None)
    assert [(each.serial, each.refusal) for each in coverage.laggards] == [("b", "no")]
    book.learn([accepted("b", 4)], at(3))
    assert book.coverage(4, at(3), 180).complete_since == at(3)


def test_a_holder_ends_with_its_last_certificate_and_not_before() -> None:
    book = book_of(certificate("a", ends=30), certificate("b", "a", ends=60), accepted("a", 4))
    assert laggards(book_at(book, 30)) == [("a", 4, STREAM)]
    assert laggards(book_at(book, 59)) == [("a", 4, STREAM)]
    assert laggards(book_at(book, 60)) == []


def test_a_renewal_carries_on_after_what_it_renews_has_ended() -> None:
    book = book_of(certificate("a", ends=30), certificate("b", "a", ends=60))
    book.expire(at(40))
    book.learn([accepted("b", 4, until=60), certificate("c", "b", ends=90)], at(41))
    assert laggards(book_at(book, 89)) == [("a", 4, STREAM)]
    assert laggards(book_at(book, 90)) == []


def test_a_clock_that_is_set_back_makes_no_holder_count_twice() -> None:
    """A certificate that ended lives again, and its holder with it, which is there for its next one."""
    book = book_of(certificate("a", ends=30), certificate("b", "a", ends=60))
    book.expire(at(40))
    book.learn([accepted("a", 4, until=30), certificate("c", "a", ends=70)], at(20))
    assert laggards(book) == [("a", 4, STREAM)]
    known = book.evidence((4,), at(70), 70)
    assert known == Evidence({4: Coverage(4, 0, 0, (), at(70))}, at=at(70))


def test_what_is_said_by_a_certificate_that_ended_counts_for_nothing() -> None:
    book = book_of(certificate("a", ends=30), certificate("b", "a", ends=60))
    book.expire(at(40))
    book.learn([accepted("a", 4, until=30)], at(41))
    assert laggards(book) == [("a", 0, NONE)]


def test_when_the_last_certificate_of_an_issuer_ends() -> None:
    book = book_of(
        certificate("a", issuer="issuer1", ends=30),
        certificate("b", issuer="issuer1", ends=60),
        certificate("c", issuer="issuer1", ends=60),
        certificate("d", "b", issuer="issuer2", ends=90),
    )
    assert book.evidence((), at(1), 1).signed_until == {"issuer1": at(60), "issuer2": at(90)}
    assert book.evidence((), at(59), 59).signed_until == {"issuer1": at(60), "issuer2": at(90)}
    assert book.evidence((), at(60), 60).signed_until == {"issuer2": at(90)}
    assert book.evidence((), at(90), 90).signed_until == {}


def depending(book: EvidenceBook, now: float = 1) -> dict[str, int]:
    """How many holders may use certificates of just these issuers."""
    return {" ".join(sorted(each)): n for each, n in book.evidence((), at(now), now).depending.items()}


def test_how_many_may_use_certificates_of_an_issuer() -> None:
    book = book_of(certificate("a"), certificate("b"), certificate("c", issuer="issuer2", ends=90))
    assert depending(book) == {"issuer1": 2, "issuer2": 1}
    known = book.evidence((), at(1), 1)
    assert [known.depend_on(ids) for ids in ((), ("issuer1",), ("issuer2", "issuer3"))] == [0, 2, 1]
    assert known.depend_on(("issuer1", "issuer2")) == 3
    assert depending(book, 60) == {"issuer2": 1}
    assert depending(book, 90) == {}


RENEWED = (certificate("a"), certificate("b", "a", issuer="issuer2", ends=90))
USES: dict[str, tuple[tuple[Fact, ...], dict[str, int]]] = {
    "both after a renewal, since the answer may be lost": (RENEWED, {"issuer1 issuer2": 1}),
    "both while it shows only the one from before": ((*RENEWED, accepted("a", 4)), {"issuer1 issuer2": 1}),
    "the newest alone once it shows that": ((*RENEWED, accepted("b", 4, until=90)), {"issuer2": 1}),
    "the newest alone, though it said something by the other one before": (
        (*RENEWED, accepted("b", 4, until=90), accepted("a", 5)),
        {"issuer2": 1},
    ),
    "both where it fetches by the newest: that shows what its caller has, and nobody behind it": (
        (*RENEWED, accepted("b", 4, until=90, channel=FETCH)),
        {"issuer1 issuer2": 1},
    ),
    "both where it refuses by the newest: not everybody behind it may have that": (
        (*RENEWED, refused("b", 4)),
        {"issuer1 issuer2": 1},
    ),
    "all, though its agent renews by the newest: not everybody behind it may have that": (
        (*RENEWED, certificate("c", "b", issuer="issuer3", ends=90)),
        {"issuer1 issuer2 issuer3": 1},
    ),
    "all of which an answer may have been lost": (
        (*RENEWED, certificate("c", "a", issuer="issuer3", ends=90)),
        {"issuer1 issuer2 issuer3": 1},
    ),
    "those from the one on that it shows": (
        (*RENEWED, certificate("c", "a", issuer="issuer3", ends=90), accepted("b", 4, until=90)),
        {"issuer2 issuer3": 1},
    ),
    "one from before no more when that ended": ((certificate("a", ends=1), *RENEWED[1:]), {"issuer2": 1}),
    "one of which nothing is known": ((accepted("x", 4),), {UNKNOWN: 1}),
    "one that comes to light": ((accepted("x", 4), certificate("x")), {"issuer1": 1}),
    "one of which nothing is known, also after its renewal": (
        (accepted("x", 4), certificate("y", "x")),
        {f"issuer1 {UNKNOWN}": 1},
    ),
}


@pytest.mark.parametrize("case", USES)
def test_a_holder_may_use(case: str) -> None:
    facts, uses = USES[case]
    book = book_of(*facts)
    assert depending(book) == uses
    assert depending(book, 90) == {}


class Counted(str):
    """An issuer's id that counts how often it is looked up anywhere."""

    lookups = 0

    def __hash__(self) -> int:
        Counted.lookups += 1
        return super().__hash__()


def test_who_renews_one_certificate_again_and_again_makes_none_of_them_dearer() -> None:
    book, issuer = book_of(certificate("a")), Counted("issuer2")
    costs: list[int] = []
    for hundred in range(3):
        before = Counted.lookups
        for number in range(100):
            book.learn([certificate(f"s{hundred}{number}", "a", issuer=issuer), accepted("a", 4)], at(1))
        costs.append(Counted.lookups - before)
    assert costs[0] >= costs[1] == costs[2]
    before = Counted.lookups
    book.learn([accepted("s299", 4)], at(1))
    assert depending(book) == {"issuer2": 1}
    assert Counted.lookups - before < 300 * 4, "and it has done with all of them at once"


def test_a_certificate_that_ended_is_used_no_more() -> None:
    book = book_of(*RENEWED)
    assert depending(book, 59) == {"issuer1 issuer2": 1}
    assert depending(book, 60) == {"issuer2": 1}


def test_what_is_known_by_an_unknown_certificate_may_come_from_anybody_until_its_end() -> None:
    known = book_of(accepted("x", 4)).evidence((4,), at(1), 1)
    assert (known.coverage[4].covered, known.signed_until) == (1, {UNKNOWN: at(HOUR)})
    assert known.last_signed(("issuer1",)) == known.last_signed(()) == at(HOUR)


def test_the_last_that_any_of_several_has_signed() -> None:
    known = book_of(certificate("a"), certificate("b", issuer="issuer2", ends=90)).evidence((), at(1), 1)
    assert known.last_signed(("issuer1", "issuer2")) == at(90)
    assert known.last_signed(("issuer1", "issuer3")) == at(HOUR)
    assert known.last_signed(("issuer3",)) is None


@pytest.mark.parametrize(
    ("protocol", "renews", "proves"),
    [("istio", "", True), ("istio", "a", True), ("meshca", "", True), ("meshca", "a", False), ("", "a", False)],
)
def test_a_certificate_proves_the_bundle_that_came_along_where_nobody_has_something_older(
    protocol: str, renews: str, proves: bool
) -> None:
    assert proves_bundle(protocol, renews) is proves


def test_an_authority_counts_as_seen_for_as_long_as_this_process_has_seen_it() -> None:
    known = Evidence(seen={"root1": timedelta(minutes=1)})
    assert known.has_seen("root1", timedelta(minutes=1))
    assert not known.has_seen("root1", timedelta(seconds=61))
    assert not known.has_seen("root2", timedelta(0))


def test_how_many_are_known_by_which_channel() -> None:
    book = book_of(
        certificate("a"),
        certificate("b", proves=True),
        certificate("c", proves=True),
        accepted("c", 4),
        accepted("x", 4, channel=FETCH, until=90),
    )
    assert book.evidence((), at(1), 1).channels == {NONE: 1, CERTIFICATE: 1, STREAM: 1, FETCH: 1}
    assert book.evidence((), at(60), 60).channels == {FETCH: 1}


def test_what_is_known_is_known_of_one_moment() -> None:
    known = book_of(certificate("a"), accepted("a", 4)).evidence((4, 5, 4), at(7), 7)
    assert known.at == at(7)
    assert set(known.coverage) == {4, 5}
    assert (known.coverage[4].covered, known.coverage[5].covered) == (1, 0)


def complete_since(book: EvidenceBook, now: float, sequence: int = 4, leapt: float = 0) -> datetime | None:
    """Since when it is complete; now the clock is ahead by `leapt` minutes."""
    return book.evidence((sequence,), at(now + leapt), 777 + now * 60).coverage[sequence].complete_since


def test_a_bundle_that_all_have_is_complete_since_that_was_first_seen() -> None:
    book = book_of(certificate("a"), certificate("b"), accepted("a", 4))
    assert complete_since(book, 2) is None
    book.learn([accepted("b", 5)], at(3))
    assert complete_since(book, 3) == at(3)
    assert complete_since(book, 9) == at(3)


def test_somebody_new_who_lacks_it_begins_it_anew() -> None:
    book = book_of(certificate("a"), accepted("a", 4))
    assert complete_since(book, 2) == at(2)
    book.learn([certificate("b")], at(3))
    assert complete_since(book, 3) is None
    book.learn([accepted("b", 4)], at(4))
    assert complete_since(book, 5) == at(5)


def test_somebody_new_who_has_it_does_not() -> None:
    book = book_of(certificate("a"), accepted("a", 4))
    assert complete_since(book, 2) == at(2)
    book.learn([certificate("b", sequence=4, proves=True)], at(3))
    assert complete_since(book, 3) == at(2)


def test_it_is_complete_when_the_last_laggard_has_ended() -> None:
    book = book_of(certificate("a", ends=90), accepted("a", 4), certificate("b"))
    assert complete_since(book, 59) is None
    assert complete_since(book, 60) == at(60)


def test_it_is_complete_where_nobody_relies_on_it() -> None:
    assert EvidenceBook().coverage(4, at(1), 1) == Coverage(4, 0, 0, (), at(1))


def test_a_sequence_that_nobody_asked_for_was_not_watched() -> None:
    book = book_of(certificate("a"), accepted("a", 4))
    assert complete_since(book, 2) == at(2)
    assert complete_since(book, 3, sequence=3) == at(3)
    assert complete_since(book, 4) == at(4)


def test_a_clock_that_was_set_back_leaves_nothing_complete_since_the_future() -> None:
    """A rotation whose clock had been a year ahead waited for a year."""
    book = book_of(certificate("a", ends=10_000), accepted("a", 4))
    assert complete_since(book, 2, leapt=9000) == at(9002)
    assert complete_since(book, 5) == at(2)
    assert complete_since(book, 7) == at(2)


def test_a_leap_that_comes_to_count_does_not_count_as_time_in_which_it_was_complete() -> None:
    """A soak ended at once when the clock's leap of an hour before came to count."""
    book = book_of(certificate("a", ends=10_000), accepted("a", 4))
    assert complete_since(book, 2) == at(2)
    assert complete_since(book, 3, leapt=60) == at(62)


def test_laggards_are_listed_by_name_those_who_refused_first() -> None:
    names = {"a": "id/z", "b": "id/m", "c": "id/m", "d": "id/y", "e": "id/a"}
    facts = [certificate(serial, name=names[serial]) for serial in "ecbda"]
    book = book_of(*facts, refused("d", 4), refused("a", 4), accepted("e", 4))
    assert [(each.spiffe_id, each.serial) for each in book.coverage(4, at(1), 1).laggards] == [
        ("id/y", "d"),
        ("id/z", "a"),
        ("id/m", "b"),
        ("id/m", "c"),
    ]


def test_a_hundred_laggards_are_listed_and_all_are_counted() -> None:
    assert MAX_LAGGARDS == 100
    serials = [f"{number:03}" for number in range(150)]
    book = book_of(*map(certificate, reversed(serials)), *(accepted(serial, 4) for serial in serials[:20]))
    coverage = book.coverage(4, at(1), 1)
    assert (coverage.holders, coverage.covered) == (150, 20)
    assert [laggard.serial for laggard in coverage.laggards] == serials[20:120]


# Who is banned is nobody whose trust matters.

SHE, HE = "spiffe://mesh.test/she", "spiffe://mesh.test/he"


def counts(book: EvidenceBook, sequence: int = 4, now: float = 1) -> tuple[int, int, int]:
    """Holders, those that have the bundle, and those left out."""
    coverage = book.coverage(sequence, at(now), now)
    return coverage.holders, coverage.covered, coverage.left_out


def test_who_is_banned_is_left_out_until_that_is_lifted() -> None:
    book = book_of(certificate("a", name=SHE), certificate("b", name=SHE), certificate("c", name=HE), accepted("c", 4))
    assert (counts(book), [each for each, *_ in laggards(book)]) == ((3, 1, 0), ["c", "a", "b"])
    book.heed(bans(SHE))
    assert (counts(book), [each for each, *_ in laggards(book)]) == ((1, 1, 2), ["c"])
    assert book.evidence((4,), at(2), 2).coverage[4].complete_since is not None
    book.heed(bans(SHE, HE))
    assert counts(book) == (0, 0, 3)
    book.heed(bans(HE))
    assert (counts(book), [each for each, *_ in laggards(book)]) == ((2, 0, 1), ["a", "b"])
    book.heed(NO_BANS)
    assert counts(book) == (3, 1, 0)


def test_whoever_comes_while_it_is_banned_is_left_out_too() -> None:
    book = EvidenceBook()
    book.heed(bans(SHE, "b"))
    book.learn([certificate("a", name=SHE), certificate("b", name=HE), certificate("c", name=HE)], at(1))
    assert counts(book) == (1, 0, 2)
    book.heed(NO_BANS)
    assert counts(book) == (3, 0, 0)


def test_a_certificate_that_is_banned_leaves_out_who_has_no_other() -> None:
    book = book_of(certificate("a", ends=90), certificate("b", "a", ends=60), certificate("c"))
    book.heed(bans("b"))
    assert counts(book) == (2, 0, 0)
    book.heed(bans("b", "a"))
    assert counts(book) == (1, 0, 1)
    book.learn([certificate("d", "b", ends=70)], at(2))
    assert counts(book) == (2, 0, 0), "a certificate that it got from a door that had not heard yet"
    assert counts(book_at(book, 60)) == (1, 0, 0)
    assert counts(book_at(book, 70)) == (0, 0, 1)
    assert counts(book_at(book, 90)) == (0, 0, 0)


def test_a_holder_whose_certificates_end_at_one_look_is_counted_out_once() -> None:
    book = book_of(certificate("a", ends=40), certificate("b", "a", ends=30), certificate("c", name=HE))
    book.heed(bans("a"))
    assert counts(book_at(book, 50)) == (1, 0, 0)
    assert book.evidence((), at(50), 50).channels == {NONE: 1}


def test_what_is_learnt_of_who_is_left_out_counts_when_it_no_longer_is() -> None:
    book = book_of(certificate("a", name=SHE), accepted("a", 3))
    book.heed(bans(SHE))
    book.learn([accepted("a", 4), certificate("b", "a", name=SHE, issuer="issuer2", ends=90)], at(1))
    assert counts(book) == (0, 0, 1)
    book.learn([accepted("b", 5, until=90)], at(1))
    book.heed(NO_BANS)
    assert (counts(book, 5), depending(book)) == ((1, 1, 0), {"issuer2": 1})


def test_certificates_of_who_is_banned_count_for_what_depends_on_them() -> None:
    """Revocation lists do not reach everybody: an authority stays until the last certificate under it has ended."""
    book = book_of(certificate("a", name=SHE, ends=90), certificate("b", name=HE, issuer="issuer2"))
    book.heed(bans(SHE))
    known = book.evidence((), at(1), 1)
    assert known.last_signed(("issuer1",)) == at(90)
    assert (known.depend_on(("issuer1", "issuer2")), known.are_to_renew(("issuer1", "issuer2"))) == (2, 1)
    assert (known.channels, known.until, known.least_checking) == ({NONE: 1}, {NONE: at(HOUR)}, 0)


def test_who_is_banned_does_not_keep_a_new_issuing_ca_from_signing_for_lack_of_its_list() -> None:
    book = book_of(certificate("a", name=SHE), accepted("a", 3), certificate("b", name=HE), accepted("b", 4))
    assert book.evidence((), at(1), 1).least_checking == 3
    book.heed(bans(SHE))
    assert book.evidence((), at(1), 1).least_checking == 4


def test_who_checks_lists_has_those_that_came_with_its_certificate_until_it_shows_more() -> None:
    """A newcomer that had not yet acknowledged anything on its stream was thought to check no lists: a new issuing CA
    signed, whose list it did not have, and it refused everybody."""
    istios = certificate("a", sequence=3, proves=True)
    agents = certificate("b", sequence=4, proves=True, with_lists=True)
    assert book_of(istios).evidence((), at(1), 1).least_checking is None
    book = book_of(istios, agents)
    assert book.evidence((), at(1), 1).least_checking == 4
    book.learn([accepted("b", 5)], at(1))
    assert book.evidence((), at(1), 1).least_checking == 5


class CountedBans(BanList):
    """Counts how often it is read."""

    reads = 0

    def __getattribute__(self, name: str) -> object:
        CountedBans.reads += 1
        return super().__getattribute__(name)


def test_bans_that_are_the_same_as_before_are_not_read_again() -> None:
    book, same = book_of(certificate("a", name=SHE)), CountedBans(1, bans(SHE).bans)
    book.heed(same)
    before = CountedBans.reads
    book.heed(same)
    assert CountedBans.reads == before


# A second opinion: everything is worked out again from all that was ever told.


@dataclass
class Told:
    """A fact, and when it was told; a sweep (everything that ended is forgotten) where there is no fact."""

    fact: Fact | None
    now: datetime
    bans: BanList | None = None


@dataclass
class Line:
    """A holder in the second opinion: what was told of it, in order."""

    first: str
    facts: list[Fact] = field(default_factory=list)
    inherited: tuple[int, str] = (0, "")  # what it refused with a certificate from before

    @property
    def certificates(self) -> list[CertificateFact]:
        return [fact for fact in self.facts if isinstance(fact, CertificateFact)]

    @property
    def until(self) -> datetime:
        """Acknowledgements make it last longer only where they are by a certificate that the ledger lacks."""
        listed = {fact.serial for fact in self.certificates}
        head = self.facts[0]
        ends = [fact.not_after for fact in self.certificates]
        return max([*ends, head.until] if isinstance(head, BundleFact) and head.serial not in listed else ends)

    def laggard(self) -> Laggard:
        return self._account()[0]

    def refused(self) -> tuple[int, str]:
        return self._account()[1]

    def _account(self) -> tuple[Laggard, tuple[int, str]]:
        sequence, channel, since, refusal = 0, NONE, self.facts[0].at, self.inherited
        for fact in self.facts:
            if isinstance(fact, BundleFact) and fact.refusal:
                refusal = max(refusal[0], fact.bundle_sequence), fact.refusal
                if sequence >= fact.bundle_sequence:
                    sequence, channel, since = 0, NONE, fact.at
                continue
            shown = CERTIFICATE if isinstance(fact, CertificateFact) else fact.channel
            if shown is not STREAM and fact.bundle_sequence <= refusal[0]:
                continue
            proves = fact.proves if isinstance(fact, CertificateFact) else True
            better = shown is STREAM or (shown, channel) == (FETCH, CERTIFICATE)
            is_news = fact.bundle_sequence > sequence or (fact.bundle_sequence == sequence and better)
            if not (proves and is_news):
                continue
            since = fact.at if fact.bundle_sequence > sequence else since
            sequence, channel = fact.bundle_sequence, shown
            refusal = refusal if refusal[0] > sequence else (0, "")
        laggard = Laggard(self.first, self.facts[0].spiffe_id, sequence, channel, since, self.until, refusal[1])
        return laggard, refusal

    def issuers(self, swept: datetime) -> frozenset[str]:
        """Of all certificates from the one on that it last showed to use, if they live."""
        listed: list[str] = []
        issuers: dict[str, str] = {}
        for fact in self.facts:
            if isinstance(fact, CertificateFact):
                listed = listed if fact.serial in listed else [*listed, fact.serial]
                issuers[fact.serial] = fact.issuer_id
            elif fact is self.facts[0]:
                listed, issuers = [fact.serial], {fact.serial: UNKNOWN}
            elif fact.channel is STREAM and not fact.refusal and fact.serial in listed:
                listed = listed[listed.index(fact.serial) :]
        ends = {fact.serial: ends_of(fact) for fact in self.facts}
        return frozenset(issuers[serial] for serial in listed if ends[serial] > swept)

    @property
    def checks(self) -> bool:
        """Whether it may check revocation lists."""
        return any(fact.with_lists for fact in self.certificates) or self.laggard().channel is not CERTIFICATE

    def is_banned(self, story: list[Told], now: datetime) -> bool:
        """By the last list: by its id, or by each of its certificates."""
        stand = next((told.bans for told in reversed(story) if told.bans is not None), NO_BANS)
        subjects = {ban.subject for ban in stand.bans}
        listed: list[Fact] = [*self.certificates, *(fact for fact in self.facts[:1] if isinstance(fact, BundleFact))]
        live = {fact.serial for fact in listed if ends_of(fact) > now}
        return self.facts[0].spiffe_id in subjects or live <= subjects


def lines_of(story: list[Told]) -> list[Line]:
    """The holders that are left in the end."""
    lines: list[Line] = []
    for index, told in enumerate(story):
        fact = told.fact
        if fact is None:
            lines = [line for line in lines if line.until > told.now]
            continue
        swept = max((before.now for before in story[:index] if before.fact is None), default=FOUNDED)
        end = ends_of(fact)
        named = (fact.serial, fact.renews) if isinstance(fact, CertificateFact) and not fact.proves else (fact.serial,)
        if end <= told.now:
            continue
        found = [line for serial in named if serial for line in lines if knows(line, serial, swept)]
        if found:
            if not is_outvoted(fact, found[0], told.now):
                found[0].facts.append(fact)
            continue
        renews = fact.renews if isinstance(fact, CertificateFact) else ""
        before = [line for line in lines if renews and knows(line, renews, swept)]
        lines.append(Line(fact.serial, [fact], before[0].refused() if before else (0, "")))
    return lines


def is_outvoted(fact: Fact, line: Line, now: datetime) -> bool:
    """Whether it is a fetch by somebody who may have a stream open."""
    if not isinstance(fact, BundleFact) or fact.channel is STREAM:
        return False
    return any(isinstance(each, BundleFact) and each.channel is STREAM and each.until > now for each in line.facts)


def ends_of(fact: Fact) -> datetime:
    return fact.not_after if isinstance(fact, CertificateFact) else fact.until


def knows(line: Line, serial: str, swept: datetime) -> bool:
    """Whether the serial is one of that holder's that had not ended at the last sweep, or its first."""
    return line.first == serial or any(fact.serial == serial and fact.not_after > swept for fact in line.certificates)


def second_opinion(story: list[Told], sequence: int, now: datetime) -> Evidence:
    everybody = lines_of(story)
    banned = [line for line in everybody if line.is_banned(story, now)]
    lines = [line for line in everybody if line not in banned]
    states = sorted((line.laggard() for line in lines), key=lambda it: (not it.refusal, it.spiffe_id, it.serial))
    behind = tuple(each for each in states if each.sequence < sequence)
    signed: dict[str, datetime] = {}
    for told in story:
        fact = told.fact
        if isinstance(fact, CertificateFact) and fact.not_after > max(told.now, now):
            signed[fact.issuer_id] = max(fact.not_after, signed.get(fact.issuer_id, fact.not_after))
        elif isinstance(fact, BundleFact) and fact.until > max(told.now, now) and is_unknown(fact, story):
            signed[UNKNOWN] = max(fact.until, signed.get(UNKNOWN, fact.until))
    uses = Counter(issuers for line in everybody if (issuers := line.issuers(now)))
    return Evidence(
        {sequence: Coverage(sequence, len(lines), len(lines) - len(behind), behind, left_out=len(banned))},
        signed,
        uses,
        Counter(each.channel for each in states),
        at=now,
        until={c: max(each.until for each in states if each.channel is c) for c in {each.channel for each in states}},
        least_checking=min((line.laggard().sequence for line in lines if line.checks), default=None),
        banned=Counter(line.issuers(now) for line in banned),
    )


def is_unknown(fact: BundleFact, story: list[Told]) -> bool:
    """Whether no certificate of that serial was told before it."""
    facts = [told.fact for told in story]
    before = facts[: next(i for i, each in enumerate(facts) if each is fact)]
    return not any(isinstance(each, CertificateFact) and each.serial == fact.serial for each in before)


SERIALS = [f"s{number}" for number in range(12)]
BANS = st.builds(lambda subjects: bans(*subjects), st.sets(st.sampled_from([SHE, HE, *SERIALS]), max_size=8))
CERTIFICATES = st.builds(
    certificate,
    st.sampled_from(SERIALS),
    st.sampled_from(["", *SERIALS]),
    name=st.sampled_from([SHE, HE, "somebody"]),
    issuer=st.sampled_from(["issuer1", "issuer2"]),
    ends=st.integers(1, 60),
    sequence=st.integers(1, 4),
    proves=st.booleans(),
    with_lists=st.booleans(),
    when=st.integers(0, 60),
)
ACKNOWLEDGEMENTS = st.builds(
    accepted,
    st.sampled_from(SERIALS),
    st.integers(1, 4),
    channel=st.sampled_from([STREAM, FETCH]),
    until=st.integers(1, 60),
    when=st.integers(0, 60),
    refusal=st.sampled_from(["", "", "no"]),
)


@st.composite
def stories(draw: st.DrawFn) -> list[Told]:
    """Facts and sweeps as time passes; each certificate has its own serial, and what is said by it ends with it."""
    now, ends, story = 0, dict[str, datetime](), list[Told]()
    for event in draw(st.lists(st.integers(1, 15) | CERTIFICATES | ACKNOWLEDGEMENTS | BANS, max_size=40)):
        if isinstance(event, BanList):
            story.append(Told(None, at(now), event))
        elif isinstance(event, int):
            now += event
            story.append(Told(None, at(now)))
        elif isinstance(event, BundleFact):
            end = ends.setdefault(event.serial, event.until)
            story.append(Told(replace(event, until=end), at(now)))
        elif not any(isinstance(t.fact, CertificateFact) and t.fact.serial == event.serial for t in story):
            end = ends.setdefault(event.serial, event.not_after)
            story.append(Told(replace(event, not_after=end), at(now)))
    return [*story, Told(None, at(now))]


@settings(max_examples=500)
@given(stories(), st.integers(1, 5))
def test_the_book_says_what_can_be_worked_out_from_all_that_was_ever_told(story: list[Told], sequence: int) -> None:
    book = EvidenceBook()
    for told in story:
        if told.bans is not None:
            book.heed(told.bans)
        if told.fact is None:
            book.expire(told.now)
        else:
            book.learn([told.fact], told.now)
    now = story[-1].now
    known = book.evidence((sequence,), now, 0.0)
    coverage = known.coverage[sequence]
    is_complete = coverage.covered == coverage.holders
    assert coverage.complete_since == (now if is_complete else None)
    known = replace(known, coverage={sequence: replace(coverage, complete_since=None)})
    assert known == second_opinion(story, sequence, now)
