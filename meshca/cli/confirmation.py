"""Asks before something is done that cannot be taken back lightly."""

from __future__ import annotations

import sys

from meshca.errors import denied, invalid


def confirm(question: str, *, yes: bool) -> None:
    """Asks on stderr, so that stdout stays what scripts read; returns only where the answer is yes.

    `yes` is the answer given beforehand. Raises INVALID where nobody can be asked, DENIED where the answer is another.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise invalid("there is no terminal to ask for confirmation: add --yes to go on without")
    if _answer(question) not in ("y", "yes"):
        raise denied("not confirmed: nothing was changed")


def _answer(question: str) -> str:
    try:
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        return input().strip().lower()
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
        return ""
