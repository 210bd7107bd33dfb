"""How commands print: tables for people, JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum


class OutputFormat(StrEnum):
    """`-o`."""

    TABLE = "table"
    JSON = "json"


def print_json(value: object) -> None:
    """Prints a value as indented JSON."""
    print(json.dumps(value, indent=2))


def print_json_line(value: object) -> None:
    """Prints a value as JSON on one line, at once: one of a stream of them."""
    print(json.dumps(value), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows under upper-case headers, columns aligned, nothing cut: what is printed can be copied."""
    lines = [[column.upper() for column in columns], *[list(row) for row in rows]]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_fields(fields: Mapping[str, str]) -> None:
    """Prints one thing, a field a line."""
    width = max(len(name) for name in fields)
    for name, value in fields.items():
        print(f"{name.ljust(width)}  {value}")


def iso(seconds: int) -> str:
    """Unix seconds as RFC 3339 in UTC; empty for 0."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else ""


def printable(text: str) -> str:
    """Words that came from elsewhere, on one line and without anything that a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
