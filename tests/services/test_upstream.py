"""An upstream authority signs our issuing CAs: when it is asked, what is believed, and that it holds nothing up."""

from __future__ import annotations

import threading
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from meshca.authority.import_alarms import import_alarms
from meshca.authority.progress import Severity
from meshca.authority.ring import AuthorityKind, AuthorityState, Step, root_digest
from meshca.errors import ErrorKind, MeshcaError, internal
from meshca.pki.keys import KeyAlgorithm, generate_private_key
from meshca.services.control import Order
from meshca.services.imports import found_on_root
from meshca.services.issuance import SigningRequest
from meshca.services.upstream import Upstream, UpstreamPolicy
from tests.assets.authorities import FOUNDED, MESH
from tests.assets.csrs import good_der, key_of
from tests.assets.foreign import DAY, ForeignCa, foreign_ca, subject, usage
from tests.assets.founded import WORKLOAD, FoundedCa, unfounded_ca
from tests.fakes.upstream import FakeUpstream

ROOT, ISSUER = AuthorityKind.ROOT, AuthorityKind.ISSUER
PREPARED, ACTIVE, OLD = AuthorityState.PREPARED, AuthorityState.ACTIVE, AuthorityState.OLD
LONG = FOUNDED + 3650 * DAY
FIRST, NEXT = foreign_ca(subject("First Root"), until=LONG), foreign_ca(subject("Next Root"), until=LONG)
WISH = SigningRequest(good_der(key_of(KeyAlgorithm.P256)), 3600)
POLL = timedelta(seconds=5)


@dataclass
class Rig:
    """A server on the root of an upstream authority, which has signed nothing yet."""

    ca: FoundedCa
    fake: FakeUpstream
    deadline: timedelta = timedelta(seconds=10)
    dice: float = 0.0
    service: Upstream = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.ca.restart()
        self.ca.keeper.refresh()
        policy = UpstreamPolicy(self.deadline, POLL, self.ca.policy)
        keeper, imports, clock = self.ca.keeper, self.ca.imports, self.ca.clock
        evidence, dice = self.ca.relying.evidence, lambda: self.dice
        self.service = Upstream("corp", self.fake, keeper, imports, evidence, clock, policy, self.ca.passed, dice)

    def look(self, times: int = 1) -> None:
        """So many looks, a poll and a tick between them."""
        for _ in range(times):
            self.service.look()
            self.ca.rotation.tick()
            self.ca.clock.move(POLL)

    def problems(self) -> list[str]:
        return [alarm.message for alarm in self.service.alarms()]

    def standing(self) -> list[tuple[str, str]]:
        return [(a.kind.value, a.state.value) for a in self.ca.ring.authorities]

    def roots(self, *states: AuthorityState) -> list[bytes]:
        return [root.certificate for root in self.ca.ring.of(ROOT, *states)]

    def issuer_root(self) -> bytes:
        """The root that what is signed now leads to."""
        active = self.ca.ring.active(ISSUER)
        assert active is not None
        root = self.ca.ring.find(active.issuer_id)
        assert root is not None
        return root.certificate

    def issue(self) -> None:
        self.ca.issue(WORKLOAD, WISH)


@pytest.fixture
def rig() -> Iterator[Rig]:
    ca = unfounded_ca()
    found_on_root(ca.store, ca.keys, MESH, FIRST.certificate, KeyAlgorithm.P256, FOUNDED)
    made = Rig(ca, FakeUpstream(FIRST, now=ca.clock.now))
    yield made
    made.service.close()


# --- when it is asked ------------------------------------------------------------------------------------------------


def test_where_nothing_signs_an_issuing_ca_is_had_and_used(rig: Rig) -> None:
    rig.look()
    assert rig.standing() == [("root", "active"), ("issuer", "active")]
    rig.issue()
    rig.look(20)
    assert rig.fake.minted == 1
    assert rig.service.alarms() == ()
    assert {"hear roots", "import issuer"} <= {entry.step for entry in rig.ca.store.journal(20)}


def test_the_next_one_waits_in_time_and_takes_over(rig: Rig) -> None:
    rig.look()
    rig.ca.clock.move(14 * DAY)
    rig.look()
    assert rig.fake.minted == 1
    rig.ca.clock.move(DAY + timedelta(minutes=1))
    rig.look(2)
    assert (rig.fake.minted, rig.standing()[1:]) == (2, [("issuer", "active"), ("issuer", "prepared")])
    assert import_alarms(rig.ca.ring, rig.ca.plan.policy, rig.ca.clock.now()) == ()
    rig.ca.clock.move(10 * DAY)
    rig.look()
    assert rig.ca.ring.of(ISSUER, ACTIVE)[0].not_before > FOUNDED + 14 * DAY


