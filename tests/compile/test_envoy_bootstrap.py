"""The sidecar configuration: every lesson is in it, and a real Envoy behaves as the lessons promise."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import typer
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from typer.testing import CliRunner

from meshca.cli import envoy_bootstrap as command
from meshca.compile.envoy_addresses import PipeAddress, TcpAddress, parse_address
from meshca.compile.envoy_bootstrap import EnvoyBootstrap, Inbound, Outbound
from meshca.errors import ErrorKind, MeshcaError
from meshca.http.server import serve
from meshca.spiffe.ids import SpiffeId, TrustDomain
from tests.envoys import Envoy, admin_pipe, running, validate
from tests.load import Load, get
from tests.sds import Leaf, SdsServer, TestRoot, leaf_secret, serving, trust_secret

TD = TrustDomain("td.test")
WEB = SpiffeId.parse("spiffe://td.test/web")
API = SpiffeId.parse("spiffe://td.test/api")


def sidecar(**changes: Any) -> EnvoyBootstrap:
    """Inbound and outbound, on loopback."""
    bootstrap = EnvoyBootstrap(
        agent_socket=PipeAddress("/run/a/agent.sock"),
        trust_domain=TD,
        inbound=Inbound(TcpAddress("0.0.0.0", 15006), TcpAddress("127.0.0.1", 8080)),
        outbound=(Outbound(TcpAddress("127.0.0.1", 15001), TcpAddress("api.example.org", 15006), API),),
        admin=PipeAddress("/run/a/admin.sock"),
    )
    return replace(bootstrap, **changes)


def listener(config: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in config["static_resources"]["listeners"] if each["name"] == name)


def cluster(config: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in config["static_resources"]["clusters"] if each["name"] == name)


def manager(config: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = listener(config, name)["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def inbound_tls(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = listener(config, "inbound")["filter_chains"][0]["transport_socket"]["typed_config"]
    return found


def upstream_tls(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = cluster(config, "upstream")["transport_socket"]["typed_config"]
    return found


def both_tls(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [inbound_tls(config)["common_tls_context"], upstream_tls(config)["common_tls_context"]]


def matchers(context: dict[str, Any]) -> list[dict[str, Any]]:
    default = context["combined_validation_context"]["default_validation_context"]
    found: list[dict[str, Any]] = default["match_typed_subject_alt_names"]
    return found


# ---- structure: one lesson each


def test_an_identity_matcher_stands_in_the_default_context_of_both_sides() -> None:
    inbound, upstream = both_tls(sidecar().as_dict())
    assert matchers(inbound) == [{"san_type": "URI", "matcher": {"prefix": "spiffe://td.test/"}}]
    assert matchers(upstream) == [{"san_type": "URI", "matcher": {"exact": "spiffe://td.test/api"}}]


def test_admitted_ids_and_prefixes_replace_the_whole_trust_domain() -> None:
    inbound = Inbound(TcpAddress("127.0.0.1", 1), TcpAddress("127.0.0.1", 2), (WEB,), ("spiffe://td.test/ns/a/",))
    found = matchers(both_tls(sidecar(inbound=inbound).as_dict())[0])
    assert [each["matcher"] for each in found] == [{"prefix": "spiffe://td.test/ns/a/"}, {"exact": str(WEB)}]


def test_a_client_certificate_is_demanded_and_no_session_is_resumed() -> None:
    config = sidecar().as_dict()
    assert inbound_tls(config)["require_client_certificate"] is True
    assert inbound_tls(config)["disable_stateless_session_resumption"] is True
    assert inbound_tls(config)["disable_stateful_session_resumption"] is True
    assert upstream_tls(config)["max_session_keys"] == 0


def test_both_sides_speak_tls_1_3_only() -> None:
    only = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
    assert [context["tls_params"] for context in both_tls(sidecar().as_dict())] == [only, only]


@pytest.mark.parametrize(("delta", "api_type"), [(False, "GRPC"), (True, "DELTA_GRPC")])
def test_secrets_come_on_streams_of_their_own_that_reconnect_fast_and_wait_for_ever(delta: bool, api_type: str) -> None:
    for context in both_tls(sidecar(delta=delta).as_dict()):
        validation = context["combined_validation_context"]["validation_context_sds_secret_config"]
        secrets = [*context["tls_certificate_sds_secret_configs"], validation]
        assert [secret["name"] for secret in secrets] == ["default", "ROOTCA"]
        for secret in secrets:
            source = secret["sds_config"]["api_config_source"]
            assert "ads" not in secret["sds_config"]
            assert secret["sds_config"]["initial_fetch_timeout"] == "0s"
            assert source["api_type"] == api_type
            assert source["set_node_on_first_message_only"] is True
            grpc_service = source["grpc_services"][0]["envoy_grpc"]
            assert grpc_service["cluster_name"] == "agent"
            assert grpc_service["retry_policy"]["retry_back_off"] == {"base_interval": "0.05s", "max_interval": "0.2s"}


def test_inbound_paths_mean_one_thing_and_the_identity_header_is_ours() -> None:
    http = manager(sidecar().as_dict(), "inbound")
    assert (http["normalize_path"], http["merge_slashes"]) == (True, True)
    assert http["path_with_escaped_slashes_action"] == "REJECT_REQUEST"
    assert http["forward_client_cert_details"] == "SANITIZE_SET"
    assert http["set_current_client_cert_details"] == {"uri": True}


def test_connections_and_streams_are_bounded_and_the_client_side_lets_go_first() -> None:
    config = sidecar(max_connection_duration=timedelta(minutes=10)).as_dict()
    server = manager(config, "inbound")["common_http_protocol_options"]
    options = cluster(config, "upstream")["typed_extension_protocol_options"]
    client = next(iter(options.values()))["common_http_protocol_options"]
    assert (server["max_connection_duration"], server["max_stream_duration"]) == ("600.000s", "600.000s")
    assert client["max_connection_duration"] == "540.000s"
    assert float(client["idle_timeout"][:-1]) < float(server["idle_timeout"][:-1])


@pytest.mark.parametrize("name", ["inbound", "outbound"])
def test_a_slow_peer_is_bounded_everywhere(name: str) -> None:
    config = sidecar().as_dict()
    http = manager(config, name)
    assert (http["request_headers_timeout"], http["request_timeout"]) == ("10s", "300s")
    assert http["stream_idle_timeout"] == "300s"
    assert listener(config, name)["per_connection_buffer_limit_bytes"] == 32768
    assert listener(config, "inbound")["filter_chains"][0]["transport_socket_connect_timeout"] == "10s"
    assert config["overload_manager"]["resource_monitors"]


def test_sockets_that_envoy_makes_are_for_their_owner_alone() -> None:
    pipe = PipeAddress("/run/a/x.sock")
    inbound = Inbound(pipe, TcpAddress("127.0.0.1", 2))
    config = sidecar(inbound=inbound, outbound=(Outbound(pipe, pipe, API),)).as_dict()
    made = [listener(config, "inbound")["address"], listener(config, "outbound")["address"], config["admin"]["address"]]
    assert [address["pipe"]["mode"] for address in made] == [0o600, 0o600, 0o600]


def test_there_is_no_admin_interface_unless_asked_for() -> None:
    assert "admin" not in sidecar(admin=None).as_dict()


def test_access_logs_name_the_peer_and_leave_out_the_query() -> None:
    log = manager(sidecar(access_log="stdout").as_dict(), "inbound")["access_log"][0]["typed_config"]
    fields = log["log_format"]["json_format"]
    assert fields["peer"] == "%DOWNSTREAM_PEER_URI_SAN%"
    assert fields["path"] == "%PATH(NQ:ORIG)%"


# ---- refusals


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"inbound": None, "outbound": ()}, "nothing to do"),
        ({"node_id": ""}, "node id"),
        ({"node_id": "a\nb"}, "node id"),
        ({"max_connection_duration": timedelta(0)}, "at least 1s"),
        ({"max_requests_per_connection": 0}, "at least 1 is needed"),
        ({"access_log": "relative.log"}, "neither stdout nor an absolute path"),
        ({"admin": TcpAddress("0.0.0.0", 9901)}, "only a loopback address"),
        ({"outbound": (Outbound(TcpAddress("10.0.0.1", 1), PipeAddress("/u"), API),)}, "only a loopback address"),
        ({"outbound": (Outbound(PipeAddress("/o"), PipeAddress("/u"), TD.id),)}, "names the trust domain"),
        (
            {"outbound": (Outbound(PipeAddress("/o"), PipeAddress("/u"), SpiffeId.parse("spiffe://other/x")),)},
            "is not in trust domain td.test",
        ),
    ],
)
def test_what_cannot_be_safe_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(MeshcaError, match=problem) as caught:
        sidecar(**changes)
    assert caught.value.kind is ErrorKind.INVALID


@pytest.mark.parametrize(
    ("prefix", "problem"),
    [
        ("spiffe://td.test/ns/a", "does not end in '/'"),
        ("", "does not end in '/'"),
        ("/", "does not start with spiffe://"),
        ("spiffe://", "does not start with spiffe://"),
        ("spiffe:///", "trust domain is empty"),
        ("spiffe://td.test.evil/", "is not in trust domain td.test"),
        ("spiffe://td.test//", "empty segment"),
        ("spiffe://td.test/a/../", "dot segment"),
    ],
)
def test_a_prefix_that_admits_more_than_it_says_is_refused(prefix: str, problem: str) -> None:
    inbound = Inbound(PipeAddress("/i"), PipeAddress("/a"), (), (prefix,))
    with pytest.raises(MeshcaError, match=problem):
        sidecar(inbound=inbound)


def test_a_name_to_listen_on_is_refused() -> None:
    inbound = Inbound(TcpAddress("web.example.org", 1), PipeAddress("/a"))
    with pytest.raises(MeshcaError, match="listens on an IP address"):
        sidecar(inbound=inbound).as_dict()


# ---- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", TcpAddress("127.0.0.1", 80)),
        ("localhost:0", TcpAddress("127.0.0.1", 0)),
        ("[::1]:65535", TcpAddress("::1", 65535)),
        ("api.ns.svc:15006", TcpAddress("api.ns.svc", 15006)),
        ("unix:/run/x.sock", PipeAddress("/run/x.sock")),
        ("unix:/" + "x" * 106, PipeAddress("/" + "x" * 106)),
    ],
)
def test_addresses_are_parsed(text: str, address: object) -> None:
    assert parse_address("--app", text) == address


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "neither host:port"),
        ("127.0.0.1", "neither host:port"),
        ("127.0.0.1:", "neither host:port"),
        ("127.0.0.1:65536", "neither host:port"),
        ("127.0.0.1:٣", "neither host:port"),
        (":80", "neither an IP address"),
        ("::1:80", "neither an IP address"),
        ("[127.0.0.1]:80", "neither an IP address"),
        ("[::1:80", "neither an IP address"),
        ("a b:80", "neither an IP address"),
        ("-a.test:80", "neither an IP address"),
        ("300.1.1.1:80", "looks like an IP address"),
        ("unix:relative", "is not absolute"),
        ("unix:@abstract", "is not absolute"),
        ("unix:", "is not absolute"),
        ("unix:/a\0b", "NUL"),
        ("unix:/" + "x" * 107, "is 108 bytes long"),
        ("unix:/" + "ü" * 54, "is 109 bytes long"),
    ],
)
def test_malformed_addresses_are_refused(text: str, problem: str) -> None:
    with pytest.raises(MeshcaError, match=problem) as caught:
        parse_address("--app", text)
    assert caught.value.kind is ErrorKind.INVALID


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_clear_refusal(text: str) -> None:
    try:
        address = parse_address("--app", text)
    except MeshcaError as error:
        kind = error.kind
    else:
        kind = ErrorKind.INVALID
        assert json.loads(json.dumps(address.as_envoy())) == address.as_envoy()
    assert kind is ErrorKind.INVALID


# ---- the command


def invoke(*arguments: str) -> Any:
    app = typer.Typer()
    command.register(app)
    app.callback()(lambda: None)
    return CliRunner().invoke(app, ["envoy-bootstrap", *arguments])


REQUIRED = ("--agent-socket", "/run/a/agent.sock", "--trust-domain", "td.test")
IN = ("--inbound", "127.0.0.1:15006", "--app", "127.0.0.1:8080")
OUT = ("--outbound", "127.0.0.1:15001", "--upstream", "10.0.0.1:15006", "--upstream-id", "spiffe://td.test/api")
OUT_2 = ("--outbound", "unix:/run/a/o", "--upstream", "db.example.org:1", "--upstream-id", "spiffe://td.test/db")


@pytest.mark.envoy
@pytest.mark.parametrize(
    "arguments",
    [
        IN,
        OUT,
        (*IN, *OUT, *OUT_2, "--delta", "--admin", "unix:/run/a/admin.sock", "--node-id", "web-1"),
        ("--inbound", "unix:/run/a/in.sock", "--app", "unix:/run/a/app.sock", "--admin", "127.0.0.1:9901"),
        (*IN, "--allow-id", "spiffe://td.test/web", "--allow-id", "spiffe://td.test/api", "--access-log", "stdout"),
        (*IN, "--allow-prefix", "spiffe://td.test/ns/a/", "--access-log", "/tmp/access.log"),
        (*IN, *OUT, "--max-connection-duration", "90s", "--max-requests-per-connection", "1", "-o", "json"),
        ("--inbound", "[::]:15006", "--app", "[::1]:8080"),
    ],
)
def test_envoy_takes_every_form_that_the_command_prints(arguments: tuple[str, ...]) -> None:
    printed = invoke(*REQUIRED, *arguments)
    assert printed.exit_code == 0
    judged = validate(json.loads(printed.stdout))
    assert judged.returncode == 0, judged.stderr
    assert not judged.stderr.strip(), "Envoy warns of something"


def test_the_command_gives_what_its_flags_say() -> None:
    flags = ("--delta", "--max-connection-duration", "2m", "--node-id", "sidecar")
    printed = json.loads(invoke(*REQUIRED, *IN, *OUT, *OUT_2, *flags).stdout)
    api = Outbound(TcpAddress("127.0.0.1", 15001), TcpAddress("10.0.0.1", 15006), API)
    db = Outbound(PipeAddress("/run/a/o"), TcpAddress("db.example.org", 1), SpiffeId.parse("spiffe://td.test/db"))
    inbound = Inbound(TcpAddress("127.0.0.1", 15006), TcpAddress("127.0.0.1", 8080))
    bounds = {"delta": True, "max_connection_duration": timedelta(minutes=2)}
    assert printed == sidecar(inbound=inbound, outbound=(api, db), admin=None, **bounds).as_dict()
    assert cluster(printed, "upstream_2")["type"] == "STRICT_DNS"


def test_each_configuration_names_another_node() -> None:
    """Behind one agent a name stands for one Envoy: two of the same name would be waited for as one."""
    ids = {json.loads(invoke(*REQUIRED, *OUT).stdout)["node"]["id"] for _ in range(2)}
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "nothing to do"),
        (("--inbound", "127.0.0.1:1"), "--inbound and --app belong together"),
        (("--app", "127.0.0.1:1"), "--inbound and --app belong together"),
        ((*OUT, "--allow-id", "spiffe://td.test/web"), "--allow-id and --allow-prefix say who may come in"),
        (("--outbound", "127.0.0.1:1", "--upstream", "127.0.0.1:2"), "give each of them equally often"),
        ((*IN, "--max-connection-duration", "soon"), "--max-connection-duration: 'soon' is not a duration"),
        ((*IN, "--allow-id", "td.test/web"), "does not start with spiffe://"),
        ((*IN, "--allow-id", "spiffe://td.test"), "names the trust domain"),
    ],
)
def test_flags_that_do_not_fit_are_refused(arguments: tuple[str, ...], problem: str) -> None:
    refused = invoke(*REQUIRED, *arguments)
    assert isinstance(refused.exception, MeshcaError)
    assert problem in refused.exception.message
    assert not refused.stdout


# ---- real Envoys


@pytest.mark.envoy
def test_without_an_agent_envoy_stays_closed(short_tmp: Path) -> None:
    door = PipeAddress(str(short_tmp / "in.sock"))
    inbound = Inbound(door, PipeAddress(str(short_tmp / "app.sock")))
    agent = PipeAddress(str(short_tmp / "agent.sock"))
    lonely = sidecar(agent_socket=agent, inbound=inbound, outbound=(), admin=admin_pipe(short_tmp))
    with running(lonely.as_dict(), short_tmp) as envoy:
        # it has tried, often
        envoy.wait_until(lambda: envoy.stat("cluster.agent.upstream_cx_connect_fail") >= 5, "to look for its agent")
        assert envoy.state() == "INITIALIZING"
        with pytest.raises(ConnectionRefusedError):
            asyncio.run(get(door))


@dataclass(frozen=True, slots=True)
class Mesh:
    """A client sidecar (web) before a server sidecar (api) before an application that tells what it was sent."""

    client: Envoy
    server: Envoy
    entry: PipeAddress
    door: PipeAddress
    web_agent: SdsServer
    api_agent: SdsServer
    root: TestRoot


async def _echo(request: Request) -> JSONResponse:
    return JSONResponse({"path": request.scope["raw_path"].decode(), "headers": dict(request.headers)})


@asynccontextmanager
async def mesh(
    directory: Path,
    *,
    web_id: str = "spiffe://td.test/web",
    api_id: str = "spiffe://td.test/api",
    app: TcpAddress | None = None,
    allowed: tuple[SpiffeId, ...] = (),
    **changes: Any,
) -> AsyncIterator[Mesh]:
    def pipe(name: str) -> PipeAddress:
        return PipeAddress(str(directory / name))

    root = TestRoot()
    async with AsyncExitStack() as stack:
        if app is None:
            http = await serve("127.0.0.1", 0, Starlette(routes=[Route("/{rest:path}", _echo)]))
            stack.push_async_callback(http.stop)
            app = TcpAddress("127.0.0.1", http.port)
        agents = {}
        for name, spiffe_id in (("web", web_id), ("api", api_id)):
            secrets = {"default": leaf_secret(root.issue(spiffe_id)), "ROOTCA": trust_secret(root.pem)}
            agents[name] = await stack.enter_async_context(serving(pipe(f"{name}.agent"), secrets))
        common: dict[str, Any] = {"trust_domain": TD, **changes}
        api = EnvoyBootstrap(
            agent_socket=pipe("api.agent"),
            inbound=Inbound(pipe("in.sock"), app, allowed),
            admin=admin_pipe(directory, "api"),
            **common,
        )
        web = EnvoyBootstrap(
            agent_socket=pipe("web.agent"),
            outbound=(Outbound(pipe("out.sock"), pipe("in.sock"), API),),
            admin=admin_pipe(directory, "web"),
            **common,
        )
        server = await stack.enter_async_context(running(api.as_dict(), directory, name="api"))
        client = await stack.enter_async_context(running(web.as_dict(), directory, name="web"))
        await server.live()
        await client.live()
        yield Mesh(client, server, pipe("out.sock"), pipe("in.sock"), agents["web"], agents["api"], root)


@pytest.mark.envoy
@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
async def test_two_sidecars_speak_mutual_tls_with_new_handshakes_and_nothing_fails(
    short_tmp: Path, delta: bool
) -> None:
    async with mesh(short_tmp, delta=delta, max_requests_per_connection=1) as pair:
        async with Load(pair.entry) as load:
            await load.reach(20)
            for _ in range(3):
                await pair.web_agent.put(leaf_secret(pair.root.issue(str(WEB))))
                await pair.api_agent.put(leaf_secret(pair.root.issue(str(API))))
                await load.reach(20)
        assert load.failed == []
        assert load.sent >= 80
        assert pair.server.stat("listener.inbound.ssl.handshake") >= 80
        assert pair.server.stat("listener.inbound.ssl.versions.TLSv1.3") >= 80
        assert pair.server.stat("listener.inbound.ssl.session_reused") == 0
        assert pair.client.stat("cluster.upstream.ssl.session_reused") == 0
        updates = "listener.inbound.server_ssl_socket_factory.ssl_context_update_by_sds"
        assert pair.server.stat(updates) >= 4
        assert len(pair.server.leaf_serials()) == 1


@pytest.mark.envoy
async def test_the_application_sees_who_called_and_cannot_be_told_otherwise(short_tmp: Path) -> None:
    async with mesh(short_tmp) as pair:
        lie = {"x-forwarded-client-cert": "URI=spiffe://td.test/admin"}
        told = json.loads((await get(pair.entry, "/a//b/../c", headers=lie)).body)
        assert told["path"] == "/a/c"
        assert told["headers"]["x-forwarded-client-cert"].endswith("URI=spiffe://td.test/web")
        assert "admin" not in told["headers"]["x-forwarded-client-cert"]
        assert (await get(pair.entry, "/a%2fb")).status == 400


@pytest.mark.envoy
async def test_grpc_passes_through_both_sidecars(short_tmp: Path) -> None:
    backend = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), backend)
    port = backend.add_insecure_port("127.0.0.1:0")
    await backend.start()
    try:
        async with (
            mesh(short_tmp, app=TcpAddress("127.0.0.1", port)) as pair,
            grpc.aio.insecure_channel(f"unix:{pair.entry.path}") as channel,
        ):
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        await backend.stop(None)


def tls_client(directory: Path, leaf: Leaf | None) -> ssl.SSLContext:
    """A caller that takes any server, with or without a certificate of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if leaf is not None:
        both = directory / "caller.pem"
        both.write_bytes(leaf.certificate + leaf.key)
        context.load_cert_chain(both)
    return context


