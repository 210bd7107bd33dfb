"""The upstream authority: its roots are followed, and it is asked for issuing CAs when they are due, a look at a time.

It is somebody else's program. Each call of it has a thread of its own and a deadline, and there is one at most; what it
says is checked as anything that is imported; and whatever it does, nothing else waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import structlog
from cryptography import x509

from meshca.authority.actions import IssuerPolicy
from meshca.authority.evidence import Evidence
from meshca.authority.progress import Alarm, Severity
from meshca.authority.ring import Authority, AuthorityKind, AuthorityRing, AuthorityState, root_digest
from meshca.authority.upstream import is_mint_due, oldest_in_use, trusted_by_all
from meshca.errors import ErrorKind, MeshcaError, detached, invalid, unavailable
from meshca.pki.certificates import der_to_pem
from meshca.pki.imports import MAX_CERTIFICATES, MAX_PEM_BYTES, der_of, name_of, parse_certificates
from meshca.ports import Clock, UpstreamAuthority
from meshca.services.imports import AuthorityImports
from meshca.services.ring import RingKeeper

_log = structlog.get_logger("meshca.upstream")

_LONGEST_WAIT = 12  # between two attempts, in polls
_RETOLD = 60  # after so many polls, what is no news is told again
_CLOSE_SECONDS = 1.0  # a plug-in that takes longer to close ends with the process
_REST = 20  # after one was had, the next is not asked for before this fraction of its life
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UpstreamPolicy:
    """For how long an answer is waited for; how often it is looked at; when issuing CAs are due, and for how long they
    are asked for."""

    deadline: timedelta
    poll: timedelta
    issuer: IssuerPolicy


class Upstream:
    """Follows the upstream authority `name`. `monotonic` gives seconds, `dice` a random number from 0 up to 1.

    `look` is for one thread at a time, the rest for any.
    """

    def __init__(
        self,
        name: str,
        authority: UpstreamAuthority,
        keeper: RingKeeper,
        imports: AuthorityImports,
        evidence: Callable[[Iterable[int]], Evidence],
        clock: Clock,
        policy: UpstreamPolicy,
        monotonic: Callable[[], float],
        dice: Callable[[], float],
    ) -> None:
        self._name = name
        self._authority = authority
        self._keeper = keeper
        self._imports = imports
        self._evidence = evidence
        self._clock = clock
        self._policy = policy
        self._monotonic = monotonic
        self._hearing, self._minting, self._telling = (
            _Attempts(what, policy, monotonic, dice) for what in ("roots", "mint", "acknowledge")
        )
        self._told: tuple[tuple[tuple[bytes, ...], bytes], float] | None = None
        self._roots: tuple[x509.Certificate, ...] = ()
        self._rests: tuple[bytes, float] | None = None

    def look(self) -> None:
        """Takes in the roots as they are now, and an issuing CA where one is due. What goes wrong changes nothing: it
        is told by `alarms`, and tried again later.

        Raises INTERNAL where our own state cannot be used.
        """
        self._hearing.take(self._hear)
        self._minting.take(self._mint)
        self._telling.take(self._acknowledge)

    def alarms(self) -> tuple[Alarm, ...]:
        """What is wrong with the upstream authority."""
        found = []
        for attempts, outcome in (
            (self._hearing, "the roots stay as they are"),
            (self._minting, "nothing was taken"),
            (self._telling, "it has not heard what is trusted here"),
        ):
            if attempts.problem:
                message = f"{self._name}: {attempts.problem}; {outcome}, and it is tried again"
                found.append(Alarm(Severity.WARNING, "upstream", message))
        return tuple(found)

    def close(self) -> None:
        """Waits for no answer any more, and a second at most for the plug-in to close."""
        self._hearing.calls.close()
        self._minting.calls.close()
        self._telling.calls.close()
        closing = threading.Thread(target=self._close_authority, name="upstream-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)

    def _close_authority(self) -> None:
        try:
            self._authority.close()
        except BaseException as error:  # noqa: BLE001  # others' code may raise anything, on a thread that is its own
            _log.warning("upstream_close_failed", error=type(error).__name__)

    def _hear(self) -> None:
        told = self._hearing.calls.run("its roots", self._authority.roots)
        roots = read_certificates(told, "the list of roots")
        self._imports.announce(roots, f"from {self._name}")
        self._roots = roots

    def _mint(self) -> None:
        root = self._due_under()
        if root is None:
            return
        pending, ttl = self._imports.request(), self._policy.issuer.ttl
        told = self._minting.calls.run("Mint", lambda: self._authority.mint(pending.request, ttl))
        found = self._imports.accept_minted(read_certificates(told, "the chain"), root, ttl, f"from {self._name}")
        lasts = found.issuer.not_after - self._clock.now()
        self._rests = (der_of(root), self._monotonic() + lasts.total_seconds() / _REST)

    def _acknowledge(self) -> None:
        """Tells what everybody here trusts and uses, where that is news, or was told some while ago."""
        ring = self._keeper.refresh().ring
        issuing = oldest_in_use(ring)
        if issuing is None:
            return
        evidence = self._evidence(root.bundle_sequence for root in ring.trusted)
        trusted = tuple(bytes.fromhex(root_digest(root.certificate)) for root in trusted_by_all(ring, evidence))
        news, now = (trusted, issuing.certificate), self._monotonic()
        if self._told is not None and self._told[0] == news and now < self._told[1]:
            return
        self._telling.calls.run("AcknowledgeRoots", lambda: self._authority.acknowledge(*news))
        self._told = (news, now + _RETOLD * self._policy.poll.total_seconds())

    def _due_under(self) -> x509.Certificate | None:
        """The root under which an issuing CA is due; None where none is. Raises CONFLICT where it may not be used."""
        if not self._roots:
            return None
        ring, root = self._keeper.refresh().ring, self._roots[0]
        known = next((each for each in ring.of(AuthorityKind.ROOT) if each.certificate == der_of(root)), None)
        _check_standing(root, known)
        assert known is not None
        if not is_mint_due(ring, known, self._policy.issuer, self._clock.now()) or self._is_resting(ring, root):
            return None
        return root

    def _is_resting(self, ring: AuthorityRing, root: x509.Certificate) -> bool:
        """Issuing CAs that are due as soon as they come would be asked for without end."""
        if self._rests is None or ring.active(AuthorityKind.ISSUER) is None:
            return False
        which, until = self._rests
        return which == der_of(root) and self._monotonic() < until


class PatientCalls:
    """Calls of others' code: each in a thread of its own, waited for until `deadline`, one at a time."""

    def __init__(self, deadline: timedelta) -> None:
        self._deadline = deadline.total_seconds()
        self._under_way: tuple[str, Future[object]] | None = None
        self._closed = False

    def run(self, what: str, call: Callable[[], T]) -> T:
        """What `call` gives. Raises UNAVAILABLE where it does not answer in time, or one from before has not yet; what
        it raises of ours; and UNAVAILABLE for whatever else."""
        self._check_free()
        done: Future[T] = Future()
        self._under_way = (what, done)  # type: ignore[assignment]  # only whether it is done is asked
        threading.Thread(target=_answer, args=(call, done), name="upstream-call", daemon=True).start()
        try:
            return done.result(self._deadline)
        except TimeoutError:
            raise unavailable(f"{what}: no answer came within {self._deadline:g}s") from None

    def close(self) -> None:
        """Ends the waiting; a call that never comes back ends with the process."""
        self._closed = True
        if self._under_way is not None:
            with suppress(InvalidStateError):
                self._under_way[1].set_exception(unavailable("the server is stopping"))

    def _check_free(self) -> None:
        if self._closed:
            raise unavailable("the server is stopping")
        if self._under_way is not None and not self._under_way[1].done():
            raise unavailable(
                f"{self._under_way[0]}: it hangs, no answer has come yet; it is not asked again meanwhile"
            )


