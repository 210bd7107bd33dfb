"""The server's HTTP room: probes, metrics and revocation lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from meshca.http.distribution_point import FindList, distribution_point, missing
from meshca.services.health import Check, problems_of

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def build_app(checks: Mapping[str, Check], registry: CollectorRegistry, crl: FindList = lambda _: None) -> Starlette:
    """`/livez`, `/startupz`, `/readyz`, `/metrics` and `/crl/<issuer id>`.

    `/livez` answers 200 while the loop runs; `/readyz` 503 while a check fails; `/startupz` 503 until all of them have
    held once. The body lists the checks that fail, one a line: `name: what is wrong`. `checks` is read at each probe.
    `crl` gives the revocation list of an issuing CA, or None: see `http.distribution_point`.
    """
    probes = _Probes(checks)
    return Starlette(
        routes=[
            Route("/livez", probes.live),
            Route("/startupz", probes.started),
            Route("/readyz", probes.ready),
            Route("/metrics", _metrics(registry)),
            Route("/crl/{issuer_id}", distribution_point(crl)),
        ],
        exception_handlers={404: _not_found},
    )


class _Probes:
    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._has_started = False

    async def live(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def started(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n") if self._has_started else self._verdict()

    async def ready(self, _request: Request) -> Response:
        return self._verdict()

    def _verdict(self) -> Response:
        problems = problems_of(self._checks)
        if problems:
            return PlainTextResponse("".join(f"{problem.check}: {problem.what}\n" for problem in problems), 503)
        self._has_started = True
        return PlainTextResponse("ok\n")


def _metrics(registry: CollectorRegistry) -> Callable[[Request], Response]:
    def scrape(_request: Request) -> Response:  # no coroutine, so it gets a thread: rendering takes milliseconds
        return Response(generate_latest(registry), headers={"content-type": _METRICS_TYPE})

    return scrape


async def _not_found(_request: Request, _error: Exception) -> Response:
    return missing()
