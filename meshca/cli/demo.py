"""`meshca demo`: a whole little mesh with real Envoys, watched while its certificates are renewed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from meshca.cli.output import OutputFormat

if TYPE_CHECKING:
    from meshca.demo.story import Outcome

_SHOWN_SERIALS = 12


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("demo")(demo)


def demo(
    once: bool = typer.Option(False, "--once", help="End after the final table; exit 0 only if every figure is right."),
    directory: Path | None = typer.Option(
        None, "--dir", help="Where to run, and to leave state and logs. Default: a temporary directory."
    ),
    ttl: int = typer.Option(6, "--ttl", min=3, max=3600, help="Lifetime of the certificates, in seconds."),
    renewals: int = typer.Option(5, "--renewals", min=1, max=100, help="How many renewals of each side to wait for."),
    output: OutputFormat = typer.Option(OutputFormat.TABLE, "-o", "--output", help="The final figures: table or json."),
) -> None:
    """Watch two real Envoys speak mutual TLS while their certificates are renewed under load."""
    import asyncio
    import sys
    import time

    from meshca.demo.story import Interrupted, Story

    began = time.monotonic()
    out = sys.stderr if output is OutputFormat.JSON else sys.stdout

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f}s  {line}", file=out, flush=True)

    with _place(directory) as where:
        story = Story(where, ttl_seconds=ttl, renewals=renewals, once=once, say=say)
        try:
            outcome = asyncio.run(story.run(lambda figures: _show(figures, output)))
        except Interrupted as signal:
            print(f"meshca: the demonstration was interrupted ({signal}); everything is ended", file=sys.stderr)
            raise typer.Exit(128 + signal.number) from signal
    problems = outcome.problems()
    for problem in problems:
        print(f"meshca: {problem}", file=sys.stderr)
    if problems:
        kept = f"the logs are below {directory}" if directory else "run it again with --dir DIR to keep the logs"
        print(f"meshca: {kept}", file=sys.stderr)
    raise typer.Exit(1 if problems else 0)


@contextlib.contextmanager
def _place(directory: Path | None) -> Iterator[Path]:
    """The directory to run in. One that was not asked for is gone afterwards."""
    import tempfile

    from meshca.errors import invalid

    if directory is None:
        with tempfile.TemporaryDirectory(prefix="meshca-demo-", ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)
        return
    where = directory.absolute()
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise invalid(f"--dir {directory}: cannot be made: {error.strerror}") from error
    yield where


def _show(outcome: Outcome, output: OutputFormat) -> None:
    from meshca.cli.output import print_fields, print_json

    if output is OutputFormat.JSON:
        print_json(_document(outcome))
        return
    print()
    for identity, serials in outcome.serials.items():
        print(identity)
        _show_serials(serials)
    print()
    print_fields(_fields(outcome))
    print(flush=True)


def _show_serials(serials: tuple[str, ...]) -> None:
    shown = serials[-_SHOWN_SERIALS:]
    earlier = f"; the last {len(shown)}" if len(shown) < len(serials) else ""
    label = f"  {len(serials)} serials seen{earlier}"
    for serial in shown:
        print(f"{label:<30}  {serial}")
        label = ""


def _fields(outcome: Outcome) -> dict[str, str]:
    served = {serial for serials in outcome.serials.values() for serial in serials}
    return {
        "mutual TLS handshakes": str(outcome.handshakes),
        "requests sent": str(outcome.sent),
        "requests failed": str(outcome.failed),
        "caller with its certificate": "admitted" if outcome.member_admitted else "REFUSED",
        "caller without certificate": "refused" if outcome.anonymous_refused else "NOT REFUSED",
        "caller from a foreign CA": "refused" if outcome.foreigner_refused else "NOT REFUSED",
        "serials in the ledger": f"{len(served & outcome.recorded)} of {len(served)}",
        "result": "every figure is right" if not outcome.problems() else "NOT RIGHT",
    }


def _document(outcome: Outcome) -> dict[str, object]:
    return {
        "serials": {identity: list(serials) for identity, serials in outcome.serials.items()},
        "handshakes": outcome.handshakes,
        "requests": outcome.sent,
        "failed": outcome.failed,
        "admitted_with_certificate": outcome.member_admitted,
        "refused_without_certificate": outcome.anonymous_refused,
        "refused_foreign_ca": outcome.foreigner_refused,
        "recorded": len(outcome.recorded),
        "seconds": round(outcome.seconds, 1),
        "problems": outcome.problems(),
    }
