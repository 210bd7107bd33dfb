"""`meshca authority`: roots and issuing CAs."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from meshca.cli import imports
from meshca.cli.admin_options import ADMIN, DATA_DIR, OUTPUT, YES
from meshca.cli.output import OutputFormat, iso, print_fields, print_json, print_table

if TYPE_CHECKING:
    from meshca.proto.meshca.v1 import admin_pb2 as pb

_MIN_PREFIX = 4


class Kind(StrEnum):
    """What can be prepared."""

    ROOT = "root"
    ISSUER = "issuer"


ID = typer.Argument(metavar="ID", help="The authority's id, or at least 4 of its first digits.")
FORCE = typer.Option(False, "--force", help="Go on although evidence is missing. Needs --reason; it is recorded.")
REASON = typer.Option("", "--reason", metavar="TEXT", help="Why; it is recorded.")
REQUIRED_REASON = typer.Option(..., "--reason", metavar="TEXT", help="Why; it is recorded.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    nouns = typer.Typer(no_args_is_help=True, help="Authorities: the roots and the issuing CAs under them.")
    nouns.command("list")(list_authorities)
    nouns.command("show")(show)
    for command in (prepare, activate, taint, revoke, prune):
        nouns.command(command.__name__)(command)
    imports.register(nouns)
    app.add_typer(nouns, name="authority")


def list_authorities(
    data_dir: Path | None = DATA_DIR, admin: str | None = ADMIN, output: OutputFormat = OUTPUT
) -> None:
    """List every authority, its state and its lifetime."""
    from meshca.cli.admin_client import admin_client, call
    from meshca.cli.admin_views import authority_fields
    from meshca.proto.meshca.v1 import admin_pb2 as pb

    with admin_client(data_dir, admin) as stub:
        reply = call(stub.ListAuthorities, pb.ListAuthoritiesRequest())
    rows = [authority_fields(authority) for authority in reply.authorities]
    if output is OutputFormat.JSON:
        document = {"trust_domain": reply.trust_domain, "bundle_sequence": reply.bundle_sequence, "authorities": rows}
        print_json(document)
    else:
        columns = ("id", "kind", "state", "since", "not_before", "not_after")
        print_table(columns, [[str(row[column]) for column in columns] for row in rows])


def show(
    authority_id: str = ID,
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    pem: bool = typer.Option(False, "--pem", help="Its certificate, too."),
    output: OutputFormat = OUTPUT,
) -> None:
    """Show one authority, and the last steps that were taken on it."""
    from meshca.cli.admin_client import fetch_status
    from meshca.cli.admin_views import authority_fields, journal_fields, journal_text

    reply = fetch_status(data_dir, admin)
    found = _find(reply, authority_id)
    fields = {**authority_fields(found), "sha256": _fingerprint(found)}
    journal = [entry for entry in reply.journal if entry.authority_id == found.id]
    certificate = _pem(found) if pem else ""
    if output is OutputFormat.JSON:
        shown = {"certificate": certificate} if pem else {}
        print_json({**fields, **shown, "journal": [journal_fields(entry) for entry in journal]})
        return
    print_fields({name: str(value) for name, value in fields.items()})
    if journal:
        print("\nLAST STEPS", *(journal_text(entry) for entry in journal), sep="\n")
    if pem:
        print(f"\n{certificate}", end="")


def prepare(
    kind: Kind = typer.Argument(help="A root, or an issuing CA under the active root."),
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    reason: str = REQUIRED_REASON,
    output: OutputFormat = OUTPUT,
) -> None:
    """Make a new authority, which waits to be activated. A new root is in the trust bundle at once."""
    from meshca.cli.admin_client import admin_client, call
    from meshca.cli.admin_views import authority_fields
    from meshca.proto.meshca.v1 import admin_pb2 as pb

    request = pb.PrepareAuthorityRequest(kind=kind.value, reason=_given(reason))
    with admin_client(data_dir, admin) as stub:
        made = call(stub.PrepareAuthority, request).authority
    if output is OutputFormat.JSON:
        print_json(authority_fields(made))
    else:
        print(f"{made.kind} {made.id} is prepared, until {iso(made.not_after)}")


def activate(
    authority_id: str = ID,
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    force: bool = FORCE,
    reason: str = REASON,
    output: OutputFormat = OUTPUT,
) -> None:
    """Let an authority sign from now on: a root only once every holder is known to trust it."""
    _check_force(force, reason)
    _take("activate", authority_id, data_dir, admin, output, reason=reason, force=force)


def taint(
    authority_id: str = ID,
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    reason: str = REQUIRED_REASON,
    distrust_after: str | None = typer.Option(
        None,
        "--distrust-after",
        metavar="DURATION",
        help="A root leaves the bundle after so long at the latest; at most 90d. Default: when nobody depends on it.",
    ),
    yes: bool = YES,
    output: OutputFormat = OUTPUT,
) -> None:
    """Stop signing with an authority at once and replace everything under it: what to do when its key is exposed."""
    from meshca.cli.admin_client import fetch_status
    from meshca.cli.confirmation import confirm
    from meshca.cli.taint import consequences

    reason, seconds = _given(reason), _distrust_seconds(distrust_after)
    reply = fetch_status(data_dir, admin)
    found = _find(reply, authority_id)
    shown = sys.stderr if output is OutputFormat.JSON else sys.stdout
    print("\n".join(consequences(reply, found, seconds)), file=shown, flush=True)
    confirm(f"Taint {found.kind} {found.id}?", yes=yes)
    _take("taint", found.id, data_dir, admin, output, reason=reason, distrust_after_seconds=seconds)


def revoke(
    authority_id: str = ID,
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    force: bool = FORCE,
    reason: str = REASON,
    yes: bool = YES,
    output: OutputFormat = OUTPUT,
) -> None:
    """Take a tainted root out of the trust bundle: once nobody depends on it, or by force."""
    _take_if_confirmed("revoke", authority_id, data_dir, admin, output, force=force, reason=reason, yes=yes)


def prune(
    authority_id: str = ID,
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    force: bool = FORCE,
    reason: str = REASON,
    yes: bool = YES,
    output: OutputFormat = OUTPUT,
) -> None:
    """Forget an authority that signs no more, and destroy its key: once nothing depends on it, or by force."""
    _take_if_confirmed("prune", authority_id, data_dir, admin, output, force=force, reason=reason, yes=yes)


def _take_if_confirmed(
    step: str,
    authority_id: str,
    data_dir: Path | None,
    admin: str | None,
    output: OutputFormat,
    *,
    force: bool,
    reason: str,
    yes: bool,
) -> None:
    from meshca.cli.admin_client import fetch_status
    from meshca.cli.confirmation import confirm

    _check_force(force, reason)
    found = _find(fetch_status(data_dir, admin), authority_id)
    past = ", whoever depends on it" if force else ""
    confirm(f"{step.capitalize()} {found.state} {found.kind} {found.id}{past}?", yes=yes)
    _take(step, found.id, data_dir, admin, output, reason=reason, force=force)


def _take(
    step: str,
    authority_id: str,
    data_dir: Path | None,
    admin: str | None,
    output: OutputFormat,
    *,
    reason: str,
    force: bool = False,
    distrust_after_seconds: int = 0,
) -> None:
    """Has the server take the step, and says what the authority was and what it is."""
    from meshca.cli.admin_client import admin_client, call
    from meshca.cli.admin_views import step_fields
    from meshca.proto.meshca.v1 import admin_pb2 as pb

    request = pb.StepAuthorityRequest(
        authority_id=authority_id,
        step=step,
        reason=reason,
        force=force,
        distrust_after_seconds=distrust_after_seconds,
    )
    with admin_client(data_dir, admin) as stub:
        was = call(stub.StepAuthority, request).authority
    now = {"activate": "active", "taint": "tainted", "revoke": "revoked", "prune": "gone"}[step]
    if output is OutputFormat.JSON:
        print_json(step_fields(step, was, now))
    else:
        print(f"{was.kind} {was.id}: was {was.state}, is {now}")


def _find(reply: pb.GetStatusResponse, authority_id: str) -> pb.Authority:
    """The one authority whose id starts so, as the server resolves it. Raises INVALID and NOT_FOUND."""
    from meshca.errors import invalid, not_found

    if len(authority_id) < _MIN_PREFIX:
        raise invalid(f"authority {authority_id!r} is too short: give at least {_MIN_PREFIX} digits of its id")
    found = [a for a in reply.authorities if a.id.startswith(authority_id.lower())]
    if not found:
        raise not_found(f"there is no authority {authority_id}: `meshca authority list` shows them")
    if len(found) > 1:
        raise invalid(f"authority {authority_id} fits {len(found)} ids: give more digits")
    return found[0]


def _given(reason: str) -> str:
    from meshca.errors import invalid

    if not reason.strip():
        raise invalid("--reason is empty: say why, it is recorded")
    return reason


def _check_force(force: bool, reason: str) -> None:
    from meshca.errors import invalid

    if force and not reason.strip():
        raise invalid("--force needs --reason: it is recorded why evidence was passed over")


def _distrust_seconds(text: str | None) -> int:
    """Whole seconds; 0, which the server takes for no deadline, only where none was given. Raises INVALID."""
    from meshca.errors import invalid
    from meshca.settings.sources import read_duration

    if text is None:
        return 0
    seconds = int(read_duration("--distrust-after", text).total_seconds())
    if seconds < 1:
        raise invalid(f"--distrust-after: {text!r} is too short: at least 1s")
    return seconds


def _fingerprint(authority: pb.Authority) -> str:
    import hashlib

    return hashlib.sha256(authority.certificate).hexdigest()


def _pem(authority: pb.Authority) -> str:
    import ssl

    return ssl.DER_cert_to_PEM_cert(authority.certificate)
