"""An HTTP server inside a running event loop, bounded in everything a peer can send or hold.

It is for probes, scrapes and small documents: one request per connection, a few kilobytes of headers, no body, and ten
seconds for all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from meshca.errors import unavailable
from meshca.http.bounds import bounded

MAX_HEADER_BYTES = 16 * 1024
GRACE_SECONDS = 2


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections at once (more are dropped), and how long one may last in all."""

    connections: int = 256
    seconds: float = 10.0


_DEFAULT_LIMITS = ConnectionLimits()


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A serving HTTP server. `finished` ends when the server does, which before `stop` is a fault."""

    host: str
    port: int
    finished: asyncio.Task[None]
    _server: uvicorn.Server

    @property
    def address(self) -> str:
        """`host:port`, with the port that is really in use."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def stop(self) -> None:
        """Takes no more connections, lets running requests end (two seconds at most), and closes the rest.

        If it had ended before, this is for `finished` to tell.
        """
        self._server.should_exit = True
        await asyncio.wait((self.finished,))


async def serve(host: str, port: int, app: ASGIApp, limits: ConnectionLimits = _DEFAULT_LIMITS) -> HttpServer:
    """Serves `app` on the running loop; port 0 picks a free one. Returns when connections are accepted.

    Raises UNAVAILABLE where the address cannot be had.
    """
    listener = _listen(host, port)
    config = uvicorn.Config(
        bounded(app),
        http=_connection_class(limits),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _EmbeddedServer(config)
    finished = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    await server.ready(finished)
    return HttpServer(host, listener.getsockname()[1], finished, server)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise unavailable(f"cannot listen on {host}:{port} for HTTP: {error.strerror}") from error


class _EmbeddedServer(uvicorn.Server):
    """uvicorn as a part of a program: it leaves signals alone and says when it accepts."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._accepting = asyncio.Event()

    async def ready(self, finished: asyncio.Task[None]) -> None:
        """Waits until it accepts; raises what ended it, if it ended first."""
        accepting = asyncio.create_task(self._accepting.wait())
        await asyncio.wait({accepting, finished}, return_when=asyncio.FIRST_COMPLETED)
        if accepting.cancel():
            await finished

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._accepting.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _BoundedConnection(H11Protocol):
    """uvicorn bounds the time between requests only; here the whole connection is."""

    limits: ConnectionLimits
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's is
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
        else:
            self._deadline = self.loop.call_later(self.limits.seconds, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)


def _connection_class(bounds: ConnectionLimits) -> type[_BoundedConnection]:
    """uvicorn makes the connections itself, from a class."""

    class Connection(_BoundedConnection):
        limits = bounds

    return Connection
