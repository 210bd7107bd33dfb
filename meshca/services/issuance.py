"""Issuance: an authenticated caller and a CSR become a certificate.

The order is law 2: prepared, linted, recorded durably, signed, checked; a join token is spent before the signature.
A caller that is cancelled on the way leaves at most a record without a certificate.

Its coroutines compute on the loop and wait for the ledger without holding a thread; what would hold up the loop hops.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from meshca.errors import ErrorKind, MeshcaError, denied, detached
from meshca.pki.certificates import CertificateKind, IssuedCertificate, PreparedCertificate
from meshca.pki.csr import CertificateRequest, parse_csr
from meshca.pki.keys import fingerprint
from meshca.pki.lint import lint_leaf
from meshca.pki.prepare import SERIAL_BYTES, prepare, serial_from
from meshca.pki.profiles import Grant, IssuanceProfile, choose_ttl
from meshca.pki.records import CertificateRecord
from meshca.pki.sign import sign
from meshca.ports import CertificateLedger, Clock, JoinTokenStore
from meshca.services.enrolment import check_assignable
from meshca.services.signing import Signing, SigningState
from meshca.spiffe.bans import BanList
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import parse_workload_id
from meshca.spiffe.peers import Caller

_AT_ONCE = 8  # of a batch: a few milliseconds
REVOKED = "REVOKED"

Q = TypeVar("Q")
A = TypeVar("A")


def random_serial() -> int:
    """A serial number from the operating system's randomness."""
    return serial_from(secrets.token_bytes(SERIAL_BYTES))


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """One wish: a CSR (PEM or DER), a lifetime in seconds (0 or less: the default), an identity ("": the caller's).

    `protocol` is the service by which it came, as the ledger has it.
    """

    csr: bytes
    ttl_seconds: int = 0
    spiffe_id: str = ""
    protocol: str = ""


@dataclass(frozen=True, slots=True)
class IssuedChain:
    """A certificate with the state it was signed under: the issuer's chain and the trust bundle that go with it."""

    certificate: IssuedCertificate
    grant: Grant
    state: SigningState


@dataclass(frozen=True, slots=True)
class _Draft:
    request: CertificateRequest
    grant: Grant
    prepared: PreparedCertificate
    protocol: str = ""


