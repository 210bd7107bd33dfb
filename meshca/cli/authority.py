"""`meshca authority`: roots and issuing CAs."""

from __future__ import annotations

from pathlib import Path

import typer

from meshca.cli.admin_options import ADMIN, DATA_DIR
from meshca.cli.output import OutputFormat, iso, print_json, print_table


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    nouns = typer.Typer(no_args_is_help=True, help="Authorities: the roots and the issuing CAs under them.")
    nouns.callback()(_authorities)
    nouns.command("list")(list_authorities)
    app.add_typer(nouns, name="authority")


def _authorities() -> None:
    """Authorities: the roots and the issuing CAs under them."""


def list_authorities(
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    output: OutputFormat = typer.Option(
        OutputFormat.TABLE, "-o", "--output", help="A table for people, JSON for scripts."
    ),
) -> None:
    """List every authority, its state and its lifetime."""
    from meshca.cli.admin_client import admin_client, call
    from meshca.proto.meshca.v1 import admin_pb2 as pb

    with admin_client(data_dir, admin) as stub:
        reply = call(stub.ListAuthorities, pb.ListAuthoritiesRequest())
    rows = [
        {
            "id": a.id,
            "kind": a.kind,
            "state": a.state,
            "issuer_id": a.issuer_id,
            "not_before": iso(a.not_before),
            "not_after": iso(a.not_after),
            "bundle_sequence": a.bundle_sequence,
        }
        for a in reply.authorities
    ]
    if output is OutputFormat.JSON:
        document = {"trust_domain": reply.trust_domain, "bundle_sequence": reply.bundle_sequence, "authorities": rows}
        print_json(document)
    else:
        columns = ("id", "kind", "state", "not_before", "not_after")
        print_table(columns, [[str(row[column]) for column in columns] for row in rows])
