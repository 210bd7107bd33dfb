"""The embedded HTTP server: what peers may send and hold, and that it is a guest in its process."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from meshca.compile.envoy_addresses import TcpAddress
from meshca.errors import ErrorKind, MeshcaError
from meshca.http.server import ConnectionLimits, HttpServer, serve
from tests.load import get


async def _hello(_request: Request) -> Response:
    return PlainTextResponse("hello\n")


async def _framed(_request: Request) -> Response:
    return PlainTextResponse("page", headers={"content-security-policy": "default-src 'self'"})


APP = Starlette(routes=[Route("/hello", _hello), Route("/framed", _framed)])


@asynccontextmanager
async def serving(limits: ConnectionLimits | None = None) -> AsyncIterator[HttpServer]:
    server = await serve("127.0.0.1", 0, APP, limits or ConnectionLimits())
    try:
        yield server
    finally:
        await server.stop()


async def exchange(server: HttpServer, request: bytes) -> bytes:
    """Everything the server says to these bytes until it closes."""
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(server.host, server.port)
        try:
            writer.write(request)
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


async def test_it_tells_the_port_that_it_got_and_serves_there() -> None:
    async with serving() as server:
        assert server.port != 0
        assert server.address == f"127.0.0.1:{server.port}"
        assert (await get(TcpAddress(server.host, server.port), "/hello")).body == b"hello\n"


async def test_after_stop_nobody_listens() -> None:
    async with serving() as server:
        pass
    assert server.finished.done()
    with pytest.raises(ConnectionRefusedError):
        await get(TcpAddress(server.host, server.port), "/hello")


async def test_stop_does_not_wait_for_a_connection_that_says_nothing() -> None:
    async with serving() as server:
        _, writer = await asyncio.open_connection(server.host, server.port)
        async with asyncio.timeout(5):
            await server.stop()
        writer.close()


async def test_it_leaves_signals_alone() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    async with serving():
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


async def test_an_address_that_is_taken_is_unavailable() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(MeshcaError, match=r"cannot listen on 127\.0\.0\.1:") as caught,
    ):
        await serve("127.0.0.1", taken.getsockname()[1], APP)
    assert caught.value.kind is ErrorKind.UNAVAILABLE


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
async def test_only_get_and_head_are_answered(method: str) -> None:
    async with serving() as server:
        answer = await exchange(server, f"{method} /hello HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nallow: GET, HEAD\r\n" in answer


async def test_head_gives_no_body() -> None:
    async with serving() as server:
        answer = await exchange(server, b"HEAD /hello HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("framing", [b"content-length: 5", b"transfer-encoding: chunked"])
async def test_a_body_is_refused_unread(framing: bytes) -> None:
    async with serving() as server:
        answer = await exchange(server, b"GET /hello HTTP/1.1\r\nhost: x\r\n" + framing + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_headers_are_bounded() -> None:
    async with serving() as server:
        answer = await exchange(server, b"GET /hello HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 20_000)
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_each_connection_serves_one_request() -> None:
    request = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n"
    async with serving() as server:
        answer = await exchange(server, request + request)
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"\r\nconnection: close\r\n" in answer


@pytest.mark.parametrize("dribble", [b"", b"GET /hello HTTP/1.1\r\nhost: x\r\n"])
async def test_a_peer_that_never_finishes_its_request_is_dropped(dribble: bytes) -> None:
    async with serving(ConnectionLimits(seconds=0.05)) as server:
        assert await exchange(server, dribble) == b""


async def test_connections_beyond_the_bound_are_dropped_and_the_others_served() -> None:
    async with serving(ConnectionLimits(connections=2)) as server:
        held = [await asyncio.open_connection(server.host, server.port) for _ in range(2)]
        assert await exchange(server, b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n") == b""
        reader, writer = held[0]
        writer.write(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        for _, each in held:
            each.close()


@pytest.mark.parametrize("path", ["/hello", "/no-such-page"])
async def test_every_answer_carries_the_hardening_headers_and_no_server_name(path: str) -> None:
    async with serving() as server:
        headers = (await get(TcpAddress(server.host, server.port), path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


async def test_a_page_may_set_its_own_policy() -> None:
    async with serving() as server:
        headers = (await get(TcpAddress(server.host, server.port), "/framed")).headers
    assert headers["content-security-policy"] == "default-src 'self'"


async def test_serving_elsewhere_than_ipv4() -> None:
    server = await serve("::1", 0, APP)
    try:
        assert server.address == f"[::1]:{server.port}"
        assert (await get(TcpAddress("::1", server.port), "/hello")).status == 200
    finally:
        await server.stop()
