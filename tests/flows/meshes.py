"""The little mesh that flow tests run: a server, two agents, two Envoys and a service behind the second; and a larger
one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from meshca.compile.envoy_addresses import PipeAddress
from meshca.compile.envoy_bootstrap import EnvoyBootstrap, Inbound, Outbound
from meshca.spiffe.ids import SpiffeId, TrustDomain
from tests.application import application
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
        await stack.enter_async_context(application(directory / "app.sock"))
        envoys = {
            name: await stack.enter_async_context(running(bootstrap.as_dict(), directory, name=name))
            for name, bootstrap in sidecars(directory, delta=delta).items()
        }
        for envoy in envoys.values():
            await envoy.live()
        inbound, outbound = (PipeAddress(str(directory / f"{name}.sock")) for name in ("in", "out"))
        yield Mesh(directory, server, agents, envoys, outbound, inbound)


@dataclass
class Crowd:
    """A server, agents, and many Envoys: one calls all others, each of which has an entry of its own in it."""

    server: Server
    agents: list[Agent]
    envoys: list[Envoy]
    entries: list[PipeAddress]


@asynccontextmanager
async def crowd(directory: Path, server_config: str, *, services: int, replicas: int) -> AsyncIterator[Crowd]:
    """So many services, each with its agent and so many Envoys behind that, and a client; all serving."""
    identities = [SpiffeId(TrustDomain(TRUST_DOMAIN), f"/ns/flow/sa/s{number}") for number in range(services)]
    bootstraps = {"client": CLIENT, **{f"{i.path[-2:]}-{n}": i for i in identities for n in range(replicas)}}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(directory, server_config))
        agents = [
            await stack.enter_async_context(Agent(server, directory, str(identity)))
            for identity in (CLIENT, *identities)
        ]
        await stack.enter_async_context(application(directory / "app.sock"))
        configs = crowd_sidecars(directory, bootstraps)
        envoys = [
            await stack.enter_async_context(running(bootstrap.as_dict(), directory, name=name))
            for name, bootstrap in configs.items()
        ]
        for envoy in envoys:
            await envoy.live(30)
        yield Crowd(server, agents, envoys, [each.listen for each in configs["client"].outbound])  # type: ignore[misc]


def crowd_sidecars(directory: Path, identities: Mapping[str, SpiffeId]) -> dict[str, EnvoyBootstrap]:
    """The configurations of all Envoys by name, one of which is `client`."""

    def pipe(name: str) -> PipeAddress:
        return PipeAddress(str(directory / f"{name}.sock"))

    others = {name: identity for name, identity in identities.items() if name != "client"}
    outbound = tuple(Outbound(pipe(f"to-{name}"), pipe(f"in-{name}"), identity) for name, identity in others.items())
    return {
        name: EnvoyBootstrap(
            agent_socket=PipeAddress(str(directory / f"{identity.path.rpartition('/')[2]}-run" / "agent.sock")),
            trust_domain=TrustDomain(TRUST_DOMAIN),
            node_id=name,
            admin=admin_pipe(directory, name),
            delta=index % 2 == 1,
            max_requests_per_connection=1,
            inbound=Inbound(pipe(f"in-{name}"), pipe("app"), (CLIENT,)) if name in others else None,
            outbound=() if name in others else outbound,
        )
        for index, (name, identity) in enumerate(identities.items())
    }
