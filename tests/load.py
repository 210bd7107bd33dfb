"""HTTP load in plain asyncio: every request on a new connection, or few that never end; every failure kept with its
reason."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from meshca.compile.envoy_addresses import Address, PipeAddress

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


async def get(
    address: Address,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    seconds: float = TIMEOUT_SECONDS,
) -> Response:
    """One GET on a new connection, or another method without a body. Raises OSError, TimeoutError or ValueError where
    no whole answer comes."""
    async with asyncio.timeout(seconds):
        reader, writer = await _connect(address, tls)
        try:
            lines = [f"{method} {path} HTTP/1.1", "host: load", "connection: close"]
            lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            await writer.drain()
            return _parse(await reader.read(), has_body=method != "HEAD")
        finally:
            writer.close()


async def _connect(address: Address, tls: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    name = "load" if tls is not None else None
    if isinstance(address, PipeAddress):
        return await asyncio.open_unix_connection(address.path, ssl=tls, server_hostname=name)
    return await asyncio.open_connection(address.host, address.port, ssl=tls, server_hostname=name)


def _parse(answer: bytes, *, has_body: bool = True) -> Response:
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        raise ConnectionError(f"the connection ended after {len(answer)} bytes, within the answer's head")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = _dechunk(body)
    elif has_body and int(headers.get("content-length", len(body))) != len(body):
        raise ConnectionError(f"the connection ended after {len(body)} of {headers['content-length']} bytes")
    return Response(int(status_line.split(" ")[1]), headers, body)


def _dechunk(body: bytes) -> bytes:
    whole = b""
    while True:
        size, separator, body = body.partition(b"\r\n")
        length = int(size or b"-1", 16)
        if not separator or len(body) < length + 2:
            raise ConnectionError("the connection ended within a chunk")
        if length == 0:
            return whole
        whole, body = whole + body[:length], body[length + 2 :]


@dataclass(slots=True)
class Load:
    """Continuous requests while the `async with` block runs; `sent` and `failed` may be read at any time.

    Each of `clients` sends one request after the other. A failure is anything but status 200, and is kept as text.
    """

    address: Address
    path: str = "/"
    clients: int = 2
    pause: float = 0.002
    sent: int = 0
    failed: list[str] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _stopping: bool = False
    _progress: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self.clients)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # requests under way are finished and counted, never cut off
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def reach(self, count: int, seconds: float = 30.0) -> None:
        """Waits until `count` more requests were sent."""
        goal = self.sent + count
        async with asyncio.timeout(seconds):
            while self.sent < goal:
                self._progress.clear()
                await self._progress.wait()

    async def _client(self) -> None:
        while not self._stopping:
            await self._once()
            await asyncio.sleep(self.pause)

    async def _once(self) -> None:
        try:
            response = await get(self.address, self.path)
        except (OSError, TimeoutError, ValueError) as error:
            self.failed.append(f"{type(error).__name__}: {error}")
        else:
            if response.status != 200:
                self.failed.append(f"{response.status} {response.body[:200]!r}")
        self.sent += 1
        self._progress.set()


@dataclass(slots=True)
class LongLived:
    """Requests whose answers go on for as long as the `async with` block runs, each on a connection of its own.

    The service sends a line now and then (`DRIP` of tests.application). A failure is an answer that is not 200, ends,
    or is silent for ten seconds.
    """

    address: Address
    path: str
    clients: int = 2
    failed: list[str] = field(default_factory=list)
    _lines: list[int] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _progress: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._lines = [0] * self.clients
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(self.clients)]
        try:
            await self.reach(1)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def reach(self, count: int, seconds: float = 30.0) -> None:
        """Waits until each of them has brought `count` more lines, or one has failed."""
        goals = [lines + count for lines in self._lines]
        async with asyncio.timeout(seconds):
            while not self.failed and any(has < goal for has, goal in zip(self._lines, goals, strict=True)):
                self._progress.clear()
                await self._progress.wait()

    async def _client(self, number: int) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                reader, writer = await _connect(self.address, None)
        except (OSError, TimeoutError) as error:
            self._fail(number, error)
            return
        try:
            writer.write(f"GET {self.path} HTTP/1.1\r\nhost: load\r\n\r\n".encode())
            await self._read(number, reader)
        except (OSError, EOFError, TimeoutError) as error:
            self._fail(number, error)
        finally:
            writer.close()

    async def _read(self, number: int, reader: asyncio.StreamReader) -> None:
        """Raises OSError, EOFError or TimeoutError when it has failed; never returns otherwise."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        if head.split(b" ", 2)[1] != b"200":
            raise ConnectionError(head.decode("latin-1"))
        while True:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await reader.readuntil(b"\n")
            self._lines[number] += 1
            self._progress.set()

    def _fail(self, number: int, error: Exception) -> None:
        self.failed.append(f"after {self._lines[number]} lines: {type(error).__name__}: {error}")
        self._progress.set()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
