"""Finds the running server and calls its admin service; gRPC failures become our errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import grpc

from meshca.errors import ErrorKind, MeshcaError, invalid, unavailable
from meshca.proto.meshca.v1 import admin_pb2_grpc

_TIMEOUT_SECONDS = 10
_KINDS = {
    grpc.StatusCode.INVALID_ARGUMENT: ErrorKind.INVALID,
    grpc.StatusCode.NOT_FOUND: ErrorKind.NOT_FOUND,
    grpc.StatusCode.ABORTED: ErrorKind.CONFLICT,
    grpc.StatusCode.PERMISSION_DENIED: ErrorKind.DENIED,
    grpc.StatusCode.UNAUTHENTICATED: ErrorKind.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorKind.EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE: ErrorKind.UNAVAILABLE,
}
_T = TypeVar("_T")


@contextmanager
def admin_client(data_dir: Path | None, admin: str | None) -> Iterator[admin_pb2_grpc.AdminServiceStub]:
    """A stub for the server of `data_dir`, or at `admin`.

    Raises INVALID where neither is given, UNAVAILABLE where no server answers.
    """
    address = _address(data_dir, admin)
    with grpc.insecure_channel(f"unix:{address}") as channel:
        try:
            yield admin_pb2_grpc.AdminServiceStub(channel)
        except grpc.RpcError as error:
            raise _meshca_error(error, address) from error


def call(method: Callable[..., _T], request: object) -> _T:
    """One call with a deadline."""
    return method(request, timeout=_TIMEOUT_SECONDS)


def _address(data_dir: Path | None, admin: str | None) -> str:
    if admin is not None:
        return str(Path(admin.removeprefix("unix:")).absolute())
    if data_dir is None:
        raise invalid("give --data-dir (or MESHCA_DATA_DIR) of the running server, or --admin with its socket")
    return str((data_dir / "admin.sock").absolute())


def _meshca_error(error: grpc.RpcError, address: str) -> MeshcaError:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and not Path(address).exists():
        return unavailable(f"no server is running there: {address} does not exist")
    return MeshcaError(_KINDS.get(code, ErrorKind.INTERNAL), details or f"the server answered {code.name}")
