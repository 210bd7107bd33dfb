"""The demonstration's traffic: a small HTTP service, and clients that call it through the sidecars without pause."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path

_TIMEOUT_SECONDS = 5.0
_PAUSE_SECONDS = 0.01
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,8}")


async def http_get(path: Path, target: str = "/") -> tuple[int, bytes]:
    """One GET over a Unix socket on a connection of its own: the status and the body.

    Raises OSError where no whole answer comes back within five seconds.
    """
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        reader, writer = await asyncio.open_unix_connection(str(path))
        try:
            writer.write(f"GET {target} HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n\r\n".encode("ascii"))
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
    return parse_answer(answer)


def parse_answer(answer: bytes) -> tuple[int, bytes]:
    """Status and body of an HTTP/1.1 answer that ends with its connection. Raises ConnectionError for a part of one."""
    head, separator, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if not separator or len(words) < 2 or not words[1].isdigit():
        raise ConnectionError("no HTTP answer")
    if b"\r\ntransfer-encoding: chunked" in head.lower():
        return int(words[1]), _dechunk(body)
    length = _CONTENT_LENGTH.search(head)
    if length is not None and int(length[1]) != len(body):
        raise ConnectionError("the answer ended early")
    return int(words[1]), body


def _dechunk(body: bytes) -> bytes:
    whole = b""
    while True:
        size, _, rest = body.partition(b"\r\n")
        if not _CHUNK_SIZE.fullmatch(size):
            raise ConnectionError("the answer ended early")
        length = int(size, 16)
        if length == 0:
            return whole
        whole, body = whole + rest[:length], rest[length + 2 :]


class Service:
    """Answers every request with the identity that its sidecar has verified the caller to be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begins to serve on its Unix socket."""
        self._server = await asyncio.start_unix_server(self._serve, str(self._path))

    async def stop(self) -> None:
        """Ends."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = _caller(head)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the sidecar closed its connection
        finally:
            writer.close()


def _caller(head: bytes) -> bytes:
    """The URI in `x-forwarded-client-cert`, which the sidecar sets and nobody can forge through it."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"x-forwarded-client-cert":
            return value.partition(b"URI=")[2].partition(b";")[0].strip()
    return b""


class Traffic:
    """Calls without pause through the client's sidecar; counts what came back."""

    def __init__(self, outbound: Path, expected_caller: str, callers: int = 4) -> None:
        self._outbound = outbound
        self._expected = expected_caller.encode("ascii")
        self._callers = callers
        self._tasks: list[asyncio.Task[None]] = []
        self.sent = 0
        self.failed = 0
        self.failures: Counter[str] = Counter()

    def start(self) -> None:
        """Begins."""
        self._tasks = [asyncio.create_task(self._call_on()) for _ in range(self._callers)]

    async def stop(self) -> None:
        """Ends; raises what a caller died of, if one did."""
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _call_on(self) -> None:
        while True:
            problem = await self._call()
            self.sent += 1
            if problem is not None:
                self.failed += 1
                self.failures[problem] += 1
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _call(self) -> str | None:
        try:
            status, body = await http_get(self._outbound)
        except OSError as error:
            return type(error).__name__
        if status != 200:
            return f"HTTP {status}"
        return None if body == self._expected else "wrong caller"
