"""`meshca ledger`: every certificate that was issued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from meshca.cli.admin_options import ADMIN, DATA_DIR, OUTPUT
from meshca.cli.output import OutputFormat, iso, print_fields, print_json, print_table


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    nouns = typer.Typer(no_args_is_help=True, help="The issuance ledger: who got which certificate, when and why.")
    nouns.command("list")(list_records)
    nouns.command("show")(show)
    app.add_typer(nouns, name="ledger")


def list_records(
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    spiffe_id: str = typer.Option("", "--spiffe-id", metavar="ID", help="Only this identity."),
    serial: str = typer.Option(
        "", "--serial", metavar="HEX", help="Only this serial, or those that start so: hex, at least 4 digits."
    ),
    since: str | None = typer.Option(
        None, "--since", metavar="TIME", help="Recorded at or after: 2026-01-31T12:00:00Z, or 1h ago as 1h."
    ),
    until: str | None = typer.Option(None, "--until", metavar="TIME", help="Recorded before, in the same forms."),
    valid_at: str | None = typer.Option(
        None, "--valid-at", metavar="TIME", help="Valid at that time; `now` is a time too."
    ),
    limit: int = typer.Option(100, "--limit", min=1, max=10_000, help="At most so many, newest first."),
    output: OutputFormat = OUTPUT,
) -> None:
    """List issued certificates, newest first."""
    from meshca.cli.moments import read_moment
    from meshca.proto.meshca.v1 import admin_pb2 as pb

    request = pb.ListCertificatesRequest(
        spiffe_id=_checked_id(spiffe_id),
        serial=serial,
        since=read_moment("--since", since),
        until=read_moment("--until", until),
        valid_at=read_moment("--valid-at", valid_at),
        limit=limit,
    )
    records = _fetch(data_dir, admin, request)
    if output is OutputFormat.JSON:
        print_json(records)
    else:
        columns = ("serial", "kind", "spiffe_id", "method", "not_before", "not_after", "issuer_id")
        print_table(columns, [[str(record[column]) for column in columns] for record in records])


def show(
    serial: str = typer.Argument(help="The serial in hex, or enough of its first digits."),
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    output: OutputFormat = OUTPUT,
) -> None:
    """Show one certificate's record."""
    from meshca.errors import invalid, not_found
    from meshca.proto.meshca.v1 import admin_pb2 as pb

    if not serial:
        raise invalid("serial is empty: give at least 4 of its hex digits")
    records = _fetch(data_dir, admin, pb.ListCertificatesRequest(serial=serial, limit=2))
    if not records:
        raise not_found(f"serial {serial}: the ledger has no such certificate")
    if len(records) > 1:
        raise invalid(f"serial {serial}: more than one certificate starts so; give more digits")
    if output is OutputFormat.JSON:
        print_json(records[0])
    else:
        print_fields({name: _text(value) for name, value in records[0].items()})


def _checked_id(text: str) -> str:
    """The filter, if it can match anything: a slip of the pen must not look like an empty ledger. Raises INVALID."""
    from meshca.spiffe.ids import SpiffeId

    return str(SpiffeId.parse(text)) if text else ""


def _fetch(data_dir: Path | None, admin: str | None, request: Any) -> list[dict[str, Any]]:
    from meshca.cli.admin_client import admin_client, call

    with admin_client(data_dir, admin) as stub:
        return [_fields(record) for record in call(stub.ListCertificates, request).records]


def _fields(record: Any) -> dict[str, Any]:
    return {
        "serial": record.serial,
        "kind": record.kind,
        "spiffe_id": record.spiffe_id,
        "dns_names": list(record.dns_names),
        "caller_id": record.caller_id,
        "method": record.method,
        "attested": record.attested,
        "key_fingerprint": record.key_fingerprint,
        "issuer_id": record.issuer_id,
        "not_before": iso(record.not_before),
        "not_after": iso(record.not_after),
        "bundle_sequence": record.bundle_sequence,
        "recorded_at": iso(record.recorded_at),
    }


def _text(value: object) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
