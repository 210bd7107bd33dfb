"""What the server tells of authorities and their rotation: as JSON for scripts, and in lines for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from meshca.cli.moments import from_now
from meshca.cli.output import iso, printable

if TYPE_CHECKING:
    from meshca.proto.meshca.v1 import admin_pb2 as pb


def rotation_fields(rotation: pb.RotationProgress) -> dict[str, Any]:
    """Where a rotation stands. Times are RFC 3339, or empty."""
    return {
        "phase": rotation.phase,
        "waits_for": rotation.waits_for,
        "coverage": _coverage_fields(rotation.coverage),
        "holders": rotation.holders,
        "renewed": rotation.renewed,
        "soaks_until": iso(rotation.soaks_until),
        "old_ends": iso(rotation.old_ends),
        "origin": rotation.origin,
        "reason": rotation.reason,
        "since": iso(rotation.since),
        "predecessor": rotation.predecessor,
        "successor": rotation.successor,
        "held_since": iso(rotation.held_since),
        "bundle_sequence": rotation.bundle_sequence,
    }


def _coverage_fields(coverage: pb.Coverage) -> dict[str, Any]:
    return {
        "bundle_sequence": coverage.bundle_sequence,
        "holders": coverage.holders,
        "covered": coverage.covered,
        "complete_since": iso(coverage.complete_since),
        "laggards": [_laggard_fields(laggard) for laggard in coverage.laggards],
        "left_out": coverage.left_out,
    }


def _laggard_fields(laggard: pb.Laggard) -> dict[str, Any]:
    return {
        "spiffe_id": laggard.spiffe_id,
        "serial": laggard.serial,
        "bundle_sequence": laggard.bundle_sequence,
        "channel": laggard.channel,
        "since": iso(laggard.since),
        "until": iso(laggard.until),
        "refusal": laggard.refusal,
    }


def authority_fields(authority: pb.Authority) -> dict[str, Any]:
    """An authority, without its certificate."""
    return {
        "id": authority.id,
        "kind": authority.kind,
        "state": authority.state,
        "since": iso(authority.since),
        "issuer_id": authority.issuer_id,
        "not_before": iso(authority.not_before),
        "not_after": iso(authority.not_after),
        "bundle_sequence": authority.bundle_sequence,
        "distrust_at": iso(authority.distrust_at),
        "external": authority.external,
        "cross_signed_by": authority.cross_signed_by,
    }


def step_fields(step: str, was: pb.Authority, state: str) -> dict[str, Any]:
    """A step that was taken: what the authority was, what it is, and what of it no step changes."""
    return {
        "step": step,
        "id": was.id,
        "kind": was.kind,
        "was": was.state,
        "state": state,
        "issuer_id": was.issuer_id,
        "not_before": iso(was.not_before),
        "not_after": iso(was.not_after),
        "bundle_sequence": was.bundle_sequence,
    }


def plan_fields(plan: pb.PlanRotationResponse) -> dict[str, Any]:
    """The plan of a rotation."""
    return {
        "steps": [{"name": s.name, "what": s.what, "needs": s.needs, "ends": iso(s.ends)} for s in plan.steps],
        "holders": plan.holders,
        "streams": plan.streams,
        "window_seconds": plan.window_seconds,
        "renewals_per_second": plan.renewals_per_second,
    }


def alarm_fields(alarm: pb.Alarm) -> dict[str, Any]:
    """An alarm."""
    return {"severity": alarm.severity, "subject": alarm.subject, "message": alarm.message}


def readiness_fields(reply: pb.GetStatusResponse) -> dict[str, Any] | None:
    """Whether the server is ready, and why not; None where it does not tell, being older than this program."""
    if not reply.HasField("readiness"):
        return None
    reasons = [{"check": reason.check, "problem": reason.problem} for reason in reply.readiness.reasons]
    return {"ready": reply.readiness.ready, "reasons": reasons}


def tick_fields(reply: pb.GetStatusResponse) -> dict[str, str] | None:
    """How the last ticks of rotation went; None as for `readiness_fields`."""
    if not reply.HasField("rotation_tick"):
        return None
    return {"well_at": iso(reply.rotation_tick.well_at), "failure": reply.rotation_tick.failure}


def server_lines(reply: pb.GetStatusResponse) -> dict[str, str]:
    """How the server itself is, by name; what it does not tell is left out."""
    lines = {}
    if reply.HasField("readiness"):
        reasons = "; ".join(printable(f"{reason.check}: {reason.problem}") for reason in reply.readiness.reasons)
        lines["ready"] = "yes" if reply.readiness.ready else f"no: {reasons}"
    if reply.HasField("rotation_tick"):
        lines["last tick"] = _tick_text(reply.rotation_tick, reply.now)
    return lines


def _tick_text(tick: pb.RotationTick, now: int) -> str:
    well = f"ended well at {_moment(tick.well_at, now)}" if tick.well_at else "none has ended well since the start"
    return f"{well}; it has failed since: {printable(tick.failure)}" if tick.failure else well


def journal_fields(entry: pb.JournalEntry) -> dict[str, Any]:
    """A line of the journal."""
    return {
        "at": iso(entry.at),
        "actor": entry.actor,
        "step": entry.step,
        "authority_id": entry.authority_id,
        "reason": entry.reason,
        "forced": entry.forced,
        "bundle_sequence": entry.bundle_sequence,
    }


def coverage_text(coverage: pb.Coverage) -> str:
    """How many have which bundle, and how many it does not matter of."""
    left_out = f"; {coverage.left_out} more are revoked, and left out" if coverage.left_out else ""
    return f"{coverage.covered}/{coverage.holders} have bundle {coverage.bundle_sequence}{left_out}"


def laggard_text(laggard: pb.Laggard) -> str:
    """Who lags, what it is known to have instead, how that is known and since when; and why it refused."""
    known = f"bundle {laggard.bundle_sequence} by {laggard.channel}" if laggard.bundle_sequence else "nothing known"
    refused = f"; refuses: {printable(laggard.refusal)}" if laggard.refusal else ""
    return f"{printable(laggard.spiffe_id)} ({known} since {iso(laggard.since)}{refused})"


def laggard_lines(coverage: pb.Coverage, at_most: int) -> list[str]:
    """The first laggards, a line each, and how many more there are."""
    lines = [laggard_text(laggard) for laggard in coverage.laggards[:at_most]]
    more = coverage.holders - coverage.covered - len(lines)
    return [*lines, f"and {more} more"] if lines and more > 0 else lines


def journal_text(entry: pb.JournalEntry) -> str:
    """Who did what to which authority, when and why."""
    words = (iso(entry.at), entry.actor, entry.step, entry.authority_id, "(forced)" if entry.forced else "")
    why = f": {printable(entry.reason)}" if entry.reason else ""
    return "  ".join(word for word in words if word) + why


def plan_lines(plan: pb.PlanRotationResponse, trust_domain: str, now: int) -> list[str]:
    """The plan, step by step. `now` is the server's, in Unix seconds."""
    pace = f"{plan.renewals_per_second:.1f} a second over {plan.window_seconds}s"
    return [
        f"Rotation of the root of {trust_domain}",
        f"{plan.holders} holders, {plan.streams} of them reached on their streams; renewals: {pace}",
        "",
        *(line for number, step in enumerate(plan.steps, 1) for line in _step_lines(number, step, now)),
    ]


