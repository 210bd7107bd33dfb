"""`meshca demo`: a whole little mesh with real Envoys, watched while its certificates are renewed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from meshca.cli.output import OutputFormat

if TYPE_CHECKING:
    from meshca.demo.story import Outcome


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("demo")(demo)


def demo(
    once: bool = typer.Option(False, "--once", help="End after the final table; exit 0 only if every figure is right."),
    directory: Path | None = typer.Option(None, "--dir", help="Where to run; default: a temporary directory."),
    ttl: int = typer.Option(6, "--ttl", min=3, max=3600, help="Lifetime of the certificates, in seconds."),
    output: OutputFormat = typer.Option(OutputFormat.TABLE, "-o", "--output", help="The final figures: table or json."),
) -> None:
    """Watch two real Envoys speak mutual TLS while their certificates are renewed under load."""
    import asyncio
    import shutil
    import sys
    import tempfile
    import time

    from meshca.demo.story import Story

    began = time.monotonic()

    def say(line: str) -> None:
        print(
            f"{time.monotonic() - began:6.1f}s  {line}",
            file=sys.stderr if output is OutputFormat.JSON else None,
            flush=True,
        )

    where = directory.absolute() if directory else Path(tempfile.mkdtemp(prefix="meshca-demo-"))
    where.mkdir(parents=True, exist_ok=True)
    try:
        story = Story(where, ttl_seconds=ttl, once=once, say=say)
        outcome = asyncio.run(story.run(lambda figures: _show(figures, output)))
    finally:
        if directory is None:
            shutil.rmtree(where, ignore_errors=True)
    problems = outcome.problems()
    for problem in problems:
        print(f"meshca: {problem}", file=sys.stderr)
    raise typer.Exit(1 if problems else 0)


def _show(outcome: Outcome, output: OutputFormat) -> None:
    from meshca.cli.output import print_fields, print_json

    if output is OutputFormat.JSON:
        print_json(
            {
                "serials": {identity: list(serials) for identity, serials in outcome.serials.items()},
                "handshakes": outcome.handshakes,
                "requests": outcome.sent,
                "failed": outcome.failed,
                "refused_without_certificate": outcome.anonymous_refused,
                "refused_foreign_ca": outcome.foreigner_refused,
                "recorded": outcome.recorded,
                "seconds": round(outcome.seconds, 1),
                "problems": outcome.problems(),
            }
        )
        return
    print()
    fields = {identity: f"{len(serials)} certificates seen" for identity, serials in outcome.serials.items()}
    fields |= {
        "mutual TLS handshakes": str(outcome.handshakes),
        "requests": f"{outcome.sent} sent, {outcome.failed} failed",
        "caller without certificate": "refused" if outcome.anonymous_refused else "ADMITTED",
        "caller from a foreign CA": "refused" if outcome.foreigner_refused else "ADMITTED",
        "certificates in the ledger": str(outcome.recorded),
    }
    print_fields(fields)
    print()
