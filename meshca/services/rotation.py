"""Rotation: the scheduler's tick moves the ring on, one durable step at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from meshca.authority.actions import (
    Action,
    Activate,
    BeginRotation,
    FinishRotation,
    PrepareIssuer,
    PrepareRoot,
    Prune,
    Revoke,
    RotationPolicy,
)
from meshca.authority.evidence import Channel, Evidence
from meshca.authority.journal import SCHEDULE, JournalEntry, entry_for
from meshca.authority.plan import Fleet, renewal_order
from meshca.authority.ring import (
    Advanced,
    Authority,
    AuthorityKind,
    AuthorityRing,
    Prepared,
    RenewalOrder,
    RingEvent,
    RootRotation,
    RotationBegun,
    RotationFinished,
    Step,
)
from meshca.authority.schedule import decide, sequences_in_question
from meshca.errors import ErrorKind, MeshcaError, internal, unreachable
from meshca.pki.keys import KeyAlgorithm
from meshca.ports import Clock, StoredRing
from meshca.services.authorities import AuthorityMaker
from meshca.services.ring import RingKeeper

_log = structlog.get_logger("meshca.rotation")

_MAX_STEPS = 24
_STEPS: dict[type[Action], Step] = {Revoke: Step.REVOKE, Prune: Step.PRUNE}


@dataclass(frozen=True, slots=True)
class AuthorityPlan:
    """How new authorities are made, and when: their key algorithms and the policy; and what `fleet` they are for."""

    policy: RotationPolicy
    root_algorithm: KeyAlgorithm
    issuer_algorithm: KeyAlgorithm
    fleet: Fleet

    def make_root(self, maker: AuthorityMaker, ring: AuthorityRing) -> Authority:
        """The next root of `ring`. Raises as `AuthorityMaker.make_successor`."""
        policy = self.policy.root
        return maker.make_successor(ring, self.root_algorithm, policy.ttl, cross_sign=policy.cross_sign)


class Rotation:
    """Carries out what `decide` says, one tick at a time. May be used on any thread."""

    def __init__(
        self,
        keeper: RingKeeper,
        maker: AuthorityMaker,
        evidence: Callable[[Iterable[int]], Evidence],
        clock: Clock,
        plan: AuthorityPlan,
    ) -> None:
        self._keeper = keeper
        self._maker = maker
        self._evidence = evidence
        self._clock = clock
        self._plan = plan
        self._ticking = threading.Lock()

    def follow(self) -> None:
        """Reads the ring, so that what is signed with stays confirmed; where something is under way, ticks at once.

        Raises as `RingKeeper.refresh` and `tick` do.
        """
        if _is_in_motion(self._keeper.refresh().ring):
            self.tick()

    def tick(self) -> int:
        """Takes every step that is due; how many. Each is durable before the next is considered.

        A step that fails does not keep the others from being taken; its error is raised in the end. Raises CONFLICT
        at once where somebody else moved the ring meanwhile: the next tick starts from theirs. Does nothing while
        another tick of this process is under way.
        """
        if not self._ticking.acquire(blocking=False):
            return 0
        try:
            return self._tick()
        finally:
            self._ticking.release()

    def _tick(self) -> int:
        failed: dict[Action, MeshcaError] = {}
        for taken in range(_MAX_STEPS):
            stored = self._keeper.refresh()
            due = [action for action in self._decide(stored.ring) if action not in failed]
            if not due:
                _raise_first(failed)
                return taken
            self._try(due[0], stored, failed)
        raise internal(f"rotation did not come to rest after {_MAX_STEPS} steps")

    def _decide(self, ring: AuthorityRing) -> tuple[Action, ...]:
        evidence = replace(self._evidence(sequences_in_question(ring)), seen=self._keeper.seen())
        return decide(ring, self._plan.policy, self._clock.now(), evidence)

    def _try(self, action: Action, stored: StoredRing, failed: dict[Action, MeshcaError]) -> None:
        try:
            self._carry_out(action, stored)
        except MeshcaError as error:
            if error.kind is ErrorKind.CONFLICT:
                raise
            failed[action] = error
            _log.error("authority_step_failed", step=type(action).__name__, reason=error.message)

    def _carry_out(self, action: Action, stored: StoredRing) -> None:
        now = self._clock.now().replace(microsecond=0)
        event = self._event(action, stored.ring, now)
        reason, forced = _reason(action), isinstance(action, Activate) and bool(action.forced)
        entry = entry_for(event, stored.ring, at=now, actor=SCHEDULE, reason=reason, forced=forced)
        self._save(stored, event, entry)
        if isinstance(action, Prune | Revoke):
            self._keeper.forget_key(stored.ring, action.authority_id)
        log = _log.warning if forced else _log.info
        log("authority_step", step=entry.step, authority=entry.authority_id, reason=reason, forced=forced)

    def _save(self, stored: StoredRing, event: RingEvent, entry: JournalEntry) -> None:
        try:
            self._keeper.change(stored, (event,), entry)
        except MeshcaError as error:
            # only a conflict tells for sure that the ring was not saved
            if error.kind is ErrorKind.CONFLICT and isinstance(event, Prepared):
                self._maker.discard(event.authority)
            raise

    def _event(self, action: Action, ring: AuthorityRing, now: datetime) -> RingEvent:
        policy = self._plan.policy
        match action:
            case BeginRotation(reason, successor):
                return RotationBegun(RootRotation(SCHEDULE, reason, now, successor=successor))
            case PrepareRoot():
                return Prepared(self._plan.make_root(self._maker, ring))
            case PrepareIssuer():
                return Prepared(self._maker.make_issuer(ring, self._plan.issuer_algorithm, policy.issuer.ttl))
            case Activate(authority_id):
                return Advanced(authority_id, Step.ACTIVATE, now, renewal=self._renewal(ring, authority_id, now))
            case Revoke(authority_id) | Prune(authority_id):
                return Advanced(authority_id, _STEPS[type(action)], now)
            case FinishRotation():
                return RotationFinished()
            case _:
                unreachable(action)

    def _renewal(self, ring: AuthorityRing, authority_id: str, now: datetime) -> RenewalOrder | None:
        streams = self._evidence(sequences_in_question(ring)).channels.get(Channel.STREAM, 0)
        return renewal_order(ring, authority_id, streams, self._plan.fleet, now)


def _is_in_motion(ring: AuthorityRing) -> bool:
    return ring.rotation is not None or len(ring.trusted) != 1 or ring.active(AuthorityKind.ISSUER) is None


def _reason(action: Action) -> str:
    match action:
        case BeginRotation(reason) | Activate(_, reason):
            return reason
        case _:
            return ""


def _raise_first(failed: dict[Action, MeshcaError]) -> None:
    for error in failed.values():
        raise error
