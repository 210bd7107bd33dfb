"""The little mesh that flow tests run: a server, two agents, two Envoys and a service behind the second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from meshca.compile.envoy_addresses import PipeAddress
from meshca.compile.envoy_bootstrap import EnvoyBootstrap, Inbound, Outbound
from meshca.demo.traffic import Service
from meshca.spiffe.ids import SpiffeId, TrustDomain
from tests.envoys import Envoy, admin_pipe, running
from tests.programs import TRUST_DOMAIN, Agent, Server

CLIENT = SpiffeId(TrustDomain(TRUST_DOMAIN), "/ns/flow/sa/client")
SERVICE = SpiffeId(TrustDomain(TRUST_DOMAIN), "/ns/flow/sa/service")


def config(ttl_seconds: int) -> str:
    """A server's configuration with short certificates."""
    return f'tick = "1s"\n[leaf]\ndefault_ttl = "{ttl_seconds}s"\nmax_ttl = "1h"\nbackdate = "1s"\n'


@dataclass
class Mesh:
    """Everything that runs in a test."""

    directory: Path
    server: Server
    agents: dict[str, Agent]
    envoys: dict[str, Envoy]
    outbound: PipeAddress
    inbound: PipeAddress

    async def renewals(self, count: int, seconds: float = 60.0) -> dict[str, set[str]]:
        """Waits until both Envoys have served `count` further leaves, each seen by its serial; all serials seen."""
        seen: dict[str, set[str]] = {name: set(envoy.leaf_serials()) for name, envoy in self.envoys.items()}
        async with asyncio.timeout(seconds):
            while any(len(serials) <= count for serials in seen.values()):
                await asyncio.sleep(0.05)
                for name, envoy in self.envoys.items():
                    seen[name] |= envoy.leaf_serials()
        return seen


def sidecars(directory: Path, *, delta: bool = False) -> dict[str, EnvoyBootstrap]:
    """The configurations of both Envoys by the name of their workload, which calls and is called on Unix sockets."""
    app, inbound, outbound = (PipeAddress(str(directory / f"{name}.sock")) for name in ("app", "in", "out"))
    sides = {
        "service": {"inbound": Inbound(inbound, app, (CLIENT,))},
        "client": {"outbound": (Outbound(outbound, inbound, SERVICE),)},
    }
    return {
        name: EnvoyBootstrap(
            agent_socket=PipeAddress(str(directory / f"{name}-run" / "agent.sock")),
            trust_domain=TrustDomain(TRUST_DOMAIN),
            node_id=name,
            admin=admin_pipe(directory, name),
            delta=delta,
            max_requests_per_connection=1,
            **side,  # type: ignore[arg-type]  # either side of a sidecar
        )
        for name, side in sides.items()
    }


@asynccontextmanager
async def application(directory: Path) -> AsyncIterator[None]:
    """The service behind the second Envoy."""
    service = Service(directory / "app.sock")
    await service.start()
    try:
        yield
    finally:
        await service.stop()


@asynccontextmanager
async def mesh(
    directory: Path, *, ttl_seconds: int, delta: bool = False, server_config: str | None = None
) -> AsyncIterator[Mesh]:
    """A server, two agents, two Envoys and a service behind the second, all serving."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(directory, server_config or config(ttl_seconds)))
        agents = {
            identity.path.rpartition("/")[2]: await stack.enter_async_context(Agent(server, directory, str(identity)))
            for identity in (CLIENT, SERVICE)
        }
        await stack.enter_async_context(application(directory))
        envoys = {
            name: await stack.enter_async_context(running(bootstrap.as_dict(), directory, name=name))
            for name, bootstrap in sidecars(directory, delta=delta).items()
        }
        for envoy in envoys.values():
            await envoy.live()
        inbound, outbound = (PipeAddress(str(directory / f"{name}.sock")) for name in ("in", "out"))
        yield Mesh(directory, server, agents, envoys, outbound, inbound)
