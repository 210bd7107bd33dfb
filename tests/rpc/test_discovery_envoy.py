"""A real Envoy that connects straight to the server's hub with a certificate from files, and takes its trust there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.errors import unavailable
from tests.agent.discovery import until
from tests.envoys import Envoy, admin_pipe, running
from tests.rpc.discovering import NEXT, ROOT, Identity, Rig, identity

pytestmark = pytest.mark.envoy

TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def bootstrap(directory: Path, port: int, who: Identity, how: str, *, delta: bool) -> dict[str, Any]:
    """Its own certificate and first trust are files; the cluster that needs the hub's trust comes by CDS, since SDS
    over ADS inside a static one crashes Envoy at start."""
    (directory / "chain.pem").write_bytes(who.chain)
    (directory / "key.pem").write_bytes(who.key)
    (directory / "root.pem").write_bytes(ROOT.certificate.public_bytes(Encoding.PEM))
    (directory / "cds.json").write_text(json.dumps({"resources": [workload_cluster(how, delta=delta)]}))
    source = _grpc(delta=delta)
    return {
        "node": {"id": "sidecar", "cluster": "example.org"},
        "admin": {"address": admin_pipe(directory).as_envoy()},
        "dynamic_resources": {
            "cds_config": {"path_config_source": {"path": str(directory / "cds.json")}, "resource_api_version": "V3"},
            **({"ads_config": source} if how == "ads" else {}),
        },
        "static_resources": {"clusters": [hub_cluster(directory, port)]},
    }


def hub_cluster(directory: Path, port: int) -> dict[str, Any]:
    files = {name: {"filename": str(directory / f"{name}.pem")} for name in ("chain", "key", "root")}
    san = {"san_type": "URI", "matcher": {"exact": "spiffe://example.org/ca"}}
    return {
        "name": "hub",
        "type": "STATIC",
        "load_assignment": _at("hub", port),
        "typed_extension_protocol_options": {
            HTTP: {
                "@type": f"type.googleapis.com/{HTTP}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "transport_socket": _tls(
            {
                "tls_certificates": [{"certificate_chain": files["chain"], "private_key": files["key"]}],
                "validation_context": {"trusted_ca": files["root"], "match_typed_subject_alt_names": [san]},
            }
        ),
    }


def workload_cluster(how: str, *, delta: bool) -> dict[str, Any]:
    config = {"ads": {}} if how == "ads" else {"api_config_source": _grpc(delta=delta)}
    trust = {"name": "ROOTCA", "sds_config": {**config, "resource_api_version": "V3", "initial_fetch_timeout": "10s"}}
    san = {"san_type": "URI", "matcher": {"prefix": "spiffe://example.org/"}}
    context = {
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [san]},
            "validation_context_sds_secret_config": trust,
        }
    }
    cluster = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    return {
        "@type": cluster,
        "name": "up",
        "type": "STATIC",
        "load_assignment": _at("up", 9),
        "transport_socket": _tls(context),
    }


def _tls(common: dict[str, Any]) -> dict[str, Any]:
    limits = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
    context = {"@type": TLS, "common_tls_context": {"tls_params": limits, **common}}
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _grpc(*, delta: bool) -> dict[str, Any]:
    backoff = {"retry_back_off": {"base_interval": "0.05s", "max_interval": "0.2s"}}
    return {
        "api_type": "DELTA_GRPC" if delta else "GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [{"envoy_grpc": {"cluster_name": "hub", "retry_policy": backoff}}],
    }


def _at(name: str, port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


def trusted(envoy: Envoy) -> set[str]:
    """Serials of the roots that the workload cluster trusts now."""
    return {entry["serial_number"] for each in envoy.certificates() for entry in each.get("ca_cert", [])}


def serials(*roots: Any) -> set[str]:
    return {f"{root.certificate.serial_number:x}" for root in roots}


@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
@pytest.mark.parametrize("how", ["sds", "ads"])
async def test_trust_reaches_an_envoy_and_its_acknowledgement_is_evidence(
    short_tmp: Path, how: str, delta: bool
) -> None:
    web = identity()
    async with Rig() as rig:
        rig.publish(1, ROOT)
        config = bootstrap(short_tmp, rig.mtls_port, web, how, delta=delta)
        async with running(config, short_tmp) as envoy:
            await envoy.live()
            await until(lambda: (web.serial, 1, "") in rig.record.known)
            rig.publish(2, ROOT, NEXT)
            await until(lambda: (web.serial, 2, "") in rig.record.known)
            await envoy.until(lambda: serials(NEXT) <= trusted(envoy), "to trust the next root")
            assert rig.counts.nacks == 0


async def test_an_envoy_that_comes_back_is_sent_nothing_and_counts(short_tmp: Path) -> None:
    web = identity()
    async with Rig() as rig:
        rig.publish(1, ROOT)
        async with running(bootstrap(short_tmp, rig.mtls_port, web, "sds", delta=True), short_tmp) as envoy:
            await envoy.live()
            await until(lambda: (web.serial, 1, "") in rig.record.known)
            rig.hub._proven.clear()  # as a server that was started anew
            rig.record.batches.clear()
            pushes = rig.counts.pushes
            for stream in tuple(rig.hub._streams):
                stream.end(unavailable("go"))
            await until(lambda: rig.record.known == [(web.serial, 1, "")])
            assert rig.counts.pushes == pushes
