"""The token at hand: a single-use join token, or a file that somebody else keeps fresh."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Protocol

from meshca.errors import invalid, unavailable

MAX_TOKEN_BYTES = 16 * 1024  # more would not fit into the headers of a call
_TOKEN = re.compile(r"[\x21-\x7e]+")


class TokenSource(Protocol):
    """Where the bearer token comes from; blocking, so coroutines call `read` in a thread."""

    def read(self) -> str | None:
        """The token to send now, or None where none is left. Raises UNAVAILABLE or INVALID where it cannot be had."""
        ...

    def spend(self) -> None:
        """Tells that the token was accepted."""
        ...


class JoinTokenSource:
    """One token that the server accepts once."""

    def __init__(self, text: str) -> None:
        self._text: str | None = parse_token("--join-token", text)

    def __repr__(self) -> str:
        return "JoinTokenSource(…)"

    def read(self) -> str | None:
        """The token, until it is spent."""
        return self._text

    def spend(self) -> None:
        """Forgets the token."""
        self._text = None


class TokenFileSource:
    """A file that is read for every call, since whoever issues such tokens replaces them before they expire."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str | None:
        """The file's content without surrounding blanks. Raises UNAVAILABLE (no file), INVALID (no token in it)."""
        try:
            with open(self._path, "rb", opener=_open_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise invalid(f"--token-file {self._path}: is no regular file: it is read for every call")
                content = file.read(MAX_TOKEN_BYTES + 1024)
        except OSError as error:
            raise unavailable(f"--token-file {self._path}: cannot be read: {error.strerror}") from error
        return parse_token(f"--token-file {self._path}", content.decode("latin-1"))

    def spend(self) -> None:
        """Nothing: such tokens may be used again."""


def _open_at_once(path: str, flags: int) -> int:
    """A pipe that nobody writes to would hold up the agent, even its end."""
    return os.open(path, flags | os.O_NONBLOCK)


def parse_token(field: str, text: str) -> str:
    """The token without surrounding blanks. Raises INVALID, which does not repeat it, for what no header can carry."""
    token = text.strip()
    if not token:
        raise invalid(f"{field}: is empty: put the token there")
    if len(token) > MAX_TOKEN_BYTES:
        raise invalid(f"{field}: is longer than {MAX_TOKEN_BYTES} bytes, so it is no token")
    if not _TOKEN.fullmatch(token):
        raise invalid(f"{field}: has blanks or characters outside printable ASCII, so it is no token")
    return token
