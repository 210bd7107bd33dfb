"""A gRPC server around an upstream authority in memory: what a plug-in out of process is to us."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import grpc

from meshca.errors import ErrorKind, MeshcaError
from meshca.proto.meshca.plugin.v1 import upstream_pb2 as pb
from meshca.proto.meshca.plugin.v1 import upstream_pb2_grpc
from meshca.rpc.status import CODES
from tests.fakes.upstream import FakeUpstream


class UpstreamServicer(upstream_pb2_grpc.UpstreamAuthorityServicer):
    """Serves `authority`; `change` has its watchers told anew. `silent` says which calls never get an answer."""

    def __init__(self, authority: FakeUpstream) -> None:
        self.authority = authority
        self.silent: set[str] = set()
        self.cares = True
        self.watchers = 0
        self._changed = threading.Condition()
        self._version = 0
        self._closed = False

    def change(self) -> None:
        """Tells all watchers."""
        with self._changed:
            self._version += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Ends whatever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def Mint(self, request: pb.MintRequest, context: grpc.ServicerContext) -> pb.MintResponse:  # noqa: N802
        self._answer_or_not("Mint")
        ttl = timedelta(seconds=request.ttl_seconds)
        return pb.MintResponse(chain=_answered(context, lambda: self.authority.mint(request.csr, ttl)))

    def WatchRoots(self, request: pb.WatchRootsRequest, context: grpc.ServicerContext) -> Iterator[pb.Roots]:  # noqa: N802
        self._answer_or_not("WatchRoots")
        context.add_callback(self.change)  # who has gone is noticed
        self.watchers += 1
        try:
            while context.is_active() and not self._closed:
                seen = self._version
                yield pb.Roots(roots=_answered(context, self.authority.roots))
                with self._changed:
                    self._changed.wait_for(lambda: self._version != seen or self._closed)  # noqa: B023  # waits here
        finally:
            self.watchers -= 1

    def AcknowledgeRoots(  # noqa: N802
        self, request: pb.AcknowledgeRootsRequest, context: grpc.ServicerContext
    ) -> pb.AcknowledgeRootsResponse:
        if not self.cares:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")
        self.authority.acknowledge(tuple(request.trusted), request.issuing)
        return pb.AcknowledgeRootsResponse()

    def _answer_or_not(self, method: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: method not in self.silent or self._closed)


@contextmanager
def serving(
    servicer: UpstreamServicer, address: str, credentials: grpc.ServerCredentials | None = None
) -> Iterator[str]:
    """Serves it at `address`, a gRPC target; its address, with the port that it got."""
    server = grpc.server(ThreadPoolExecutor(16))
    upstream_pb2_grpc.add_UpstreamAuthorityServicer_to_server(servicer, server)
    add = (
        server.add_insecure_port
        if credentials is None
        else partial(server.add_secure_port, server_credentials=credentials)
    )
    port = add(address)
    server.start()
    try:
        yield address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
    finally:
        servicer.close()
        server.stop(0).wait()


def _answered(context: grpc.ServicerContext, call: Callable[[], object]) -> list[bytes]:
    try:
        return list(call())  # type: ignore[call-overload, no-any-return]  # a test may have it lie
    except MeshcaError as error:
        context.abort(CODES[error.kind], error.message)
    except ZeroDivisionError:
        context.abort(CODES[ErrorKind.INTERNAL], "it broke")
    raise AssertionError("abort returned")
