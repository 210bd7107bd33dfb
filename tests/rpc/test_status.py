"""Errors as gRPC tells them."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import ErrorKind, MeshcaError
from meshca.rpc.status import CODES, code_number, retry_metadata

EXPECTED = {
    ErrorKind.INVALID: (grpc.StatusCode.INVALID_ARGUMENT, 3),
    ErrorKind.UNAUTHENTICATED: (grpc.StatusCode.UNAUTHENTICATED, 16),
    ErrorKind.DENIED: (grpc.StatusCode.PERMISSION_DENIED, 7),
    ErrorKind.NOT_FOUND: (grpc.StatusCode.NOT_FOUND, 5),
    ErrorKind.CONFLICT: (grpc.StatusCode.ABORTED, 10),
    ErrorKind.EXHAUSTED: (grpc.StatusCode.RESOURCE_EXHAUSTED, 8),
    ErrorKind.UNAVAILABLE: (grpc.StatusCode.UNAVAILABLE, 14),
    ErrorKind.INTERNAL: (grpc.StatusCode.INTERNAL, 13),
}


@pytest.mark.parametrize("kind", ErrorKind)
def test_each_kind_has_its_code(kind: ErrorKind) -> None:
    assert (CODES[kind], code_number(MeshcaError(kind, "x"))) == EXPECTED[kind]


@given(st.floats(0.000001, 86400))
def test_a_retry_hint_says_the_same_in_both_forms_and_never_too_little(retry_after: float) -> None:
    metadata = dict(retry_metadata(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down", retry_after))
    pushback = metadata["grpc-retry-pushback-ms"]
    assert isinstance(pushback, str)
    assert retry_after * 1000 <= int(pushback) < retry_after * 1000 + 1
    details = metadata["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    status = status_pb2.Status.FromString(details)
    assert (status.code, status.message) == (8, "slow down")
    info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert info.retry_delay.ToNanoseconds() == pytest.approx(retry_after * 1e9, abs=1)
