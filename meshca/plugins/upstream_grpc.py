"""Upstream authorities out of process: `meshca.plugin.v1.UpstreamAuthority`, over a Unix socket or mutual TLS."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import grpc

from meshca.errors import ErrorKind, MeshcaError, invalid, unavailable
from meshca.proto.meshca.plugin.v1 import upstream_pb2 as pb
from meshca.proto.meshca.plugin.v1 import upstream_pb2_grpc

MAX_ANSWER_BYTES = 256 * 1024
DEFAULT_DEADLINE = timedelta(seconds=10)

_UNIX = "unix:"
_MAX_SOCKET_PATH = 107
_MAX_FILE_BYTES = 256 * 1024
_MAX_DETAIL = 300  # characters of a plug-in's own words that are repeated
_STABLE_SECONDS = 10.0
_NAP_SECONDS = 0.1  # between two messages of a stream: one that floods is read no faster than that
_KINDS = {
    grpc.StatusCode.INVALID_ARGUMENT: ErrorKind.INVALID,
    grpc.StatusCode.PERMISSION_DENIED: ErrorKind.DENIED,
    grpc.StatusCode.UNAUTHENTICATED: ErrorKind.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorKind.EXHAUSTED,
}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Mutual TLS by files (PEM), which are read anew for each connection: whom to believe, and who we are.

    `server_name` is the name in the plug-in's certificate where that is not the host of its address.
    """

    ca: Path
    certificate: Path
    key: Path
    server_name: str | None = None


class GrpcUpstream:
    """`ports.UpstreamAuthority` at `address`: `unix:PATH`, or `HOST:PORT` with `tls`.

    Each call has a connection of its own, for calls are rare; the stream of roots keeps one. Raises INVALID for an
    address that is neither, or that lacks what it needs.
    """

    def __init__(self, address: str, *, tls: TlsFiles | None = None, deadline: timedelta = DEFAULT_DEADLINE) -> None:
        self._address = address
        self._target = _target(address, tls)
        self._tls = tls
        self._deadline = deadline.total_seconds()
        self._watching = threading.Lock()
        self._watch: _Watch | None = None

    def mint(self, csr: bytes, ttl: timedelta) -> Sequence[bytes]:
        """See `ports.UpstreamAuthority`."""
        request = pb.MintRequest(csr=csr, ttl_seconds=int(ttl.total_seconds()))
        return tuple(self._call(lambda stub: stub.Mint(request, timeout=self._deadline)).chain)

    def roots(self) -> Sequence[bytes]:
        """The last roots that the stream told of; it is opened where there is none, or where one ended that lasted,
        and waited for within the deadline.

        Raises UNAVAILABLE where none came in time, or the stream has ended: the next call opens another.
        """
        watch = self._watched()
        try:
            return watch.latest(self._deadline)
        except MeshcaError:
            self._drop(watch)
            if not watch.lasted:
                raise
        return self._watched().latest(self._deadline)

    def _watched(self) -> _Watch:
        with self._watching:
            if self._watch is None:
                self._watch = _Watch(self._open(), self._address)
            return self._watch

    def acknowledge(self, trusted: Sequence[bytes], issuing: bytes) -> None:
        """See `ports.UpstreamAuthority`. A plug-in that does not implement it does not care."""
        request = pb.AcknowledgeRootsRequest(trusted=trusted, issuing=issuing)
        try:
            self._call(lambda stub: stub.AcknowledgeRoots(request, timeout=self._deadline))
        except MeshcaError as error:
            if error.reason != grpc.StatusCode.UNIMPLEMENTED.name:
                raise

    def close(self) -> None:
        """Ends the stream of roots."""
        self._drop(self._watch)

    def _drop(self, watch: _Watch | None) -> None:
        with self._watching:
            if watch is not None and self._watch is watch:
                self._watch = None
        if watch is not None:
            watch.close()

    def _call(self, call: Callable[[upstream_pb2_grpc.UpstreamAuthorityStub], _T]) -> _T:
        with self._open() as channel:
            try:
                return call(upstream_pb2_grpc.UpstreamAuthorityStub(channel))
            except grpc.RpcError as error:
                raise _told(error, self._address) from error

    def _open(self) -> grpc.Channel:
        if self._tls is None:
            return grpc.insecure_channel(self._target, options=_options(None))
        ca, key, certificate = (_read(path) for path in (self._tls.ca, self._tls.key, self._tls.certificate))
        credentials = grpc.ssl_channel_credentials(ca, key, certificate)
        return grpc.secure_channel(self._target, credentials, options=_options(self._tls.server_name))


