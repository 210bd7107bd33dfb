"""The command line: one file per noun; parse, call, print. Everything heavy is imported when a command runs."""

from meshca.cli.app import main

__all__ = ["main"]
