"""Where a rotation stands, in terms that a person can act upon; and what should alarm somebody."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from meshca.authority.actions import RotationPolicy
from meshca.authority.evidence import UNKNOWN, Coverage, Evidence
from meshca.authority.external import needs_import, why_nothing_signs
from meshca.authority.ring import Authority, AuthorityKind, AuthorityRing, AuthorityState
from meshca.authority.roots import soak_of

_ROOT, _ISSUER = AuthorityKind.ROOT, AuthorityKind.ISSUER


class Phase(Enum):
    """The phases of a rotation of the root, in order."""

    IDLE = "idle"  # one root, and everybody uses it
    PREPARING = "preparing"  # the successor is being made
    DISTRIBUTING = "distributing"  # not everybody is known to trust it yet
    SOAKING = "soaking"  # everybody trusts it, for not long enough
    SWITCHING = "switching"  # it is about to sign
    RENEWING = "renewing"  # certificates under other roots are being replaced
    RETIRING = "retiring"  # the last certificates under other roots run out


@dataclass(frozen=True, slots=True)
class Progress:
    """Where it stands at one moment.

    `coverage` is of the bundle that matters: the successor's, or the current one. `soaks_until` is when the soak ends
    if nothing changes. Of `holders`, `renewed` are known to use certificates under the active root alone; `old_ends` is
    when the last unexpired certificate ends that is, or may be, under any other root. `waits_for` is one sentence.
    """

    phase: Phase
    coverage: Coverage
    holders: int
    renewed: int
    waits_for: str
    soaks_until: datetime | None = None
    old_ends: datetime | None = None


def progress_of(ring: AuthorityRing, policy: RotationPolicy, evidence: Evidence) -> Progress:
    """Where the rotation under way stands, or the mesh where there is none."""
    successor = ring.successor
    waiting = successor if successor is not None and successor.state is AuthorityState.PREPARED else None
    sequence = ring.sequence if waiting is None else waiting.bundle_sequence
    coverage = evidence.coverage.get(sequence, Coverage(sequence, 0, 0))
    elsewhere = _elsewhere(ring)
    left = evidence.are_to_renew((*elsewhere, UNKNOWN)) if elsewhere else 0
    old_ends = evidence.last_signed(elsewhere) if elsewhere else None
    soaks_until = None
    if waiting is not None and coverage.complete_since is not None:
        soaks_until = coverage.complete_since + soak_of(ring, policy.root)
    phase = _phase(ring, waiting, soaks_until, left)
    holders = coverage.holders
    return Progress(
        phase,
        coverage,
        holders,
        holders - left,
        _waits_for(phase, coverage, left, soaks_until, old_ends),
        soaks_until,
        old_ends,
    )


def _elsewhere(ring: AuthorityRing) -> tuple[str, ...]:
    """The issuing CAs that are not under the active root, and the other roots: servers below this one use those."""
    root = ring.active(_ROOT)
    issuers = (a.id for a in ring.of(_ISSUER) if root is None or a.issuer_id != root.id)
    return (*issuers, *(a.id for a in ring.of(_ROOT) if a != root))


def _phase(ring: AuthorityRing, waiting: Authority | None, soaks_until: datetime | None, left: int) -> Phase:
    if waiting is not None:
        return Phase.DISTRIBUTING if soaks_until is None else Phase.SOAKING
    root, issuer = ring.active(_ROOT), ring.active(_ISSUER)
    if ring.rotation is not None and ring.successor is None:
        return Phase.PREPARING
    if root is None or issuer is None or issuer.issuer_id != root.id:
        return Phase.SWITCHING
    if left:
        return Phase.RENEWING
    return Phase.RETIRING if len(ring.trusted) > 1 or ring.rotation is not None else Phase.IDLE


def _waits_for(
    phase: Phase, coverage: Coverage, left: int, soaks_until: datetime | None, old_ends: datetime | None
) -> str:
    behind = coverage.holders - coverage.covered
    return {
        Phase.IDLE: "nothing",
        Phase.PREPARING: "the next root to be made, or imported",
        Phase.DISTRIBUTING: f"{behind} of {coverage.holders} holders to show that they have bundle {coverage.sequence}",
        Phase.SOAKING: f"the soak to end, {_shown(soaks_until)}",
        Phase.SWITCHING: "an issuing CA under the new root",
        Phase.RENEWING: f"{left} holders to renew their certificates under the active root",
        Phase.RETIRING: f"the last certificate under another root to end, {_shown(old_ends)}",
    }[phase]


def _shown(time: datetime | None) -> str:
    return "which is now" if time is None else f"at {time:%Y-%m-%dT%H:%M:%SZ}"


class Severity(Enum):
    """How bad it is; the value is the exit code of `meshca status`."""

    INFO = 2
    WARNING = 3
    CRITICAL = 4


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that somebody should know: `subject` is what it is about, `message` what is wrong and what helps."""

    severity: Severity
    subject: str
    message: str


