"""The conformance run names what a plug-in does wrong, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import count
from threading import Event
from typing import Any

import pytest
from cryptography import x509

from meshca.errors import unavailable
from meshca.pki.keys import KeyAlgorithm
from meshca.services.conformance import Conformance, Finding
from tests.assets.authorities import FOUNDED, MESH, MemorySigner, signer_of
from tests.assets.foreign import DAY, foreign_ca, subject
from tests.fakes.clock import SetClock
from tests.fakes.upstream import FakeUpstream

_LONG = FOUNDED + 3650 * DAY
OTHER = foreign_ca(subject("Other Root"), until=_LONG)
MINT = "Mint answers within the deadline, with a chain that passes every check"
HEAR = "the roots are told at once, within the deadline"
NUMBERS = count(5000)


def new_signer() -> MemorySigner:
    return signer_of(KeyAlgorithm.P256, next(NUMBERS))


def run(fake: FakeUpstream, deadline: timedelta = timedelta(seconds=10)) -> list[Finding]:
    return list(Conformance(fake, MESH, new_signer, SetClock(FOUNDED), 30 * DAY, deadline).run())


def problems(fake: FakeUpstream) -> dict[str, str]:
    return {finding.check: finding.problem for finding in run(fake) if finding.problem}


@pytest.fixture
def fake() -> FakeUpstream:
    return FakeUpstream()


def test_an_honest_one_passes_every_check(fake: FakeUpstream) -> None:
    findings = run(fake)
    assert [finding for finding in findings if finding.problem or finding.skipped] == []
    assert len(findings) == 16
    assert fake.minted == 7, "it costs few certificates"


def minting(fake: FakeUpstream, **otherwise: Any) -> Callable[..., Any]:
    return lambda csr, ttl: fake.sign(csr, ttl, **otherwise)


def first_only(fake: FakeUpstream) -> Callable[..., Any]:
    """The same certificate again."""
    made: list[Any] = []

    def mint(csr: bytes, ttl: timedelta) -> Any:
        if not made:
            made.append(fake.sign(csr, ttl))
        elif ttl < 30 * DAY:
            return fake.sign(csr, ttl)
        return made[0]

    return mint


def until(fake: FakeUpstream, end: datetime) -> Callable[..., Any]:
    return minting(fake, until=end)


def minting_by_other(fake: FakeUpstream) -> Callable[..., Any]:
    fake.authorities.append(OTHER)
    return FakeUpstream(OTHER).sign


CHAIN = "has the URI SAN 'spiffe://other.org'"
WRONG: dict[str, tuple[Callable[[FakeUpstream], Any], str, str]] = {
    "another root": (
        minting_by_other,
        "the chain leads to the first of the roots",
        "it leads to 'CN=Other Root', while the first is 'CN=Upstream Root'",
    ),
    "root in chain": (
        lambda f: lambda csr, ttl: [*f.sign(csr, ttl), *f.all_roots()],
        MINT,
        "the root is in the chain: leave it out",
    ),
    "no CA": (lambda f: minting(f, ca=False), MINT, "is no CA certificate"),
    "wrong domain": (lambda f: minting(f, uris=("spiffe://other.org",)), MINT, CHAIN),
    "too long": (
        lambda f: until(f, FOUNDED + 40 * DAY),
        "the lifetime is not longer than what was asked for",
        "it lives for 40 days, 0:00:00, asked for was 30 days, 0:00:00",
    ),
    "fixed": (
        lambda f: until(f, FOUNDED + 30 * DAY),
        "a shorter lifetime is kept to",
        "it lives for 30 days, 0:00:00, asked for was 15 days, 0:00:00",
    ),
    "no path length": (lambda f: minting(f, path_length=None), "the path length is 0, as requested", "it is absent"),
    "longer path": (lambda f: minting(f, path_length=2), "the path length is 0, as requested", "it is 2"),
    "no lists": (
        lambda f: minting(f, key_usage=x509.KeyUsage(False, False, False, False, False, True, False, False, False)),
        "it may sign revocation lists, as requested",
        "may not sign revocation lists",
    ),
    "no uri": (
        lambda f: minting(f, uris=()),
        "its subject and its URI are those of the request",
        "no subject alternative name is there, not spiffe://example.org",
    ),
    "one serial": (
        first_only,
        "the same key again gives a certificate with a serial number of its own",
        "both have the serial number",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_minted_wrong_is_named(fake: FakeUpstream, wrong: str) -> None:
    make, check, problem = WRONG[wrong]
    fake.mints = make(fake)
    found = problems(fake)
    assert problem in found[check]


def test_another_subject_is_named(fake: FakeUpstream) -> None:
    root = fake.authorities[0]

    def mint(csr: bytes, ttl: timedelta) -> list[bytes]:
        fake.sign(csr, ttl)  # refuses what is to be refused
        key = x509.load_der_x509_csr(csr).public_key()
        made = foreign_ca(
            subject("Mine"),
            root,
            public_key=key,
            path_length=0,
            since=FOUNDED,
            until=FOUNDED + ttl,
            key_identifier=True,
        )
        return [made.der]

    fake.mints = mint
    found = problems(fake)["its subject and its URI are those of the request"]
    assert found.startswith("the subject is 'CN=Mine', requested was ")


def test_one_that_signs_whatever_comes_is_named(fake: FakeUpstream) -> None:
    honest = fake.sign
    good: list[bytes] = []

    def mint(csr: bytes, ttl: timedelta) -> Any:
        if not good:
            good.append(csr)
        return honest(good[0], max(ttl, DAY))

    fake.mints = mint
    found = problems(fake)
    assert {check: problem for check, problem in found.items() if "refused" in check} == {
        "an empty request is refused as INVALID_ARGUMENT": "it is signed",
        "a garbled request is refused as INVALID_ARGUMENT": "it is signed",
        "a forged request is refused as INVALID_ARGUMENT": "it is signed",
        "a lifetime of 0 is refused as INVALID_ARGUMENT": "it is signed",
    }


def test_a_refusal_in_other_words_is_named(fake: FakeUpstream) -> None:
    def mint(csr: bytes, ttl: timedelta) -> Any:
        raise unavailable("something went wrong")

    fake.mints = mint
    expected = "it is answered with UNAVAILABLE: something went wrong"
    found = problems(fake)
    assert found["an empty request is refused as INVALID_ARGUMENT"] == expected
    assert found[MINT] == "something went wrong"


@pytest.mark.parametrize(
    ("told", "check", "problem"),
    [
        ([], HEAR, "the list of roots holds 0 certificates"),
        ([b"garbage"], HEAR, "does not parse"),
        (
            [foreign_ca(subject("No CA"), ca=False).der],
            "each root is a self-signed CA certificate that may sign issuing CAs",
            "is no CA certificate",
        ),
    ],
)
def test_roots_that_are_none_are_named(fake: FakeUpstream, told: Any, check: str, problem: str) -> None:
    fake.tells = lambda: told
    assert problem in problems(fake)[check]


def test_roots_that_change_from_one_moment_to_the_next_are_named(fake: FakeUpstream) -> None:
    answers = iter([fake.all_roots(), [OTHER.der]])
    fake.tells = lambda: next(answers)
    assert problems(fake) == {
        "the stream of roots is still open, and says the same": "the roots are others than a moment ago"
    }


@pytest.fixture
def never() -> Iterator[Event]:
    event = Event()
    yield event
    event.set()


def test_one_that_does_not_answer_is_named_at_the_deadline(fake: FakeUpstream, never: Event) -> None:
    def mint(csr: bytes, ttl: timedelta) -> Any:
        never.wait(30)
        return []

    fake.mints = mint
    found = {finding.check: finding for finding in run(fake, timedelta(milliseconds=100))}
    assert found[MINT].problem == "Mint: no answer came within 0.1s"
    assert found["the path length is 0, as requested"].skipped


def test_one_that_breaks_when_it_hears_what_is_trusted_is_named(fake: FakeUpstream) -> None:
    class Deaf(FakeUpstream):
        def acknowledge(self, trusted: Any, issuing: bytes) -> None:
            raise RuntimeError

    assert problems(Deaf()) == {"what is trusted is heard, or UNIMPLEMENTED": "it raised RuntimeError"}
