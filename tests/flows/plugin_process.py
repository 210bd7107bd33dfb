"""An upstream authority as a program of its own, which misbehaves in whatever way its directory says.

`python -m tests.flows.plugin_process DIRECTORY`: `plugin.sock` is served there; `orders.json` has the `mode` and the
`roots`, names of files beside it, the first of which signs; it is read at each call.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from meshca.proto.meshca.plugin.v1 import upstream_pb2 as pb
from meshca.proto.meshca.plugin.v1 import upstream_pb2_grpc
from tests.assets.foreign import DAY, ForeignCa, foreign_ca, subject, usage
from tests.fakes.upstream import FakeUpstream
from tests.programs import TRUST_DOMAIN

REPOSITORY = Path(__file__).parents[2]
_NAP_SECONDS = 0.05
_URIS = {"uris": (f"spiffe://{TRUST_DOMAIN}",)}


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def made_root(directory: Path, name: str) -> ForeignCa:
    """A new root, kept in the directory."""
    root = foreign_ca(subject(name), since=now() - timedelta(hours=1), until=now() + 3650 * DAY)
    (directory / f"{name}.pem").write_bytes(root.pem)
    (directory / f"{name}.key").write_bytes(root.key_pem)
    return root


def _loaded(directory: Path, name: str) -> ForeignCa:
    certificate = x509.load_pem_x509_certificate((directory / f"{name}.pem").read_bytes())
    return ForeignCa(certificate, load_pem_private_key((directory / f"{name}.key").read_bytes(), None))


@dataclass(frozen=True)
class Orders:
    """What the plug-in is to be like."""

    directory: Path
    mode: str
    roots: tuple[str, ...]

    @classmethod
    def read(cls, directory: Path) -> Orders:
        fields = json.loads((directory / "orders.json").read_text())
        return cls(directory, fields["mode"], tuple(fields["roots"]))

    @property
    def authority(self) -> FakeUpstream:
        return FakeUpstream(*(_loaded(self.directory, name) for name in self.roots), now=now)


Mint = Callable[[FakeUpstream, bytes, timedelta], Sequence[bytes]]


def _honest(**otherwise: Any) -> Mint:
    return lambda upstream, csr, ttl: upstream.sign(csr, ttl, **{**_URIS, **otherwise})


def _of_another_key(upstream: FakeUpstream, csr: bytes, ttl: timedelta) -> Sequence[bytes]:
    return upstream.sign(csr, ttl, **_URIS, public_key=ec.generate_private_key(ec.SECP256R1()).public_key())


def _expired(upstream: FakeUpstream, csr: bytes, ttl: timedelta) -> Sequence[bytes]:
    return upstream.sign(csr, ttl, **_URIS, since=now() - timedelta(minutes=30), until=now() - timedelta(minutes=1))


def _too_long(upstream: FakeUpstream, csr: bytes, ttl: timedelta) -> Sequence[bytes]:
    return upstream.sign(csr, ttl, **_URIS, until=now() + 90 * DAY)


def _below_a_flat_one(upstream: FakeUpstream, csr: bytes, ttl: timedelta) -> Sequence[bytes]:
    life = {"since": now() - timedelta(hours=1), "until": now() + DAY}
    flat = foreign_ca(subject("Flat"), upstream.authorities[0], path_length=0, **life)  # type: ignore[arg-type]
    return [*FakeUpstream(flat, now=now).sign(csr, ttl, **_URIS), flat.der]


def _by_a_stranger(upstream: FakeUpstream, csr: bytes, ttl: timedelta) -> Sequence[bytes]:
    stranger = foreign_ca(subject("Stranger"), since=now() - timedelta(hours=1), until=now() + DAY)
    return [*FakeUpstream(stranger, now=now).sign(csr, ttl, **_URIS), stranger.der]


def _hang(*_: object) -> Sequence[bytes]:
    time.sleep(3600)
    return []


def _die(*_: object) -> Sequence[bytes]:
    os._exit(9)


MINTS: dict[str, Mint] = {
    "hangs": _hang,
    "dies": _die,
    "garbage": lambda *_: [b"garbage"],
    "another key": _of_another_key,
    "a foreign root": _by_a_stranger,
    "no CA": _honest(ca=False),
    "may not sign": _honest(key_usage=usage(sign=False)),
    "path length": _below_a_flat_one,
    "expired": _expired,
    "too long": _too_long,
    "nothing": lambda *_: [],
    "too large": lambda *_: [bytes(300_000)],
    "another trust domain": _honest(uris=("spiffe://other.test",)),
}
ROOTS: dict[str, Callable[[], list[bytes]]] = {
    "no roots": list,
    "garbled roots": lambda: [b"garbage"],
    "too many bytes of roots": lambda: [bytes(300_000)],
    "an expired root": lambda: [foreign_ca(subject("Ended"), until=now() - DAY).der],
}
SILENT = "a silent stream"


class Plugin(upstream_pb2_grpc.UpstreamAuthorityServicer):
    """Honest, or what the orders say."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def Mint(self, request: pb.MintRequest, context: grpc.ServicerContext) -> pb.MintResponse:  # noqa: N802
        orders = Orders.read(self._directory)
        mint = MINTS.get(orders.mode, _honest())
        return pb.MintResponse(chain=mint(orders.authority, request.csr, timedelta(seconds=request.ttl_seconds)))

    def WatchRoots(self, request: pb.WatchRootsRequest, context: grpc.ServicerContext) -> Iterator[pb.Roots]:  # noqa: N802
        told: Orders | None = None
        while context.is_active():
            orders = Orders.read(self._directory)
            if orders.mode == SILENT and told is not None:
                return
            if orders != told and orders.mode != SILENT:
                told = orders
                yield pb.Roots(roots=ROOTS.get(orders.mode, orders.authority.all_roots)())
            time.sleep(_NAP_SECONDS)

    def AcknowledgeRoots(  # noqa: N802
        self, request: pb.AcknowledgeRootsRequest, context: grpc.ServicerContext
    ) -> pb.AcknowledgeRootsResponse:
        return pb.AcknowledgeRootsResponse()


