"""The serving half of an agent on a real Unix socket, and clients of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Self

import grpc.aio
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub

from meshca.agent.hub import SecretHub
from meshca.agent.sds import SdsServer
from meshca.agent.sockets import SocketPlace
from tests.agent.discovery import Delta, Sotw
from tests.fakes.clock import OffsetClock


class Rig:
    """An agent's serving half on a socket, with a client's channel to it."""

    def __init__(self, directory: Path, *, max_streams: int = 10, trust_wait: timedelta = timedelta(seconds=5)) -> None:
        self.clock = OffsetClock()
        self.path = directory / "run" / "agent.sock"
        self.hub = SecretHub(self.clock, max_streams=max_streams, trust_wait=trust_wait)
        self.server = SdsServer(self.hub, SocketPlace(self.path), max_streams=max_streams)

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"unix:{self.path}", options=[("grpc.use_local_subchannel_pool", 1)])

    async def __aenter__(self) -> Self:
        await self.server.start()
        self.client = self.channel()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await self.server.stop()

    def sotw(self, service: str = "sds") -> Sotw:
        if service == "sds":
            return Sotw(SecretDiscoveryServiceStub(self.client).StreamSecrets())
        return Sotw(AggregatedDiscoveryServiceStub(self.client).StreamAggregatedResources())

    def delta(self, service: str = "sds") -> Delta:
        if service == "sds":
            return Delta(SecretDiscoveryServiceStub(self.client).DeltaSecrets())
        return Delta(AggregatedDiscoveryServiceStub(self.client).DeltaAggregatedResources())
