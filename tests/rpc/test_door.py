"""The signing door, over real gRPC and TLS: what it answers, what it refuses and with which words."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any, cast

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf import struct_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from meshca.demo.intruders import foreign_credentials
from meshca.pki.keys import KeyAlgorithm, PrivateKey
from meshca.pki.records import LedgerQuery
from meshca.proto.istio.v1.auth import ca_pb2, ca_pb2_grpc
from meshca.proto.meshca.v1 import admin_pb2
from meshca.proto.meshca.v1 import certificates_pb2 as pb
from meshca.rpc.admin import AdminDoor
from meshca.rpc.certificates import CertificateDoor, certificate_handlers
from meshca.rpc.limits import PeerLimiter
from meshca.rpc.listeners import ListenerLimits
from meshca.rpc.peers import token_peer
from meshca.services.authentication import Authentication
from meshca.services.health import Health, LastTick
from meshca.services.signing import CONFIRMED_FOR
from meshca.settings.server import JwtIssuerSettings, LeafSettings, LimitSettings
from meshca.spiffe.ids import SpiffeId
from meshca.spiffe.peers import AuthenticationMethod, Caller, Peer
from meshca.tokens.join import hash_join_token
from tests.assets.csrs import good, key_of
from tests.doors import LIMITS, MESH, WORKLOAD, Metadata, RunningDoor, bearer, csr_pem, listening, open_door
from tests.http2 import ACK, Http2, Kind, connect_tcp, connect_tls, ping
from tests.jwts import key_set, p256, public_jwk, token
from tests.stores.blocking import writing_blocked

ISSUER = "https://issuer.test"
Request = ca_pb2.IstioCertificateRequest


@pytest.fixture(scope="module")
def issuer_key() -> PrivateKey:
    return p256()


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, issuer_key: PrivateKey) -> Iterator[RunningDoor]:
    directory = tmp_path_factory.mktemp("door")
    jwks = directory / "jwks.json"
    jwks.write_bytes(key_set(public_jwk(issuer_key, kid="k1", use="sig", alg="ES256")))
    rule = JwtIssuerSettings(issuer=ISSUER, audiences=("istio-ca",), jwks_file=jwks, algorithms=("ES256",))
    with open_door(directory, jwt_issuers=(rule,)) as running:
        yield running


def jwt(key: PrivateKey, **changes: object) -> str:
    """A token of the configured issuer, valid now."""
    now = int(datetime.now(UTC).timestamp())
    fine: dict[str, Any] = {"iss": ISSUER, "aud": ["istio-ca"], "sub": "system:serviceaccount:shop:cart"}
    return token(key, **{**fine, "exp": now + 600, "iat": now, "nbf": now, **changes})


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details() or ""


# --- Istio's contract ---------------------------------------------------------------------------------------------


def test_the_answer_is_leaf_then_issuer_then_the_whole_root_bundle(door: RunningDoor) -> None:
    chain = door.create(Request(csr=csr_pem()), bearer(door.join_token()))
    assert len(chain) == 3
    assert [element.count("BEGIN CERTIFICATE") for element in chain] == [1, 1, 1]
    assert all(element.endswith("-----END CERTIFICATE-----\n") for element in chain)
    leaf, issuer, root = (x509.load_pem_x509_certificate(element.encode()) for element in chain)
    leaf.verify_directly_issued_by(issuer)
    issuer.verify_directly_issued_by(root)
    assert chain[-1].encode() == door.root
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.value.get_values_for_type(x509.UniformResourceIdentifier) == [WORKLOAD]
    assert leaf.public_key() == key_of(KeyAlgorithm.P256).public_key()


def test_a_kubernetes_token_gives_the_service_accounts_identity(door: RunningDoor, issuer_key: PrivateKey) -> None:
    chain = door.create(Request(csr=csr_pem()), bearer(jwt(issuer_key)))
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{MESH}/ns/shop/sa/cart"]


@pytest.mark.parametrize(("asked", "given"), [(0, 3600), (-5, 3600), (1, 1), (60, 60), (86400, 86400)], ids=str)
def test_lifetimes(door: RunningDoor, issuer_key: PrivateKey, asked: int, given: int) -> None:
    before = datetime.now(UTC)
    chain = door.create(Request(csr=csr_pem(), validity_duration=asked), bearer(jwt(issuer_key)))
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    end = before + timedelta(seconds=given)
    assert end - timedelta(seconds=1) <= leaf.not_valid_after_utc <= end + timedelta(seconds=5)


def test_a_ttl_above_the_maximum_is_refused_in_istios_words(door: RunningDoor, issuer_key: PrivateKey) -> None:
    request = Request(csr=csr_pem(), validity_duration=86401)
    assert refusal(lambda: door.create(request, bearer(jwt(issuer_key)))) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "CSR signing error (requested TTL 86401s is greater than the max allowed TTL 86400s)",
    )


@pytest.mark.parametrize(
    "csr",
    ["", "   ", "garbage", csr_pem() + csr_pem(), csr_pem()[:-80], "A" * 20_000],
    ids=["empty", "blank", "garbage", "two", "truncated", "huge"],
)
def test_a_bad_csr_is_invalid_argument(door: RunningDoor, issuer_key: PrivateKey, csr: str) -> None:
    before = door.issued()
    code, words = refusal(lambda: door.create(Request(csr=csr), bearer(jwt(issuer_key))))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert words.startswith("CSR signing error (csr ")
    assert door.issued() == before


def test_a_message_beyond_the_bound_is_refused_before_it_is_read(door: RunningDoor, issuer_key: PrivateKey) -> None:
    code, _ = refusal(lambda: door.create(Request(csr="A" * 2_000_000), bearer(jwt(issuer_key))))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def _hostile(key: PrivateKey) -> dict[str, Metadata]:
    now = int(datetime.now(UTC).timestamp())
    other = p256()
    return {
        "no authorization": (),
        "not a bearer": (("authorization", "Basic Zm9v"),),
        "lower-case bearer": (("authorization", f"bearer {jwt(key)}"),),
        "empty bearer": (("authorization", "Bearer "),),
        "garbage": bearer("garbage"),
        "unknown join token": bearer("mjt_" + "A" * 43),
        "foreign signature": bearer(jwt(other)),
        "unknown issuer": bearer(jwt(key, iss="https://elsewhere.test")),
        "wrong audience": bearer(jwt(key, aud="vault")),
        "no audience": bearer(jwt(key, aud=None)),
        "expired": bearer(jwt(key, exp=now - 600)),
        "not yet valid": bearer(jwt(key, nbf=now + 600)),
        "no expiry": bearer(jwt(key, exp=None)),
        "no subject": bearer(jwt(key, sub=None)),
        "subject of three parts": bearer(jwt(key, sub="system:serviceaccount:shop")),
        "subject of five parts": bearer(jwt(key, sub="system:serviceaccount:shop:cart:x")),
        "subject with a slash": bearer(jwt(key, sub="system:serviceaccount:shop/../x:cart")),
        "subject with a comma": bearer(jwt(key, sub="system:serviceaccount:shop:cart,evil")),
        "somebody's user": bearer(jwt(key, sub="alice")),
        "huge": bearer("x" * 17_000),
        "forged client certificate header": (
            ("x-forwarded-client-cert", f"By=spiffe://{MESH}/x;URI=spiffe://{MESH}/ns/a/sa/b"),
        ),
    }


HOSTILE = list(_hostile(p256()))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_caller_that_does_not_convince_hears_nothing_but_no(
    door: RunningDoor, issuer_key: PrivateKey, name: str
) -> None:
    before = door.issued()
    outcome = refusal(lambda: door.create(Request(csr=csr_pem()), _hostile(issuer_key)[name]))
    assert outcome == (grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure")
    assert door.issued() == before


def test_metadata_beyond_the_bound_is_refused(door: RunningDoor) -> None:
    code, _ = refusal(lambda: door.create(Request(csr=csr_pem()), bearer("x" * 40_000)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("key", "code", "words"),
    [
        ("ImpersonatedIdentity", grpc.StatusCode.UNAUTHENTICATED, "request impersonation authentication failure"),
        ("CertSigner", grpc.StatusCode.INVALID_ARGUMENT, "CSR signing error (metadata CertSigner names a signer"),
    ],
)
def test_wishes_in_the_metadata_that_are_not_granted(
    door: RunningDoor, issuer_key: PrivateKey, key: str, code: grpc.StatusCode, words: str
) -> None:
    metadata = struct_pb2.Struct()
    metadata[key] = f"spiffe://{MESH}/ns/kube-system/sa/root"
    got, details = refusal(lambda: door.create(Request(csr=csr_pem(), metadata=metadata), bearer(jwt(issuer_key))))
    assert got is code
    assert details.startswith(words)


def test_what_every_pilot_agent_sends_along_is_fine(door: RunningDoor, issuer_key: PrivateKey) -> None:
    metadata = struct_pb2.Struct()
    metadata["CertSigner"] = ""
    metadata["WorkloadName"] = "cart"
    headers = (*bearer(jwt(issuer_key)), ("clusterid", "Kubernetes"))
    assert len(door.create(Request(csr=csr_pem(), metadata=metadata), headers)) == 3


# --- who may hold what ----------------------------------------------------------------------------------------------


def test_a_join_token_serves_once(door: RunningDoor) -> None:
    spent = door.join_token()
    door.create(Request(csr=csr_pem()), bearer(spent))
    assert refusal(lambda: door.create(Request(csr=csr_pem()), bearer(spent)))[0] is grpc.StatusCode.UNAUTHENTICATED


def test_of_many_that_redeem_one_token_at_once_exactly_one_gets_a_certificate(door: RunningDoor) -> None:
    shared, before = door.join_token(), door.issued()

    def redeem(_: int) -> grpc.StatusCode:
        try:
            door.create(Request(csr=csr_pem()), bearer(shared))
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    with ThreadPoolExecutor(16) as pool:
        outcomes = Counter(pool.map(redeem, range(16)))
    assert outcomes == {grpc.StatusCode.OK: 1, grpc.StatusCode.UNAUTHENTICATED: 15}
    # who lost the race may have been recorded, but was not signed
    assert before + 1 <= door.issued() <= before + 16


def test_a_renewal_by_svid_gives_the_same_identity_whatever_the_csr_says(door: RunningDoor) -> None:
    credentials = door.svid()
    evil = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{MESH}/ns/kube-system/sa/root")])
    csr = good(key_of(KeyAlgorithm.P256), extensions=[(evil, True), (x509.BasicConstraints(True, None), True)])
    answer = door.sign(pb.SigningRequest(csr=csr.public_bytes(Encoding.DER)), credentials=credentials)
    assert [result.certificate.spiffe_id for result in answer.results] == [WORKLOAD]
    leaf = x509.load_der_x509_certificate(answer.results[0].certificate.chain[0])
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert answer.mtls_address == ""


def test_somebody_elses_identity_is_denied(door: RunningDoor) -> None:
    wish = pb.SigningRequest(csr=csr_pem().encode(), spiffe_id=f"spiffe://{MESH}/ns/other/sa/other")
    answer = door.sign(wish, credentials=door.svid())
    assert answer.results[0].refusal.code == grpc.StatusCode.PERMISSION_DENIED.value[0]


def test_the_mtls_listener_wants_a_certificate(door: RunningDoor) -> None:
    context = ssl.create_default_context(cadata=door.root.decode())
    context.set_alpn_protocols(["h2"])  # without it gRPC hangs up on anybody
    host, _, port = door.addresses.mtls.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        try:
            with context.wrap_socket(raw, server_hostname="localhost") as tls:
                tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                heard = tls.recv(1)
        except (ssl.SSLError, ConnectionError):
            heard = b""
    assert heard == b""


def test_the_mtls_listener_refuses_a_foreign_ca(door: RunningDoor) -> None:
    pem = foreign_credentials(SpiffeId.parse(WORKLOAD))
    code, _ = refusal(lambda: door.sign(pb.SigningRequest(csr=csr_pem().encode()), credentials=(pem, pem)))
    assert code is grpc.StatusCode.UNAVAILABLE


def test_a_connection_outlives_its_certificate_but_earns_nothing_by_it(door: RunningDoor) -> None:
    credentials = door.svid(ttl_seconds=2)
    with door.channel(credentials=credentials) as channel:
        stub = ca_pb2_grpc.IstioCertificateServiceStub(channel)
        stub.CreateCertificate(Request(csr=csr_pem()), timeout=10)
        end = x509.load_pem_x509_certificate(credentials[1]).not_valid_after_utc
        deadline = time.monotonic() + 10
        while datetime.now(UTC) <= end + timedelta(seconds=1):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        outcome = refusal(lambda: stub.CreateCertificate(Request(csr=csr_pem()), timeout=10))
    assert outcome == (grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure")


def test_the_token_listener_tells_agents_where_to_renew(door: RunningDoor) -> None:
    answer = door.sign(pb.SigningRequest(csr=csr_pem().encode()), metadata=bearer(door.join_token()))
    assert answer.mtls_address == door.addresses.mtls
    assert answer.bundle.sequence == 1
    assert list(answer.bundle.x509_authorities) == list(door.core.signing.current().bundle.x509_authorities)


def test_who_is_revoked_is_told_no_more_than_that_and_spends_no_token(tmp_path: Path) -> None:
    with open_door(tmp_path) as door:
        revocations = door.core.authorities.revocations
        credentials, token, known = door.svid(), door.join_token(), door.issued()
        revocations.revoke(WORKLOAD, "", "stolen")
        wish = pb.SigningRequest(csr=csr_pem().encode())
        for answer in (door.sign(wish, credentials=credentials), door.sign(wish, metadata=bearer(token))):
            (result,) = answer.results
            assert (result.refusal.code, result.refusal.message) == (7, "the request is denied")
        words = "CSR signing error (the request is denied)"
        assert refusal(lambda: door.create(Request(csr=csr_pem()), bearer(token))) == (
            grpc.StatusCode.PERMISSION_DENIED,
            words,
        )
        assert door.issued() == known
        revocations.unban(WORKLOAD, "")
        assert len(door.create(Request(csr=csr_pem()), bearer(token))) == 3, "the token was not spent"


def test_a_revoked_certificate_proves_nothing_at_the_door(tmp_path: Path) -> None:
    with open_door(tmp_path) as door:
        credentials = door.svid()
        serial = x509.load_pem_x509_certificates(credentials[1])[0].serial_number
        wish = pb.SigningRequest(csr=csr_pem().encode())
        door.sign(wish, credentials=credentials)
        door.core.authorities.revocations.revoke("", f"{serial:x}", "exposed")
        opaque = (grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure")
        assert refusal(lambda: door.sign(wish, credentials=credentials)) == opaque
        door.sign(wish, credentials=door.svid())


def test_a_door_whose_authorities_cannot_be_read_signs_nothing_says_so_and_lets_callers_connect(tmp_path: Path) -> None:
    with open_door(tmp_path) as door:
        credentials = door.svid()
        token, known = door.join_token(), door.issued()
        door.watch.seconds += CONFIRMED_FOR.total_seconds() + 1
        wish = pb.SigningRequest(csr=csr_pem().encode())
        calls = (
            lambda: door.sign(wish, credentials=credentials),
            lambda: door.sign(wish, metadata=bearer(token)),
            lambda: door.create(Request(csr=csr_pem()), bearer(token)),
        )
        for call in calls:
            words = "CSR signing error (the CA is not ready; nothing was issued)"
            assert refusal(call) == (grpc.StatusCode.UNAVAILABLE, words)
        assert door.issued() == known
        core = door.core
        authorities = core.authorities
        admin = AdminDoor(
            core.signing,
            core.stores.ledger,
            core.enrolment,
            authorities.control,
            authorities.revocations,
            authorities.imports,
            lambda: Health((), LastTick(timedelta(seconds=1), timedelta(0))),
        )
        assert len(admin.ListAuthorities(admin_pb2.ListAuthoritiesRequest(), cast("Any", None)).authorities) == 2
        assert admin.GetTrustBundle(admin_pb2.GetTrustBundleRequest(), cast("Any", None)).bundle.x509_authorities
        assert door.metrics.registry.get_sample_value("meshca_bundle_sequence") == 1
        assert (
            door.metrics.registry.get_sample_value("citadel_server_csr_sign_err_count", {"error": "CA_NOT_READY"}) == 3
        )
        core.authorities.keeper.refresh()
        assert len(door.create(Request(csr=csr_pem()), bearer(token))) == 3, "the token was not spent"


# --- batches --------------------------------------------------------------------------------------------------------


def test_a_batch_is_answered_one_by_one(door: RunningDoor) -> None:
    fine = pb.SigningRequest(csr=csr_pem().encode())
    broken = pb.SigningRequest(csr=b"garbage")
    greedy = pb.SigningRequest(csr=csr_pem().encode(), ttl_seconds=10**9)
    answer = door.sign(fine, broken, greedy, fine, credentials=door.svid())
    assert [result.WhichOneof("result") for result in answer.results] == [
        "certificate",
        "refusal",
        "refusal",
        "certificate",
    ]
    serials = {result.certificate.serial for result in answer.results if result.HasField("certificate")}
    assert len(serials) == 2


@pytest.mark.parametrize("size", [0, 101])
def test_batches_are_bounded(door: RunningDoor, size: int) -> None:
    wishes = [pb.SigningRequest(csr=csr_pem().encode())] * size
    code, words = refusal(lambda: door.sign(*wishes, credentials=door.svid()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"requests holds {size} items: send 1 to 100" in words


# --- what else the listeners offer ------------------------------------------------------------------------------------


def test_health_and_reflection(door: RunningDoor) -> None:
    with door.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "istio.v1.auth.IstioCertificateService", "meshca.v1.CertificateService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        listed = next(iter(reflection.ServerReflectionInfo(iter([question]), timeout=5)))
        names = {service.name for service in listed.list_services_response.service}
        assert {"istio.v1.auth.IstioCertificateService", "meshca.v1.CertificateService"} <= names


def test_the_server_certificate_is_swapped_without_a_restart(tmp_path: Path) -> None:
    with open_door(tmp_path, server_certificate_ttl=timedelta(seconds=4)) as running:
        first = _served_serial(running)
        deadline = time.monotonic() + 20
        while _served_serial(running) == first:
            assert time.monotonic() < deadline, "the listener still presents the old certificate"
            running.core.identity.ensure()
        records = running.core.stores.ledger.find(_everything()).records
        assert sum(record.kind == "server" for record in records) >= 2


def test_the_server_certificate_names_loopback(door: RunningDoor) -> None:
    material = door.core.identity.material
    assert material is not None
    leaf = x509.load_pem_x509_certificates(material.chain)[0]
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in san.get_values_for_type(x509.DNSName)
    assert [str(address) for address in san.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_clients_may_ping_far_more_often_than_grpc_lets_them_by_default(door: RunningDoor) -> None:
    """ztunnel and pilot-agent ping idle connections; by default gRPC ends that with "too_many_pings"."""
    with Http2(door) as peer:
        peer.send(*(ping(number) for number in range(30)))
        answered: set[bytes] = set()
        while len(answered) < 30:
            frame = peer.read()
            assert frame.kind is not Kind.GOAWAY, f"GOAWAY: {frame.payload!r}"
            if frame.kind is Kind.PING and frame.flags & ACK:
                answered.add(frame.payload)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_tls_versions_of_istios_clients(door: RunningDoor, version: ssl.TLSVersion) -> None:
    with connect_tls(door, version) as tls:
        assert tls.version() == version.name.replace("_", ".")
        assert tls.selected_alpn_protocol() == "h2"


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_flood_is_told_when_to_come_back_and_starves_nobody_else(tmp_path: Path) -> None:
    limits = LimitSettings(requests_per_second=0.5, burst=5)
    with open_door(tmp_path, limits=limits) as running:
        # five from this address use up its bucket: two SVIDs and three floods
        calm, flooder = running.svid(f"spiffe://{MESH}/ns/a/sa/calm"), running.svid()
        request = pb.SigningRequest(csr=csr_pem().encode())
        for _ in range(5):
            running.sign(request, credentials=flooder)
        with pytest.raises(grpc.RpcError) as caught:
            running.sign(request, credentials=flooder)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        trailing: dict[str, Any] = dict(cast("Any", caught.value.trailing_metadata()))
        assert 0 < int(trailing["grpc-retry-pushback-ms"]) <= 2000
        status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
        hint = error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(hint)
        assert 0 < hint.retry_delay.ToTimedelta().total_seconds() <= 2
        running.sign(request, credentials=calm)


def test_a_thousand_callers_at_once_are_all_served(door: RunningDoor) -> None:
    """A mesh that starts: each waits for its turn, and none is taken for one that sends nothing."""
    limits = replace(LIMITS, max_concurrent_calls=1000)
    with slow_door(door, limits) as (_, address), ExitStack() as stack:
        channels = [stack.enter_context(door.channel(to=address)) for _ in range(10)]
        stubs = [ca_pb2_grpc.IstioCertificateServiceStub(channel) for channel in channels]
        for stub in stubs:  # who is connected knows how many calls a connection may have
            stub.CreateCertificate(Request(csr=csr_pem()), timeout=10)
        calls = [stub.CreateCertificate.future(Request(csr=csr_pem()), timeout=30) for stub in stubs * 100]
        assert all(len(call.result(30).cert_chain) == 3 for call in calls)


def test_an_unauthenticated_flood_burns_no_token(tmp_path: Path) -> None:
    with open_door(tmp_path, limits=LimitSettings(requests_per_second=0.1, burst=1)) as running:
        spent, kept = running.join_token(), running.join_token()
        running.create(Request(csr=csr_pem()), bearer(spent))
        code, _ = refusal(lambda: running.create(Request(csr=csr_pem()), bearer(kept)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert running.core.stores.join_tokens.redeem(_hash(kept), datetime.now(UTC)).spiffe_id.path == "/ns/a/sa/b"


def test_key_types_follow_the_configuration(tmp_path: Path) -> None:
    families = LeafSettings.model_validate({"key_types": ["p256", "ed25519"]})
    with open_door(tmp_path, leaf=families) as running:
        running.create(Request(csr=csr_pem(key_of(KeyAlgorithm.ED25519))), bearer(running.join_token()))
        code, words = refusal(
            lambda: running.create(Request(csr=csr_pem(key_of(KeyAlgorithm.P384))), bearer(running.join_token()))
        )
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert words == "CSR signing error (key: type p384 is not allowed here: use one of ed25519, p256)"


def test_a_fault_that_nobody_foresaw_tells_the_caller_nothing(door: RunningDoor) -> None:
    class BrokenClock:
        def now(self) -> datetime:
            raise ZeroDivisionError("the secret of the clock")

    core = door.core
    limiter = PeerLimiter(100, 100, time.monotonic)
    broken = CertificateDoor(
        core.authentication, core.issuance, limiter, BrokenClock(), door.metrics, token_peer, lambda: ""
    )
    before = handled(door, "Internal")
    with listening(door, certificate_handlers(broken, door.metrics)) as address, door.channel(to=address) as channel:
        stub = ca_pb2_grpc.IstioCertificateServiceStub(channel)
        outcome = refusal(lambda: stub.CreateCertificate(Request(csr=csr_pem()), timeout=5))
    assert outcome == (grpc.StatusCode.INTERNAL, "internal error")
    assert handled(door, "Internal") == before + 1


class HeldAuthenticator:
    """An authenticator that decides about tokens when the test says so; `asked` tells that it shall."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.decided = threading.Event()

    def authenticate(self, peer: Peer, now: datetime) -> Caller | None:
        if peer.bearer_tokens:
            self.asked.set()
            assert self.decided.wait(10)
        return Caller(SpiffeId.parse(WORKLOAD), AuthenticationMethod.JWT, "test")