class InProcess(FakeUpstream):
    """The same in process: honest, but where the orders say that it raises once an issuing CA was had."""

    def __init__(self, directory: Path) -> None:
        super().__init__(*Orders.read(directory).authority.authorities, now=now)
        self._directory = directory

    def mint(self, csr: bytes, ttl: timedelta) -> Sequence[bytes]:
        self.minted += 1
        if self.minted > 1 and Orders.read(self._directory).mode == "raises":
            raise ZeroDivisionError
        return self.sign(csr, ttl, **_URIS)


def in_process(options: Mapping[str, object]) -> InProcess:
    """What the entry point of a package names."""
    return InProcess(Path(str(options["files"])))


class PluginProcess:
    """The program, run by a test; use it as an async context manager."""

    def __init__(self, directory: Path, *roots: str) -> None:
        directory.mkdir()
        self.directory = directory
        self.address = f"unix:{directory}/plugin.sock"
        self.process: subprocess.Popen[bytes] | None = None
        for name in roots:
            made_root(directory, name)
        self.order("honest", *roots)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    async def start(self) -> None:
        """Starts it and waits until its socket is there."""
        socket = self.directory / "plugin.sock"
        socket.unlink(missing_ok=True)
        with (self.directory / "plugin.log").open("ab") as log:
            command = [sys.executable, "-m", "tests.flows.plugin_process", str(self.directory)]
            self.process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
        async with asyncio.timeout(30):
            while not socket.exists():
                await asyncio.sleep(0.02)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process is not None and self.process.poll() is None

    def order(self, mode: str, *roots: str) -> None:
        """What it is to be like from now on; without roots, those from before."""
        file = self.directory / "orders.json"
        named = roots or json.loads(file.read_text())["roots"]
        (self.directory / "orders.next").write_text(json.dumps({"mode": mode, "roots": named}))
        os.replace(self.directory / "orders.next", file)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def main(directory: Path) -> None:
    """Serves until it is killed."""
    server = grpc.server(ThreadPoolExecutor(64))
    upstream_pb2_grpc.add_UpstreamAuthorityServicer_to_server(Plugin(directory), server)
    server.add_insecure_port(f"unix:{directory}/plugin.sock")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