def worst_first(found: Iterable[Alarm]) -> tuple[Alarm, ...]:
    """Alarms in the order in which somebody should read them."""
    return tuple(sorted(found, key=lambda alarm: -alarm.severity.value))


def alarms(
    ring: AuthorityRing, policy: RotationPolicy, now: datetime, evidence: Evidence, *, deadline: timedelta
) -> tuple[Alarm, ...]:
    """What is wrong with the authorities and their rotation, the worst first. `deadline` is how long a rotation may
    wait for evidence before that is a warning."""
    found = (
        *_expiries(ring, policy, now),
        *_rotation_alarms(ring, policy, now, evidence, deadline),
        *_cross_alarms(ring, now),
    )
    return worst_first(found)


def _expiries(ring: AuthorityRing, policy: RotationPolicy, now: datetime) -> list[Alarm]:
    found = []
    for kind in (_ROOT, _ISSUER):
        active = ring.active(kind)
        if active is None:
            found.append(Alarm(Severity.CRITICAL, kind.value, f"nothing is signed: {_why_none(ring)}"))
            continue
        left = active.not_after - now
        if left <= policy.issuer.max_leaf_ttl:
            problem = f"{active.id} ends at {active.not_after:%Y-%m-%dT%H:%M:%SZ}: what it signs is cut short"
            found.append(Alarm(Severity.CRITICAL, kind.value, problem))
        elif kind is _ROOT and left <= (active.not_after - active.not_before) * (1 - policy.root.rotate_at):
            problem = f"{active.id} is due for rotation: it ends at {active.not_after:%Y-%m-%dT%H:%M:%SZ}"
            found.append(Alarm(Severity.WARNING if ring.rotation is None else Severity.INFO, kind.value, problem))
    return found


def _why_none(ring: AuthorityRing) -> str:
    if needs_import(ring):
        return why_nothing_signs(ring)
    return f"none is active, {'the next one is yet to be made' if ring.active(_ROOT) else 'since the root was tainted'}"


def _cross_alarms(ring: AuthorityRing, now: datetime) -> list[Alarm]:
    """Roots that are given up, and accepted all the same by whoever trusts the one that has signed them."""
    given_up = (root for root in ring.of(_ROOT, AuthorityState.TAINTED, AuthorityState.REVOKED) if root.cross)
    trusted = {root.id for root in ring.trusted}
    return [
        Alarm(
            Severity.CRITICAL,
            "root",
            f"{root.id} is {root.state.value}, but root {root.cross.signer_id} has signed a certificate of it until"
            f" {root.cross.not_after:%Y-%m-%dT%H:%M:%SZ}: who trusts that one accepts it. Rotate away from both",
        )
        for root in given_up
        if root.cross is not None and root.cross.signer_id in trusted and root.cross.not_after > now
    ]


def _rotation_alarms(
    ring: AuthorityRing, policy: RotationPolicy, now: datetime, evidence: Evidence, deadline: timedelta
) -> list[Alarm]:
    found = []
    if ring.held_since is not None:
        problem = f"automatic rotation of the root rests since an abort at {ring.held_since:%Y-%m-%dT%H:%M:%SZ}"
        found.append(Alarm(Severity.INFO, "rotation", f"{problem}: `meshca rotate root` begins another"))
    if ring.rotation is None:
        return found
    progress = progress_of(ring, policy, evidence)
    late = progress.phase is Phase.DISTRIBUTING and now - ring.rotation.since > deadline
    refused = [laggard for laggard in progress.coverage.laggards if laggard.refusal]
    if late or refused:
        first = (refused or list(progress.coverage.laggards))[:1]
        named = f" ({first[0].spiffe_id} {'refuses' if refused else 'has not shown'} it)" if first else ""
        problem = f"the rotation waits for {progress.waits_for}{named}: `meshca rotate status` names them"
        found.append(Alarm(Severity.WARNING, "rotation", problem))
    else:
        found.append(Alarm(Severity.INFO, "rotation", f"under way, {progress.phase.value}: {progress.waits_for}"))
    return found