def _answer(call: Callable[[], T], done: Future[T]) -> None:
    try:
        answer = call()
    except MeshcaError as error:
        told: Exception = detached(error)
        if error.kind is ErrorKind.INTERNAL:  # it is the plug-in's, not ours
            told = unavailable(error.message)
    except BaseException as error:  # noqa: BLE001  # others' code may raise anything, on a thread that is its own
        told = unavailable(f"it raised {type(error).__name__}")
    else:
        with suppress(InvalidStateError):  # nobody waits any more
            done.set_result(answer)
        return
    with suppress(InvalidStateError):
        done.set_exception(told)


class _Attempts:
    """One kind of step: its calls, what is wrong with it, and when it is tried again."""

    def __init__(
        self, what: str, policy: UpstreamPolicy, monotonic: Callable[[], float], dice: Callable[[], float]
    ) -> None:
        self.calls = PatientCalls(policy.deadline)
        self._what = what
        self._poll = policy.poll.total_seconds()
        self._monotonic = monotonic
        self._dice = dice
        self._failures = 0
        self._not_before = float("-inf")
        self.problem = ""

    def take(self, step: Callable[[], None]) -> None:
        """Takes the step, unless it failed a moment ago. Raises what is INTERNAL."""
        if self._monotonic() < self._not_before:
            return
        try:
            step()
        except MeshcaError as error:
            self._failed(error.message)
            if error.kind is ErrorKind.INTERNAL:
                raise
        else:
            self.problem, self._failures, self._not_before = "", 0, float("-inf")

    def _failed(self, problem: str) -> None:
        longest = self._poll * min(2.0 ** min(self._failures, 20), _LONGEST_WAIT)
        wait = longest * (0.5 + 0.5 * self._dice())
        if problem != self.problem:
            _log.warning("upstream_failed", step=self._what, reason=problem, next_try_seconds=round(wait, 3))
        self.problem, self._failures = problem, self._failures + 1
        self._not_before = self._monotonic() + wait


def read_certificates(told: object, source: str) -> tuple[x509.Certificate, ...]:
    """The certificates in what somebody else told, DER, in order. Raises INVALID for anything else, or for too many."""
    if not isinstance(told, Sequence) or isinstance(told, str | bytes) or not all(isinstance(d, bytes) for d in told):
        raise invalid(f"{source} is no list of DER certificates")
    if not 1 <= len(told) <= MAX_CERTIFICATES:
        raise invalid(f"{source} holds {len(told)} certificates: 1 to {MAX_CERTIFICATES} are taken")
    size = sum(len(der) for der in told)
    if size > MAX_PEM_BYTES // 2:
        raise invalid(f"{source} is {size} bytes long: at most {MAX_PEM_BYTES // 2} are taken")
    return parse_certificates("".join(der_to_pem(der) for der in told).encode("ascii"), source)


def _check_standing(root: x509.Certificate, known: Authority | None) -> None:
    if known is None:
        raise invalid(f"Mint leads to root {name_of(root)}, which is not in the trust bundle here")
    if known.state not in (AuthorityState.ACTIVE, AuthorityState.PREPARED):
        raise invalid(f"Mint leads to root {known.id}, which is {known.state.value} here")
