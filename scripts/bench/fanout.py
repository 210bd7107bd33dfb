"""One bundle change on N open streams, a connection each: how long until every acknowledgement is durable, how much
server CPU a push with its ACK takes, how much memory a stream takes; over TLS (each client with a certificate of its
own) and on plain connections.

Beside the hub, in the same run, a bare grpc.aio server pushes the same bytes and counts the same ACKs, and no more.
The server runs on the first core, the clients on the second. What is durable is a SQLite table, flushed at each commit.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import ipaddress
import json
import os
import pstats
import resource
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource

from meshca.authority.evidence import BundleFact
from meshca.compile.bundles import trust_snapshot
from meshca.rpc.discovery import ADS, discovery_handlers
from meshca.rpc.distribution import DiscoveryDoor
from meshca.rpc.limits import PeerLimiter
from meshca.rpc.peers import mtls_peer, token_peer
from meshca.services.acknowledgements import AcknowledgementQueue
from meshca.services.authentication import Authentication, SvidAuthenticator
from meshca.services.distribution import Distribution, StreamLimits
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import SpiffeId, TrustDomain
from meshca.spiffe.peers import AuthenticationMethod, Caller, Peer
from meshca.xds.snapshot import SECRET_TYPE

DOMAIN = TrustDomain("bench.test")
METHOD = f"/{ADS}/DeltaAggregatedResources"
NAME = "ROOTCA"
ROOTS = 4  # about 3 KB of PEM
INSERT = (
    "INSERT INTO fact SELECT NULL, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 FROM json_each(?)"
)
COLLECT_AFTER = 50_000  # objects
WARM = 50  # streams that are opened first: what they cost once for all is no cost of a stream
OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.server_handshake_timeout_ms", 60_000),
]


# --- certificates


@dataclass(frozen=True)
class Ca:
    """A root with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def leaf(self, key: ec.EllipticCurvePrivateKey, *names: x509.GeneralName) -> bytes:
        """A certificate, PEM."""
        builder = _builder(x509.Name([]), self.certificate.subject, key)
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        builder = builder.add_extension(usages, critical=False).add_extension(_usage(ca=False), critical=True)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(aki, critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def new_ca(name: str) -> Ca:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = _builder(subject, subject, key).add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(_usage(ca=True), critical=True).add_extension(ski, critical=False)
    return Ca(builder.sign(key, hashes.SHA256()), key)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    return builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))


def _usage(*, ca: bool) -> x509.KeyUsage:
    off = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    return x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, decipher_only=False, **off)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_files(directory: Path, clients: int) -> None:
    """All that server and clients need; one key serves every client, each with a certificate of its own."""
    roots = [new_ca(f"root {n}") for n in range(ROOTS + 1)]
    server, client = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    localhost = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    (directory / "roots.json").write_text(
        json.dumps([root.certificate.public_bytes(Encoding.DER).hex() for root in roots])
    )
    (directory / "root.pem").write_bytes(roots[0].pem)
    (directory / "server.pem").write_bytes(roots[0].leaf(server, localhost))
    (directory / "server.key").write_bytes(private_pem(server))
    (directory / "client.key").write_bytes(private_pem(client))
    leaves = [
        roots[0].leaf(client, x509.UniformResourceIdentifier(f"spiffe://{DOMAIN}/node/{n}")).decode()
        for n in range(clients)
    ]
    (directory / "clients.json").write_text(json.dumps(leaves))


def bundle(directory: Path, sequence: int) -> TrustBundle:
    """The first root signs; the others change with the sequence."""
    ders = [bytes.fromhex(text) for text in json.loads((directory / "roots.json").read_text())]
    return TrustBundle(DOMAIN, tuple(ders[:ROOTS] if sequence == 1 else (ders[0], *ders[2:])), sequence)


# --- the servers


