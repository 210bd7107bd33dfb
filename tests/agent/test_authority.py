"""The agent's client of the certificate authority, against a real TLS server that may be hostile."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from meshca.agent.addresses import ServerAddress, parse_server_address
from meshca.agent.answers import accept_answer, printable
from meshca.agent.authority import AuthorityEndpoint, CertificateWish, GrpcCertificateAuthority
from meshca.agent.identity import AgentIdentity
from meshca.agent.keys import new_key_request
from meshca.agent.tokens import JoinTokenSource, TokenFileSource, TokenSource
from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.keys import KeyAlgorithm, KeyFamily, key_family
from meshca.proto.meshca.v1 import certificates_pb2 as pb
from tests.assets.crls import a_list
from tests.fakes.certificate_authority import Answer, Behaviour, FakeAuthority, certificate_for, fresh_root
from tests.fakes.clock import OffsetClock
from tests.svids import DAY, new_key

JOIN = "mjt_" + "j" * 43
BEARER = "bearer-" + "b" * 60


@pytest.fixture
async def ca() -> AsyncIterator[FakeAuthority]:
    async with FakeAuthority(join_tokens=(JOIN,), bearer_tokens=(BEARER,)) as authority:
        yield authority


@pytest.fixture
def clock() -> OffsetClock:
    return OffsetClock()


def client(
    ca: FakeAuthority,
    clock: OffsetClock,
    tokens: TokenSource | None = None,
    *,
    server: str | None = None,
    server_name: str | None = None,
    wish: CertificateWish | None = None,
    deadline: timedelta = timedelta(seconds=10),
) -> GrpcCertificateAuthority:
    address = parse_server_address("--server", server or ca.token_address)
    endpoint = AuthorityEndpoint(address, ca.trust_pem, server_name)
    return GrpcCertificateAuthority(endpoint, tokens or JoinTokenSource(JOIN), clock, wish=wish, deadline=deadline)


async def refused(asking: GrpcCertificateAuthority, held: AgentIdentity | None = None) -> MeshcaError:
    with pytest.raises(MeshcaError) as failure:
        await asking.obtain(held)
    assert JOIN not in failure.value.message
    assert BEARER not in failure.value.message
    return failure.value


async def test_first_a_token_then_the_certificate_and_a_new_key_each_time(
    ca: FakeAuthority, clock: OffsetClock
) -> None:
    asking = client(ca, clock)
    first = await asking.obtain(None)
    second = await asking.obtain(first)
    third = await asking.obtain(second)
    assert [call.listener for call in ca.calls] == ["token", "mtls", "mtls"]
    assert ca.calls[0].authorization == f"Bearer {JOIN}"
    assert [call.authorization for call in ca.calls[1:]] == [None, None]
    assert [each.first for each in (first, second, third)] == [True, False, False]
    assert [call.peer_serial for call in ca.calls[1:]] == [int(first.serial, 16), int(second.serial, 16)]
    assert len({call.key for call in ca.calls}) == 3
    assert str(third.spiffe_id) == "spiffe://example.org/ns/shop/sa/cart"
    key = load_pem_private_key(third.svid.private_key_pem, None)
    assert key.public_key() == third.svid.leaf.public_key()


async def test_broken_revocation_lists_are_no_reason_to_be_without_a_certificate_nor_are_they_taken(
    ca: FakeAuthority, clock: OffsetClock
) -> None:
    now, issuer = clock.now(), ca.root.intermediate("issuer")
    asking = client(ca, clock)
    ca.revocation_lists = (a_list(issuer, now, 5),)
    held = await asking.obtain(None)
    assert held.bundle.revocation_lists == ca.revocation_lists
    good, ca.revocation_lists = ca.revocation_lists, (a_list(issuer, now, 5, signer=ca.root),)
    renewed = await asking.obtain(held)
    assert renewed.serial != held.serial
    assert renewed.bundle.revocation_lists == good


async def test_who_has_nothing_yet_takes_no_bundle_with_broken_revocation_lists(
    ca: FakeAuthority, clock: OffsetClock
) -> None:
    ca.revocation_lists = (a_list(ca.root.intermediate("issuer"), clock.now(), 5, signer=ca.root),)
    assert "does not verify" in (await refused(client(ca, clock))).message


async def test_other_revocation_lists_under_the_same_sequence_are_refused(
    ca: FakeAuthority, clock: OffsetClock
) -> None:
    issuer = ca.root.intermediate("issuer")
    asking = client(ca, clock)
    ca.revocation_lists = (a_list(issuer, clock.now(), 5),)
    held = await asking.obtain(None)
    ca.revocation_lists = ()
    assert "other revocation lists" in (await refused(asking, held)).message


async def test_the_life_counts_from_receipt(ca: FakeAuthority, clock: OffsetClock) -> None:
    ca.behaviour = Behaviour(ttl=timedelta(minutes=10))  # and notBefore an hour ago
    before = clock.now()
    identity = await client(ca, clock).obtain(None)
    assert before <= identity.life.received_at <= clock.now()
    assert timedelta(minutes=9) < identity.life.length <= timedelta(minutes=10)


@pytest.mark.parametrize(
    ("algorithm", "family"),
    [(KeyAlgorithm.P256, KeyFamily.P256), (KeyAlgorithm.P384, KeyFamily.P384), (KeyAlgorithm.RSA2048, KeyFamily.RSA)],
)
async def test_key_type_and_lifetime_are_those_wished_for(
    ca: FakeAuthority, clock: OffsetClock, algorithm: KeyAlgorithm, family: KeyFamily
) -> None:
    identity = await client(ca, clock, wish=CertificateWish(algorithm, timedelta(minutes=7))).obtain(None)
    assert key_family(identity.svid.leaf.public_key()) is family
    assert ca.calls[0].ttl_seconds == 420


async def test_a_token_file_is_read_anew_for_each_call_and_stripped(
    ca: FakeAuthority, clock: OffsetClock, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    asking = client(ca, clock, TokenFileSource(file))
    assert (await refused(asking)).kind is ErrorKind.UNAVAILABLE
    file.write_text(f"  {BEARER}\n")
    await asking.obtain(None)
    file.write_text("\n")
    assert "is empty" in (await refused(asking)).message
    assert [call.authorization for call in ca.calls] == [f"Bearer {BEARER}"]


async def test_a_pipe_or_directory_for_a_token_file_is_refused_at_once(
    ca: FakeAuthority, clock: OffsetClock, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    error = await refused(client(ca, clock, TokenFileSource(tmp_path / "pipe")))
    assert error.kind is ErrorKind.INVALID
    assert error.message == f"--token-file {tmp_path}/pipe: is no regular file: it is read for every call"
    assert "cannot be read: Is a directory" in (await refused(client(ca, clock, TokenFileSource(tmp_path)))).message


async def test_an_expired_certificate_falls_back_to_the_token(
    ca: FakeAuthority, clock: OffsetClock, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(BEARER)
    asking = client(ca, clock, TokenFileSource(tmp_path / "token"))
    ca.behaviour = Behaviour(ttl=timedelta(seconds=30))
    held = await asking.obtain(None)
    clock.offset = timedelta(seconds=40)
    ca.behaviour = Behaviour(ttl=timedelta(minutes=10))
    renewed = await asking.obtain(held)
    assert [call.listener for call in ca.calls] == ["token", "token"]
    assert renewed.spiffe_id == held.spiffe_id


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED])
async def test_a_certificate_that_the_server_refuses_falls_back_to_the_token(
    ca: FakeAuthority, clock: OffsetClock, tmp_path: Path, code: grpc.StatusCode
) -> None:
    (tmp_path / "token").write_text(BEARER)
    asking = client(ca, clock, TokenFileSource(tmp_path / "token"))
    held = await asking.obtain(None)
    ca.behaviour = Behaviour(refuse=code, refuse_on=("mtls",))
    await asking.obtain(held)
    assert [call.listener for call in ca.calls] == ["token", "mtls", "token"]


async def test_an_unreachable_mtls_listener_falls_back_to_the_token(
    ca: FakeAuthority, clock: OffsetClock, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(BEARER)
    asking = client(ca, clock, TokenFileSource(tmp_path / "token"))
    held = await asking.obtain(None)
    await ca.down("mtls")
    renewed = await asking.obtain(held)
    await ca.up("mtls")
    await asking.obtain(renewed)
    assert [call.listener for call in ca.calls] == ["token", "token", "mtls"], "it comes back at the first chance"


async def test_without_a_token_left_both_reasons_are_told(ca: FakeAuthority, clock: OffsetClock) -> None:
    asking = client(ca, clock)
    held = await asking.obtain(None)
    await ca.down("mtls")
    error = await refused(asking, held)
    assert error.kind is ErrorKind.UNAUTHENTICATED
    assert "with the certificate: " in error.message
    assert "no token is left" in error.message


async def test_an_unused_join_token_survives_a_failure(ca: FakeAuthority, clock: OffsetClock) -> None:
    asking = client(ca, clock)
    await ca.down("token")
    assert (await refused(asking)).kind is ErrorKind.UNAVAILABLE
    await ca.up("token")
    assert (await asking.obtain(None)).mtls is not None


async def test_a_limit_does_not_make_it_try_the_other_way_and_its_hint_is_kept(
    ca: FakeAuthority, clock: OffsetClock, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(BEARER)
    asking = client(ca, clock, TokenFileSource(tmp_path / "token"))
    held = await asking.obtain(None)
    ca.behaviour = Behaviour(refuse=grpc.StatusCode.RESOURCE_EXHAUSTED, trailing=(("grpc-retry-pushback-ms", "7500"),))
    error = await refused(asking, held)
    assert (error.kind, error.retry_after) == (ErrorKind.EXHAUSTED, 7.5)
    assert [call.listener for call in ca.calls] == ["token", "mtls"]


@pytest.mark.parametrize(("hint", "seconds"), [("-1", 86400.0), ("soon", 86400.0), ("0", 0.0)])
async def test_a_hint_that_means_no_retry_at_all_is_a_long_wait(
    ca: FakeAuthority, clock: OffsetClock, hint: str, seconds: float
) -> None:
    ca.behaviour = Behaviour(refuse=grpc.StatusCode.RESOURCE_EXHAUSTED, trailing=(("grpc-retry-pushback-ms", hint),))
    assert (await refused(client(ca, clock))).retry_after == seconds


async def test_a_server_that_repeats_the_token_does_not_get_it_into_our_log(
    ca: FakeAuthority, clock: OffsetClock
) -> None:
    ca.behaviour = Behaviour(refuse=grpc.StatusCode.UNAUTHENTICATED, detail=f"bad header: Bearer {JOIN}")
    assert "bad header: Bearer […]" in (await refused(client(ca, clock))).message


async def test_a_silent_server_is_given_up_at_the_deadline(clock: OffsetClock, ca: FakeAuthority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel accepts, and nobody speaks
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        error = await refused(client(ca, clock, server=address, deadline=timedelta(milliseconds=200)))
    assert error.kind is ErrorKind.UNAVAILABLE


@pytest.mark.parametrize("speaks_tls", [False, True])
async def test_a_server_that_drips_is_given_up_at_the_deadline(
    ca: FakeAuthority, clock: OffsetClock, tmp_path: Path, speaks_tls: bool
) -> None:
    """Each byte is one that TLS or HTTP/2 may take for the beginning of something."""
    dripped = 0
    drips: list[asyncio.Future[None]] = []

    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dripped
        drips.append(over := asyncio.get_running_loop().create_future())
        with suppress(ConnectionError), closing(writer):
            for byte in cycle(b"\0\0\x08\x06\0\0\0\0\0pingpong" if speaks_tls else b"\x16\x03\x03\x3f\xff\x02"):
                writer.write(bytes((byte,)))
                await writer.drain()
                dripped += 1
                await asyncio.sleep(0.01)
        over.set_result(None)

    server = await asyncio.start_server(drip, "127.0.0.1", 0, ssl=tls_of(ca, tmp_path) if speaks_tls else None)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    asking = client(ca, clock, server=address, deadline=timedelta(milliseconds=500))
    async with asyncio.timeout(3):
        error = await refused(asking)
    assert error.kind is ErrorKind.UNAVAILABLE
    assert dripped > 5
    server.close()
    async with asyncio.timeout(3):
        await asyncio.gather(*drips)  # it hung up, and keeps no connection for later


def tls_of(ca: FakeAuthority, directory: Path) -> ssl.SSLContext:
    """A TLS server that the agent has every reason to trust."""
    key, now = new_key(), datetime.now(UTC)
    name = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = ca.root.issue("", key.public_key(), [(name, True)], not_before=now - DAY, not_after=now + DAY)
    (directory / "server.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + leaf.public_bytes(Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    context.set_alpn_protocols(["h2"])
    return context


# Who is at the other end


async def test_a_server_that_the_trust_bundle_does_not_vouch_for_never_sees_the_token(
    ca: FakeAuthority, clock: OffsetClock
) -> None:
    async with FakeAuthority(join_tokens=(JOIN,)) as imposter:
        error = await refused(client(ca, clock, server=imposter.token_address))
        assert error.kind is ErrorKind.UNAVAILABLE
        assert imposter.calls == []


async def test_a_server_by_another_name_is_refused_unless_that_name_is_expected(
    ca: FakeAuthority, clock: OffsetClock
) -> None:
    address = f"localhost:{ca.token_port}"  # its certificate names 127.0.0.1 and ca.test
    assert (await refused(client(ca, clock, server=address))).kind is ErrorKind.UNAVAILABLE
    assert ca.calls == []
    identity = await client(ca, clock, server=address, server_name="ca.test").obtain(None)
    assert [call.authorization for call in ca.calls] == [f"Bearer {JOIN}"]
    assert identity.bundle.sequence == 1


async def test_once_a_bundle_is_held_it_decides_whom_to_trust(
    ca: FakeAuthority, clock: OffsetClock, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(BEARER)
    asking = client(ca, clock, TokenFileSource(tmp_path / "token"))  # configured with the first root
    held = await asking.obtain(None)
    first = ca.root
    await ca.rotate()
    held = await asking.obtain(held)
    assert len(held.bundle.x509_authorities) == 2
    ca.roots, ca.sequence = (ca.root,), 3
    held = await asking.obtain(held)
    calls = len(ca.calls)
    for never_announced_or_given_up in (fresh_root("foreign"), first):
        ca.root = never_announced_or_given_up
        await ca.down()
        await ca.up()
        await refused(asking, held)
    assert len(ca.calls) == calls


@pytest.mark.parametrize("told", ["0.0.0.0:{port}", ":{port}", "[::]:{port}"])
async def test_an_mtls_address_without_a_host_is_on_the_servers_host(
    ca: FakeAuthority, clock: OffsetClock, told: str
) -> None:
    ca.mtls_address = told.format(port=ca.mtls_port)
    asking = client(ca, clock)
    held = await asking.obtain(None)
    assert held.mtls == ServerAddress("127.0.0.1", ca.mtls_port)
    await asking.obtain(held)
    assert ca.calls[1].listener == "mtls"


# Hostile answers: each is refused, and what was held stays as it is


def replace_chain(*chain: bytes) -> Answer:
    def twist(answer: pb.SignCertificatesResponse) -> pb.SignCertificatesResponse:
        del answer.results[0].certificate.chain[:]
        answer.results[0].certificate.chain.extend(chain)
        return answer

    return twist


def edit(**fields: object) -> Answer:
    def twist(answer: pb.SignCertificatesResponse) -> pb.SignCertificatesResponse:
        for name, value in fields.items():
            match name:
                case "results":
                    del answer.results[int(str(value)) :]
                case "roots":
                    del answer.bundle.x509_authorities[:]
                    answer.bundle.x509_authorities.extend(value)  # type: ignore[arg-type]  # bytes, see below
                case "sequence" | "trust_domain":
                    setattr(answer.bundle, name, value)
                case "said_id":
                    answer.results[0].certificate.spiffe_id = str(value)
                case _:
                    setattr(answer, name, value)
        return answer

    return twist


def duplicate(answer: pb.SignCertificatesResponse) -> pb.SignCertificatesResponse:
    answer.results.append(answer.results[0])
    return answer


def hollow(answer: pb.SignCertificatesResponse) -> pb.SignCertificatesResponse:
    answer.results[0].Clear()
    return answer


def with_foreign_root(answer: pb.SignCertificatesResponse) -> pb.SignCertificatesResponse:
    answer.bundle.x509_authorities.append(fresh_root("foreign").der)
    return answer


def without_bundle(answer: pb.SignCertificatesResponse) -> pb.SignCertificatesResponse:
    answer.ClearField("bundle")
    return answer


OTHER_ID = "spiffe://example.org/ns/shop/sa/admin"
HOSTILE: dict[str, tuple[Behaviour, str]] = {
    "a certificate for another key": (Behaviour(public_key=new_key().public_key()), "another key"),
    "another identity": (Behaviour(spiffe_id=OTHER_ID), f"is of {OTHER_ID}"),
    "another identity than it says": (Behaviour(twist=edit(said_id=OTHER_ID)), "its certificate is of"),
    "an identity of a foreign trust domain": (
        Behaviour(spiffe_id="spiffe://other.org/ns/a/sa/b"),
        "no trust bundle for its trust domain",
    ),
    "a trust domain that is not an id's": (Behaviour(twist=edit(said_id="spiffe://example.org")), "needs a path"),
    "a chain to no root of the bundle": (Behaviour(twist=edit(roots=[fresh_root().der])), "no valid path"),
    "no certificate at all": (Behaviour(twist=replace_chain()), "has no certificate"),
    "garbage for a certificate": (Behaviour(twist=replace_chain(b"garbage")), "not a DER certificate"),
    "an expired certificate": (Behaviour(ttl=timedelta(seconds=-5)), "expired"),
    "an empty bundle": (Behaviour(twist=edit(roots=[])), "is empty"),
    "no bundle": (Behaviour(twist=without_bundle), "trust domain is empty"),
    "garbage for a root": (Behaviour(twist=edit(roots=[b"garbage"])), "no certificate"),
    "too many roots": (Behaviour(twist=edit(roots=[b"x"] * 201)), "201 roots"),
    "a lower sequence": (Behaviour(twist=edit(sequence=4)), "went back from sequence 5 to 4"),
    "a negative sequence": (Behaviour(twist=edit(sequence=-1)), "sequence -1"),
    "other roots under the same sequence": (Behaviour(twist=with_foreign_root), "same sequence"),
    "another trust domain for the bundle": (Behaviour(twist=edit(trust_domain="other.org")), "no trust bundle"),
    "an mtls address that is another scheme's": (Behaviour(twist=edit(mtls_address="unix:/tmp/x")), "host:port"),
    "an mtls address with a path": (Behaviour(twist=edit(mtls_address="a/b:1")), "neither a DNS name"),
    "no result": (Behaviour(twist=edit(results=0)), "0 results"),
    "two results": (Behaviour(twist=duplicate), "2 results"),
    "a result that is nothing": (Behaviour(twist=hollow), "neither a certificate nor a refusal"),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_answer_is_refused_with_its_reason(
    ca: FakeAuthority, clock: OffsetClock, tmp_path: Path, case: str
) -> None:
    (tmp_path / "token").write_text(BEARER)
    asking = client(ca, clock, TokenFileSource(tmp_path / "token"))
    ca.sequence = 5
    held = await asking.obtain(None)
    ca.behaviour, reason = HOSTILE[case]
    error = await refused(asking, held)
    assert reason in error.message
    assert (error.kind, error.reason) == (ErrorKind.INVALID, "BAD_ANSWER")
    assert [call.listener for call in ca.calls] == ["token", "mtls"], "garbage is no reason to show the token"
    ca.behaviour = Behaviour()
    honest_one = await asking.obtain(held)
    assert honest_one.spiffe_id == held.spiffe_id, "and the next honest answer is taken"


async def test_a_certificate_that_is_not_valid_yet_is_refused(ca: FakeAuthority, clock: OffsetClock) -> None:
    clock.offset = -timedelta(hours=2)
    assert "not valid before" in (await refused(client(ca, clock))).message


async def test_a_refusal_inside_an_answer_counts_like_one_of_the_call(ca: FakeAuthority, clock: OffsetClock) -> None:
    def refuse(answer: pb.SignCertificatesResponse) -> pb.SignCertificatesResponse:
        answer.results[0].refusal.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
        answer.results[0].refusal.message = "ttl is above the maximum"
        return answer

    ca.behaviour = Behaviour(twist=refuse)
    error = await refused(client(ca, clock))
    assert (error.kind, error.reason) == (ErrorKind.INVALID, None)
    assert "INVALID_ARGUMENT: ttl is above the maximum" in error.message


REQUEST = new_key_request(KeyAlgorithm.P256)
ROOT = fresh_root()
NOW = datetime.now(UTC)


def honest(now: datetime) -> bytes:
    key = x509.load_der_x509_csr(REQUEST.csr).public_key()
    spiffe_id = "spiffe://example.org/ns/shop/sa/cart"
    leaf = certificate_for(ROOT, key, spiffe_id, not_after=now + timedelta(hours=1))
    return pb.SignCertificatesResponse(
        results=[pb.SigningResult(certificate=pb.Certificate(spiffe_id=spiffe_id, chain=[leaf]))],
        bundle=pb.TrustBundle(trust_domain="example.org", x509_authorities=[ROOT.der], sequence=1),
        mtls_address="ca.example.org:15013",
    ).SerializeToString()


HONEST = honest(NOW)


@pytest.mark.filterwarnings("ignore:Parsed a serial number:cryptography.utils.CryptographyDeprecationWarning")
@given(st.data())
def test_no_damage_to_an_answer_does_more_than_have_it_refused(data: st.DataObject) -> None:
    raw = bytearray(HONEST)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    answer = pb.SignCertificatesResponse()
    try:
        answer.ParseFromString(bytes(raw))
    except Exception as error:  # noqa: BLE001  # gRPC's part: it answers INTERNAL to what does not parse
        assert "DecodeError" in type(error).__name__  # noqa: PT017
        return
    try:
        identity = accept_answer(answer, REQUEST, ServerAddress("ca.example.org", 15012), None, NOW)
    except MeshcaError:
        return
    assert identity.svid.leaf.public_key() == load_pem_private_key(REQUEST.private_key_pem, None).public_key()


@given(st.text(max_size=3000))
def test_foreign_text_becomes_one_bounded_printable_line(text: str) -> None:
    shown = printable(text)
    assert len(shown) <= 400
    assert shown == "" or shown.isprintable()


@pytest.mark.parametrize(
    "text", ["ca.example.org", "a:0", "a:65536", "a:x", ":1", "a b:1", "::1:80", "[::1:80", "xds:///a:1", "[a]:1"]
)
def test_what_is_no_server_address_is_refused(text: str) -> None:
    with pytest.raises(MeshcaError, match="--server"):
        parse_server_address("--server", text)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("ca.example.org:15012", "dns:///ca.example.org:15012"),
        ("[::1]:80", "dns:///[::1]:80"),
        ("unix:1", "dns:///unix:1"),
    ],
)
def test_a_server_address_is_never_taken_for_another_scheme(text: str, target: str) -> None:
    assert parse_server_address("--server", text).target == target


@pytest.mark.parametrize("text", ["", " \n", "a b", "é", "x" * 16385])
def test_what_no_header_can_carry_is_no_token_and_is_not_repeated(text: str) -> None:
    with pytest.raises(MeshcaError, match="--join-token") as refusal:
        JoinTokenSource(text)
    assert not text.strip() or text not in refusal.value.message