def test_the_request_and_its_key_stay_the_same_until_one_is_signed(rig: Rig) -> None:
    requests = []

    def refuses(csr: bytes, ttl: timedelta) -> list[bytes]:
        requests.append(csr)
        return []

    rig.fake.mints = refuses
    rig.look(30)
    assert len(requests) > 3
    assert len(set(requests)) == 1
    assert len(rig.ca.key_ids()) == 1
    rig.restart()
    rig.fake.mints = rig.fake.sign
    rig.look()
    assert len(rig.ca.key_ids()) == 1


def test_what_is_due_as_soon_as_it_comes_is_not_asked_for_without_end(rig: Rig) -> None:
    rig.fake.mints = lambda csr, ttl: rig.fake.sign(csr, rig.ca.policy.max_leaf_ttl + timedelta(minutes=1))
    rig.look(60)
    assert rig.standing()[:2] == [("root", "active"), ("issuer", "active")]
    assert rig.fake.minted <= 2


def test_attempts_that_fail_come_ever_more_seldom_and_one_that_goes_well_ends_that(rig: Rig) -> None:
    rig.fake.tells = list
    moments = []
    for second in range(600):
        before = rig.fake.asked
        rig.service.look()
        if rig.fake.asked > before:
            moments.append(second)
        rig.ca.clock.move(timedelta(seconds=1))
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert gaps[:6] == [3, 5, 10, 20, 30, 30], "half of the time is left to chance, which gives nothing here"
    rig.fake.tells = rig.fake.all_roots
    rig.look(20)
    assert rig.problems() == []
    assert rig.standing() == [("root", "active"), ("issuer", "active")]


# --- what is not believed --------------------------------------------------------------------------------------------


def other_key(fake: FakeUpstream) -> Any:
    return lambda csr, ttl: fake.sign(csr, ttl, public_key=ec.generate_private_key(ec.SECP256R1()).public_key())


def differing(**otherwise: object) -> Callable[[FakeUpstream], Any]:
    return lambda fake: lambda csr, ttl: fake.sign(csr, ttl, **otherwise)


def by_stranger(fake: FakeUpstream, *, with_root: bool) -> Any:
    stranger = FakeUpstream(foreign_ca(subject("Stranger"), until=LONG))
    return lambda csr, ttl: [*stranger.sign(csr, ttl), *(stranger.all_roots() if with_root else ())]


