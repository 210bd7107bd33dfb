"""Child processes of the demonstration: started, waited for, ended, their words kept in log files."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meshca.errors import internal, unavailable

_POLL_SECONDS = 0.02
MESHCA = (sys.executable, "-m", "meshca.cli")


class Child:
    """A process in its own session, so that Ctrl-C reaches only us and we end it in order."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self._command = command
        self.log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts it."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def is_running(self) -> bool:
        """Whether it still runs."""
        return self._process is not None and self._process.returncode is None

    async def wait_for_file(self, path: Path, seconds: float) -> dict[str, Any]:
        """The JSON in `path` once it is there. Raises UNAVAILABLE with the log's tail where that does not happen."""
        for _ in range(int(seconds / _POLL_SECONDS)):
            if path.exists():
                facts: dict[str, Any] = json.loads(path.read_text("utf-8"))
                return facts
            self.check()
            await asyncio.sleep(_POLL_SECONDS)
        raise unavailable(f"{self.name} did not come up within {seconds:.0f}s:\n{self.log_tail()}")

    def check(self) -> None:
        """Raises UNAVAILABLE with the log's tail where the process has ended."""
        if not self.is_running:
            raise unavailable(f"{self.name} ended by itself:\n{self.log_tail()}")

    def log_tail(self, lines: int = 15) -> str:
        """The last lines that it wrote."""
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    async def stop(self) -> None:
        """Ends it: SIGTERM, and after ten seconds SIGKILL."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()


async def run_meshca(*arguments: str) -> str:
    """Runs a meshca command to its end; what it printed. Raises INTERNAL with its words where it fails."""
    process = await asyncio.create_subprocess_exec(
        *MESHCA, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=dict(os.environ)
    )
    out, error = await process.communicate()
    if process.returncode != 0:
        raise internal(f"meshca {arguments[0]} failed: {error.decode('utf-8', 'replace').strip()}")
    return out.decode("utf-8")
