"""The ready file: tells scripts and supervisors that an identity is held and served."""

from __future__ import annotations

import json
import os
from pathlib import Path

from meshca.agent.durable import replace_file
from meshca.errors import internal, invalid
from meshca.spiffe.ids import SpiffeId


class ReadyFile:
    """A JSON object with the keys `socket`, `pid` and `spiffe_id`, there from the first identity to the agent's end.

    Whether that identity has expired meanwhile is for the health service to tell.
    """

    def __init__(self, path: Path, socket: Path) -> None:
        self._path = path
        self._socket = socket

    def write(self, spiffe_id: SpiffeId) -> None:
        """Writes the file in one step. Raises INTERNAL where that fails."""
        facts = {"socket": str(self._socket), "pid": os.getpid(), "spiffe_id": str(spiffe_id)}
        try:
            replace_file(self._path, (json.dumps(facts) + "\n").encode(), 0o644)
        except OSError as error:
            raise internal(f"--ready-file {self._path}: cannot be written: {error.strerror}") from error

    def remove(self) -> None:
        """Removes the file, also that of an agent which was killed. Raises INVALID where that fails."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise invalid(f"--ready-file {self._path}: cannot be removed: {error.strerror}") from error