@contextmanager
def slow_door(door: RunningDoor, limits: ListenerLimits) -> Iterator[tuple[HeldAuthenticator, str]]:
    """A listener whose callers with tokens wait, and its address; the others are WORKLOAD at once."""
    held = HeldAuthenticator()
    limiter = PeerLimiter(1, 2000, time.monotonic)
    slow = CertificateDoor(
        Authentication((held,)), door.core.issuance, limiter, door.core.clock, door.metrics, token_peer, str
    )
    handlers = certificate_handlers(slow, door.metrics)
    with listening(door, handlers, limits) as address:
        try:
            yield held, address
        finally:
            held.decided.set()


def test_a_token_that_takes_long_to_verify_holds_up_nobody_else(door: RunningDoor) -> None:
    with slow_door(door, LIMITS) as (held, address), door.channel(to=address) as channel:
        stub = ca_pb2_grpc.IstioCertificateServiceStub(channel)
        slow = stub.CreateCertificate.future(Request(csr=csr_pem()), metadata=tuple(bearer("x")), timeout=20)
        assert held.asked.wait(10)
        assert len(stub.CreateCertificate(Request(csr=csr_pem()), timeout=5).cert_chain) == 3
        assert not slow.done()
        held.decided.set()
        assert len(slow.result(10).cert_chain) == 3


