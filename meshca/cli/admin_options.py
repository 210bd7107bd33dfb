"""The options by which every operator command finds the running server."""

from __future__ import annotations

import typer

DATA_DIR = typer.Option(
    None, "--data-dir", envvar="MESHCA_DATA_DIR", help="The running server's data directory; its admin socket is there."
)
ADMIN = typer.Option(
    None, "--admin", envvar="MESHCA_ADMIN", metavar="SOCKET", help="The admin socket, if it is elsewhere."
)
