"""`meshca signing-worker`: what `meshca server --workers N` starts; not for people."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("signing-worker", hidden=True)(signing_worker)


def signing_worker() -> None:
    """Serve as one of a server's signing processes."""
    from meshca.wiring.worker import run_worker

    run_worker()
