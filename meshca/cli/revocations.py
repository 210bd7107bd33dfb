"""`meshca revoke`, `meshca unban`, `meshca revocations`: cutting off an identity or a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from meshca.cli.admin_options import ADMIN, DATA_DIR, OUTPUT, YES
from meshca.cli.output import OutputFormat, iso, print_json, print_table, printable

if TYPE_CHECKING:
    from meshca.proto.meshca.v1 import admin_pb2 as pb

SPIFFE_ID = typer.Option("", "--spiffe-id", metavar="ID", help="This identity, with every certificate that it has.")
SERIAL = typer.Option("", "--serial", metavar="HEX", help="This certificate alone: its serial, or its first digits.")
_MOST = 10_000


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("revoke")(revoke)
    app.command("unban")(unban)
    nouns = typer.Typer(no_args_is_help=True, help="What is revoked: identities and certificates, and why.")
    nouns.command("list")(list_revocations)
    app.add_typer(nouns, name="revocations")


def revoke(
    spiffe_id: str = SPIFFE_ID,
    serial: str = SERIAL,
    reason: str = typer.Option(..., "--reason", metavar="TEXT", help="Why; it is recorded."),
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    yes: bool = YES,
    output: OutputFormat = OUTPUT,
) -> None:
    """Cut off an identity or a certificate: nothing more is issued to it, and relying parties refuse it.

    A new handshake with it fails within a second at every connected proxy; connections that are open stay until they
    end. `meshca unban` takes it back.
    """
    from meshca.cli.admin_client import admin_client, call
    from meshca.cli.confirmation import confirm
    from meshca.proto.meshca.v1 import admin_pb2 as pb

    _check(spiffe_id, serial)
    _check_reason(reason)
    with admin_client(data_dir, admin) as stub:
        confirm(_question(stub, spiffe_id, serial), yes=yes)
        ban = call(stub.Revoke, pb.RevokeRequest(spiffe_id=spiffe_id, serial=serial, reason=reason)).ban
    _tell(ban, "is revoked", output)


def unban(
    spiffe_id: str = SPIFFE_ID,
    serial: str = SERIAL,
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    output: OutputFormat = OUTPUT,
) -> None:
    """Take a revocation back."""
    from meshca.cli.admin_client import admin_client, call
    from meshca.proto.meshca.v1 import admin_pb2 as pb

    _check(spiffe_id, serial)
    with admin_client(data_dir, admin) as stub:
        ban = call(stub.Unban, pb.UnbanRequest(spiffe_id=spiffe_id, serial=serial)).ban
    _tell(ban, "is no longer revoked", output)


def list_revocations(
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    everything: bool = typer.Option(False, "--all", help="Those that were taken back, too."),
    limit: int = typer.Option(100, "--limit", min=1, max=_MOST, help="At most so many, newest first."),
    output: OutputFormat = OUTPUT,
) -> None:
    """List what is revoked, newest first."""
    from meshca.cli.admin_client import admin_client, call
    from meshca.proto.meshca.v1 import admin_pb2 as pb

    with admin_client(data_dir, admin) as stub:
        reply = call(stub.ListRevocations, pb.ListRevocationsRequest(limit=limit, lifted=everything))
    rows = [_fields(ban) for ban in reply.bans]
    if output is OutputFormat.JSON:
        print_json(rows)
        return
    columns = ("at", "kind", "subject", *(("lifted_at",) if everything else ()), "reason")
    print_table(columns, [[printable(row[column]) for column in columns] for row in rows])


def _question(stub: Any, spiffe_id: str, serial: str) -> str:
    """What would be cut off, as far as the ledger knows."""
    from meshca.cli.admin_client import call
    from meshca.cli.moments import read_moment
    from meshca.proto.meshca.v1 import admin_pb2 as pb

    if serial:
        return f"Revoke the certificate with serial {serial}?"
    now = read_moment("now", "now")
    found = call(stub.ListCertificates, pb.ListCertificatesRequest(spiffe_id=spiffe_id, valid_at=now, limit=_MOST))
    return f"Revoke {printable(spiffe_id)}, which has {len(found.records)} valid certificates?"


def _check(spiffe_id: str, serial: str) -> None:
    from meshca.errors import invalid

    if bool(spiffe_id) == bool(serial):
        raise invalid("give exactly one of --spiffe-id and --serial")


def _check_reason(reason: str) -> None:
    from meshca.errors import invalid

    if not reason.strip():
        raise invalid("--reason is empty: say why, it is recorded")


def _tell(ban: pb.Ban, what: str, output: OutputFormat) -> None:
    if output is OutputFormat.JSON:
        print_json(_fields(ban))
    else:
        print(f"{_named(ban)} {what}")


def _named(ban: pb.Ban) -> str:
    return f"certificate {ban.subject} of {ban.spiffe_id}" if ban.kind == "serial" else ban.subject


def _fields(ban: pb.Ban) -> dict[str, str]:
    return {
        "kind": ban.kind,
        "subject": ban.subject,
        "spiffe_id": ban.spiffe_id,
        "reason": ban.reason,
        "actor": ban.actor,
        "at": iso(ban.at),
        "lifted_at": iso(ban.lifted_at),
        "issuer_id": ban.issuer_id,
        "until": iso(ban.until),
    }