class Durable:
    """An evidence store: a SQLite table, flushed at each commit."""

    def __init__(self, directory: Path) -> None:
        path = directory / f"evidence-{secrets.token_hex(4)}.db"
        self._db = sqlite3.connect(path, check_same_thread=False)  # one thread at a time writes
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("CREATE TABLE fact (id INTEGER PRIMARY KEY, serial, spiffe_id, sequence, channel, until, at)")
        self._latest: dict[str, int] = {}
        self._having: Counter[int] = Counter()
        self.batches = 0

    def __call__(self, facts: Sequence[BundleFact]) -> None:
        rows = [
            (f.serial, f.spiffe_id, f.bundle_sequence, f.channel.value, f.until.timestamp(), f.at.timestamp())
            for f in facts
        ]
        with self._db:
            # one statement: Python's sqlite3 lets go of the interpreter lock for each row otherwise, and gets it late
            self._db.execute(INSERT, (json.dumps(rows),))
        self.batches += 1
        for fact in facts:
            known = self._latest.get(fact.serial, 0)
            self._latest[fact.serial] = fact.bundle_sequence
            self._having[known] -= 1
            self._having[fact.bundle_sequence] += 1

    def having(self, sequence: int) -> int:
        """How many certificates have it."""
        return self._having[sequence]


class Wall:
    def now(self) -> datetime:
        return datetime.now(UTC)


class Numbered:
    """On plain connections, where nobody has a certificate: whoever says a number is the holder of that number."""

    def authenticate(self, peer: Peer, now: datetime) -> Caller | None:
        for token in peer.bearer_tokens:
            spiffe_id = SpiffeId(DOMAIN, f"/node/{token}")
            method = AuthenticationMethod.X509_SVID
            return Caller(spiffe_id, method, "", serial=token, valid_until=now + timedelta(hours=1))
        return None


class Silent:
    """`StreamMetrics`."""

    def __init__(self) -> None:
        self.open = 0

    def streams_open(self, count: int) -> None:
        self.open = count

    def pushed(self) -> None: ...
    def acknowledged(self) -> None: ...
    def push_refused(self) -> None: ...


class HubServer:
    """The hub as the server has it."""

    def __init__(self, directory: Path, tls: bool) -> None:
        self._directory = directory
        self._durable, self._metrics, clock = Durable(directory), Silent(), Wall()
        limits = StreamLimits(total=1_000_000)
        self._hub = Distribution(clock, AcknowledgementQueue(self._durable), self._metrics, limits)
        trusted = {DOMAIN: bundle(directory, 1)}
        svids = SvidAuthenticator(lambda: trusted, DOMAIN)
        authentication = Authentication((svids if tls else Numbered(),))
        limiter = PeerLimiter(1e9, 1_000_000_000, time.monotonic)
        self._door = DiscoveryDoor(self._hub, authentication, limiter, clock, mtls_peer if tls else token_peer)

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        self._task = asyncio.create_task(self._hub.run())
        return discovery_handlers(self._door)

    def push(self, sequence: int) -> None:
        self._hub.publish(bundle(self._directory, sequence))

    def counted(self, sequence: int) -> int:
        """How many acknowledgements of it are durable."""
        return self._durable.having(sequence)


class BareServer:
    """As little as gRPC allows: the same bytes to each stream, and a count of what comes back."""

    def __init__(self, directory: Path, _: bool) -> None:
        self._bytes = {sequence: response(directory, sequence) for sequence in (1, 2)}
        self._streams: list[Any] = []
        self._acks = 0

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        return (grpc.method_handlers_generic_handler(ADS, {"DeltaAggregatedResources": handler}),)

    async def _serve(self, _: object, context: Any) -> None:
        await context.read()
        self._streams.append(context)
        await context.write(self._bytes[1])
        while await context.read() is not grpc.aio.EOF:
            self._acks += 1

    def push(self, sequence: int) -> None:
        if sequence > 1:
            self._acks = 0
            self._tasks = [asyncio.create_task(context.write(self._bytes[2])) for context in self._streams]

    def counted(self, _: int) -> int:
        """How many came since the last push."""
        return self._acks


