"""The demonstration's traffic: what counts as an answer, and that whatever goes wrong is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshca.demo.traffic import Service, Traffic, http_get, parse_answer

PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
CALLER = "spiffe://demo.test/ns/a/sa/client"


@asynccontextmanager
async def answering(path: Path, answer: bytes) -> AsyncIterator[None]:
    """A server that gives the same answer to everybody and closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(serve, str(path)):
        yield


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED])
def test_a_whole_answer_is_its_status_and_body(answer: bytes) -> None:
    assert parse_answer(answer) == (200, b"hello")


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED])
def test_a_part_of_an_answer_is_none(answer: bytes) -> None:
    last_that_matters = answer.rindex(b"0\r\n\r\n") + 1 if answer is CHUNKED else len(answer) - 1
    for length in range(last_that_matters):
        with pytest.raises(ConnectionError):
            parse_answer(answer[:length])


@pytest.mark.parametrize(
    "answer", [b"", b"220 smtp\r\n\r\n", b"HTTP/1.1 OK\r\n\r\n", CHUNKED.replace(b"3\r\n", b"x\r\n")]
)
def test_what_is_no_http_is_no_answer(answer: bytes) -> None:
    with pytest.raises(ConnectionError):
        parse_answer(answer)


async def test_the_service_answers_with_the_caller_that_its_sidecar_verified(short_tmp: Path) -> None:
    service = Service(short_tmp / "app.sock")
    await service.start()
    reader, writer = await asyncio.open_unix_connection(str(short_tmp / "app.sock"))
    for header, caller in ((f"x-forwarded-client-cert: Hash=ab;URI={CALLER};By=x\r\n", CALLER), ("", "")):
        writer.write(f"GET / HTTP/1.1\r\n{header}\r\n".encode())
        answer = await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(len(caller))
        assert parse_answer(answer) == (200, caller.encode())
    writer.close()
    await writer.wait_closed()
    await service.stop()


async def test_a_get_is_one_whole_answer_over_a_connection_of_its_own(short_tmp: Path) -> None:
    async with answering(short_tmp / "http.sock", CHUNKED):
        assert await http_get(short_tmp / "http.sock") == (200, b"hello")
        assert await http_get(short_tmp / "http.sock", "/again") == (200, b"hello")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (f"HTTP/1.1 200 OK\r\ncontent-length: {len(CALLER)}\r\n\r\n{CALLER}".encode(), None),
        (PLAIN, "wrong caller"),
        (b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n", "HTTP 503"),
        (PLAIN[:-1], "ConnectionError"),
        (b"", "ConnectionError"),
    ],
)
async def test_every_request_is_counted_and_every_failure_by_its_reason(
    short_tmp: Path, answer: bytes, problem: str | None
) -> None:
    traffic = Traffic(short_tmp / "out.sock", CALLER)
    async with answering(short_tmp / "out.sock", answer), asyncio.timeout(10):
        traffic.start()
        while traffic.sent < 8:
            await asyncio.sleep(0.01)
        await traffic.stop()
    assert traffic.failed == (0 if problem is None else traffic.sent)
    assert set(traffic.failures) == ({problem} if problem else set())


async def test_requests_that_reach_nobody_have_failed(short_tmp: Path) -> None:
    traffic = Traffic(short_tmp / "out.sock", CALLER)
    traffic.start()
    async with asyncio.timeout(10):
        while not traffic.sent:
            await asyncio.sleep(0.01)
    await traffic.stop()
    assert traffic.failed == traffic.sent
    assert set(traffic.failures) == {"FileNotFoundError"}
