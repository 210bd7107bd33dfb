"""The application behind a sidecar: tells who called, or goes on answering for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

DRIP = "/drip"
DRIP_SECONDS = 0.05


@asynccontextmanager
async def application(path: Path) -> AsyncIterator[None]:
    """Serves HTTP/1.1 on a Unix socket: under `DRIP` an answer that brings a line every 50 ms and never ends, otherwise
    the URI that the sidecar verified the caller to have."""
    server = await asyncio.start_unix_server(_serve, str(path))
    try:
        yield
    finally:
        server.close()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(f"GET {DRIP} ".encode()):
                await _drip(writer)
            body = _caller(head)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the sidecar closed its connection
    finally:
        writer.close()


async def _drip(writer: asyncio.StreamWriter) -> None:
    """Raises ConnectionError once nobody reads any more."""
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"5\r\ndrip\n\r\n")
        await writer.drain()
        await asyncio.sleep(DRIP_SECONDS)


def _caller(head: bytes) -> bytes:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"x-forwarded-client-cert":
            return value.partition(b"URI=")[2].partition(b";")[0].strip()
    return b""
