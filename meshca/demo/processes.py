"""Child processes of the demonstration: started, waited for, ended, their words kept in log files."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meshca.errors import internal, unavailable

_POLL_SECONDS = 0.02
_STOP_SECONDS = 10.0
# -P: a module that lies in the working directory must not be taken for one of ours
MESHCA = (sys.executable, "-P", "-m", "meshca.cli")
# our programs' and Envoy's; a refusal that is the program's own fault is logged as no more than information
_COMPLAINT = re.compile(
    r'"level": "(warning|error)"|"kind": "(unavailable|internal)"|\[(warning|error|critical)\]|^meshca: |Traceback'
)


class Child:
    """A process in its own session, so that Ctrl-C reaches only us and we end it in order."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self._command = command
        self.log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts it."""
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,
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
        raise unavailable(f"{self.name} did not come up within {seconds:.0f}s{self.last_words()}")

    def check(self) -> None:
        """Raises UNAVAILABLE with the log's tail where the process has ended."""
        if self._process is not None and self._process.returncode is not None:
            raise unavailable(f"{self.name} ended by itself ({_ending(self._process.returncode)}){self.last_words()}")

    def last_words(self, lines: int = 8) -> str:
        """The last lines that it wrote, as the end of a message."""
        return "".join(f"\n  {line}" for line in self._log_lines()[-lines:])

    def complaints(self, lines: int = 2) -> list[str]:
        """The last warnings and errors that it wrote."""
        return [line for line in self._log_lines() if _COMPLAINT.search(line)][-lines:]

    async def stop(self) -> None:
        """Ends it: SIGTERM, and after ten seconds SIGKILL. One that never started, or has ended, is left alone."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()

    def _log_lines(self) -> list[str]:
        return self.log.read_text("utf-8", "replace").splitlines() if self.log.exists() else []


async def run_meshca(*arguments: str) -> str:
    """Runs a meshca command to its end; what it printed. Raises INTERNAL with its words where it fails.

    A caller that is cancelled leaves no process behind.
    """
    process = await asyncio.create_subprocess_exec(
        *MESHCA,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
        start_new_session=True,
    )
    try:
        out, error = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        command = " ".join(word for word in arguments[:2] if not word.startswith("-"))
        raise internal(f"`meshca {command}` failed: {error.decode('utf-8', 'replace').strip()}")
    return out.decode("utf-8")


def _environment() -> dict[str, str]:
    """Ours without MESHCA_…: settings for somebody's real server or agent are none for the demonstration's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MESHCA_")}


def _ending(returncode: int) -> str:
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"
