"""What operators are shown, as messages."""

from __future__ import annotations

from datetime import datetime

from meshca.authority.evidence import Coverage, Laggard
from meshca.authority.external import is_external
from meshca.authority.journal import JournalEntry
from meshca.authority.plan import RotationPlan
from meshca.authority.progress import Alarm, Progress, worst_first
from meshca.authority.ring import Authority, AuthorityKind, AuthorityRing
from meshca.pki.records import CertificateRecord
from meshca.proto.meshca.v1 import admin_pb2 as pb
from meshca.services.control import Standing
from meshca.services.health import Health, LastTick, Problem
from meshca.services.imports import Imported
from meshca.spiffe.bans import Ban


def record_message(record: CertificateRecord) -> pb.CertificateRecord:
    """A line of the ledger."""
    return pb.CertificateRecord(
        serial=record.serial,
        kind=record.kind,
        spiffe_id=record.spiffe_id,
        dns_names=record.dns_names,
        caller_id=record.caller_id,
        method=record.method,
        attested=record.attested,
        key_fingerprint=record.key_fingerprint,
        issuer_id=record.issuer_id,
        not_before=_seconds(record.not_before),
        not_after=_seconds(record.not_after),
        bundle_sequence=record.bundle_sequence,
        recorded_at=_seconds(record.recorded_at),
    )


def imported_message(imported: Imported) -> pb.ImportAuthorityResponse:
    """What came in."""
    return pb.ImportAuthorityResponse(
        issuer=authority_message(imported.issuer),
        root=authority_message(imported.root),
        new_root=imported.new_root,
    )


def authority_message(authority: Authority) -> pb.Authority:
    """An authority."""
    return pb.Authority(
        id=authority.id,
        kind=authority.kind.value,
        state=authority.state.value,
        issuer_id=authority.issuer_id,
        not_before=_seconds(authority.not_before),
        not_after=_seconds(authority.not_after),
        bundle_sequence=authority.bundle_sequence,
        since=_seconds(authority.since),
        distrust_at=_seconds(authority.distrust_at),
        certificate=authority.certificate,
        external=authority.kind is AuthorityKind.ROOT and is_external(authority),
        cross_signed_by="" if authority.cross is None else authority.cross.signer_id,
    )


def ban_message(ban: Ban) -> pb.Ban:
    """A ban."""
    return pb.Ban(
        kind=ban.kind.value,
        subject=ban.subject,
        spiffe_id=ban.spiffe_id,
        reason=ban.reason,
        actor=ban.actor,
        at=_seconds(ban.at),
        lifted_at=_seconds(ban.lifted_at),
        issuer_id=ban.issuer_id,
        until=_seconds(ban.until),
    )


def status_message(standing: Standing, health: Health) -> pb.GetStatusResponse:
    """Everything about the authorities and the server at one moment."""
    ring = standing.ring
    return pb.GetStatusResponse(
        trust_domain=ring.trust_domain.name,
        now=_seconds(standing.now),
        rotation=_progress_message(standing.progress, ring),
        alarms=[_alarm_message(alarm) for alarm in worst_first((*standing.alarms, *health.alarms))],
        authorities=[authority_message(authority) for authority in ring.authorities],
        journal=[_journal_message(entry) for entry in standing.journal],
        readiness=_readiness_message(health.problems),
        rotation_tick=_tick_message(health.rotation),
    )


def _readiness_message(problems: tuple[Problem, ...]) -> pb.Readiness:
    reasons = [pb.UnreadyReason(check=problem.check, problem=problem.what) for problem in problems]
    return pb.Readiness(ready=not problems, reasons=reasons)


def _tick_message(tick: LastTick) -> pb.RotationTick:
    return pb.RotationTick(well_at=_seconds(tick.well_at), failure=tick.failure)


def plan_message(plan: RotationPlan) -> pb.PlanRotationResponse:
    """A plan."""
    steps = [pb.PlanStep(name=s.name, what=s.what, needs=s.needs, ends=_seconds(s.ends)) for s in plan.steps]
    return pb.PlanRotationResponse(
        steps=steps,
        holders=plan.holders,
        streams=plan.streams,
        window_seconds=int(plan.window.total_seconds()),
        renewals_per_second=plan.renewals_per_second,
    )


def _progress_message(progress: Progress, ring: AuthorityRing) -> pb.RotationProgress:
    message = pb.RotationProgress(
        phase=progress.phase.value,
        waits_for=progress.waits_for,
        coverage=_coverage_message(progress.coverage),
        holders=progress.holders,
        renewed=progress.renewed,
        soaks_until=_seconds(progress.soaks_until),
        old_ends=_seconds(progress.old_ends),
        held_since=_seconds(ring.held_since),
        bundle_sequence=ring.sequence,
    )
    if ring.rotation is not None:
        rotation = ring.rotation
        message.origin, message.reason, message.since = rotation.origin, rotation.reason, _seconds(rotation.since)
        message.predecessor, message.successor = rotation.predecessor, rotation.successor
    return message


def _coverage_message(coverage: Coverage) -> pb.Coverage:
    return pb.Coverage(
        bundle_sequence=coverage.sequence,
        holders=coverage.holders,
        covered=coverage.covered,
        laggards=[_laggard_message(laggard) for laggard in coverage.laggards],
        complete_since=_seconds(coverage.complete_since),
        left_out=coverage.left_out,
    )


def _laggard_message(laggard: Laggard) -> pb.Laggard:
    return pb.Laggard(
        spiffe_id=laggard.spiffe_id,
        serial=laggard.serial,
        bundle_sequence=laggard.sequence,
        channel=laggard.channel.value,
        since=_seconds(laggard.since),
        until=_seconds(laggard.until),
        refusal=laggard.refusal,
    )


def _alarm_message(alarm: Alarm) -> pb.Alarm:
    return pb.Alarm(severity=alarm.severity.name.lower(), subject=alarm.subject, message=alarm.message)


def _journal_message(entry: JournalEntry) -> pb.JournalEntry:
    return pb.JournalEntry(
        at=_seconds(entry.at),
        actor=entry.actor,
        step=entry.step,
        authority_id=entry.authority_id,
        reason=entry.reason,
        forced=entry.forced,
        bundle_sequence=entry.sequence,
    )


def _seconds(time: datetime | None) -> int:
    return 0 if time is None else int(time.timestamp())
