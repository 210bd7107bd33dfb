"""`meshca status`: how the certificate authority is, in one screen."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from meshca.cli.admin_options import ADMIN, DATA_DIR, OUTPUT
from meshca.cli.output import OutputFormat, iso, print_fields, print_json, print_table, printable

if TYPE_CHECKING:
    from meshca.proto.meshca.v1 import admin_pb2 as pb

# Stable: monitoring relies on them. A word that we do not know is taken for the worst.
EXIT_CODES = {"ok": 0, "info": 2, "warning": 3, "critical": 4}
_MAX_SKEW_SECONDS = 30
_JOURNAL_LINES = 5
_NAMED = 5


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("status")(status)


def status(data_dir: Path | None = DATA_DIR, admin: str | None = ADMIN, output: OutputFormat = OUTPUT) -> None:
    """Show how the CA is: authorities, rotation, readiness, who trusts what, alarms, last steps.

    Exit codes, by the worst alarm: 0 ok, 2 info, 3 warning, 4 critical; 4 also where the server does not answer.
    """
    from meshca.errors import MeshcaError

    try:
        reply, skew = _ask(data_dir, admin)
    except MeshcaError as error:
        print(f"meshca: {error.message}", file=sys.stderr)
        raise typer.Exit(EXIT_CODES["critical"]) from error
    alarms = _by_severity([*reply.alarms, *_skew_alarms(skew)])
    health = _severity(alarms[0]) if alarms else "ok"
    if output is OutputFormat.JSON:
        print_json(_document(reply, alarms, health, skew))
    else:
        _print(reply, alarms, health, skew)
    raise typer.Exit(EXIT_CODES[health])


def _ask(data_dir: Path | None, admin: str | None) -> tuple[pb.GetStatusResponse, int]:
    """The server's status, and how many whole seconds its clock is ahead of ours."""
    import time

    from meshca.cli.admin_client import fetch_status

    began = time.time()
    reply = fetch_status(data_dir, admin)
    return reply, _skew(reply.now, began, time.time())


def _skew(server: int, began: float, ended: float) -> int:
    """The server read its clock, in whole seconds, at some time between the two by ours: only what that cannot
    explain is skew."""
    if server > ended:
        return int(server - ended)
    return -int(began - server - 1) if server + 1 < began else 0


def _skew_alarms(skew: int) -> list[pb.Alarm]:
    from meshca.proto.meshca.v1 import admin_pb2 as pb

    if abs(skew) <= _MAX_SKEW_SECONDS:
        return []
    message = f"the server's clock is {_skew_text(skew)}: certificates may be refused; set the clocks by NTP"
    return [pb.Alarm(severity="warning", subject="clock", message=message)]


def _skew_text(skew: int) -> str:
    from meshca.cli.moments import in_words

    return f"{in_words(abs(skew))} {'ahead of' if skew > 0 else 'behind'} ours" if skew else "the same as ours"


def _severity(alarm: pb.Alarm) -> str:
    return alarm.severity if alarm.severity in EXIT_CODES else "critical"


def _by_severity(alarms: list[pb.Alarm]) -> list[pb.Alarm]:
    return sorted(alarms, key=lambda alarm: -EXIT_CODES[_severity(alarm)])


def _document(reply: pb.GetStatusResponse, alarms: list[pb.Alarm], health: str, skew: int) -> dict[str, Any]:
    from meshca.cli.admin_views import (
        alarm_fields,
        authority_fields,
        journal_fields,
        readiness_fields,
        rotation_fields,
        tick_fields,
    )

    return {
        "health": health,
        "trust_domain": reply.trust_domain,
        "now": iso(reply.now),
        "clock_ahead_seconds": skew,
        "readiness": readiness_fields(reply),
        "rotation_tick": tick_fields(reply),
        "alarms": [alarm_fields(alarm) for alarm in alarms],
        "rotation": rotation_fields(reply.rotation),
        "authorities": [authority_fields(authority) for authority in reply.authorities],
        "journal": [journal_fields(entry) for entry in reply.journal],
    }


def _print(reply: pb.GetStatusResponse, alarms: list[pb.Alarm], health: str, skew: int) -> None:
    from meshca.cli.admin_views import journal_text, laggard_lines, rotation_lines, server_lines

    print(f"{reply.trust_domain}: {health}\n")
    fields = rotation_lines(reply.rotation, reply.now)
    print_fields({**fields, **server_lines(reply), "clock": f"{iso(reply.now)}, {_skew_text(skew)}"})
    _print_list("BEHIND", laggard_lines(reply.rotation.coverage, _NAMED))
    _print_list("ALARMS", [f"{a.severity:<8}  {a.subject}: {printable(a.message)}" for a in alarms])
    print("\nAUTHORITIES")
    print_table(("kind", "state", "id", "not_after", "ends"), [_authority_row(a, reply.now) for a in reply.authorities])
    _print_list("LAST STEPS", [journal_text(entry) for entry in reply.journal[:_JOURNAL_LINES]])


def _print_list(title: str, lines: list[str]) -> None:
    if lines:
        print(f"\n{title}", *lines, sep="\n")


def _authority_row(authority: pb.Authority, now: int) -> list[str]:
    from meshca.cli.moments import from_now

    end = authority.not_after
    return [authority.kind, authority.state, authority.id, iso(end), from_now(end, now)]