LIES: dict[str, tuple[Callable[[FakeUpstream], Any], str]] = {
    "nothing": (lambda _: lambda csr, ttl: [], "the chain holds 0 certificates: 1 to 8 are taken"),
    "garbage": (lambda _: lambda csr, ttl: [b"garbage"], "the chain holds a certificate that does not parse"),
    "text": (lambda _: lambda csr, ttl: ["text"], "the chain is no list of DER certificates"),
    "no list": (lambda _: lambda csr, ttl: b"bytes", "the chain is no list of DER certificates"),
    "too many": (lambda f: lambda csr, ttl: [*f.sign(csr, ttl)] * 9, "the chain holds 9 certificates"),
    "too large": (lambda _: lambda csr, ttl: [bytes(70_000)], "the chain is 70000 bytes long: at most 65536"),
    "another key": (other_key, "is not for the pending key"),
    "no CA": (differing(ca=False), "is no CA certificate"),
    "may not sign": (differing(key_usage=usage(sign=False)), "may not sign certificates"),
    "expired": (differing(since=FOUNDED - 9 * DAY, until=FOUNDED - DAY), "expired at 2026-"),
    "not valid yet": (differing(since=FOUNDED + DAY), "is not valid before"),
    "too short": (differing(until=FOUNDED + timedelta(hours=2)), "but leaves may live for 1 day"),
    "too long": (differing(until=FOUNDED + 31 * DAY), "but was to live for 30 days, 0:00:00 at most"),
    "another trust domain": (differing(uris=("spiffe://other.org",)), "has the URI SAN 'spiffe://other.org'"),
    "a foreign root": (lambda f: by_stranger(f, with_root=False), "neither in the file nor a root of this trust"),
    "a foreign root, given": (lambda f: by_stranger(f, with_root=True), "not the one that was announced first"),
    "a root": (lambda f: lambda csr, ttl: [FIRST.der], "is in use already, as active"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_issuing_ca_that_is_not_what_was_asked_for_is_refused_and_told(rig: Rig, lie: str) -> None:
    make, problem = LIES[lie]
    rig.fake.mints = make(rig.fake)
    rig.look()
    assert rig.standing() == [("root", "active")]
    assert rig.ca.signing.latest().bundle.x509_authorities == (FIRST.der,)
    (alarm,) = rig.service.alarms()
    assert (alarm.severity, alarm.subject) == (Severity.WARNING, "upstream")
    assert alarm.message.startswith("corp: ")
    assert problem in alarm.message
    assert alarm.message.endswith("; nothing was taken, and it is tried again")
    rig.fake.mints = rig.fake.sign
    rig.look(3)
    assert rig.service.alarms() == ()
    assert rig.standing() == [("root", "active"), ("issuer", "active")]


def test_a_path_length_that_the_chain_does_not_keep_is_refused(rig: Rig) -> None:
    policy = foreign_ca(subject("Policy"), FIRST, path_length=0)
    rig.fake.mints = lambda csr, ttl: [*FakeUpstream(policy, now=rig.ca.clock.now).sign(csr, ttl), policy.der]
    rig.look()
    assert "its path length 0 is too small for the 1 CA certificates below it" in rig.problems()[0]


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ([], "the list of roots holds 0 certificates"),
        ([b"garbage"], "the list of roots holds a certificate that does not parse"),
        (None, "the list of roots is no list"),
        ([foreign_ca(subject("Policy"), FIRST).der], "is not self-signed"),
        ([FIRST.der, foreign_ca(subject("Ended"), until=FOUNDED).der], "expired at"),
        ([foreign_ca(subject("Ends"), until=FOUNDED + timedelta(hours=1)).der, FIRST.der], "but leaves may live"),
        ([foreign_ca(subject("No CA"), ca=False).der, FIRST.der], "is no CA certificate"),
        ([foreign_ca(subject("Flat"), path_length=0).der, FIRST.der], "its path length 0 is too small"),
        ([foreign_ca(subject("Elsewhere"), uris=("spiffe://other.org",)).der], "has the URI SAN"),
    ],
)
def test_roots_that_cannot_be_trusted_are_refused_and_those_that_are_known_stay(
    rig: Rig, told: Any, problem: str
) -> None:
    rig.look()
    rig.fake.tells = lambda: told
    before = rig.ca.store.load()
    rig.look(3)
    assert problem in rig.problems()[0]
    assert rig.problems()[0].endswith("; the roots stay as they are, and it is tried again")
    assert rig.ca.store.load() == before
    rig.issue()


# --- what hangs, dies or breaks --------------------------------------------------------------------------------------