async def is_refused(pair: Mesh, context: ssl.SSLContext) -> bool:
    try:
        await get(pair.door, tls=context)
    except (ssl.SSLError, ConnectionError):
        return True
    return False


@pytest.mark.envoy
async def test_callers_without_an_admitted_certificate_are_refused(short_tmp: Path) -> None:
    async with mesh(short_tmp, allowed=(WEB,)) as pair:
        assert (await get(pair.door, tls=tls_client(short_tmp, pair.root.issue(str(WEB))))).status == 200
        assert await is_refused(pair, tls_client(short_tmp, None))
        assert await is_refused(pair, tls_client(short_tmp, TestRoot().issue(str(WEB))))
        assert await is_refused(pair, tls_client(short_tmp, pair.root.issue(str(API))))
        old = tls_client(short_tmp, pair.root.issue(str(WEB)))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await is_refused(pair, old)
        assert pair.server.stat("listener.inbound.ssl.fail_verify_no_cert") == 1
        assert pair.server.stat("listener.inbound.ssl.fail_verify_error") == 1
        assert pair.server.stat("listener.inbound.ssl.fail_verify_san") == 1


@pytest.mark.envoy
async def test_a_server_with_another_identity_is_refused(short_tmp: Path) -> None:
    async with mesh(short_tmp, api_id="spiffe://td.test/impostor") as pair:
        assert (await get(pair.entry)).status == 503
        assert pair.client.stat("cluster.upstream.ssl.fail_verify_san") >= 1


