"""Reading what the server answered. Nothing of it is believed unchecked, and a refused answer changes nothing.

The answer came over TLS that was verified with the bundle held before: that is what vouches for a new bundle.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from meshca.agent.addresses import ServerAddress, mtls_address
from meshca.agent.identity import AgentIdentity, check_succession, verified_identity
from meshca.agent.keys import KeyRequest
from meshca.errors import ErrorKind, MeshcaError, invalid
from meshca.pki.keys import spki_der
from meshca.proto.meshca.v1 import certificates_pb2 as pb
from meshca.rpc.status import CODES
from meshca.spiffe.bundles import RevocationList, TrustBundle
from meshca.spiffe.ids import TrustDomain, parse_workload_id
from meshca.spiffe.revocation_lists import check_revocation_lists
from meshca.spiffe.svids import X509Svid

BAD_ANSWER = "BAD_ANSWER"
MAX_AUTHORITIES = 200
MAX_DETAIL = 400  # characters of the server's own words that we repeat
_NO_RETRY = timedelta(days=1)
_LIKE_A_TOKEN = re.compile(r"[A-Za-z0-9_.+=-]{32,}")
_KINDS = {code: kind for kind, code in CODES.items()}
_NUMBERS = {code.value[0]: code for code in CODES.values()}


def accept_answer(
    answer: pb.SignCertificatesResponse,
    request: KeyRequest,
    server: ServerAddress,
    held: AgentIdentity | None,
    now: datetime,
) -> AgentIdentity:
    """The identity that the answer gives for `request`, fit to replace `held`.

    Raises what the server refused with, or INVALID with the reason BAD_ANSWER where the answer must not be believed.
    """
    certificate = _certificate(answer)
    try:
        new = _read(answer, certificate, request, server, held, now)
        if held is not None:
            check_succession(held, new)
    except MeshcaError as error:
        raise invalid(f"the server's answer is refused: {error.message}", reason=BAD_ANSWER) from error
    return new


def refusal(code: object, detail: str, *, retry_after: float | None = None) -> MeshcaError:
    """The error for a status that the server (or gRPC for it) gave; `code` is a grpc.StatusCode."""
    kind = _KINDS.get(code, ErrorKind.UNAVAILABLE)  # type: ignore[call-overload]  # typeshed: any key may be asked for
    name = getattr(code, "name", str(code))
    return MeshcaError(kind, f"{name}: {printable(detail)}", retry_after=retry_after)


def printable(text: str) -> str:
    """At most 400 characters of foreign text on one line, without anything that might be a token."""
    cut = text[: 4 * MAX_DETAIL]
    line = _LIKE_A_TOKEN.sub("[…]", " ".join("".join(c if c.isprintable() else " " for c in cut).split()))
    return line if len(line) <= MAX_DETAIL else line[: MAX_DETAIL - 1] + "…"


def _certificate(answer: pb.SignCertificatesResponse) -> pb.Certificate:
    if len(answer.results) != 1:
        raise _bad(f"it has {len(answer.results)} results for one request")
    result = answer.results[0]
    if result.HasField("refusal"):
        code = _NUMBERS.get(result.refusal.code)
        raise refusal(code or result.refusal.code, result.refusal.message)
    if not result.HasField("certificate"):
        raise _bad("its result is neither a certificate nor a refusal")
    return result.certificate


def _read(
    answer: pb.SignCertificatesResponse,
    certificate: pb.Certificate,
    request: KeyRequest,
    server: ServerAddress,
    held: AgentIdentity | None,
    now: datetime,
) -> AgentIdentity:
    svid = X509Svid(parse_workload_id(certificate.spiffe_id), tuple(certificate.chain), request.private_key_pem)
    if _leaf_spki(svid.leaf) != request.spki:
        raise _bad("its certificate is for another key than the one that asked")
    if answer.mtls_address:
        mtls: ServerAddress | None = mtls_address(answer.mtls_address, server)
    else:
        mtls = None if held is None else held.mtls
    return verified_identity(svid, _bundle(answer, held, now), mtls, received_at=now, now=now)


def _bundle(answer: pb.SignCertificatesResponse, held: AgentIdentity | None, now: datetime) -> TrustBundle:
    """The bundle that came along; the one held where something is wrong with its revocation lists alone: the
    certificate is none the worse for that, and the stream refuses such a bundle where it is heard."""
    bundle = parse_bundle(answer.bundle)
    if held is None:
        return bundle
    try:
        check_revocation_lists(bundle, now)
    except MeshcaError:
        return held.bundle
    return bundle


def _leaf_spki(leaf: x509.Certificate) -> bytes:
    try:
        return spki_der(leaf.public_key())  # type: ignore[arg-type]  # of whatever type, it has this form
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _bad("the public key of its certificate cannot be read") from error


def parse_bundle(bundle: pb.TrustBundle) -> TrustBundle:
    """The bundle that the server sent. Raises INVALID where it is empty, too large, or not made of CA certificates."""
    if len(bundle.x509_authorities) > MAX_AUTHORITIES:
        raise invalid(f"the trust bundle has {len(bundle.x509_authorities)} roots: at most {MAX_AUTHORITIES} are read")
    if bundle.sequence < 0:
        raise invalid(f"the trust bundle has the sequence {bundle.sequence}")
    authorities = tuple(bytes(der) for der in bundle.x509_authorities)
    hint = max(bundle.refresh_hint_seconds, 0)
    lists = tuple(RevocationList(bytes(each.crl), tuple(map(bytes, each.issuers))) for each in bundle.revocation_lists)
    return TrustBundle(TrustDomain(bundle.trust_domain), authorities, bundle.sequence, hint, lists)


def _bad(problem: str) -> MeshcaError:
    return invalid(f"the server's answer is refused: {problem}", reason=BAD_ANSWER)


def pushback(milliseconds: str) -> timedelta:
    """The wait that a `grpc-retry-pushback-ms` asks for (gRFC A6): a day where it is negative or no number, which mean
    that no retry is wanted."""
    try:
        wait = int(milliseconds[:12])
    except ValueError:
        return _NO_RETRY
    return timedelta(milliseconds=wait) if wait >= 0 else _NO_RETRY
