"""`meshca token`: join tokens for new agents."""

from __future__ import annotations

from pathlib import Path

import typer

from meshca.cli.admin_options import ADMIN, DATA_DIR
from meshca.cli.output import OutputFormat, iso, print_json

OUTPUT = typer.Option(
    None, "-o", "--output", help="json: the token with its identity and expiry. Default: the token alone."
)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    nouns = typer.Typer(no_args_is_help=True, help="Join tokens: how a new agent proves itself, once.")
    nouns.command("create")(create)
    app.add_typer(nouns, name="token")


def create(
    spiffe_id: str = typer.Option(
        ..., "--spiffe-id", metavar="ID", help="Who the agent will be, such as spiffe://example.org/web."
    ),
    ttl: str = typer.Option(
        "10m", "--ttl", metavar="DURATION", help="How long it may wait to be used, such as 90s, 10m or 1h; at most 7d."
    ),
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    output: OutputFormat | None = OUTPUT,
) -> None:
    """Make a single-use join token and print it. It is shown once; only its hash is stored."""
    from meshca.cli.admin_client import admin_client, call
    from meshca.proto.meshca.v1 import admin_pb2 as pb
    from meshca.settings.sources import read_duration

    seconds = int(read_duration("--ttl", ttl).total_seconds())
    with admin_client(data_dir, admin) as stub:
        reply = call(stub.CreateJoinToken, pb.CreateJoinTokenRequest(spiffe_id=spiffe_id, ttl_seconds=seconds))
    if output is OutputFormat.JSON:
        print_json({"token": reply.token, "spiffe_id": reply.spiffe_id, "expires_at": iso(reply.expires_at)})
    else:
        print(reply.token)
