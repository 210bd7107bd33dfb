"""Probes and the scrape, through a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Gauge

from meshca.compile.envoy_addresses import TcpAddress
from meshca.http.app import Check, build_app
from meshca.http.server import serve
from tests.load import Response, get


class Site:
    """The app, served."""

    def __init__(self, address: TcpAddress) -> None:
        self._address = address

    async def get(self, path: str) -> Response:
        return await get(self._address, path)


@asynccontextmanager
async def site(
    checks: Mapping[str, Check], registry: CollectorRegistry | None = None, crls: Mapping[str, bytes] | None = None
) -> AsyncIterator[Site]:
    app = build_app(checks, registry or CollectorRegistry(), dict(crls or {}).get)
    server = await serve("127.0.0.1", 0, app)
    try:
        yield Site(TcpAddress(server.host, server.port))
    finally:
        await server.stop()


async def test_ready_while_every_check_holds() -> None:
    async with site({"ledger": lambda: None, "authority": lambda: None}) as it:
        answer = await it.get("/readyz")
    assert (answer.status, answer.body) == (200, b"ok\n")


async def test_not_ready_names_the_checks_that_fail_and_only_those() -> None:
    checks: dict[str, Check] = {"ledger": lambda: "disk is full", "loop": lambda: None, "authority": lambda: "expired"}
    async with site(checks) as it:
        answer = await it.get("/readyz")
    assert (answer.status, answer.body) == (503, b"ledger: disk is full\nauthority: expired\n")


async def test_a_check_that_breaks_is_not_taken_for_ready() -> None:
    def broken() -> str | None:
        raise OSError("gone")

    async with site({"broken": broken}) as it:
        assert (await it.get("/readyz")).status == 500


async def test_a_revocation_list_is_there_under_the_id_of_its_issuer_and_no_other() -> None:
    async with site({}, crls={"ab12": b"\x30\x00list"}) as it:
        answer = await it.get("/crl/ab12")
        assert (answer.status, answer.body) == (200, b"\x30\x00list")
        assert answer.headers["content-type"] == "application/pkix-crl"
        for path in ("/crl/ab1", "/crl/", "/crl", "/crl/ab12/x", "/crl/..%2fab12"):
            assert (await it.get(path)).status == 404


async def test_live_whatever_the_checks_say() -> None:
    async with site({"ledger": lambda: "disk is full"}) as it:
        assert (await it.get("/livez")).status == 200


async def test_started_once_everything_held_and_from_then_on() -> None:
    problems: list[str | None] = ["starting", None, "disk is full", "disk is full"]
    async with site({"ledger": lambda: problems.pop(0)}) as it:
        before, at, ready = await it.get("/startupz"), await it.get("/startupz"), await it.get("/readyz")
        after = await it.get("/startupz")
    assert [before.status, at.status, ready.status, after.status] == [503, 200, 503, 200]


async def test_a_check_that_is_added_later_counts() -> None:
    checks: dict[str, Check] = {}
    async with site(checks) as it:
        assert (await it.get("/readyz")).status == 200
        checks["workers"] = lambda: "none is running"
        assert (await it.get("/readyz")).status == 503


async def test_metrics_come_from_the_given_registry_in_the_text_format() -> None:
    registry = CollectorRegistry()
    Gauge("answer", "An answer.", registry=registry).set(42)
    async with site({}, registry) as it:
        answer = await it.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.body.decode() == "# HELP answer An answer.\n# TYPE answer gauge\nanswer 42.0\n"


async def test_what_is_not_there_is_said_in_few_words() -> None:
    async with site({}) as it:
        answer = await it.get("/admin/../etc/passwd")
    assert (answer.status, answer.body) == (404, b"not found\n")
