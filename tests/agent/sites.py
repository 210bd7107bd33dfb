"""Whole agents in the test's own process, against the certificate authority of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub

from meshca.agent.agent import Agent
from meshca.ports import Clock
from meshca.settings.agent import AgentSettings
from meshca.wiring.agent import build_agent
from tests.agent.discovery import unpacked, until
from tests.fakes.certificate_authority import FakeAuthority

JOIN = "mjt_" + "j" * 43
BEARER = "bearer-" + "b" * 60


class Site:
    """A directory with an agent's files, and what it takes to run agents there."""

    def __init__(self, directory: Path, ca: FakeAuthority) -> None:
        self.directory = directory
        self.ca = ca
        self.socket = directory / "run" / "agent.sock"
        self.output = directory / "out"
        self.ready = directory / "ready.json"
        self.token_file = directory / "token"
        self.trust = directory / "roots.pem"
        self.trust.write_bytes(ca.trust_pem)
        self.token_file.write_text(BEARER + "\n")

    def agent(self, clock: Clock | None = None, **changes: Any) -> Agent:
        token: dict[str, Any] = {} if {"join_token", "token_file"} & changes.keys() else {"join_token": JOIN}
        usual = {
            "server": self.ca.token_address,
            "trust_bundle": self.trust,
            "socket": self.socket,
            "output_dir": self.output,
            "ready_file": self.ready,
        }
        return build_agent(AgentSettings(**{**usual, **token, **changes}), clock)

    @asynccontextmanager
    async def running(self, clock: Clock | None = None, **changes: Any) -> AsyncIterator[Agent]:
        agent, stop = self.agent(clock, **changes), asyncio.Event()
        task = asyncio.create_task(agent.run(stop))
        try:
            yield agent
        finally:
            stop.set()
            async with asyncio.timeout(5):
                await task

    async def fetch(self, *names: str) -> dict[str, Any]:
        async with self.channel() as channel:
            stub = SecretDiscoveryServiceStub(channel)
            answer = await stub.FetchSecrets(DiscoveryRequest(resource_names=names or ("default", "ROOTCA")))
            return unpacked(answer.resources)

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"unix:{self.socket}", options=[("grpc.use_local_subchannel_pool", 1)])

    async def is_ready(self) -> None:
        await until(self.ready.exists)