def _step_lines(number: int, step: pb.PlanStep, now: int) -> Iterable[str]:
    yield f"{number}. {step.name:<12}over by {iso(step.ends)} ({from_now(step.ends, now)}) if all goes well"
    yield f"   {'what':<12}{step.what}"
    yield f"   {'needs':<12}{step.needs}"


def rotation_text(rotation: pb.RotationProgress) -> str:
    """Which rotation is under way; or that none is."""
    if not rotation.origin:
        held = f"; automatic rotation rests since {iso(rotation.held_since)}" if rotation.held_since else ""
        return f"none is under way{held}"
    why = f": {printable(rotation.reason)}" if rotation.reason else ""
    return f"under way since {iso(rotation.since)}, begun by {rotation.origin}{why}"


def rotation_lines(rotation: pb.RotationProgress, now: int) -> dict[str, str]:
    """Where a rotation stands, by name; what does not apply is left out."""
    lines = {
        "rotation": rotation_text(rotation),
        "phase": rotation.phase,
        "waits for": printable(rotation.waits_for),
        "from": rotation.predecessor,
        "to": rotation.successor,
        "coverage": coverage_text(rotation.coverage),
        "renewed": f"{rotation.renewed}/{rotation.holders} have their newest certificate under the active root",
        "soaks until": _moment(rotation.soaks_until, now),
        "old ends": _moment(rotation.old_ends, now),
    }
    return {name: text for name, text in lines.items() if text}


def _moment(moment: int, now: int) -> str:
    return f"{iso(moment)} ({from_now(moment, now)})" if moment else ""
