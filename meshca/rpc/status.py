"""Error kinds as gRPC status codes, and refusals that tell the client when to come back."""

from __future__ import annotations

import math

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from meshca.errors import ErrorKind, MeshcaError

CODES: dict[ErrorKind, grpc.StatusCode] = {
    ErrorKind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorKind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorKind.DENIED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorKind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorKind.CONFLICT: grpc.StatusCode.ABORTED,
    ErrorKind.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorKind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorKind.INTERNAL: grpc.StatusCode.INTERNAL,
}

PUSHBACK = "grpc-retry-pushback-ms"  # gRFC A6
DETAILS = "grpc-status-details-bin"


def code_number(error: MeshcaError) -> int:
    """The google.rpc.Code of an error, for answers that carry it in a message."""
    number: int = CODES[error.kind].value[0]
    return number


def retry_metadata(code: grpc.StatusCode, message: str, retry_after: float) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata that asks the client to come back after `retry_after` seconds, in the two forms in use."""
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(int(retry_after * 1e9))
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code.value[0], message=message, details=[detail])
    return ((PUSHBACK, str(math.ceil(retry_after * 1000))), (DETAILS, status.SerializeToString()))