def response(directory: Path, sequence: int) -> bytes:
    """What the hub sends of a bundle, with a nonce of the same length."""
    named = trust_snapshot(bundle(directory, sequence)).named(SECRET_TYPE)[NAME]
    one = Resource(name=NAME, version=named.version, resource=named.packed(SECRET_TYPE))
    return DeltaDiscoveryResponse(
        system_version_info=named.version, resources=[one], type_url=SECRET_TYPE, nonce=secrets.token_hex(8)
    ).SerializeToString()


KINDS = {"bare": BareServer, "hub": HubServer}


async def serve(directory: Path, kind: str, tls: bool, profile: bool) -> None:
    """Runs a server for the process that started it: one command a line on stdin, one answer a line on stdout."""
    os.sched_setaffinity(0, {0})
    # by default, a push to thousands of streams sets off collections of all that they hold, which finds nothing
    gc.set_threshold(COLLECT_AFTER)
    measured = KINDS[kind](directory, tls)
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers(measured.handlers())
    port = server.add_secure_port("127.0.0.1:0", credentials(directory)) if tls else 0
    port = port or server.add_insecure_port("127.0.0.1:0")
    await server.start()
    measured.push(1)
    say(port=port)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := (await commands.readline()).decode().split():
        if line[0] == "rss":
            gc.collect()
            say(kb=rss())
        elif line[0] == "wait":
            await until(lambda: measured.counted(1) >= int(line[1]))
            say()
        else:
            say(**await one_push(measured, int(line[1]), profile))
    await server.stop(0)


async def one_push(measured: Any, streams: int, profile: bool) -> dict[str, float]:
    """Seconds and CPU seconds from the change until all acknowledgements are counted, and the longest turn the loop
    took to come round meanwhile."""
    profiler = cProfile.Profile()
    lag = [0.0]
    watching = asyncio.create_task(watch(lag))
    await asyncio.sleep(0.1)
    lag[0] = 0.0
    if profile:
        profiler.enable()
    began, cpu = time.perf_counter(), time.process_time()
    measured.push(2)
    await until(lambda: measured.counted(2) >= streams)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    if profile:
        profiler.disable()
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    watching.cancel()
    return {"seconds": seconds, "cpu": cpu, "lag": lag[0]}


async def watch(lag: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.005)
        lag[0] = max(lag[0], time.perf_counter() - began - 0.005)


async def until(condition: Any) -> None:
    async with asyncio.timeout(300):
        while not condition():  # noqa: ASYNC110  # it has no event
            await asyncio.sleep(0.02)


def credentials(directory: Path) -> grpc.ServerCredentials:
    pair = ((directory / "server.key").read_bytes(), (directory / "server.pem").read_bytes())
    return grpc.ssl_server_credentials([pair], (directory / "root.pem").read_bytes(), require_client_auth=True)


