"""What operators may do to authorities: the schedule's steps, behind the same gates, or forced past them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from meshca.authority.actions import RotationPolicy
from meshca.authority.evidence import Evidence
from meshca.authority.external import NEEDS_REQUEST, can_sign
from meshca.authority.import_alarms import import_alarms
from meshca.authority.issuers import is_listed
from meshca.authority.journal import JournalEntry, entry_for
from meshca.authority.plan import RotationPlan, plan_rotation
from meshca.authority.progress import Alarm, Progress, alarms, progress_of, worst_first
from meshca.authority.ring import (
    Advanced,
    Authority,
    AuthorityKind,
    AuthorityRing,
    AuthorityState,
    Prepared,
    RingEvent,
    RootRotation,
    RotationAborted,
    RotationBegun,
    Step,
)
from meshca.authority.roots import is_covered, is_forsaken
from meshca.authority.schedule import sequences_in_question
from meshca.errors import ErrorKind, MeshcaError, conflict, invalid, not_found
from meshca.ports import AuthorityStore, Clock, StoredRing
from meshca.services.authorities import AuthorityMaker
from meshca.services.ring import RingKeeper
from meshca.services.rotation import AuthorityPlan

_log = structlog.get_logger("meshca.control")

OPERATOR = "operator"
MAX_REASON = 500
MIN_PREFIX = 4
_JOURNAL_LINES = 20


@dataclass(frozen=True, slots=True)
class Order:
    """What an operator wants done to one authority, and why. `force` goes past missing evidence."""

    step: Step
    authority_id: str
    reason: str
    force: bool = False
    distrust_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Everything about the authorities at one moment."""

    ring: AuthorityRing
    progress: Progress
    alarms: tuple[Alarm, ...]
    journal: tuple[JournalEntry, ...]
    now: datetime


