"""Upstream authorities out of process: real gRPC over a Unix socket, and over mutual TLS."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from meshca.errors import ErrorKind, MeshcaError
from meshca.plugins.upstream_grpc import MAX_ANSWER_BYTES, GrpcUpstream, TlsFiles
from tests.assets.foreign import DAY, ForeignCa, foreign_ca, subject
from tests.contracts.upstream_authority import TTL, UpstreamAuthorityContract, request
from tests.fakes.upstream import FakeUpstream
from tests.plugins.upstreams import UpstreamServicer, serving

SHORT = timedelta(milliseconds=300)


@pytest.fixture
def servicer() -> UpstreamServicer:
    return UpstreamServicer(FakeUpstream())


@pytest.fixture
def address(servicer: UpstreamServicer, short_tmp: Path) -> Iterator[str]:
    with serving(servicer, f"unix:{short_tmp}/plugin.sock") as address:
        yield address


@pytest.fixture
def upstream(address: str) -> Iterator[GrpcUpstream]:
    client = GrpcUpstream(address)
    yield client
    client.close()


def refusal(attempt: Callable[[], object]) -> MeshcaError:
    with pytest.raises(MeshcaError) as refused:
        attempt()
    return refused.value


def eventually(holds: Callable[[], object]) -> None:
    ends = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.01)


class TestOverAUnixSocket(UpstreamAuthorityContract):
    pass


class TestOverMutualTls(UpstreamAuthorityContract):
    @pytest.fixture
    def upstream(self, servicer: UpstreamServicer, tmp_path: Path) -> Iterator[GrpcUpstream]:
        with serving(servicer, "127.0.0.1:0", _server_credentials(tmp_path)) as address:
            client = GrpcUpstream(address, tls=_client_files(tmp_path))
            yield client
            client.close()


def test_a_change_of_roots_is_heard_without_asking_the_plug_in_again(
    upstream: GrpcUpstream, servicer: UpstreamServicer
) -> None:
    (first,) = upstream.roots()
    servicer.authority.authorities.insert(0, foreign_ca(subject("Next")))
    servicer.change()
    eventually(lambda: len(upstream.roots()) == 2)
    assert upstream.roots()[1] == first
    assert servicer.watchers == 1


def test_a_plug_in_that_does_not_answer_is_given_up_at_the_deadline(address: str, servicer: UpstreamServicer) -> None:
    servicer.silent |= {"Mint", "WatchRoots"}
    upstream = GrpcUpstream(address, deadline=SHORT)
    minting = refusal(lambda: upstream.mint(request(), TTL))
    assert (minting.kind, minting.message) == (ErrorKind.UNAVAILABLE, f"{address}: no answer came in time")
    hearing = refusal(upstream.roots)
    assert (hearing.kind, hearing.message) == (
        ErrorKind.UNAVAILABLE,
        f"{address}: the stream of roots said nothing within 0.3s",
    )
    servicer.silent.clear()
    servicer.change()
    assert upstream.roots(), "the next call opens another stream"
    upstream.close()


def test_a_plug_in_that_is_not_there_is_unavailable_and_comes_back(servicer: UpstreamServicer, short_tmp: Path) -> None:
    address = f"unix:{short_tmp}/plugin.sock"
    upstream = GrpcUpstream(address)
    assert refusal(lambda: upstream.mint(request(), TTL)).kind is ErrorKind.UNAVAILABLE
    assert refusal(upstream.roots).kind is ErrorKind.UNAVAILABLE
    with serving(servicer, address):
        assert upstream.roots()
    eventually(lambda: _fails(upstream.roots))
    with serving(UpstreamServicer(servicer.authority), address):
        eventually(lambda: not _fails(upstream.roots))
    upstream.close()


def test_an_answer_that_is_too_large_is_refused(upstream: GrpcUpstream, servicer: UpstreamServicer) -> None:
    servicer.authority.mints = lambda csr, ttl: [bytes(MAX_ANSWER_BYTES)]
    refused = refusal(lambda: upstream.mint(request(), TTL))
    assert (refused.kind, refused.reason) == (ErrorKind.EXHAUSTED, "RESOURCE_EXHAUSTED")


def test_what_it_says_of_its_failure_is_told_in_one_line(upstream: GrpcUpstream, servicer: UpstreamServicer) -> None:
    def breaks(csr: bytes, ttl: timedelta) -> list[bytes]:
        raise ZeroDivisionError

    servicer.authority.mints = breaks
    refused = refusal(lambda: upstream.mint(request(), TTL))
    assert refused.kind is ErrorKind.UNAVAILABLE
    assert refused.message.endswith(": INTERNAL: it broke")


def test_one_that_does_not_hear_what_is_trusted_is_as_good(upstream: GrpcUpstream, servicer: UpstreamServicer) -> None:
    servicer.cares = False
    upstream.acknowledge([bytes(32)], b"")
    assert servicer.authority.heard == []


def test_who_has_no_certificate_of_the_right_ca_is_not_served(servicer: UpstreamServicer, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with serving(servicer, "127.0.0.1:0", _server_credentials(tmp_path)) as address:
        _server_credentials(other)
        files = _client_files(other)
        stranger = GrpcUpstream(address, tls=TlsFiles(tmp_path / "ca.pem", files.certificate, files.key))
        assert refusal(lambda: stranger.mint(request(), TTL)).kind is ErrorKind.UNAVAILABLE
        impostor = GrpcUpstream(address, tls=TlsFiles(other / "ca.pem", *_pair(tmp_path)))
        assert refusal(lambda: impostor.mint(request(), TTL)).kind is ErrorKind.UNAVAILABLE
    assert servicer.authority.minted == 0


def test_tls_files_that_cannot_be_read_are_unavailable(tmp_path: Path) -> None:
    upstream = GrpcUpstream("localhost:1", tls=_client_files(tmp_path))
    refused = refusal(lambda: upstream.mint(request(), TTL))
    assert refused.kind is ErrorKind.UNAVAILABLE
    assert refused.message == f"{tmp_path}/ca.pem cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("address", "files", "problem"),
    [
        ("unix:relative", False, "an absolute path of at most 107 bytes"),
        (f"unix:/{'x' * 107}", False, "an absolute path of at most 107 bytes"),
        ("unix:/x", True, "a Unix socket takes no TLS files"),
        ("somewhere", True, "neither unix:/PATH nor HOST:PORT"),
        (":7", True, "neither unix:/PATH nor HOST:PORT"),
        ("host:0", True, "neither unix:/PATH nor HOST:PORT"),
        ("host:65536", True, "neither unix:/PATH nor HOST:PORT"),
        ("host:7", False, "give ca_file, cert_file and key_file"),
    ],
)
def test_an_address_that_is_none_or_lacks_something_is_refused(
    address: str, files: bool, problem: str, tmp_path: Path
) -> None:
    refused = refusal(lambda: GrpcUpstream(address, tls=_client_files(tmp_path) if files else None))
    assert refused.kind is ErrorKind.INVALID
    assert problem in refused.message


def _fails(call: Callable[[], object]) -> bool:
    try:
        call()
    except MeshcaError:
        return True
    return False


def _server_credentials(directory: Path) -> grpc.ServerCredentials:
    """A CA, and a pair for both sides, as files; what a server needs of them."""
    now = datetime.now(UTC).replace(microsecond=0)
    life = {"since": now - timedelta(hours=1), "until": now + DAY}
    ca = foreign_ca(subject("TLS CA"), since=life["since"], until=life["until"])
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    pair = foreign_ca(
        subject("both sides"),
        ca,
        ca=False,
        key_usage=None,
        further=[(names, False)],
        since=life["since"],
        until=life["until"],
    )
    _write(directory, ca, pair)
    return grpc.ssl_server_credentials([(pair.key_pem, pair.pem)], ca.pem, require_client_auth=True)


def _write(directory: Path, ca: ForeignCa, pair: ForeignCa) -> None:
    for name, data in (("ca.pem", ca.pem), ("cert.pem", pair.pem), ("key.pem", pair.key_pem)):
        (directory / name).write_bytes(data)


def _client_files(directory: Path) -> TlsFiles:
    return TlsFiles(directory / "ca.pem", *_pair(directory))


def _pair(directory: Path) -> tuple[Path, Path]:
    return directory / "cert.pem", directory / "key.pem"
