"""The options by which every operator command finds the running server, and those that they share."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer

from meshca.cli.output import OutputFormat

DATA_DIR = typer.Option(
    None, "--data-dir", envvar="MESHCA_DATA_DIR", help="The running server's data directory; its admin socket is there."
)
ADMIN = typer.Option(
    None, "--admin", envvar="MESHCA_ADMIN", metavar="SOCKET", help="The admin socket, if it is elsewhere."
)
OUTPUT = typer.Option(OutputFormat.TABLE, "-o", "--output", help="A table for people, JSON for scripts.")
YES = typer.Option(False, "--yes", "-y", help="Do not ask for confirmation.")


def same_server(data_dir: Path | None, admin: str | None) -> str:
    """The options to give to another command that is to speak to the same server, each with a space before it."""
    given = (("--data-dir", data_dir), ("--admin", admin))
    return "".join(f" {flag} {shlex.quote(str(value))}" for flag, value in given if value is not None)
