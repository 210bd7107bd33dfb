"""The signing door: Istio's CreateCertificate and our own SignCertificates. Bytes to values and back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc
import structlog

from meshca.compile.bundles import bundle_message
from meshca.errors import ErrorKind, MeshcaError, invalid, unauthenticated
from meshca.pki.records import ISTIO, MESHCA
from meshca.ports import Clock
from meshca.proto.istio.v1.auth import ca_pb2
from meshca.proto.meshca.v1 import certificates_pb2 as pb
from meshca.rpc.calls import Refusal
from meshca.rpc.limits import PeerLimiter
from meshca.rpc.status import CODES, code_number, retry_metadata
from meshca.services.authentication import Authentication
from meshca.services.issuance import REVOKED, Issuance, IssuedChain, SigningRequest
from meshca.spiffe.peers import Caller, Peer

_log = structlog.get_logger("meshca.door")

ISTIO_SERVICE = "istio.v1.auth.IstioCertificateService"
MESHCA_SERVICE = "meshca.v1.CertificateService"
MAX_BATCH = 100

# What a caller is told, whatever the reason was: the words that Istio's own CA uses.
_OPAQUE = "request authenticate failure"
_OPAQUE_REVOCATION = "the request is denied"
_OPAQUE_IMPERSONATION = "request impersonation authentication failure"

Q = TypeVar("Q")
A = TypeVar("A")
if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]  # generic in the stubs only
    PeerReader = Callable[[Context], tuple[Peer, str]]


class DoorMetrics(Protocol):
    """What the door counts."""

    def csr_received(self, count: int = 1) -> None: ...
    def authentication_failed(self) -> None: ...
    def sign_failed(self, error: str) -> None: ...
    def issued(self, kind: str) -> None: ...
    def refused(self, reason: str) -> None: ...
    def call_handled(self, service: str, method: str, code: str, seconds: float) -> None: ...


class CertificateDoor:
    """Answers the two certificate services on one listener."""

    def __init__(
        self,
        authentication: Authentication,
        issuance: Issuance,
        limiter: PeerLimiter,
        clock: Clock,
        metrics: DoorMetrics,
        read_peer: PeerReader,
        mtls_address: Callable[[], str],
    ) -> None:
        self._authentication = authentication
        self._issuance = issuance
        self._limiter = limiter
        self._clock = clock
        self._metrics = metrics
        self._read_peer = read_peer
        self._mtls_address = mtls_address

    async def create_certificate(
        self, request: ca_pb2.IstioCertificateRequest, context: Context
    ) -> ca_pb2.IstioCertificateResponse:
        """`istio.v1.auth.IstioCertificateService/CreateCertificate`."""
        self._metrics.csr_received()
        caller = await self._admit(context, cost=1)
        try:
            _check_metadata(request)
            wish = SigningRequest(request.csr.encode(), request.validity_duration, protocol=ISTIO)
            issued = await self._issuance.issue(caller, wish)
        except MeshcaError as error:
            raise self._signing_refused(caller, error) from error
        self._metrics.issued("leaf")
        return istio_response(issued)

    async def sign_certificates(
        self, request: pb.SignCertificatesRequest, context: Context
    ) -> pb.SignCertificatesResponse:
        """`meshca.v1.CertificateService/SignCertificates`."""
        self._metrics.csr_received(len(request.requests))
        caller = await self._admit(context, cost=max(1, len(request.requests)))
        try:
            wishes = _wishes(request)
            answers = await self._issuance.issue_batch(caller, wishes)
        except MeshcaError as error:
            raise self._signing_refused(caller, error) from error
        return self._batch_response(caller, answers)

    async def _admit(self, context: Context, cost: int) -> Caller:
        peer, name = self._read_peer(context)
        try:
            self._limiter.admit(name, cost)
            return await self._authenticate(peer)
        except MeshcaError as error:
            raise self._caller_refused(peer, error) from error

    async def _authenticate(self, peer: Peer) -> Caller:
        """A certificate takes but a little computing; for a token, keys may be fetched or a store read."""
        now = self._clock.now()
        if peer.bearer_tokens:
            return await asyncio.to_thread(self._authentication.authenticate, peer, now)
        return self._authentication.authenticate(peer, now)

    def _caller_refused(self, peer: Peer, error: MeshcaError) -> Refusal:
        if error.kind is ErrorKind.EXHAUSTED:
            self._metrics.refused("rate_limit")
            _log.debug("rate_limited", peer=peer.address)
            return _refusal(error, error.message)
        self._metrics.authentication_failed()
        self._metrics.refused("authentication")
        _log.info("authentication_failed", peer=peer.address, kind=error.kind.value, reason=error.message)
        if error.kind is not ErrorKind.UNAVAILABLE:
            error = unauthenticated(error.message)
        return _refusal(error, _OPAQUE)

    def _signing_refused(self, caller: Caller, error: MeshcaError) -> Refusal:
        reason = error.reason or "UNKNOWN"
        self._metrics.sign_failed(reason)
        self._metrics.refused(error.kind.value)
        _log.info("signing_refused", caller=str(caller.id), kind=error.kind.value, error=reason, reason=error.message)
        if error.kind is ErrorKind.UNAUTHENTICATED:
            return _refusal(error, _OPAQUE_IMPERSONATION if reason == "IMPERSONATION" else _OPAQUE)
        return _refusal(error, f"CSR signing error ({_outward(error)})")

    def _batch_response(
        self, caller: Caller, answers: Iterable[IssuedChain | MeshcaError]
    ) -> pb.SignCertificatesResponse:
        response = pb.SignCertificatesResponse(mtls_address=self._mtls_address())
        bundle = None
        for answer in answers:
            if isinstance(answer, MeshcaError):
                self._count_refusal(caller, answer)
                refusal = pb.Refusal(code=code_number(answer), message=_outward(answer))
                response.results.append(pb.SigningResult(refusal=refusal))
            else:
                self._metrics.issued("leaf")
                response.results.append(pb.SigningResult(certificate=_certificate(answer)))
                bundle = answer.state.bundle
        response.bundle.CopyFrom(bundle_message(bundle or self._issuance.bundle()))
        return response

    def _count_refusal(self, caller: Caller, error: MeshcaError) -> None:
        self._metrics.sign_failed(error.reason or "UNKNOWN")
        self._metrics.refused(error.kind.value)
        _log.info("signing_refused", caller=str(caller.id), kind=error.kind.value, reason=error.message)


def istio_response(issued: IssuedChain) -> ca_pb2.IstioCertificateResponse:
    """Leaf first, one PEM block per element, and the whole root bundle as the last element."""
    state, certificate = issued.state, issued.certificate
    path = state.issuer.pem_path_for(certificate.prepared.not_after)
    return ca_pb2.IstioCertificateResponse(cert_chain=[certificate.pem, *path, state.bundle.pem])


def certificate_handlers(door: CertificateDoor, metrics: DoorMetrics) -> tuple[grpc.GenericRpcHandler, ...]:
    """The generic handlers of both services."""
    istio = grpc.unary_unary_rpc_method_handler(
        _metered(door.create_certificate, metrics, ISTIO_SERVICE, "CreateCertificate"),
        ca_pb2.IstioCertificateRequest.FromString,
        ca_pb2.IstioCertificateResponse.SerializeToString,
    )
    ours = grpc.unary_unary_rpc_method_handler(
        _metered(door.sign_certificates, metrics, MESHCA_SERVICE, "SignCertificates"),
        pb.SignCertificatesRequest.FromString,
        pb.SignCertificatesResponse.SerializeToString,
    )
    return (
        grpc.method_handlers_generic_handler(ISTIO_SERVICE, {"CreateCertificate": istio}),
        grpc.method_handlers_generic_handler(MESHCA_SERVICE, {"SignCertificates": ours}),
    )


def _metered(
    handler: Callable[[Q, Context], Awaitable[A]], metrics: DoorMetrics, service: str, method: str
) -> Callable[[Q, Context], Awaitable[A]]:
    async def call(request: Q, context: Context) -> A:
        began, code = perf_counter(), grpc.StatusCode.CANCELLED  # which is no Exception
        try:
            answer = await handler(request, context)
            code = grpc.StatusCode.OK
        except Refusal as refusal:
            code = refusal.code
            raise
        except Exception:
            code = grpc.StatusCode.INTERNAL
            raise
        finally:
            metrics.call_handled(service, method, code.name, perf_counter() - began)
        return answer

    return call


def _check_metadata(request: ca_pb2.IstioCertificateRequest) -> None:
    """Refuses what clients may ask for in `metadata` and we do not grant; unknown keys are ignored, as Istio does."""
    fields = request.metadata.fields
    if "ImpersonatedIdentity" in fields and fields["ImpersonatedIdentity"].string_value:
        message = "ImpersonatedIdentity was given, but no node proxy is trusted to impersonate"
        raise MeshcaError(ErrorKind.UNAUTHENTICATED, message, reason="IMPERSONATION")
    if "CertSigner" in fields and fields["CertSigner"].string_value:
        raise invalid("metadata CertSigner names a signer, but none is configured: leave it empty", reason="CSR_ERROR")


def _wishes(request: pb.SignCertificatesRequest) -> list[SigningRequest]:
    if not 1 <= len(request.requests) <= MAX_BATCH:
        raise invalid(f"requests holds {len(request.requests)} items: send 1 to {MAX_BATCH}", reason="CSR_ERROR")
    return [SigningRequest(wish.csr, wish.ttl_seconds, wish.spiffe_id, MESHCA) for wish in request.requests]


def _certificate(issued: IssuedChain) -> pb.Certificate:
    prepared, issuer = issued.certificate.prepared, issued.state.issuer
    return pb.Certificate(
        spiffe_id=str(issued.grant.subject),
        chain=[issued.certificate.der, *issuer.path_for(prepared.not_after)],
        serial=prepared.serial_hex,
        not_before=int(prepared.not_before.timestamp()),
        not_after=int(prepared.not_after.timestamp()),
    )


def _outward(error: MeshcaError) -> str:
    """What the caller may read: everything about its own request, nothing about our insides."""
    if error.kind is ErrorKind.INTERNAL:
        return {"CA_NOT_READY": "the CA is not ready", "CERT_GEN_ERROR": "certificate generation failed"}.get(
            error.reason or "", "internal error"
        )
    if error.kind is ErrorKind.UNAVAILABLE:
        ready = error.reason != "CA_NOT_READY"
        cause = "the certificate cannot be recorded right now" if ready else "the CA is not ready"
        return f"{cause}; nothing was issued"
    if error.reason == REVOKED:
        return _OPAQUE_REVOCATION  # who is cut off need not learn by what
    return error.message


def _refusal(error: MeshcaError, message: str) -> Refusal:
    code = CODES[error.kind]
    metadata = () if error.retry_after is None else retry_metadata(code, message, error.retry_after)
    return Refusal(code, message, metadata)