def test_calls_beyond_the_bound_are_refused_until_there_is_room(door: RunningDoor) -> None:
    with (
        slow_door(door, replace(LIMITS, max_concurrent_calls=1)) as (held, address),
        door.channel(to=address) as channel,
    ):
        stub = ca_pb2_grpc.IstioCertificateServiceStub(channel)
        slow = stub.CreateCertificate.future(Request(csr=csr_pem()), metadata=tuple(bearer("x")), timeout=20)
        assert held.asked.wait(10)
        assert refusal(lambda: stub.CreateCertificate(Request(csr=csr_pem()), timeout=5)) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "too many calls are under way: try again later",
        )
        held.decided.set()
        slow.result(10)
        assert len(stub.CreateCertificate(Request(csr=csr_pem()), timeout=5).cert_chain) == 3


def test_a_caller_that_goes_away_is_counted_as_such_and_gets_no_certificate(door: RunningDoor) -> None:
    before, issued = handled(door, "Canceled"), door.issued()
    with slow_door(door, LIMITS) as (held, address), door.channel(to=address) as channel:
        stub = ca_pb2_grpc.IstioCertificateServiceStub(channel)
        call = stub.CreateCertificate.future(Request(csr=csr_pem()), metadata=tuple(bearer("x")), timeout=20)
        assert held.asked.wait(10)
        call.cancel()
        _until(lambda: handled(door, "Canceled") > before)
        held.decided.set()
        assert len(stub.CreateCertificate(Request(csr=csr_pem()), timeout=5).cert_chain) == 3
    assert door.issued() == issued + 1