def rss() -> int:
    """Resident memory, KB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


# --- the clients


async def hold(directory: Path, port: int, tls: bool, first: int, count: int) -> None:
    """Opens streams `first` to `first + count`, acknowledges all that comes, and says when each has its first."""
    os.sched_setaffinity(0, {1})
    opened = [0]
    leaves = json.loads((directory / "clients.json").read_text())
    files = {name: (directory / name).read_bytes() for name in ("root.pem", "client.key")}
    at_once = asyncio.Semaphore(32)

    async def one(number: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        address = f"127.0.0.1:{port}"
        if tls:
            own = grpc.ssl_channel_credentials(files["root.pem"], files["client.key"], leaves[number].encode())
            channel = grpc.aio.secure_channel(address, own, options)
        else:
            channel = grpc.aio.insecure_channel(address, options)
        metadata = () if tls else (("authorization", f"Bearer {number:x}"),)
        async with at_once:
            call: Any = channel.stream_stream(METHOD)(metadata=metadata)
            subscription = DeltaDiscoveryRequest(type_url=SECRET_TYPE, resource_names_subscribe=[NAME])
            await call.write(subscription.SerializeToString())
            data = await call.read()
        opened[0] += 1
        while data is not grpc.aio.EOF:
            nonce = DeltaDiscoveryResponse.FromString(data).nonce
            ack = DeltaDiscoveryRequest(type_url=SECRET_TYPE, response_nonce=nonce)
            await call.write(ack.SerializeToString())
            data = await call.read()

    tasks = [asyncio.create_task(one(number)) for number in range(first, first + count)]
    everybody = asyncio.gather(*tasks)
    opening = asyncio.create_task(until(lambda: opened[0] == count))
    await asyncio.wait((everybody, opening), return_when=asyncio.FIRST_COMPLETED)
    if everybody.done():
        await everybody
    say(open=opened[0])
    with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
        await everybody


# --- the run


class Child:
    """A process that answers a line with a line."""

    def __init__(self, directory: Path, *arguments: object) -> None:
        command = [sys.executable, __file__, *map(str, arguments), "--directory", str(directory)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a child ended before its time")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, *words: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def measure(directory: Path, kind: str, tls: bool, options: argparse.Namespace) -> dict[str, float]:
    """One server, all its clients, one push."""
    shape = ["--tls"] if tls else []
    server = Child(directory, "--serve", kind, *shape, *(["--profile"] if options.profile else []))
    clients = []
    try:
        port = server.answer()["port"]
        clients.append(Child(directory, "--hold", port, *shape, "--first", 0, "--count", WARM))
        clients[0].answer()
        server.ask("wait", WARM)
        before = server.ask("rss")["kb"]
        share, first = -(-(options.streams - WARM) // options.processes), WARM
        while first < options.streams:
            count = min(share, options.streams - first)
            clients.append(Child(directory, "--hold", port, *shape, "--first", first, "--count", count))
            first += count
        for client in clients[1:]:
            client.answer()
        server.ask("wait", options.streams)
        kb = (server.ask("rss")["kb"] - before) / (options.streams - WARM)
        push = server.ask("push", options.streams)
        return {"kb": kb, "seconds": push["seconds"], "us": push["cpu"] / options.streams * 1e6, "lag": push["lag"]}
    finally:
        for client in clients:
            client.end()
        server.end()


def report(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        make_files(directory, options.streams)
        size = len(response(directory, 2))
        print(f"{options.streams} streams, {size} bytes a push; server on one core, clients on another")
        print(f"{'':14}{'KB/stream':>10}{'all durable':>13}{'CPU µs/push+ACK':>17}{'longest turn':>14}")
        for tls in (True, False) if options.only is None else (options.only == "tls",):
            found = {kind: measure(directory, kind, tls, options) for kind in ("bare", "hub")}
            for kind, m in found.items():
                label = f"{kind}, {'TLS' if tls else 'plain'}"
                print(f"{label:14}{m['kb']:10.1f}{m['seconds']:11.2f} s{m['us']:17.0f}{m['lag'] * 1000:11.0f} ms")
            print(f"{'ratio':14}{'':10}{'':13}{found['hub']['us'] / found['bare']['us']:17.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=4, help="client processes")
    parser.add_argument("--only", choices=("tls", "plain"))
    parser.add_argument("--profile", action="store_true", help="profile the push on the server (slows it)")
    for name in ("--serve", "--hold", "--first", "--count", "--directory"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--tls", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.streams <= WARM:
        parser.error(f"--streams: more than {WARM} are needed to tell what one costs")
    if options.serve:
        asyncio.run(serve(Path(options.directory), options.serve, options.tls, options.profile))
    elif options.hold:
        port, first, count = int(options.hold), int(options.first), int(options.count)
        asyncio.run(hold(Path(options.directory), port, options.tls, first, count))
    else:
        report(options)


if __name__ == "__main__":
    main()
