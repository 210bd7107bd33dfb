"""The root command, and what failures look like to the shell."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import typer

from meshca import __version__
from meshca.errors import ErrorKind, MeshcaError

# gRPC's own words on stderr (each failed handshake of a stranger, in a form of its own) are no log of ours; what
# matters to us comes back as an error. GRPC_VERBOSITY=ERROR brings them back.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# Stable: scripts rely on them. 2 is a usage error, as everywhere.
EXIT_CODES = {
    ErrorKind.INTERNAL: 1,
    ErrorKind.INVALID: 3,
    ErrorKind.NOT_FOUND: 4,
    ErrorKind.CONFLICT: 5,
    ErrorKind.DENIED: 6,
    ErrorKind.UNAUTHENTICATED: 6,
    ErrorKind.EXHAUSTED: 7,
    ErrorKind.UNAVAILABLE: 7,
}

# Each module has `register(app)`.
NOUNS = (
    "server",
    "worker",
    "agent",
    "status",
    "rotate",
    "authority",
    "plugin",
    "token",
    "bundle",
    "ledger",
    "revocations",
    "envoy_bootstrap",
    "demo",
)

_EXIT_CODES_HELP = (
    "Exit codes: 0 well, 1 our fault, 2 usage, 3 invalid input, 4 not found, 5 conflict, 6 refused,"
    " 7 unavailable or exhausted."
)

app = typer.Typer(
    name="meshca",
    help="A certificate authority and workload-identity service for service meshes.",
    epilog=_EXIT_CODES_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        print(f"meshca {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Show the version."),
) -> None:
    """A certificate authority and workload-identity service for service meshes."""


for _noun in NOUNS:
    import_module(f"meshca.cli.{_noun}").register(app)


def main() -> None:
    """Runs the command line; a MeshcaError becomes one clear line on stderr and a stable exit code."""
    try:
        app()
    except MeshcaError as error:
        print(f"meshca: {error.message}", file=sys.stderr)
        sys.exit(EXIT_CODES[error.kind])