class AuthorityControl:
    """Carries out operators' orders. `deadline` is how long a rotation may wait before that alarms; `further` tells
    alarms that others have."""

    def __init__(
        self,
        keeper: RingKeeper,
        store: AuthorityStore,
        maker: AuthorityMaker,
        evidence: Callable[[Iterable[int]], Evidence],
        clock: Clock,
        plan: AuthorityPlan,
        deadline: timedelta,
        further: Callable[[], Iterable[Alarm]] = tuple,
    ) -> None:
        self._keeper = keeper
        self._store = store
        self._maker = maker
        self._evidence = evidence
        self._clock = clock
        self._plan = plan
        self._deadline = deadline
        self._further = further

    def standing(self) -> Standing:
        """Where everything stands. Raises UNAVAILABLE where the store cannot be read."""
        ring = self._keeper.refresh().ring
        evidence, now = self._known(ring), self._now()
        policy = self._plan.policy
        found = (
            *alarms(ring, policy, now, evidence, deadline=self._deadline),
            *import_alarms(ring, policy, now),
            *self._further(),
        )
        return Standing(
            ring,
            progress_of(ring, policy, evidence),
            worst_first(found),
            self._store.journal(_JOURNAL_LINES),
            now,
        )

    def plan(self) -> RotationPlan:
        """What a rotation that begins now would do. Raises UNAVAILABLE as `standing`."""
        ring = self._keeper.refresh().ring
        return plan_rotation(ring, self._plan.policy, self._known(ring), self._plan.fleet, self._now())

    def begin(self, reason: str) -> None:
        """Begins a rotation of the root. Raises CONFLICT where one is under way."""
        now = self._now()
        self._change(
            self._keeper.refresh(), RotationBegun(RootRotation(OPERATOR, checked_reason(reason), now)), now, reason
        )

    def abort(self, reason: str) -> None:
        """Goes back to the root from before. Raises CONFLICT where that is no longer possible."""
        now, stored = self._now(), self._keeper.refresh()
        successor = stored.ring.successor
        changed = self._change(stored, RotationAborted(now), now, checked_reason(reason))
        if successor is not None and changed.ring.find(successor.id) is None:
            self._keeper.forget_key(stored.ring, successor.id)

    def prepare(self, kind: AuthorityKind, reason: str) -> Authority:
        """Makes a root, or an issuing CA under the active root, which waits to be activated."""
        reason, now, stored = checked_reason(reason), self._now(), self._keeper.refresh()
        plan = self._plan
        if kind is AuthorityKind.ROOT:
            made = plan.make_root(self._maker, stored.ring)
        else:
            made = self._maker.make_issuer(stored.ring, plan.issuer_algorithm, plan.policy.issuer.ttl)
        try:
            self._change(stored, Prepared(made), now, reason)
        except MeshcaError as error:
            if error.kind is ErrorKind.CONFLICT:
                self._maker.discard(made)
            raise
        return made

    def carry_out(self, order: Order) -> Authority:
        """One step on one authority; gives it as it was before.

        Raises NOT_FOUND and INVALID for an id that names none or several, CONFLICT where the step is illegal, or where
        evidence is missing and the order is not forced; CONFLICT where one is to be activated outside the time in which
        it is valid, forced or not; INVALID where an order is forced without a reason.
        """
        if order.force and not order.reason.strip():
            raise invalid("--force needs --reason: it is recorded why evidence was passed over")
        reason, now, stored = checked_reason(order.reason), self._now(), self._keeper.refresh()
        authority = _find(stored.ring, order.authority_id)
        if order.step is Step.ACTIVATE:
            _check_valid(authority, now)
        obstacle = self._obstacle(order.step, authority, stored.ring)
        if obstacle is not None and not order.force:
            raise conflict(f"cannot {order.step.value} {authority.kind.value} {authority.id} yet: {obstacle}")
        distrust_at = None if order.distrust_after is None else now + order.distrust_after
        event = Advanced(authority.id, order.step, now, distrust_at)
        self._change(stored, event, now, reason, forced=obstacle is not None)
        if order.step in (Step.PRUNE, Step.REVOKE):
            self._keeper.forget_key(stored.ring, authority.id)
        return authority

    def _obstacle(  # noqa: PLR0911  # one line for each rule
        self, step: Step, authority: Authority, ring: AuthorityRing
    ) -> str | None:
        """Why the laws forbid the step for now; None where they do not."""
        evidence, policy, is_root = self._known(ring), self._plan.policy, authority.kind is AuthorityKind.ROOT
        match step, authority.state:
            case Step.ACTIVATE, _ if is_root and not can_sign(authority, ring, self._now()):
                return f"its key is not here, and there is no issuing CA under it: {NEEDS_REQUEST}"
            case Step.ACTIVATE, AuthorityState.PREPARED | AuthorityState.OLD if is_root:
                covered = is_covered(authority, ring, policy.root, evidence)
                return None if covered else _who_lacks(authority, evidence)
            case Step.ACTIVATE, _ if not is_root:
                return _why_not_sign(authority, ring, policy, evidence)
            case Step.REVOKE, _ if not is_root:
                return "only roots are trusted by themselves: taint the root above it to have what it signed refused"
            case Step.REVOKE, AuthorityState.TAINTED:
                forsaken = is_forsaken(authority, ring, policy.root, evidence)
                return None if forsaken else self._unheard(authority, evidence) or "certificates depend on it"
            case Step.PRUNE, AuthorityState.PREPARED if ring.rotation and ring.rotation.successor == authority.id:
                return "it is the successor of the rotation under way: `meshca rotate abort` ends that"
            case Step.PRUNE, AuthorityState.OLD | AuthorityState.TAINTED:
                return self._unheard(authority, evidence) or _what_depends(authority, ring, evidence)
            case _:
                return None

    def _unheard(self, authority: Authority, evidence: Evidence) -> str | None:
        """Whether a door may still sign with it, or under it, since it has not heard that it must not."""
        policy = self._plan.policy
        tier = policy.root if authority.kind is AuthorityKind.ROOT else policy.issuer
        if evidence.has_seen(authority.id, tier.propagation):
            return None
        seconds = tier.propagation.total_seconds()
        return f"it is {authority.state.value} for less than the {seconds:.0f}s in which every server hears of that"

    def _change(
        self, stored: StoredRing, event: RingEvent, now: datetime, reason: str, *, forced: bool = False
    ) -> StoredRing:
        entry = entry_for(event, stored.ring, at=now, actor=OPERATOR, reason=reason, forced=forced)
        changed = self._keeper.change(stored, (event,), entry)
        log = _log.warning if forced else _log.info
        log("authority_order", step=entry.step, authority=entry.authority_id, reason=reason, forced=forced)
        return changed

    def _known(self, ring: AuthorityRing) -> Evidence:
        return replace(self._evidence(sequences_in_question(ring)), seen=self._keeper.seen())

    def _now(self) -> datetime:
        return self._clock.now().replace(microsecond=0)