class Issuance:
    """Signs certificates for workloads, and for the server itself."""

    def __init__(
        self,
        signing: Signing,
        ledger: CertificateLedger,
        join_tokens: JoinTokenStore,
        clock: Clock,
        profile: IssuanceProfile,
        serials: Callable[[], int] = random_serial,
    ) -> None:
        self._signing = signing
        self._ledger = ledger
        self._join_tokens = join_tokens
        self._clock = clock
        self._profile = profile
        self._serials = serials

    async def issue(self, caller: Caller, request: SigningRequest) -> IssuedChain:
        """One certificate.

        Raises INVALID (reasons `CSR_ERROR`, `TTL_ERROR`), DENIED (reason `REVOKED`: for an operator
        banned the caller), UNAUTHENTICATED (somebody else spent the caller's
        join token meanwhile), INTERNAL (`CA_NOT_READY`, `CERT_GEN_ERROR`),
        UNAVAILABLE where the ledger cannot be written or the authorities cannot be read (nothing was signed).
        """
        state, now = self._signing.current(), self._clock.now()
        draft = self._draft(caller, request, state, now)
        return (await self._certify(caller, [draft], state, now))[0]

    async def issue_batch(self, caller: Caller, requests: Sequence[SigningRequest]) -> list[IssuedChain | MeshcaError]:
        """One answer for each request, in order; the good ones share a durable write.

        Raises what concerns all of them: INTERNAL (`CA_NOT_READY`), UNAVAILABLE (ledger, authorities).
        """
        state, now = self._signing.current(), self._clock.now()
        drafts = await _in_turns(lambda request: self._try_draft(caller, request, state, now), requests)
        good = [draft for draft in drafts if isinstance(draft, _Draft)]
        issued = iter(await self._certify(caller, good, state, now))
        return [next(issued) if isinstance(draft, _Draft) else draft for draft in drafts]

    def issue_granted(
        self, caller: Caller, request: CertificateRequest, grant: Grant, kind: CertificateKind
    ) -> IssuedChain:
        """A certificate for a grant that was decided elsewhere: the server's own. It blocks: not for a loop."""
        state, now = self._signing.current().for_own(), self._clock.now()
        draft = self._prepare(request, grant, kind, state, now)
        self._ledger.record([_record(caller, draft, state, now)])
        return _sign(draft, state)

    def bundle(self) -> TrustBundle:
        """The trust bundle that goes with what is issued now. Raises INTERNAL (`CA_NOT_READY`)."""
        return self._signing.latest().bundle

    def _try_draft(
        self, caller: Caller, request: SigningRequest, state: SigningState, now: datetime
    ) -> _Draft | MeshcaError:
        try:
            return self._draft(caller, request, state, now)
        except MeshcaError as error:
            return detached(error)

    def _draft(self, caller: Caller, request: SigningRequest, state: SigningState, now: datetime) -> _Draft:
        _check_not_banned(caller, state.bans)
        ttl = choose_ttl(request.ttl_seconds, self._profile)
        check_assignable(caller.id, state.bundle.trust_domain)
        _check_entitled(caller, request.spiffe_id)
        csr = parse_csr(request.csr, self._profile.key_types)
        draft = self._prepare(csr, Grant(caller.id, ttl), CertificateKind.LEAF, state, now)
        return replace(draft, protocol=request.protocol)

    def _prepare(
        self, request: CertificateRequest, grant: Grant, kind: CertificateKind, state: SigningState, now: datetime
    ) -> _Draft:
        serial = self._serials()
        prepared = prepare(request, grant, state.issuer, self._profile, serial=serial, now=now, kind=kind)
        lint_leaf(prepared, grant, request.family, state.issuer, self._profile, now)
        return _Draft(request, grant, prepared)

    async def _certify(
        self, caller: Caller, drafts: Sequence[_Draft], state: SigningState, now: datetime
    ) -> list[IssuedChain]:
        if not drafts:
            return []
        await self._ledger.record_async([_record(caller, draft, state, now) for draft in drafts])
        if caller.join_token:
            # last, so that a refused call or a full disk costs nobody a token; and before the signature, so that of all
            # who come with one token exactly one gets a certificate
            await asyncio.to_thread(self._join_tokens.redeem, caller.join_token, now)
        if state.signer.blocks:
            return await asyncio.to_thread(lambda: [_sign(draft, state) for draft in drafts])
        return await _in_turns(lambda draft: _sign(draft, state), drafts)


def _sign(draft: _Draft, state: SigningState) -> IssuedChain:
    return IssuedChain(sign(draft.prepared, state.signer), draft.grant, state)


async def _in_turns(step: Callable[[Q], A], items: Sequence[Q]) -> list[A]:
    """`step` of each item. After every few of them others have their turn on the loop."""
    results: list[A] = []
    for item in items:
        results.append(step(item))
        if len(results) % _AT_ONCE == 0:
            await asyncio.sleep(0)
    return results


def _check_not_banned(caller: Caller, bans: BanList) -> None:
    if bans.concerns(caller):
        by = f"by its certificate {caller.serial}" if bans.has_serial(caller.serial) else "by its identity"
        raise MeshcaError(ErrorKind.DENIED, f"{caller.id} is revoked, {by}", reason=REVOKED)


def _check_entitled(caller: Caller, wanted: str) -> None:
    """A caller may hold its own identity and no other."""
    if wanted and parse_workload_id(wanted) != caller.id:
        raise denied(f"spiffe_id {wanted!r} is not the caller's: {caller.id} may hold only itself")


def _record(caller: Caller, draft: _Draft, state: SigningState, now: datetime) -> CertificateRecord:
    prepared = draft.prepared
    return CertificateRecord(
        serial=prepared.serial_hex,
        kind=prepared.kind.value,
        spiffe_id=str(draft.grant.subject),
        dns_names=draft.grant.dns_names,
        caller_id=str(caller.id),
        method=caller.method.value,
        attested=caller.attested,
        key_fingerprint=fingerprint(prepared.spki),
        issuer_id=prepared.issuer_id,
        not_before=prepared.not_before,
        not_after=prepared.not_after,
        bundle_sequence=state.bundle.sequence,
        recorded_at=now.replace(microsecond=0),
        protocol=draft.protocol,
        renews=caller.serial,
    )
