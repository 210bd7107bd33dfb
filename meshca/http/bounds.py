"""What holds for every HTTP answer: GET and HEAD only, no body, one request per connection, headers that harden."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("GET", "HEAD")

HARDENING = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def bounded(app: ASGIApp) -> ASGIApp:
    """`app` behind these rules. A header that `app` sets itself stays."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                _harden(MutableHeaders(scope=message))
            await send(message)

        await (_refusal(scope) or app)(scope, receive, hardened)

    return guarded


def _refusal(scope: Scope) -> Response | None:
    if scope["method"] not in METHODS:
        return PlainTextResponse("method not allowed\n", 405, {"allow": ", ".join(METHODS)})
    headers = Headers(scope=scope)
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        return PlainTextResponse("no body is expected\n", 413)
    return None


def _harden(headers: MutableHeaders) -> None:
    for name, value in HARDENING.items():
        headers.setdefault(name, value)
    headers["connection"] = "close"
