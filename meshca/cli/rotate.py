"""`meshca rotate`: replace the root, on evidence that everybody trusts the next one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from meshca.cli.admin_options import ADMIN, DATA_DIR, OUTPUT, YES, same_server
from meshca.cli.output import OutputFormat, iso, print_fields, print_json

if TYPE_CHECKING:
    from meshca.cli.rotation_watch import Outcome, View, Watch
    from meshca.proto.meshca.v1 import admin_pb2 as pb

_INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    nouns = typer.Typer(no_args_is_help=True, help="Rotation of the root: begin it, watch it, go back.")
    nouns.command("root")(root)
    nouns.command("status")(status)
    nouns.command("abort")(abort)
    app.add_typer(nouns, name="rotate")


def root(
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    reason: str = typer.Option("", "--reason", metavar="TEXT", help="Why; it is recorded."),
    wait: bool = typer.Option(
        False, "--wait", help="Watch it until all certificates are under the new root; also one that is under way."
    ),
    yes: bool = YES,
    dry_run: bool = typer.Option(False, "--dry-run", help="Print the plan, begin nothing."),
    linger: str = typer.Option(
        "2m",
        "--linger",
        metavar="DURATION",
        help="With --wait: stay until the old root is gone, if its last certificate ends so soon.",
    ),
    output: OutputFormat = OUTPUT,
) -> None:
    """Replace the root: print the plan, ask, begin; with --wait, watch it to its end.

    Nothing is used before every holder is known to trust it. Watching may be interrupted and taken up again. Exit codes
    with --wait: 0 all certificates are under the new root, 5 the rotation was aborted, 130 interrupted.
    """
    from meshca.cli.admin_client import fetch_status
    from meshca.cli.rotation_watch import Watch, active_root
    from meshca.errors import conflict
    from meshca.settings.sources import read_duration

    seconds = int(read_duration("--linger", linger).total_seconds())
    before = fetch_status(data_dir, admin)
    under_way = bool(before.rotation.origin)
    if dry_run:
        _show_plan(before, data_dir, admin, output, begun=False)
        return
    if under_way and not wait:
        raise conflict(f"{_under_way(before)}: --wait watches it, `meshca rotate abort` ends it")
    if not under_way:
        begun = _begin(before, data_dir, admin, reason, wait, yes, output)
        if not wait:
            return
        before = before if begun else fetch_status(data_dir, admin)
    if before.rotation.origin:
        _tell(f"{_under_way(before)}; watching it", output)
    predecessor = before.rotation.predecessor if before.rotation.origin else active_root(before)
    _watch(Watch(predecessor, seconds), data_dir, admin, output)


def status(data_dir: Path | None = DATA_DIR, admin: str | None = ADMIN, output: OutputFormat = OUTPUT) -> None:
    """Show where the rotation of the root stands, and who is not known to trust the next one."""
    from meshca.cli.admin_client import fetch_status
    from meshca.cli.admin_views import laggard_lines, rotation_fields, rotation_lines

    reply = fetch_status(data_dir, admin)
    if output is OutputFormat.JSON:
        print_json(rotation_fields(reply.rotation))
        return
    print_fields(rotation_lines(reply.rotation, reply.now))
    behind = laggard_lines(reply.rotation.coverage, len(reply.rotation.coverage.laggards))
    if behind:
        print("\nBEHIND", *behind, sep="\n")


def abort(
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    reason: str = typer.Option("", "--reason", metavar="TEXT", help="Why; it is recorded."),
    yes: bool = YES,
) -> None:
    """Go back to the root from before. Automatic rotation rests until `meshca rotate root`."""
    from meshca.cli.admin_client import admin_client, call, fetch_status
    from meshca.cli.admin_views import rotation_lines
    from meshca.cli.confirmation import confirm
    from meshca.cli.rotation_watch import active_root
    from meshca.errors import conflict
    from meshca.proto.meshca.v1 import admin_pb2 as pb

    before = fetch_status(data_dir, admin)
    if not before.rotation.origin:
        raise conflict("no rotation of the root is under way: there is nothing to abort")
    print_fields(rotation_lines(before.rotation, before.now))
    confirm("Abort it?", yes=yes)
    with admin_client(data_dir, admin) as stub:
        call(stub.AbortRotation, pb.AbortRotationRequest(reason=reason))
    print(f"aborted: root {active_root(fetch_status(data_dir, admin)) or '(none)'} signs")


def _begin(
    before: pb.GetStatusResponse,
    data_dir: Path | None,
    admin: str | None,
    reason: str,
    wait: bool,
    yes: bool,
    output: OutputFormat,
) -> bool:
    """Shows the plan, asks, begins. False where somebody else has begun one meanwhile, which is then waited for."""
    from meshca.cli.admin_client import admin_client, call, fetch_status
    from meshca.cli.confirmation import confirm
    from meshca.errors import ErrorKind, MeshcaError
    from meshca.proto.meshca.v1 import admin_pb2 as pb

    plan = _plan(data_dir, admin)
    _tell_plan(plan, before, output)
    confirm(f"Rotate the root of {before.trust_domain}?", yes=yes)
    try:
        with admin_client(data_dir, admin) as stub:
            call(stub.BeginRotation, pb.BeginRotationRequest(reason=reason))
    except MeshcaError as error:
        if wait and error.kind is ErrorKind.CONFLICT and fetch_status(data_dir, admin).rotation.origin:
            return False
        raise
    if output is OutputFormat.JSON and not wait:
        _print_plan_json(plan, begun=True)
    _tell(f"begun{'' if wait else _how_to_follow(data_dir, admin)}", output)
    return True


def _how_to_follow(data_dir: Path | None, admin: str | None) -> str:
    where = same_server(data_dir, admin)
    return (
        f"; watch it with\n  meshca rotate root --wait{where}\nlook at it with\n  meshca rotate status{where}\n"
        f"and go back with\n  meshca rotate abort{where}"
    )


def _under_way(reply: pb.GetStatusResponse) -> str:
    from meshca.cli.admin_views import rotation_text

    return f"a rotation of the root is {rotation_text(reply.rotation)}"


def _plan(data_dir: Path | None, admin: str | None) -> pb.PlanRotationResponse:
    from meshca.cli.admin_client import admin_client, call
    from meshca.proto.meshca.v1 import admin_pb2 as pb

    with admin_client(data_dir, admin) as stub:
        return call(stub.PlanRotation, pb.PlanRotationRequest())


def _show_plan(
    reply: pb.GetStatusResponse, data_dir: Path | None, admin: str | None, output: OutputFormat, *, begun: bool
) -> None:
    plan = _plan(data_dir, admin)
    if output is OutputFormat.JSON:
        _print_plan_json(plan, begun=begun)
    else:
        _tell_plan(plan, reply, output)
    if reply.rotation.origin:
        print(f"{_under_way(reply)}: this is what another one would do", file=sys.stderr)


def _tell_plan(plan: pb.PlanRotationResponse, reply: pb.GetStatusResponse, output: OutputFormat) -> None:
    from meshca.cli.admin_views import plan_lines

    _tell("\n".join([*plan_lines(plan, reply.trust_domain, reply.now), ""]), output)


def _print_plan_json(plan: pb.PlanRotationResponse, *, begun: bool) -> None:
    from meshca.cli.admin_views import plan_fields

    print_json({"begun": begun, "plan": plan_fields(plan)})


def _tell(text: str, output: OutputFormat) -> None:
    """For people: beside the JSON, where scripts are served."""
    print(text, file=sys.stderr if output is OutputFormat.JSON else sys.stdout, flush=True)


def _watch(watch: Watch, data_dir: Path | None, admin: str | None, output: OutputFormat) -> None:
    from meshca.cli.admin_client import fetch_status
    from meshca.cli.interruption import Interruption
    from meshca.cli.rotation_watch import follow

    def fetch() -> pb.GetStatusResponse:
        interruption.check()
        return fetch_status(data_dir, admin)

    try:
        with Interruption() as interruption, _view(output) as view:
            outcome, reply = follow(fetch, watch, view)
    except KeyboardInterrupt:
        where = same_server(data_dir, admin)
        print(
            f"meshca: no longer watched; the rotation goes on: `meshca rotate root --wait{where}` watches it again",
            file=sys.stderr,
        )
        raise typer.Exit(_INTERRUPTED) from None
    _conclude(outcome, reply, watch.elapsed, output)


def _view(output: OutputFormat) -> View:
    from meshca.cli.rotation_watch import BlockView, JsonView, LineView

    if output is OutputFormat.JSON:
        return JsonView()
    return BlockView() if sys.stdout.isatty() else LineView()


def _conclude(outcome: Outcome, reply: pb.GetStatusResponse, elapsed: int, output: OutputFormat) -> None:
    """Says how it ended. Raises CONFLICT where it was aborted."""
    from meshca.cli.moments import from_now, in_words
    from meshca.cli.rotation_watch import Outcome, active_root
    from meshca.errors import conflict

    signer = active_root(reply) or "(none)"
    if outcome is Outcome.ABORTED:
        raise conflict(f"the rotation was aborted{_by_whom(reply)}; root {signer} signs")
    done = f"after {in_words(elapsed)}: every certificate that is in use is under root {signer}"
    if outcome is Outcome.OVER:
        _tell(f"the rotation is over {done}, and the old root has left the bundle", output)
        return
    ends = reply.rotation.old_ends
    when = f" at {iso(ends)} ({from_now(ends, reply.now)})" if ends else ""
    _tell(f"done {done}; the old root leaves the bundle once the last certificate under it has ended{when}", output)


def _by_whom(reply: pb.GetStatusResponse) -> str:
    from meshca.cli.output import printable

    found = next((entry for entry in reply.journal if entry.step == "abort rotation"), None)
    if found is None:
        return ""
    why = f": {printable(found.reason)}" if found.reason else ""
    return f" at {iso(found.at)} by {found.actor}{why}"