@pytest.mark.envoy
async def test_an_empty_trust_bundle_is_rejected_and_the_old_trust_stays(short_tmp: Path) -> None:
    async with mesh(short_tmp, max_requests_per_connection=1) as pair:
        await pair.api_agent.put(trust_secret())
        await pair.web_agent.put(trust_secret())
        for envoy in (pair.server, pair.client):
            await envoy.until(lambda it=envoy: it.stat("sds.ROOTCA.update_rejected") >= 1, "to reject it")  # type: ignore[misc]
        assert await is_refused(pair, tls_client(short_tmp, None))
        assert await is_refused(pair, tls_client(short_tmp, TestRoot().issue(str(WEB))))
        assert (await get(pair.entry)).status == 200


@pytest.mark.envoy
async def test_a_connection_ends_at_its_bound(short_tmp: Path) -> None:
    async with mesh(short_tmp, max_connection_duration=timedelta(seconds=1)) as pair:
        context = tls_client(short_tmp, pair.root.issue(str(WEB)))
        reader, writer = await asyncio.open_unix_connection(pair.door.path, ssl=context, server_hostname="api")
        try:
            async with asyncio.timeout(10):
                assert await reader.read() == b""
        finally:
            writer.close()
        await pair.server.until(
            lambda: pair.server.stat("http.inbound.downstream_cx_max_duration_reached") >= 1, "to end the connection"
        )


