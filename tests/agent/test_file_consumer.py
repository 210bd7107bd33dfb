"""A program that reads certificate files and reloads them when they change, as web servers and databases do."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tests.agent.sites import BEARER, JOIN, Site
from tests.fakes.certificate_authority import Behaviour, FakeAuthority
from tests.fakes.clock import OffsetClock


@pytest.fixture
async def ca() -> AsyncIterator[FakeAuthority]:
    async with FakeAuthority(join_tokens=(JOIN,), bearer_tokens=(BEARER,)) as authority:
        yield authority


class Consumer:
    """A TLS server that looks at the set before each connection, and loads it anew where it is another one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.loaded = ""

    def reload(self) -> None:
        version = os.readlink(self.directory / "..data")
        if version != self.loaded:
            files = self.directory / version  # resolved once: both files are of one set
            self.context.load_cert_chain(files / "cert-chain.pem", files / "key.pem")
            self.loaded = version

    async def serve(self) -> asyncio.Server:
        return await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=self.context)

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await writer.drain()
        writer.close()


async def handshake(port: int, roots: Path) -> int:
    """The serial of the certificate that the server proves itself with."""
    context = ssl.create_default_context(cafile=roots)
    context.check_hostname = False
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        assert await reader.read() == b"hello"
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der).serial_number
    finally:
        writer.close()


async def test_a_consumer_of_the_files_goes_through_renewals_without_a_failed_handshake(
    short_tmp: Path, ca: FakeAuthority
) -> None:
    life, clock, site = timedelta(minutes=10), OffsetClock(), Site(short_tmp, ca)
    ca.behaviour = Behaviour(ttl=life)
    serials: set[int] = set()
    async with site.running(clock):
        await site.is_ready()
        consumer = Consumer(site.output)
        consumer.reload()
        server = await consumer.serve()
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(20):
            while len(serials) < 4:
                known = len(serials)
                while len(serials) == known:
                    consumer.reload()
                    serials.add(await handshake(port, site.output / "root-cert.pem"))
                clock.offset += timedelta(minutes=6)
                ca.behaviour = Behaviour(ttl=clock.offset + life)
        server.close()
        await server.wait_closed()
