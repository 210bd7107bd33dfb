"""A program that starts agents fast: it has imported everything, and forks an agent for each line on its stdin.

    python -m tests.agent.nursery OPTIONS-OF-MESHCA-AGENT…

It prints the pid of each. Real processes, to be killed in earnest; only the second of imports is saved.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.agent.discovery import until

START_SECONDS = 20.0


class Nursery:
    """Starts agents and kills them, one at a time."""

    def __init__(self, log: Path, ready: Path, arguments: list[str]) -> None:
        self.log = log
        self._ready = ready
        self._living: int | None = None
        self._arguments = [*arguments, "--ready-file", str(ready), "--log-format", "json"]

    async def __aenter__(self) -> Self:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.agent.nursery", *self._arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._living is not None:
            await self.end(self._living)
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def start(self) -> int:
        """A new agent that is ready; its pid."""
        self._ready.unlink(missing_ok=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        self._living = int(await self._process.stdout.readline())
        try:
            await until(self._ready.exists, START_SECONDS)
        except TimeoutError:
            raise AssertionError(self.log.read_text()[-2000:]) from None
        return self._living

    async def end(self, pid: int, how: signal.Signals = signal.SIGKILL) -> None:
        """Ends it, and waits until it is gone."""
        self._living = None
        os.kill(pid, how)
        assert self._process.stdout is not None
        assert int(await self._process.stdout.readline()) == pid


def main(arguments: list[str]) -> None:
    """Until its stdin ends."""
    meshca = import_module("meshca.cli.app").main
    for late in ("meshca.settings.agent", "meshca.wiring.agent"):  # what the command would import
        import_module(late)
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            sys.argv = ["meshca", "agent", *arguments]
            meshca()
        say(child)
        os.waitpid(child, 0)
        say(child)


def say(pid: int) -> None:
    sys.stdout.write(f"{pid}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