def _find(ring: AuthorityRing, authority_id: str) -> Authority:
    if len(authority_id) < MIN_PREFIX:
        raise invalid(f"authority {authority_id!r} is too short: give at least {MIN_PREFIX} digits of its id")
    found = [a for a in ring.authorities if a.id.startswith(authority_id.lower())]
    if not found:
        raise not_found(f"there is no authority {authority_id}: `meshca authority list` shows them")
    if len(found) > 1:
        raise invalid(f"authority {authority_id} fits {len(found)} ids: give more digits")
    return found[0]


def _why_not_sign(issuer: Authority, ring: AuthorityRing, policy: RotationPolicy, evidence: Evidence) -> str | None:
    if ring.find(issuer.issuer_id) != ring.active(AuthorityKind.ROOT):
        return "its root is not the active one"
    if issuer.state is AuthorityState.PREPARED and not is_listed(issuer, ring, policy.issuer, evidence):
        lacks = "its revocation list" if ring.crls else "heard that revocation lists are in use no more"
        return f"not everybody is known to have {lacks}"
    return None


def _who_lacks(root: Authority, evidence: Evidence) -> str:
    coverage = evidence.coverage.get(root.bundle_sequence)
    if coverage is None:
        return "nothing is known of who trusts it"
    if coverage.complete_since is not None:
        return f"all {coverage.holders} holders have it, but only since {coverage.complete_since:%H:%M:%SZ}"
    behind = coverage.holders - coverage.covered
    names = ", ".join(dict.fromkeys(laggard.spiffe_id for laggard in coverage.laggards[:5]))
    return f"{behind} of {coverage.holders} holders are not known to trust it, such as {names}"


def _what_depends(authority: Authority, ring: AuthorityRing, evidence: Evidence) -> str | None:
    if evidence.at is None:
        return "nothing is known of what depends on it"
    last = evidence.last_signed((authority.id, *(below.id for below in ring.under(authority.id))))
    return None if last is None else f"certificates that it may vouch for are valid until {last:%Y-%m-%dT%H:%M:%SZ}"


def _check_valid(authority: Authority, now: datetime) -> None:
    """What signs outside its own time signs what nobody takes, so that no order goes past this."""
    if not authority.not_before <= now < authority.not_after:
        span = f"{authority.not_before:%Y-%m-%dT%H:%M:%SZ} to {authority.not_after:%Y-%m-%dT%H:%M:%SZ}"
        raise conflict(f"cannot activate {authority.kind.value} {authority.id}: it is valid from {span} only")


def checked_reason(reason: str) -> str:
    """An operator's reason, on one line. Raises INVALID where it is too long, or no text."""
    text = " ".join(reason.split())
    if len(text) > MAX_REASON or not text.isprintable():
        raise invalid(f"reason: at most {MAX_REASON} printable characters are recorded")
    return text
