"""Revocation lists for whoever reads a distribution point (RFC 5280 section 4.2.1.13; RFC 9110 sections 8.8 and 13)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from hashlib import sha256

import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from meshca.errors import MeshcaError
from meshca.services.revocation_lists import ServedList

FindList = Callable[[str], ServedList | None]

_TYPE = "application/pkix-crl"  # RFC 2585 section 4.2
_log = structlog.get_logger("meshca.revocation")


def distribution_point(find: FindList) -> Callable[[Request], Response]:
    """Answers for `issuer_id` with its list; 304 where the caller has that, 404 where there is none, 503 where there
    should be one."""

    def fetch(request: Request) -> Response:  # no coroutine, so it gets a thread: a list may have to be signed
        try:
            found = find(request.path_params["issuer_id"])
        except MeshcaError as error:
            _log.warning("revocation_list_not_served", kind=error.kind.value, reason=error.message)
            return PlainTextResponse("there is no revocation list right now\n", 503)
        return missing() if found is None else _answer(request, found)

    return fetch


def missing() -> Response:
    """There is no such thing here."""
    return PlainTextResponse("not found\n", 404)


def _answer(request: Request, found: ServedList) -> Response:
    tag = f'"{sha256(found.crl).hexdigest()[:32]}"'
    headers = {
        "etag": tag,
        "last-modified": format_datetime(found.since.astimezone(UTC), usegmt=True),
        "cache-control": f"public, max-age={int(found.fresh_for.total_seconds())}, must-revalidate",
    }
    if _has_it(request, tag, found.since):
        return Response(status_code=304, headers=headers)
    return Response(found.crl, headers={**headers, "content-type": _TYPE})


def _has_it(request: Request, tag: str, since: datetime) -> bool:
    """RFC 9110 section 13.2.2: a tag outweighs a date, and a date that is none is ignored."""
    tags = request.headers.get("if-none-match")
    if tags is not None:
        return any(each.strip().removeprefix("W/") in ("*", tag) for each in tags.split(","))
    try:
        then = parsedate_to_datetime(request.headers.get("if-modified-since", ""))
    except (ValueError, OverflowError):
        return False
    return then.tzinfo is not None and since <= then
