"""The ready file: tells scripts and supervisors that an identity is held and served."""

from __future__ import annotations

import json
import os
from pathlib import Path

from meshca.agent.durable import replace_file
from meshca.errors import internal
from meshca.spiffe.ids import SpiffeId


class ReadyFile:
    """A JSON object with the keys `socket`, `pid` and `spiffe_id`, there only while that is true."""

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
        """Removes the file, also that of an agent which was killed."""
        self._path.unlink(missing_ok=True)