class _Watch:
    """One stream of roots, read by a thread of its own: what it last said, or how it ended."""

    def __init__(self, channel: grpc.Channel, address: str) -> None:
        self._channel = channel
        self._address = address
        self._changed = threading.Condition()
        self._roots: tuple[bytes, ...] | None = None
        self._ended: MeshcaError | None = None
        self._closed = threading.Event()
        self._began = time.monotonic()
        call = upstream_pb2_grpc.UpstreamAuthorityStub(channel).WatchRoots(pb.WatchRootsRequest())
        threading.Thread(target=self._read, args=(call,), name="upstream-roots", daemon=True).start()

    def latest(self, seconds: float) -> tuple[bytes, ...]:
        """What it last said. Raises UNAVAILABLE where it has ended, or said nothing within `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: self._roots is not None or self._ended is not None, seconds)
            if self._ended is not None:
                raise MeshcaError(self._ended.kind, self._ended.message, reason=self._ended.reason)
            if self._roots is None:
                raise unavailable(f"{self._address}: the stream of roots said nothing within {seconds:g}s")
            return self._roots

    @property
    def lasted(self) -> bool:
        """Whether it went well for a while: connections come to their end, and so do certificates."""
        return self._roots is not None and time.monotonic() - self._began > _STABLE_SECONDS

    def close(self) -> None:
        """Ends it."""
        self._closed.set()
        self._channel.close()

    def _read(self, call: Iterator[pb.Roots]) -> None:
        try:
            for message in call:
                self._tell(tuple(message.roots))
                if self._closed.wait(_NAP_SECONDS):
                    break
            ended = unavailable(f"{self._address}: the stream of roots ended")
        except grpc.RpcError as error:
            ended = _told(error, self._address)
        with self._changed:
            self._ended = ended
            self._changed.notify_all()

    def _tell(self, roots: tuple[bytes, ...]) -> None:
        with self._changed:
            self._roots = roots
            self._changed.notify_all()


def _target(address: str, tls: TlsFiles | None) -> str:
    if address.startswith(_UNIX):
        path = address.removeprefix(_UNIX)
        if not path.startswith("/") or len(os.fsencode(path)) > _MAX_SOCKET_PATH:
            raise invalid(f"address {address!r}: give unix: and an absolute path of at most {_MAX_SOCKET_PATH} bytes")
        if tls is not None:
            raise invalid(f"address {address!r}: a Unix socket takes no TLS files: who may open it is who owns it")
        return address
    host, colon, port = address.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
        raise invalid(f"address {address!r} is neither unix:/PATH nor HOST:PORT")
    if tls is None:
        raise invalid(f"address {address!r}: give ca_file, cert_file and key_file, for mutual TLS")
    return f"dns:///{address}"


def _options(server_name: str | None) -> list[tuple[str, Any]]:
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.use_local_subchannel_pool", 1),  # no backoff that an earlier channel left behind
        ("grpc.enable_retries", 0),  # when to try again is for us to decide
        ("grpc.enable_http_proxy", 0),
        # a stream whose other end is gone, or asleep, ends
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if server_name is not None:
        options += [("grpc.ssl_target_name_override", server_name), ("grpc.default_authority", server_name)]
    return options


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise unavailable(f"{path} cannot be read: {error.strerror}") from error


def _told(error: grpc.RpcError, address: str) -> MeshcaError:
    """What the plug-in, or gRPC for it, said; the code's name is the reason."""
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return unavailable(f"{address}: no answer came in time", reason=code.name)
    text = "".join(c if c.isprintable() else "?" for c in (error.details() or ""))[:_MAX_DETAIL]
    kind = _KINDS.get(code, ErrorKind.UNAVAILABLE)
    return MeshcaError(kind, f"{address}: {code.name}: {text}", reason=code.name)
