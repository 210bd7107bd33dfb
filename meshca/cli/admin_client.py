"""Finds the running server and calls its admin service; gRPC failures become our errors."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import grpc

from meshca.errors import ErrorKind, MeshcaError, invalid, unavailable
from meshca.proto.meshca.v1 import admin_pb2 as pb
from meshca.proto.meshca.v1 import admin_pb2_grpc

_TIMEOUT_SECONDS = 10
_MAX_PATH_BYTES = 107
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


def fetch_status(data_dir: Path | None, admin: str | None) -> pb.GetStatusResponse:
    """Where authorities and their rotation stand. Raises as `admin_client`."""
    with admin_client(data_dir, admin) as stub:
        return call(stub.GetStatus, pb.GetStatusRequest())


def _address(data_dir: Path | None, admin: str | None) -> str:
    address = _socket(data_dir, admin)
    length = len(os.fsencode(address))
    if length > _MAX_PATH_BYTES:
        raise invalid(f"the admin socket's path {address} is {length} bytes long: at most {_MAX_PATH_BYTES} can be")
    return address


def _socket(data_dir: Path | None, admin: str | None) -> str:
    if admin is not None:
        return str(Path(admin.removeprefix("unix:")).absolute())
    if data_dir is None:
        raise invalid("give --data-dir (or MESHCA_DATA_DIR) of the running server, or --admin with its socket")
    return str((data_dir / "admin.sock").absolute())


def _meshca_error(error: grpc.RpcError, address: str) -> MeshcaError:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        return unavailable(_why_unreachable(address) or details)
    if code is grpc.StatusCode.CANCELLED:  # never by us
        return unavailable(f"the server at {address} ended in the middle of the call")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return unavailable(f"the server at {address} did not answer within {_TIMEOUT_SECONDS}s: see its log")
    return MeshcaError(_KINDS.get(code, ErrorKind.INTERNAL), details or f"the server answered {code.name}")


def _why_unreachable(address: str) -> str | None:
    """What keeps us from the socket; None where it can be connected to, and the server itself said UNAVAILABLE."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_TIMEOUT_SECONDS)
        try:
            probe.connect(address)
        except FileNotFoundError:
            return f"no server is running there: {address} does not exist"
        except PermissionError:
            return f"{address} may not be opened by this user: run the command as the server's user"
        except OSError as error:
            return f"no server answers on {address}: {error.strerror or error}"
    return None
