"""The admin service: what operators' commands ask of a running server, on its private socket."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NoReturn, TypeVar

import grpc
import structlog

from meshca.authority.ring import Authority
from meshca.errors import MeshcaError, invalid
from meshca.pki.records import CertificateRecord, LedgerQuery
from meshca.ports import CertificateLedger
from meshca.proto.meshca.v1 import admin_pb2 as pb
from meshca.proto.meshca.v1 import admin_pb2_grpc
from meshca.rpc.certificates import bundle_message
from meshca.rpc.status import CODES
from meshca.services.enrolment import Enrolment
from meshca.services.signing import Signing

_log = structlog.get_logger("meshca.admin")
_T = TypeVar("_T")


class AdminDoor(admin_pb2_grpc.AdminServiceServicer):
    """Answers `meshca.v1.AdminService`. Whoever can open the socket is the operator."""

    def __init__(self, signing: Signing, ledger: CertificateLedger, enrolment: Enrolment) -> None:
        self._signing = signing
        self._ledger = ledger
        self._enrolment = enrolment

    def CreateJoinToken(  # noqa: N802
        self, request: pb.CreateJoinTokenRequest, context: grpc.ServicerContext
    ) -> pb.CreateJoinTokenResponse:
        """A new join token."""
        text, token = _answer(context, lambda: self._enrolment.create(request.spiffe_id, request.ttl_seconds))
        _log.info("join_token_created", spiffe_id=str(token.spiffe_id), token=token.short_id)
        return pb.CreateJoinTokenResponse(
            token=text, spiffe_id=str(token.spiffe_id), expires_at=int(token.expires_at.timestamp())
        )

    def GetTrustBundle(  # noqa: N802
        self, request: pb.GetTrustBundleRequest, context: grpc.ServicerContext
    ) -> pb.GetTrustBundleResponse:
        """The current trust bundle."""
        state = _answer(context, self._signing.latest)
        return pb.GetTrustBundleResponse(bundle=bundle_message(state.bundle))

    def ListCertificates(  # noqa: N802
        self, request: pb.ListCertificatesRequest, context: grpc.ServicerContext
    ) -> pb.ListCertificatesResponse:
        """A page of the ledger."""
        page = _answer(context, lambda: self._ledger.find(_query(request)))
        return pb.ListCertificatesResponse(
            records=[_record_message(record) for record in page.records], next_before=page.next_before or 0
        )

    def ListAuthorities(  # noqa: N802
        self, request: pb.ListAuthoritiesRequest, context: grpc.ServicerContext
    ) -> pb.ListAuthoritiesResponse:
        """The authority ring."""
        ring = _answer(context, self._signing.latest).ring
        return pb.ListAuthoritiesResponse(
            authorities=[_authority_message(authority) for authority in ring.authorities],
            trust_domain=ring.trust_domain.name,
            bundle_sequence=ring.sequence,
        )


def _answer(context: grpc.ServicerContext, call: Callable[[], _T]) -> _T:
    try:
        return call()
    except MeshcaError as error:
        _abort(context, error)


def _abort(context: grpc.ServicerContext, error: MeshcaError) -> NoReturn:
    """Operators are told everything that the message says."""
    context.abort(CODES[error.kind], error.message)
    raise AssertionError("abort returned")


def _query(request: pb.ListCertificatesRequest) -> LedgerQuery:
    return LedgerQuery(
        spiffe_id=request.spiffe_id or None,
        serial=request.serial.lower() or None,
        since=_time(request.since),
        until=_time(request.until),
        valid_at=_time(request.valid_at),
        limit=request.limit or 100,
        before=request.before or None,
    )


def _time(seconds: int) -> datetime | None:
    if not seconds:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise invalid(f"time {seconds} is out of range: give Unix seconds") from error


def _record_message(record: CertificateRecord) -> pb.CertificateRecord:
    return pb.CertificateRecord(
        serial=record.serial,
        kind=record.kind,
        spiffe_id=record.spiffe_id,
        dns_names=record.dns_names,
        caller_id=record.caller_id,
        method=record.method,
        attested=record.attested,
        key_fingerprint=record.key_fingerprint,
        issuer_id=record.issuer_id,
        not_before=int(record.not_before.timestamp()),
        not_after=int(record.not_after.timestamp()),
        bundle_sequence=record.bundle_sequence,
        recorded_at=int(record.recorded_at.timestamp()),
    )


def _authority_message(authority: Authority) -> pb.Authority:
    return pb.Authority(
        id=authority.id,
        kind=authority.kind.value,
        state=authority.state.value,
        issuer_id=authority.issuer_id,
        not_before=int(authority.not_before.timestamp()),
        not_after=int(authority.not_after.timestamp()),
        bundle_sequence=authority.bundle_sequence,
    )
