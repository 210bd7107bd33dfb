"""Probes and the scrape, through a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

from prometheus_client import CollectorRegistry, Gauge

from meshca.compile.envoy_addresses import TcpAddress
from meshca.errors import unavailable
from meshca.http.app import build_app
from meshca.http.distribution_point import FindList
from meshca.http.server import serve
from meshca.services.health import Check
from meshca.services.revocation_lists import ServedList
from tests.assets.authorities import FOUNDED
from tests.load import Response, get

LIST = ServedList(b"\x30\x00list", FOUNDED, timedelta(minutes=5))


class Site:
    """The app, served."""

    def __init__(self, address: TcpAddress) -> None:
        self._address = address

    async def get(self, path: str, *, method: str = "GET", **headers: str) -> Response:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return await get(self._address, path, method=method, headers=fields)


@asynccontextmanager
async def site(
    checks: Mapping[str, Check], registry: CollectorRegistry | None = None, crl: FindList = lambda _: None
) -> AsyncIterator[Site]:
    app = build_app(checks, registry or CollectorRegistry(), crl)
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
    async with site({}, crl={"ab12": LIST}.get) as it:
        answer = await it.get("/crl/ab12")
        assert (answer.status, answer.body) == (200, LIST.crl)
        assert answer.headers["content-type"] == "application/pkix-crl"
        for path in ("/crl/ab1", "/crl/", "/crl", "/crl/ab12/x", "/crl/..%2fab12"):
            assert (await it.get(path)).status == 404


async def test_a_revocation_list_may_be_kept_for_a_while_and_is_not_sent_to_who_has_it() -> None:
    async with site({}, crl={"ab12": LIST}.get) as it:
        answer = await it.get("/crl/ab12")
        tag, date = answer.headers["etag"], answer.headers["last-modified"]
        assert date == "Mon, 01 Jun 2026 12:00:00 GMT"
        assert answer.headers["cache-control"] == "public, max-age=300, must-revalidate"
        head = await it.get("/crl/ab12", method="HEAD")
        assert (head.status, head.body, head.headers["etag"]) == (200, b"", tag)
        assert head.headers["content-length"] == str(len(LIST.crl))
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            same = await it.get("/crl/ab12", if_none_match=known)
            assert (same.status, same.body, same.headers["etag"]) == (304, b"", tag)
            assert "content-type" not in same.headers
        assert (await it.get("/crl/ab12", if_modified_since=date)).status == 304
        older = "Mon, 01 Jun 2026 11:59:59 GMT"
        for headers in (
            {"if_none_match": '"other"'},
            {"if_none_match": '"other"', "if_modified_since": date},
            {"if_modified_since": older},
            {"if_modified_since": "yesterday"},
            {"if_modified_since": "Mon, 01 Jun 2026 12:00:00 +99999999999999999999"},
            {"if_modified_since": "Mon, 01 Jun 2026 12:00:00 -0000"},
        ):
            assert (await it.get("/crl/ab12", **headers)).body == LIST.crl


async def test_a_revocation_list_that_should_be_there_is_missed_for_now() -> None:
    def none_yet(_: str) -> ServedList:
        raise unavailable("the details are for our log")

    async with site({}, crl=none_yet) as it:
        answer = await it.get("/crl/ab12")
    assert (answer.status, answer.body) == (503, b"there is no revocation list right now\n")
    assert answer.headers["cache-control"] == "no-store"


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
