"""The real programs, as child processes: `meshca server`, `meshca agent` and operators' commands."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

MESHCA = (sys.executable, "-m", "meshca.cli")
START_SECONDS = 30.0
STOP_SECONDS = 20.0
TRUST_DOMAIN = "flow.test"


class ProgramFailed(AssertionError):
    """A program exited, or did not become ready in time."""


def meshca(*arguments: object, environment: Mapping[str, str] | None = None, status: int = 0) -> str:
    """What a command prints; fails the test where it does not end with `status`. With another status: its stderr."""
    command = [*MESHCA, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **(environment or {})}
    )
    assert done.returncode == status, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stderr if status else done.stdout


class Program:
    """One child process with a ready file; use it as an async context manager."""

    def __init__(self, name: str, directory: Path, arguments: list[str]) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._ready = directory / f"{name}.ready"
        self._command = [*MESHCA, *arguments, "--ready-file", str(self._ready), "--log-format", "json"]
        self.process: subprocess.Popen[bytes] | None = None
        self.facts: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self.kill()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            await asyncio.to_thread(self.stop)

    async def start(self) -> None:
        """Starts it and waits until it is ready."""
        self._ready.unlink(missing_ok=True)
        self.process = self._spawn()
        process = self.process
        async with asyncio.timeout(START_SECONDS):
            while not self._ready.exists():
                if process.poll() is not None:
                    raise ProgramFailed(f"{self.name} exited with {process.returncode}:\n{self.log_tail()}")
                await asyncio.sleep(0.01)
        self.facts = json.loads(self._ready.read_text())

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProgramFailed(f"{self.name} did not end on SIGTERM:\n{self.log_tail()}") from None

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])

    def events(self, name: str) -> list[dict[str, Any]]:
        """The logged events of that name."""
        lines = (line for line in self.log.read_text("utf-8").splitlines() if line.startswith("{"))
        return [event for event in map(json.loads, lines) if event.get("event") == name]


class Server(Program):
    """`meshca server` on loopback with free ports; started again it takes the same ports."""

    def __init__(self, directory: Path, config: str = "", *, options: tuple[str, ...] = ()) -> None:
        self.data_dir = directory / "ca"
        file = directory / "server.toml"
        file.write_text(config)
        if not self.data_dir.exists():
            meshca("init", "--data-dir", self.data_dir, "--trust-domain", TRUST_DOMAIN)
        self._base = ["server", "--data-dir", str(self.data_dir), "--config", str(file), *options]
        super().__init__("server", directory, [*self._base, *_listen("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0")])

    async def start(self) -> None:
        """Starts it; on the ports that it had before, if it ran before."""
        if self.facts:
            listen = _listen(*(self.facts[name] for name in ("token", "mtls", "http")))
            keep = self._command[-4:]
            self._command = [*MESHCA, *self._base, *listen, *keep]
        await super().start()

    def token(self, spiffe_id: str) -> str:
        """A new join token."""
        return meshca("token", "create", "--data-dir", self.data_dir, "--spiffe-id", spiffe_id).strip()

    def bundle(self) -> str:
        """The trust bundle, PEM."""
        return meshca("bundle", "show", "--data-dir", self.data_dir)

    def ledger(self, *filters: str) -> list[dict[str, Any]]:
        """Ledger records, newest first."""
        records: list[dict[str, Any]] = json.loads(
            meshca("ledger", "list", "--data-dir", self.data_dir, "-o", "json", "--limit", "10000", *filters)
        )
        return records


class Agent(Program):
    """`meshca agent` for one identity of a running server."""

    def __init__(self, server: Server, directory: Path, spiffe_id: str, *options: str) -> None:
        name = spiffe_id.rpartition("/")[2]
        bundle, token = directory / f"{name}.root.pem", directory / f"{name}.token"
        bundle.write_text(server.bundle())
        token.write_text(server.token(spiffe_id))
        token.chmod(0o600)
        self.spiffe_id = spiffe_id
        self.socket = directory / f"{name}-run" / "agent.sock"
        where = ["--server", server.facts["token"], "--trust-bundle", str(bundle), "--token-file", str(token)]
        super().__init__(f"{name}-agent", directory, ["agent", *where, "--socket", str(self.socket), *options])


def _listen(token: str, mtls: str, http: str) -> list[str]:
    return ["--token-listen", token, "--mtls-listen", mtls, "--http-listen", http]