class Stuck:
    """An answer that does not come before the test says so."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()

    def __call__(self, *_: object) -> list[bytes]:
        assert self.goes_on.wait(30)
        return []


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    made = Stuck()
    yield made
    made.goes_on.set()


def test_a_mint_that_hangs_is_given_up_told_and_not_asked_again_meanwhile(rig: Rig, stuck: Stuck) -> None:
    rig.deadline = timedelta(milliseconds=100)
    rig.restart()
    rig.fake.mints = stuck
    rig.look()
    assert rig.problems() == ["corp: Mint: no answer came within 0.1s; nothing was taken, and it is tried again"]
    rig.look(10)
    assert rig.fake.minted == 1
    assert "Mint: it hangs, no answer has come yet; it is not asked again meanwhile" in rig.problems()[0]
    rig.fake.authorities.append(NEXT)
    rig.look()
    assert rig.roots() == [FIRST.der, NEXT.der], "its roots are followed all the same"


def test_an_answer_that_comes_too_late_is_dropped_and_the_next_one_is_taken(rig: Rig, stuck: Stuck) -> None:
    rig.deadline = timedelta(milliseconds=100)
    rig.restart()
    rig.fake.mints = stuck
    rig.look()
    rig.fake.mints = rig.fake.sign
    stuck.goes_on.set()
    for _ in range(500):
        rig.look()
        if not rig.problems():
            break
    assert rig.standing() == [("root", "active"), ("issuer", "active")]


def test_roots_that_hang_keep_no_issuing_ca_from_being_had(rig: Rig, stuck: Stuck) -> None:
    rig.deadline = timedelta(milliseconds=100)
    rig.restart()
    rig.look()
    rig.fake.tells = stuck
    rig.ca.clock.move(16 * DAY)
    rig.look(3)
    assert "its roots: it hangs" in rig.problems()[0]
    assert rig.fake.minted == 2


def test_closing_waits_for_no_answer(rig: Rig, stuck: Stuck) -> None:
    rig.fake.mints = stuck
    looking = threading.Thread(target=rig.service.look)
    looking.start()
    while rig.fake.minted == 0:
        pass
    rig.service.close()
    looking.join(5)
    assert not looking.is_alive()
    assert rig.fake.closed
    assert "the server is stopping" in rig.problems()[0]


def test_a_plug_in_that_will_not_close_does_not_keep_the_server(rig: Rig) -> None:
    forever = threading.Event()
    rig.fake.close = forever.wait  # type: ignore[method-assign, assignment]
    closing = threading.Thread(target=rig.service.close)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()
    forever.set()


def test_a_plug_in_that_fails_to_close_ends_quietly(rig: Rig) -> None:
    def breaks() -> None:
        raise ValueError("the password is hunter2")

    rig.fake.close = breaks  # type: ignore[method-assign]
    with capture_logs() as logs:
        rig.service.close()
    assert logs == [{"event": "upstream_close_failed", "error": "ValueError", "log_level": "warning"}]


def test_a_root_whose_name_cannot_be_read_is_refused_in_words(rig: Rig) -> None:
    rig.look(3)
    name = b"\x0c" + bytes([len("Next Root")]) + b"Next Root"
    damaged = NEXT.der.replace(name, b"\x05" + name[1:])
    assert damaged != NEXT.der
    rig.fake.tells = lambda: [FIRST.der, damaged]
    rig.look(1)
    assert "the list of roots holds a certificate that does not parse" in rig.problems()[0]


@pytest.mark.parametrize(
    "error", [ValueError("the password is hunter2"), internal("broken state"), SystemExit(1), CancelledError()]
)
def test_whatever_a_plug_in_raises_is_its_problem_and_not_ours(rig: Rig, error: BaseException) -> None:
    def breaks(*_: object) -> list[bytes]:
        raise error

    rig.fake.mints = breaks
    rig.look()
    expected = "broken state" if isinstance(error, MeshcaError) else f"it raised {type(error).__name__}"
    assert rig.problems() == [f"corp: {expected}; nothing was taken, and it is tried again"]


def test_while_our_own_store_is_out_nothing_is_taken(rig: Rig) -> None:
    rig.ca.store.out = True
    rig.service.look()
    assert "the store cannot be read" in rig.problems()[0]
    rig.ca.store.out = False
    rig.ca.clock.move(POLL)
    rig.look(2)
    assert rig.standing() == [("root", "active"), ("issuer", "active")]


def test_our_own_state_that_cannot_be_opened_is_no_fault_of_the_plug_in(rig: Rig) -> None:
    rig.look()
    rig.ca.memory_keys.adopt("other", generate_private_key(KeyAlgorithm.P256))
    (issuer,) = rig.ca.ring.of(ISSUER)
    keys = rig.ca.memory_keys._signers
    keys[issuer.key_id] = keys["other"]
    rig.fake.authorities.append(NEXT)
    with pytest.raises(MeshcaError) as refused:
        rig.service.look()
    assert refused.value.kind is ErrorKind.INTERNAL


# --- roots -----------------------------------------------------------------------------------------------------------


def switched(rig: Rig) -> None:
    """The upstream tells of another root, and then signs under it."""
    rig.look()
    rig.issue()
    rig.fake.authorities = [FIRST, NEXT]
    rig.look(2)
    rig.fake.authorities = [NEXT, FIRST]
    rig.look(2)


def test_a_root_that_is_told_of_is_trusted_ahead_of_use(rig: Rig) -> None:
    rig.look()
    rig.fake.authorities.append(NEXT)
    rig.look(5)
    assert rig.standing() == [("root", "active"), ("issuer", "active"), ("root", "prepared")]
    assert rig.ca.ring.rotation is None
    assert rig.ca.signing.latest().bundle.x509_authorities == (FIRST.der, NEXT.der)
    assert rig.fake.minted == 1
    assert import_alarms(rig.ca.ring, rig.ca.plan.policy, rig.ca.clock.now()) == (), "it is waited for by design"


def test_when_the_upstream_signs_under_another_root_that_is_used_once_everybody_trusts_it(rig: Rig) -> None:
    switched(rig)
    assert rig.fake.minted == 2
    rotation = rig.ca.ring.rotation
    assert rotation is not None
    assert rotation.origin == "upstream"
    rig.look(60)
    assert rig.roots(ACTIVE) == [FIRST.der], "the holder is not known to trust the next one"
    rig.ca.clock.move(timedelta(hours=1))
    rig.look(20)
    assert rig.roots(ACTIVE) == [NEXT.der]
    assert rig.issuer_root() == NEXT.der


def test_a_root_is_kept_while_the_upstream_tells_of_it_and_goes_when_nothing_depends_on_it(rig: Rig) -> None:
    switched(rig)
    for _ in range(20):
        rig.ca.clock.move(timedelta(hours=1))
        rig.look()
    assert (rig.roots(ACTIVE), rig.roots(OLD)) == ([NEXT.der], [FIRST.der])
    assert rig.ca.ring.rotation is None, "the rotation is over all the same"
    rig.fake.authorities = [NEXT]
    rig.look(3)
    assert rig.roots() == [NEXT.der]


def test_a_root_that_waits_and_is_told_of_no_more_leaves_the_bundle(rig: Rig) -> None:
    rig.look()
    rig.fake.authorities = [FIRST, NEXT]
    rig.look()
    rig.fake.authorities = [FIRST]
    rig.look()
    assert rig.roots() == [FIRST.der]
    rig.fake.authorities = [FIRST, NEXT]
    rig.look()
    assert rig.roots() == [FIRST.der, NEXT.der], "it may be told of again"


def test_a_root_that_others_brought_does_not_leave_with_what_the_upstream_tells(rig: Rig) -> None:
    rig.look()
    request = x509.load_der_x509_csr(rig.ca.imports.request().request)
    corp = foreign_ca(subject("Corp"), until=LONG)
    made = foreign_ca(request.subject, corp, public_key=request.public_key(), until=FOUNDED + 90 * DAY)
    rig.ca.imports.accept(made.pem + corp.pem, "by hand")
    rig.look(2)
    assert corp.der in rig.roots()


def test_a_root_that_was_distrusted_here_does_not_come_back_while_it_is_told_of(rig: Rig) -> None:
    switched(rig)
    for _ in range(20):
        rig.ca.clock.move(timedelta(hours=1))
        rig.look()
    first = next(root for root in rig.ca.ring.of(ROOT) if root.certificate == FIRST.der)
    rig.ca.control.carry_out(Order(Step.TAINT, first.id, "stolen"))
    rig.look(20)
    assert rig.roots(AuthorityState.REVOKED) == [FIRST.der]
    rig.ca.control.carry_out(Order(Step.PRUNE, first.id, ""))
    rig.look(20)
    assert rig.roots() == [NEXT.der]
    rig.fake.authorities = [FIRST, NEXT]
    rig.look(2)
    assert rig.roots() == [NEXT.der]
    assert "Mint leads to root 'CN=First Root', which is not in the trust bundle here" in rig.problems()[0]


def test_what_leads_to_a_root_that_signs_no_more_here_is_not_asked_for(rig: Rig) -> None:
    switched(rig)
    for _ in range(20):
        rig.ca.clock.move(timedelta(hours=1))
        rig.look()
    minted = rig.fake.minted
    rig.fake.authorities = [FIRST, NEXT]
    rig.look(3)
    assert "which is old here" in rig.problems()[0]
    assert rig.fake.minted == minted


def test_after_an_abort_a_new_root_is_not_taken_until_an_operator_begins_a_rotation(rig: Rig) -> None:
    switched(rig)
    rig.ca.control.abort("not now")
    rig.look(5)
    assert rig.roots() == [FIRST.der]
    assert "which is not in the trust bundle here" in rig.problems()[0]
    third = foreign_ca(subject("Third"), until=LONG)
    rig.fake.authorities = [NEXT, FIRST, third]
    rig.look(5)
    assert rig.roots() == [FIRST.der]
    assert "a rotation was aborted: `meshca rotate root` begins another" in rig.problems()[0]
    rig.ca.control.begin("now")
    rig.look(10)
    assert rig.roots() == [FIRST.der, NEXT.der, third.der]
    assert rig.ca.ring.successor is not None
    assert rig.ca.ring.successor.certificate == NEXT.der


def test_an_operators_rotation_waits_for_the_upstream_to_tell_of_a_root(rig: Rig) -> None:
    rig.look()
    rig.ca.control.begin("planned")
    rig.look(2)
    assert rig.roots() == [FIRST.der]
    rig.fake.authorities = [NEXT, FIRST]
    rig.look(2)
    assert rig.ca.ring.successor is not None
    assert rig.ca.ring.successor.certificate == NEXT.der


def test_roots_are_not_announced_against_somebody_who_changes_the_ring_meanwhile(rig: Rig) -> None:
    rig.look()
    rig.fake.authorities = [FIRST, NEXT]
    stored, inner = rig.ca.store.load(), rig.ca.store.inner
    rig.ca.store.overtake = lambda: inner.save(stored.ring, expected_revision=stored.revision)
    rig.look()
    assert rig.roots() == [FIRST.der]
    rig.look(2)
    assert rig.roots() == [FIRST.der, NEXT.der]


def test_a_mint_is_for_the_root_that_was_told_of_first_and_for_no_other(rig: Rig) -> None:
    second: ForeignCa = NEXT
    rig.fake.authorities = [FIRST, second]
    rig.look()
    rig.ca.clock.move(16 * DAY)
    other = FakeUpstream(second, now=rig.ca.clock.now)
    rig.fake.mints = other.sign
    rig.look()
    assert "leads to root 'CN=Next Root', which is not the one that was announced first" in rig.problems()[0]
    assert rig.ca.ring.rotation is None


def test_a_refusal_has_the_kind_of_its_cause(rig: Rig) -> None:
    rig.look()
    with pytest.raises(MeshcaError) as refused:
        rig.ca.imports.accept_minted([FIRST.certificate], FIRST.certificate, 30 * DAY, "")
    assert refused.value.kind is ErrorKind.CONFLICT


def test_an_upstream_with_ever_new_roots_does_not_make_the_bundle_grow_for_ever(rig: Rig) -> None:
    rig.look()
    rig.issue()  # a holder that is not known to trust any of them
    for number in range(30):
        rig.fake.authorities = [foreign_ca(subject(f"Root {number}"), until=LONG), FIRST]
        rig.look(2)
    assert len(rig.ca.ring.trusted) == 16
    assert "1 more roots are told of, and 16 are trusted: 16 can be" in rig.problems()[0]


# --- what is told ----------------------------------------------------------------------------------------------------


def heard(rig: Rig) -> list[bytes]:
    """The roots that the upstream last heard to be trusted by everybody."""
    digests = {bytes.fromhex(root_digest(root.der)): root.der for root in (FIRST, NEXT)}
    return [digests[digest] for digest in rig.fake.heard[-1][0]]


def test_the_upstream_hears_of_a_root_only_once_everybody_trusts_it(rig: Rig) -> None:
    rig.look(2)
    assert heard(rig) == [FIRST.der]
    rig.issue()
    rig.fake.authorities.append(NEXT)
    rig.look(3)
    assert rig.roots() == [FIRST.der, NEXT.der]
    assert heard(rig) == [FIRST.der], "the holder is not known to trust the next one"
    rig.ca.clock.move(timedelta(hours=1))
    rig.look(2)
    assert heard(rig) == [FIRST.der, NEXT.der]


def test_the_upstream_hears_of_the_oldest_issuing_ca_that_a_certificate_may_depend_on(rig: Rig) -> None:
    rig.look(2)
    (first,) = rig.ca.ring.of(ISSUER)
    assert rig.fake.heard[-1][1] == first.certificate
    rig.ca.clock.move(25 * DAY)
    rig.issue()
    rig.look(3)
    assert rig.ca.ring.active(ISSUER) != first
    assert rig.fake.heard[-1][1] == first.certificate, "a certificate is alive under it"
    rig.ca.clock.move(timedelta(hours=2))
    rig.look(4)
    active = rig.ca.ring.active(ISSUER)
    assert active is not None
    assert rig.fake.heard[-1][1] == active.certificate


def test_what_is_no_news_is_told_again_now_and_then(rig: Rig) -> None:
    rig.look(3)
    before = len(rig.fake.heard)
    rig.look(50)
    assert len(rig.fake.heard) == before
    rig.look(20)
    assert len(rig.fake.heard) == before + 1
