"""The admin service: what operators' commands ask of a running server, on its private socket."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NoReturn, TypeVar

import grpc
import structlog

from meshca.authority.ring import AuthorityKind, Step
from meshca.compile.bundles import bundle_message
from meshca.errors import MeshcaError, invalid
from meshca.pki.records import LedgerQuery
from meshca.ports import CertificateLedger
from meshca.proto.meshca.v1 import admin_pb2 as pb
from meshca.proto.meshca.v1 import admin_pb2_grpc
from meshca.rpc.admin_messages import (
    authority_message,
    ban_message,
    imported_message,
    plan_message,
    record_message,
    status_message,
)
from meshca.rpc.status import CODES
from meshca.services.control import AuthorityControl, Order, checked_reason
from meshca.services.enrolment import Enrolment
from meshca.services.health import Health
from meshca.services.imports import AuthorityImports
from meshca.services.revocation import Revocations
from meshca.services.signing import Signing

_log = structlog.get_logger("meshca.admin")
_T = TypeVar("_T")

MAX_DISTRUST_SECONDS = 90 * 86400


class AdminDoor(admin_pb2_grpc.AdminServiceServicer):
    """Answers `meshca.v1.AdminService`. Whoever can open the socket is the operator."""

    def __init__(
        self,
        signing: Signing,
        ledger: CertificateLedger,
        enrolment: Enrolment,
        control: AuthorityControl,
        revocations: Revocations,
        imports: AuthorityImports,
        health: Callable[[], Health],
    ) -> None:
        self._health = health
        self._revocations = revocations
        self._control = control
        self._imports = imports
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
            records=[record_message(record) for record in page.records], next_before=page.next_before or 0
        )

    def ListAuthorities(  # noqa: N802
        self, request: pb.ListAuthoritiesRequest, context: grpc.ServicerContext
    ) -> pb.ListAuthoritiesResponse:
        """The authority ring."""
        ring = _answer(context, self._signing.latest).ring
        return pb.ListAuthoritiesResponse(
            authorities=[authority_message(authority) for authority in ring.authorities],
            trust_domain=ring.trust_domain.name,
            bundle_sequence=ring.sequence,
        )

    def GetStatus(self, request: pb.GetStatusRequest, context: grpc.ServicerContext) -> pb.GetStatusResponse:  # noqa: N802
        """Where authorities and their rotation stand, and how the server is."""
        health = _answer(context, self._health)
        return status_message(_answer(context, self._control.standing), health)

    def PlanRotation(  # noqa: N802
        self, request: pb.PlanRotationRequest, context: grpc.ServicerContext
    ) -> pb.PlanRotationResponse:
        """What a rotation of the root would do."""
        return plan_message(_answer(context, self._control.plan))

    def BeginRotation(  # noqa: N802
        self, request: pb.BeginRotationRequest, context: grpc.ServicerContext
    ) -> pb.BeginRotationResponse:
        """Begins a rotation of the root."""
        _answer(context, lambda: self._control.begin(request.reason))
        return pb.BeginRotationResponse()

    def AbortRotation(  # noqa: N802
        self, request: pb.AbortRotationRequest, context: grpc.ServicerContext
    ) -> pb.AbortRotationResponse:
        """Goes back to the root from before."""
        _answer(context, lambda: self._control.abort(request.reason))
        return pb.AbortRotationResponse()

    def PrepareAuthority(  # noqa: N802
        self, request: pb.PrepareAuthorityRequest, context: grpc.ServicerContext
    ) -> pb.PrepareAuthorityResponse:
        """A new authority, which waits."""
        made = _answer(context, lambda: self._control.prepare(_kind(request.kind), request.reason))
        return pb.PrepareAuthorityResponse(authority=authority_message(made))

    def StepAuthority(  # noqa: N802
        self, request: pb.StepAuthorityRequest, context: grpc.ServicerContext
    ) -> pb.StepAuthorityResponse:
        """One step on one authority."""
        authority = _answer(context, lambda: self._control.carry_out(_order(request)))
        return pb.StepAuthorityResponse(authority=authority_message(authority))

    def Revoke(self, request: pb.RevokeRequest, context: grpc.ServicerContext) -> pb.RevokeResponse:  # noqa: N802
        """Cuts off an identity or a certificate."""
        revoke = self._revocations.revoke
        ban = _answer(context, lambda: revoke(request.spiffe_id, request.serial, request.reason))
        return pb.RevokeResponse(ban=ban_message(ban))

    def Unban(self, request: pb.UnbanRequest, context: grpc.ServicerContext) -> pb.UnbanResponse:  # noqa: N802
        """Takes that back."""
        ban = _answer(context, lambda: self._revocations.unban(request.spiffe_id, request.serial))
        return pb.UnbanResponse(ban=ban_message(ban))

    def ListRevocations(  # noqa: N802
        self, request: pb.ListRevocationsRequest, context: grpc.ServicerContext
    ) -> pb.ListRevocationsResponse:
        """What is cut off, or was."""
        listing = self._revocations.listing
        bans = _answer(context, lambda: listing(request.limit or 100, lifted=request.lifted))
        return pb.ListRevocationsResponse(bans=[ban_message(ban) for ban in bans])

    def RequestIssuer(  # noqa: N802
        self, request: pb.RequestIssuerRequest, context: grpc.ServicerContext
    ) -> pb.RequestIssuerResponse:
        """The request for the next issuing CA, for an external root to sign."""
        pending = _answer(context, lambda: self._imports.request(new=request.renew))
        return pb.RequestIssuerResponse(request=pending.request, since=int(pending.since.timestamp()))

    def ImportAuthority(  # noqa: N802
        self, request: pb.ImportAuthorityRequest, context: grpc.ServicerContext
    ) -> pb.ImportAuthorityResponse:
        """Takes in what an external root has signed."""
        imported = _answer(context, lambda: self._imports.accept(request.chain, checked_reason(request.reason)))
        return imported_message(imported)


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


def _kind(name: str) -> AuthorityKind:
    if name not in (AuthorityKind.ROOT.value, AuthorityKind.ISSUER.value):
        raise invalid(f"kind {name!r} cannot be prepared: say root or issuer")
    return AuthorityKind(name)


def _order(request: pb.StepAuthorityRequest) -> Order:
    steps = {step.value: step for step in (Step.ACTIVATE, Step.TAINT, Step.REVOKE, Step.PRUNE)}
    if request.step not in steps:
        raise invalid(f"step {request.step!r} is none of {', '.join(steps)}")
    if not 0 <= request.distrust_after_seconds <= MAX_DISTRUST_SECONDS:
        raise invalid(
            f"distrust_after is {request.distrust_after_seconds}s: at most {MAX_DISTRUST_SECONDS}s are allowed"
        )
    after = timedelta(seconds=request.distrust_after_seconds) if request.distrust_after_seconds else None
    return Order(steps[request.step], request.authority_id, request.reason, request.force, after)
