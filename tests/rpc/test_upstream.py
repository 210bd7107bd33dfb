"""The door for nested servers: the real mTLS listener, and what it does not do for others."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.pki.keys import KeyAlgorithm
from meshca.pki.requests import request_issuer
from meshca.proto.meshca.plugin.v1 import upstream_pb2 as pb
from meshca.proto.meshca.plugin.v1.upstream_pb2_grpc import UpstreamAuthorityStub
from meshca.spiffe.ids import TrustDomain
from tests.assets.authorities import signer_of
from tests.assets.csrs import key_of
from tests.doors import MESH, WORKLOAD, RunningDoor, open_door, private_pem
from tests.svids import TestCa, new_key, uris

EAST = f"spiffe://{MESH}/ca/east"
CODE = grpc.StatusCode


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDoor]:
    with open_door(tmp_path_factory.mktemp("door"), downstream={"allow": [EAST]}) as opened:
        yield opened


@pytest.fixture
def east(door: RunningDoor) -> Iterator[UpstreamAuthorityStub]:
    with door.channel(credentials=door.svid(EAST)) as channel:
        yield UpstreamAuthorityStub(channel)


def request(ttl_seconds: int = 86400, trust_domain: str = MESH) -> pb.MintRequest:
    signer = signer_of(KeyAlgorithm.P256, 9100)
    csr = request_issuer(signer.public_key_der, KeyAlgorithm.P256, TrustDomain(trust_domain), signer)
    return pb.MintRequest(csr=csr, ttl_seconds=ttl_seconds)


def code_of(call: object) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(grpc.RpcError) as refused:
        call()  # type: ignore[operator]
    return refused.value.code(), refused.value.details()


def test_who_is_named_has_an_issuing_ca_under_the_root_that_it_is_told_of(
    door: RunningDoor, east: UpstreamAuthorityStub
) -> None:
    stream = east.WatchRoots(pb.WatchRootsRequest(), timeout=10)
    (root,) = next(stream).roots
    stream.cancel()
    (issuing,) = east.Mint(request(), timeout=10).chain
    x509.load_der_x509_certificate(issuing).verify_directly_issued_by(x509.load_der_x509_certificate(root))
    east.AcknowledgeRoots(pb.AcknowledgeRootsRequest(trusted=[bytes(32)], issuing=issuing), timeout=10)


def test_another_workload_has_neither_issuing_ca_nor_stream(door: RunningDoor) -> None:
    expected = f"{WORKLOAD} may have no issuing CA here: `downstream.allow` does not name it"
    with door.channel(credentials=door.svid(WORKLOAD)) as channel:
        stub = UpstreamAuthorityStub(channel)
        acknowledge = pb.AcknowledgeRootsRequest()
        refused = {
            code_of(lambda: stub.Mint(request(), timeout=10)),
            code_of(lambda: next(stub.WatchRoots(pb.WatchRootsRequest(), timeout=10))),
            code_of(lambda: stub.AcknowledgeRoots(acknowledge, timeout=10)),
        }
    assert refused == {(CODE.PERMISSION_DENIED, expected)}


def test_a_server_below_cannot_come_as_another_with_a_certificate_that_it_signed_itself(
    door: RunningDoor, east: UpstreamAuthorityStub
) -> None:
    (issuing,) = east.Mint(request(), timeout=10).chain
    below = TestCa(x509.load_der_x509_certificate(issuing), key_of(KeyAlgorithm.P256, 9100))
    key, now = new_key(), datetime.now(UTC)
    identifier = below.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    leaf = below.svid(
        *uris(EAST),
        key=key,
        authority_key_id=False,
        extra=((x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False),),
        not_before=now - timedelta(minutes=1),
        not_after=now + timedelta(hours=1),
    )
    certificates = (x509.load_der_x509_certificate(leaf), below.certificate)
    chain = b"".join(each.public_bytes(Encoding.PEM) for each in certificates)
    expected = (CODE.PERMISSION_DENIED, "this certificate is not of this server: come with one that you had from here")
    with door.channel(credentials=(private_pem(key), chain)) as channel:
        stub = UpstreamAuthorityStub(channel)
        acknowledged = pb.AcknowledgeRootsRequest(issuing=issuing)
        assert code_of(lambda: stub.Mint(request(), timeout=10)) == expected
        assert code_of(lambda: stub.AcknowledgeRoots(acknowledged, timeout=10)) == expected
        assert code_of(lambda: next(stub.WatchRoots(pb.WatchRootsRequest(), timeout=10))) == expected


def test_a_token_proves_nothing_here(door: RunningDoor) -> None:
    metadata = (("authorization", f"Bearer {door.join_token(EAST)}"),)
    with door.channel() as channel:
        stub = UpstreamAuthorityStub(channel)
        assert code_of(lambda: stub.Mint(request(), metadata=metadata, timeout=10))[0] is CODE.UNIMPLEMENTED
    with door.channel(credentials=door.svid(WORKLOAD)) as channel:
        stub = UpstreamAuthorityStub(channel)
        assert code_of(lambda: stub.Mint(request(), metadata=metadata, timeout=10))[0] is CODE.PERMISSION_DENIED


def test_what_is_wrong_with_a_request_is_told(east: UpstreamAuthorityStub) -> None:
    assert code_of(lambda: east.Mint(pb.MintRequest(csr=b"x", ttl_seconds=1), timeout=10))[0] is CODE.INVALID_ARGUMENT
    assert code_of(lambda: east.Mint(request(ttl_seconds=-1), timeout=10)) == (
        CODE.INVALID_ARGUMENT,
        "ttl_seconds must be more than 0",
    )
    other = code_of(lambda: east.Mint(request(trust_domain="other.org"), timeout=10))
    assert other == (CODE.INVALID_ARGUMENT, f"csr is not for spiffe://{MESH}, and for that alone")
    assert len(east.Mint(request(ttl_seconds=2**62), timeout=10).chain) == 1


def test_a_server_that_names_nobody_does_not_speak_the_protocol(tmp_path: Path) -> None:
    with open_door(tmp_path) as door, door.channel(credentials=door.svid(EAST)) as channel:
        stub = UpstreamAuthorityStub(channel)
        assert code_of(lambda: stub.Mint(request(), timeout=10))[0] is CODE.UNIMPLEMENTED


def test_a_server_that_asks_without_end_is_slowed_down_and_told_when_to_come_back(tmp_path: Path) -> None:
    with (
        open_door(tmp_path, downstream={"allow": [EAST]}) as door,
        door.channel(credentials=door.svid(EAST)) as channel,
    ):
        stub = UpstreamAuthorityStub(channel)
        for _ in range(20):
            stub.Mint(request(), timeout=10)
        code, told = code_of(lambda: stub.Mint(request(), timeout=10))
        assert (code, told) == (CODE.RESOURCE_EXHAUSTED, "too many requests from this peer: slow down")


def test_a_new_root_is_told_of_on_the_stream_and_the_stream_ends_with_the_door(tmp_path: Path) -> None:
    with (
        open_door(tmp_path, downstream={"allow": [EAST]}) as door,
        door.channel(credentials=door.svid(EAST)) as channel,
    ):
        stream = UpstreamAuthorityStub(channel).WatchRoots(pb.WatchRootsRequest(), timeout=20)
        (first,) = next(stream).roots
        door.core.authorities.control.begin("planned")
        door.core.authorities.rotation.tick()
        told = next(stream).roots
        assert told[0] == first
        assert len(told) == 2
        door.loop.run(door.door.close())
        assert code_of(lambda: next(stream))[0] is CODE.UNAVAILABLE


def test_who_is_revoked_meanwhile_is_told_of_no_root_any_more(tmp_path: Path) -> None:
    with (
        open_door(tmp_path, downstream={"allow": [EAST]}) as door,
        door.channel(credentials=door.svid(EAST)) as channel,
    ):
        stream = UpstreamAuthorityStub(channel).WatchRoots(pb.WatchRootsRequest(), timeout=20)
        assert next(stream).roots
        door.core.authorities.revocations.revoke(EAST, "", "stolen")
        assert code_of(lambda: next(stream))[0] is CODE.PERMISSION_DENIED


def test_a_stream_ends_with_the_certificate_that_it_was_opened_with(door: RunningDoor) -> None:
    with door.channel(credentials=door.svid(EAST, ttl_seconds=2)) as channel:
        stream = UpstreamAuthorityStub(channel).WatchRoots(pb.WatchRootsRequest(), timeout=20)
        assert next(stream).roots
        code, told = code_of(lambda: next(stream))
        assert (code, told) == (CODE.UNAUTHENTICATED, "the certificate has ended: come again with the next one")
