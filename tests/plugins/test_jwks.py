"""Key sets from files and from a real HTTPS server: what they give, and what they refuse to take."""

from __future__ import annotations

import gzip
import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshca.errors import ErrorKind, MeshcaError, unavailable
from meshca.plugins.jwks import FileJwksSource, HttpsJwksSource
from meshca.ports import JwksSource
from meshca.tokens.jwks import MAX_JWKS_BYTES
from tests.fakes.jwks import FakeJwksSource
from tests.jwts import key_set, p256, public_jwk
from tests.svids import TestCa, new_key, new_root

# TLS looks at the real clock, so these live long on both sides of it
LONG_AGO, FAR_AHEAD = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
ONE = key_set(public_jwk(p256(), kid="one"))
TWO = key_set(public_jwk(p256(), kid="two"))

Answer = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the test says."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.server.answer(self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name for it
        """Says nothing."""

    def reply(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    """An HTTPS server on loopback."""

    daemon_threads = False

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        if context is not None:
            # the handshake is left to the connection's own thread
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.answer: Answer = lambda handler: handler.reply(ONE)
        self.paths: list[str] = []
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server_port}/keys"

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing: clients that hang up are what some tests are about."""


@contextmanager
def serving(context: ssl.SSLContext | None) -> Iterator[Server]:
    server = Server(context)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


def server_context(ca: TestCa, directory: Path) -> ssl.SSLContext:
    key = new_key()
    leaf = ca.svid(x509.DNSName("localhost"), key=key, not_before=LONG_AGO, not_after=FAR_AHEAD)
    pem = directory / "server.pem"
    certificate = x509.load_der_x509_certificate(leaf).public_bytes(Encoding.PEM)
    pem.write_bytes(certificate + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@pytest.fixture
def ca() -> TestCa:
    return new_root("web", not_before=LONG_AGO, not_after=FAR_AHEAD)


@pytest.fixture
def ca_file(ca: TestCa, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(ca.certificate.public_bytes(Encoding.PEM))
    return path


@pytest.fixture
def server(ca: TestCa, tmp_path: Path) -> Iterator[Server]:
    with serving(server_context(ca, tmp_path)) as running:
        yield running


def refusal(source: JwksSource) -> MeshcaError:
    with pytest.raises(MeshcaError) as caught:
        source.fetch()
    return caught.value


class Issuer(Protocol):
    """Somebody who publishes a key set, and the source that reads it."""

    source: JwksSource

    def publish(self, data: bytes) -> None: ...
    def vanish(self) -> None: ...


class FakeIssuer:
    def __init__(self) -> None:
        self.fake = FakeJwksSource()
        self.source: JwksSource = self.fake

    def publish(self, data: bytes) -> None:
        self.fake.data, self.fake.failure = data, None

    def vanish(self) -> None:
        self.fake.failure = unavailable("key set of the test: gone")


class FileIssuer:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.source: JwksSource = FileJwksSource(path)

    def publish(self, data: bytes) -> None:
        self.path.write_bytes(data)

    def vanish(self) -> None:
        self.path.unlink()


class HttpsIssuer:
    def __init__(self, server: Server, ca_file: Path) -> None:
        self.server = server
        self.source: JwksSource = HttpsJwksSource(server.url, ca_file=ca_file)

    def publish(self, data: bytes) -> None:
        self.server.answer = lambda handler: handler.reply(data)

    def vanish(self) -> None:
        self.server.answer = lambda handler: handler.reply(b"", 503)


@pytest.fixture(params=["fake", "file", "https"])
def issuer(request: pytest.FixtureRequest, tmp_path: Path) -> Issuer:
    if request.param == "fake":
        return FakeIssuer()
    if request.param == "file":
        return FileIssuer(tmp_path / "keys.json")
    return HttpsIssuer(request.getfixturevalue("server"), request.getfixturevalue("ca_file"))


def test_every_source_gives_what_is_published_now(issuer: Issuer) -> None:
    issuer.publish(ONE)
    assert [key.kid for key in issuer.source.fetch().keys] == ["one"]
    issuer.publish(TWO)
    assert [key.kid for key in issuer.source.fetch().keys] == ["two"]


def test_every_source_is_unavailable_while_its_issuer_is_and_recovers(issuer: Issuer) -> None:
    issuer.publish(ONE)
    issuer.vanish()
    assert refusal(issuer.source).kind is ErrorKind.UNAVAILABLE
    issuer.publish(ONE)
    assert [key.kid for key in issuer.source.fetch().keys] == ["one"]


@pytest.mark.parametrize("data", [b"", b"{}", b'{"keys": []}', b"<html>", ONE + b" " * MAX_JWKS_BYTES])
def test_every_source_refuses_what_is_no_usable_set(issuer: Issuer, data: bytes) -> None:
    issuer.publish(data)
    assert refusal(issuer.source).kind is ErrorKind.INVALID


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    assert refusal(FileJwksSource(path)).message == f"key set {path}: it cannot be read: No such file or directory"


def test_an_unusable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(b"[")
    assert refusal(FileJwksSource(path)).message == f"key set {path}: it is not JSON"


def test_a_server_that_the_ca_file_does_not_vouch_for_is_not_asked(server: Server, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    stranger = new_root("web", not_before=LONG_AGO, not_after=FAR_AHEAD)
    other.write_bytes(stranger.certificate.public_bytes(Encoding.PEM))
    for source in (HttpsJwksSource(server.url, ca_file=other), HttpsJwksSource(server.url)):
        error = refusal(source)
        assert error.kind is ErrorKind.UNAVAILABLE
        assert "CERTIFICATE_VERIFY_FAILED" in error.message
    assert server.paths == []


def test_a_server_of_another_name_is_not_asked(server: Server, ca_file: Path) -> None:
    error = refusal(HttpsJwksSource(server.url.replace("localhost", "127.0.0.1"), ca_file=ca_file))
    assert error.kind is ErrorKind.UNAVAILABLE
    assert "CERTIFICATE_VERIFY_FAILED" in error.message
    assert server.paths == []


def test_a_replaced_ca_file_takes_effect(server: Server, ca_file: Path) -> None:
    source, good = HttpsJwksSource(server.url, ca_file=ca_file), ca_file.read_bytes()
    ca_file.write_bytes(new_root("web").certificate.public_bytes(Encoding.PEM))
    assert refusal(source).kind is ErrorKind.UNAVAILABLE
    ca_file.write_bytes(good)
    assert len(source.fetch().keys) == 1


def test_a_missing_ca_file_makes_the_source_unavailable(server: Server, tmp_path: Path) -> None:
    error = refusal(HttpsJwksSource(server.url, ca_file=tmp_path / "none.pem"))
    assert (error.kind, server.paths) == (ErrorKind.UNAVAILABLE, [])


def test_a_server_without_tls_is_unavailable() -> None:
    with serving(None) as plain:
        assert refusal(HttpsJwksSource(plain.url)).kind is ErrorKind.UNAVAILABLE
        assert plain.paths == []


def test_nobody_listening_is_unavailable(ca_file: Path) -> None:
    with serving(None) as gone:
        url = gone.url
    error = refusal(HttpsJwksSource(url, ca_file=ca_file))
    assert error.kind is ErrorKind.UNAVAILABLE
    assert error.message.startswith(f"key set {url}: it cannot be fetched: ")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(server: Server, ca_file: Path, status: int) -> None:
    server.answer = lambda handler: handler.reply(b"", status, location="/elsewhere")
    error = refusal(HttpsJwksSource(server.url, ca_file=ca_file))
    assert error.kind is ErrorKind.UNAVAILABLE
    assert error.message == f"key set {server.url}: the server answered {status}, not 200"
    assert server.paths == ["/keys"]


@pytest.mark.parametrize("status", [204, 206, 401, 404, 500])
def test_only_200_is_an_answer(server: Server, ca_file: Path, status: int) -> None:
    server.answer = lambda handler: handler.reply(b"" if status == 204 else ONE, status)
    assert refusal(HttpsJwksSource(server.url, ca_file=ca_file)).kind is ErrorKind.UNAVAILABLE


def test_reading_stops_where_the_bound_is_passed(server: Server, ca_file: Path) -> None:
    hung_up = threading.Event()

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not server.stopping.is_set():
                handler.wfile.write(b"x" * 65536)
        finally:
            hung_up.set()

    server.answer = endless
    error = refusal(HttpsJwksSource(server.url, ca_file=ca_file, timeout=30, max_bytes=1000))
    assert (error.kind, error.message) == (ErrorKind.INVALID, f"key set {server.url}: it is longer than 1000 bytes")
    assert hung_up.wait(10), "the connection was left open"


def test_a_body_that_trickles_is_given_up_although_each_byte_is_in_time(server: Server, ca_file: Path) -> None:
    def trickle(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not server.stopping.wait(0.02):
            handler.wfile.write(b" ")

    server.answer = trickle
    error = refusal(HttpsJwksSource(server.url, ca_file=ca_file, timeout=0.3))
    assert error.kind is ErrorKind.UNAVAILABLE
    assert error.message == f"key set {server.url}: it did not arrive within 0.3 s"


def test_a_server_that_never_answers_is_given_up(server: Server, ca_file: Path) -> None:
    def silent(handler: Handler) -> None:
        server.stopping.wait()

    server.answer = silent
    error = refusal(HttpsJwksSource(server.url, ca_file=ca_file, timeout=0.2))
    assert error.kind is ErrorKind.UNAVAILABLE


def test_a_body_that_is_cut_off_is_unavailable(server: Server, ca_file: Path) -> None:
    def cut(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(len(ONE)))
        handler.end_headers()
        handler.wfile.write(ONE[:10])
        handler.close_connection = True

    server.answer = cut
    assert refusal(HttpsJwksSource(server.url, ca_file=ca_file)).kind is ErrorKind.UNAVAILABLE


def test_compressed_bodies_are_not_unpacked(server: Server, ca_file: Path) -> None:
    bomb = gzip.compress(ONE + b" " * 10_000_000)
    server.answer = lambda handler: handler.reply(bomb, content_encoding="gzip")
    error = refusal(HttpsJwksSource(server.url, ca_file=ca_file))
    assert (error.kind, error.message) == (ErrorKind.INVALID, f"key set {server.url}: it is not UTF-8")


def test_a_query_is_sent_but_not_told_in_messages(server: Server, ca_file: Path) -> None:
    server.answer = lambda handler: handler.reply(b"[]")
    error = refusal(HttpsJwksSource(server.url + "?code=hidden", ca_file=ca_file))
    assert server.paths == ["/keys?code=hidden"]
    assert error.message == f"key set {server.url}: it is JSON, but not an object"


def test_proxies_of_the_environment_are_not_used(
    server: Server, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert len(HttpsJwksSource(server.url, ca_file=ca_file).fetch().keys) == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://issuer.example/keys",
        "file:///etc/keys.json",
        "issuer.example/keys",
        "https://",
        "https:///keys",
        "https://issuer.example:port/keys",
        "https://issuer.example:99999999/keys",
        "https://user:secret@issuer.example/keys",
        "https://user@issuer.example/keys",
        "https://issuer.example/keys#part",
        "https://[::1/keys",
        "https://issuer.example/\nkeys",
    ],
)
def test_an_address_that_is_not_plain_https_is_refused_at_once(url: str) -> None:
    with pytest.raises(MeshcaError) as caught:
        HttpsJwksSource(url)
    assert caught.value.kind is ErrorKind.INVALID
    assert "secret" not in caught.value.message
