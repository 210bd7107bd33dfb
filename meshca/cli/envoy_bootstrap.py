"""`meshca envoy-bootstrap`: a hardened Envoy configuration for a sidecar, on stdout."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from meshca.compile.envoy_bootstrap import Inbound, Outbound

_ADDRESS = "HOST:PORT|unix:PATH"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("envoy-bootstrap")(envoy_bootstrap)


def envoy_bootstrap(
    agent_socket: Annotated[
        str, typer.Option(envvar="MESHCA_AGENT_SOCKET", help="The agent's Unix socket, where certificates come from.")
    ],
    trust_domain: Annotated[str, typer.Option(envvar="MESHCA_TRUST_DOMAIN", help="Such as example.org.")],
    node_id: Annotated[
        str | None,
        typer.Option(help="The name that Envoy gives itself; each behind one agent needs its own. Default: a new one."),
    ] = None,
    inbound: Annotated[str | None, typer.Option(metavar=_ADDRESS, help="Where callers from the mesh come in.")] = None,
    app: Annotated[str | None, typer.Option(metavar=_ADDRESS, help="The application behind --inbound.")] = None,
    allow_id: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="A caller to admit; repeatable. Default: the trust domain.")
    ] = None,
    allow_prefix: Annotated[
        list[str] | None, typer.Option(metavar="spiffe://TD/…/", help="Callers to admit by prefix; repeatable.")
    ] = None,
    outbound: Annotated[
        list[str] | None,
        typer.Option(metavar=_ADDRESS, help="Where the application calls out; repeatable with the next two."),
    ] = None,
    upstream: Annotated[
        list[str] | None, typer.Option(metavar=_ADDRESS, help="The other side's sidecar, for each --outbound.")
    ] = None,
    upstream_id: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="The identity that must answer, for each --outbound.")
    ] = None,
    admin: Annotated[
        str | None, typer.Option(metavar=_ADDRESS, help="Envoy's admin interface; none by default.")
    ] = None,
    delta: Annotated[bool, typer.Option("--delta", help="Use incremental SDS.")] = False,
    max_connection_duration: Annotated[str, typer.Option(help="When connections are drained, such as 1h.")] = "1h",
    max_requests_per_connection: Annotated[
        int | None, typer.Option(help="Force new handshakes (tests, demonstrations).")
    ] = None,
    access_log: Annotated[str | None, typer.Option(metavar="stdout|PATH", help="Where to log requests.")] = None,
    _output: Annotated[Literal["json"], typer.Option("--output", "-o", help="The form; Envoy reads JSON.")] = "json",
) -> None:
    """Print a complete, hardened Envoy configuration for a sidecar."""
    from meshca.compile.envoy_addresses import PipeAddress, parse_address
    from meshca.compile.envoy_bootstrap import EnvoyBootstrap
    from meshca.settings.sources import read_duration
    from meshca.spiffe.ids import TrustDomain

    bootstrap = EnvoyBootstrap(
        agent_socket=PipeAddress(agent_socket.removeprefix("unix:")),
        trust_domain=TrustDomain(trust_domain),
        node_id=node_id or f"sidecar-{secrets.token_hex(4)}",
        inbound=_inbound(inbound, app, allow_id or [], allow_prefix or []),
        outbound=_outbound(outbound or [], upstream or [], upstream_id or []),
        admin=parse_address("--admin", admin) if admin is not None else None,
        delta=delta,
        max_connection_duration=read_duration("--max-connection-duration", max_connection_duration),
        max_requests_per_connection=max_requests_per_connection,
        access_log=access_log,
    )
    print(bootstrap.as_json(), end="")


def _inbound(listen: str | None, app: str | None, ids: list[str], prefixes: list[str]) -> Inbound | None:
    from meshca.compile.envoy_addresses import parse_address
    from meshca.compile.envoy_bootstrap import Inbound
    from meshca.errors import invalid
    from meshca.spiffe.ids import SpiffeId

    if listen is None and app is None:
        if ids or prefixes:
            raise invalid("--allow-id and --allow-prefix say who may come in: give --inbound and --app as well")
        return None
    if listen is None or app is None:
        raise invalid("--inbound and --app belong together: give both, or neither")
    return Inbound(
        listen=parse_address("--inbound", listen),
        app=parse_address("--app", app),
        allowed_ids=tuple(SpiffeId.parse(text) for text in ids),
        allowed_prefixes=tuple(prefixes),
    )


def _outbound(listens: list[str], upstreams: list[str], ids: list[str]) -> tuple[Outbound, ...]:
    from meshca.compile.envoy_addresses import parse_address
    from meshca.compile.envoy_bootstrap import Outbound
    from meshca.errors import invalid
    from meshca.spiffe.ids import SpiffeId

    if not len(listens) == len(upstreams) == len(ids):
        raise invalid(
            f"--outbound ({len(listens)}), --upstream ({len(upstreams)}) and --upstream-id ({len(ids)}) "
            "belong together: give each of them equally often"
        )
    return tuple(
        Outbound(parse_address("--outbound", listen), parse_address("--upstream", upstream), SpiffeId.parse(server))
        for listen, upstream, server in zip(listens, upstreams, ids, strict=True)
    )