@pytest.mark.envoy
async def test_an_agent_that_is_away_is_looked_for_many_times_a_second_and_found_at_once(short_tmp: Path) -> None:
    """Envoy's own back-off grows to 30 s; ours stays below 200 ms, for each of two streams: some 20 a second."""
    root, agent = TestRoot(), PipeAddress(str(short_tmp / "agent.sock"))
    secrets = {"default": leaf_secret(root.issue(str(API))), "ROOTCA": trust_secret(root.pem)}
    inbound = Inbound(PipeAddress(str(short_tmp / "in.sock")), PipeAddress(str(short_tmp / "app.sock")))
    config = sidecar(agent_socket=agent, inbound=inbound, outbound=(), admin=admin_pipe(short_tmp))
    async with running(config.as_dict(), short_tmp) as envoy:
        failures = "cluster.agent.upstream_cx_connect_fail"
        await envoy.until(lambda: envoy.stat(failures) >= 40, "to try 40 times", seconds=8)
        async with serving(agent, secrets):
            await envoy.live(seconds=2)


def test_the_harness_shows_why_an_envoy_died(short_tmp: Path) -> None:
    broken = {**sidecar(admin=admin_pipe(short_tmp)).as_dict(), "no_such_field": 1}
    with running(broken, short_tmp) as envoy, pytest.raises(AssertionError, match="no_such_field"):
        envoy.wait_live()


def test_nothing_but_loopback_can_be_reached_from_a_test() -> None:
    with (
        socket.socket() as outside,
        pytest.warns(UserWarning, match=r"192\.0\.2\.1"),
        pytest.raises(RuntimeError, match=r"192\.0\.2\.1"),
    ):
        outside.connect(("192.0.2.1", 9))
