"""Plain gRPC clients of the discovery services, to see what a proxy would see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio
from cryptography import x509
from envoy.config.core.v3.base_pb2 import Node
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from google.rpc.status_pb2 import Status

from meshca.xds.snapshot import SECRET_TYPE

SECONDS = 5.0


class Sotw:
    """A client of the state-of-the-world variant."""

    def __init__(self, call: Any, node: str = "sidecar-1") -> None:
        self.call = call
        self.node = node
        self.names: list[str] = []
        self.version = ""
        self.last: Any = None

    async def subscribe(self, *names: str) -> None:
        self.names = list(names)
        await self._write("")

    async def receive(self, seconds: float = SECONDS) -> dict[str, Secret]:
        self.last = await asyncio.wait_for(self.call.read(), seconds)
        assert self.last is not grpc.aio.EOF
        assert self.last.type_url == SECRET_TYPE
        return unpacked(self.last.resources)

    async def ack(self) -> None:
        self.version = self.last.version_info
        await self._write(self.last.nonce)

    async def nack(self, message: str) -> None:
        await self._write(self.last.nonce, error_detail=Status(code=13, message=message))

    async def _write(self, nonce: str, **more: Any) -> None:
        await self.call.write(
            DiscoveryRequest(
                node=Node(id=self.node),
                resource_names=self.names,
                type_url=SECRET_TYPE,
                version_info=self.version,
                response_nonce=nonce,
                **more,
            )
        )


class Delta:
    """A client of the delta variant."""

    def __init__(self, call: Any, node: str = "sidecar-1") -> None:
        self.call = call
        self.node = node
        self.last: Any = None

    async def subscribe(self, *names: str) -> None:
        await self._write(resource_names_subscribe=names)

    async def receive(self, seconds: float = SECONDS) -> dict[str, Secret]:
        self.last = await asyncio.wait_for(self.call.read(), seconds)
        assert self.last is not grpc.aio.EOF
        assert list(self.last.removed_resources) == []
        return unpacked(resource.resource for resource in self.last.resources)

    async def ack(self) -> None:
        await self._write(response_nonce=self.last.nonce)

    async def nack(self, message: str) -> None:
        await self._write(response_nonce=self.last.nonce, error_detail=Status(code=13, message=message))

    async def _write(self, **fields: Any) -> None:
        await self.call.write(DeltaDiscoveryRequest(node=Node(id=self.node), type_url=SECRET_TYPE, **fields))


def unpacked(resources: Any) -> dict[str, Secret]:
    secrets = {}
    for resource in resources:
        secret = Secret()
        assert resource.Unpack(secret)
        secrets[secret.name] = secret
    return secrets


def serial(secret: Secret) -> str:
    leaf = x509.load_pem_x509_certificates(secret.tls_certificate.certificate_chain.inline_bytes)[0]
    return f"{leaf.serial_number:x}"


def roots(secret: Secret) -> int:
    return len(x509.load_pem_x509_certificates(secret.validation_context.trusted_ca.inline_bytes))


async def until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Returns once `condition` holds; TimeoutError where it does not come to."""
    async with asyncio.timeout(seconds):
        while not condition():  # whatever it is, it has no event
            await asyncio.sleep(0.002)