def test_who_is_under_way_when_the_door_closes_is_served_and_who_comes_is_not(tmp_path: Path) -> None:
    with open_door(tmp_path, shutdown_grace=20) as running, running.channel() as channel:
        stub = ca_pb2_grpc.IstioCertificateServiceStub(channel)
        joining = tuple(bearer(running.join_token()))
        with writing_blocked(tmp_path / "ca" / "meshca.db"):
            call = stub.CreateCertificate.future(Request(csr=csr_pem()), metadata=joining, timeout=20)
            _until(lambda: running.core.stores.ledger.queue_depth > 0)
            closing = Thread(target=running.loop.run, args=(running.door.close(),))
            closing.start()
            _until(lambda: not _accepts(running))
            assert not call.done()
            assert closing.is_alive()
        assert len(call.result(10).cert_chain) == 3
        closing.join(10)
        assert not closing.is_alive()


def test_a_grace_that_is_over_ends_who_is_still_under_way(tmp_path: Path) -> None:
    with open_door(tmp_path, shutdown_grace=0.1) as running, running.channel() as channel:
        stub = ca_pb2_grpc.IstioCertificateServiceStub(channel)
        joining = tuple(bearer(running.join_token()))
        with writing_blocked(tmp_path / "ca" / "meshca.db"):
            call = stub.CreateCertificate.future(Request(csr=csr_pem()), metadata=joining, timeout=20)
            _until(lambda: running.core.stores.ledger.queue_depth > 0)
            running.loop.run(running.door.close())
            code, _ = refusal(lambda: call.result(10))
            assert code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited 10 s in vain"
        time.sleep(0.01)


def _accepts(running: RunningDoor) -> bool:
    try:
        connect_tcp(running.addresses.token).close()
    except ConnectionRefusedError:
        return False
    return True


def handled(door: RunningDoor, code: str) -> float:
    """How many CreateCertificate calls ended with a code."""
    names = {"grpc_service": "istio.v1.auth.IstioCertificateService", "grpc_method": "CreateCertificate"}
    labels = {**names, "grpc_type": "unary", "grpc_code": code}
    return door.metrics.registry.get_sample_value("grpc_server_handled_total", labels) or 0.0


def _hash(text: str) -> str:
    return hash_join_token(text)


def _everything() -> LedgerQuery:
    return LedgerQuery(limit=1000)


def _served_serial(running: RunningDoor) -> int:
    host, _, port = running.addresses.token.rpartition(":")
    pem = ssl.get_server_certificate((host, int(port)))
    return x509.load_pem_x509_certificate(pem.encode()).serial_number
