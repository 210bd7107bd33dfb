"""Servers below this one (nested): their issuing CAs are signed with our root, and they are relying parties like any.

Such a server signs leaves of our trust domain for whomever it likes. So only those that are named may ask, by their own
certificate; and a root waits for them until they say that everybody behind them trusts it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from meshca.authority.evidence import BundleFact, Channel
from meshca.authority.progress import Alarm, Severity
from meshca.authority.ring import AuthorityKind, AuthorityRing, root_digest
from meshca.errors import denied, invalid
from meshca.pki.certificates import CertificateKind
from meshca.pki.prepare import subject_key_identifier
from meshca.pki.records import CertificateRecord, LedgerQuery
from meshca.pki.requests import parse_issuer_request
from meshca.ports import CertificateLedger, Clock, EvidenceStore
from meshca.services.authorities import AuthorityMaker, DownstreamOrder
from meshca.services.signing import Signing
from meshca.spiffe.ids import SpiffeId
from meshca.spiffe.peers import AuthenticationMethod, Caller

_log = structlog.get_logger("meshca.downstream")

_PAGE = 1000
_MAX_TOLD = 64  # roots that one says are trusted


@dataclass(frozen=True, slots=True)
class DownstreamPolicy:
    """Who may have an issuing CA, and for how long at most."""

    allowed: frozenset[SpiffeId]
    max_ttl: timedelta


class Downstream:
    """Signs issuing CAs for servers below this one, and hears what is trusted there. May be used on any thread."""

    def __init__(
        self,
        signing: Signing,
        maker: AuthorityMaker,
        ledger: CertificateLedger,
        evidence: EvidenceStore,
        clock: Clock,
        policy: DownstreamPolicy,
    ) -> None:
        self._signing = signing
        self._maker = maker
        self._ledger = ledger
        self._evidence = evidence
        self._clock = clock
        self._policy = policy

    def check(self, caller: Caller) -> None:
        """Raises DENIED for whoever is not named, did not come by its certificate, or is revoked."""
        if caller.method is not AuthenticationMethod.X509_SVID or caller.id not in self._policy.allowed:
            raise denied(f"{caller.id} may have no issuing CA here: `downstream.allow` does not name it")
        if self._signing.latest().bans.concerns(caller):
            raise denied(f"{caller.id} may have no issuing CA here: it is revoked")

    def check_issued_here(self, certificate: bytes) -> None:
        """Raises DENIED for a certificate (DER, verified) that no issuing CA of this server has signed: those below may
        sign for any name, and so for each other's.
        """
        leaf = x509.load_der_x509_certificate(certificate)
        issuers = self._signing.latest().ring.of(AuthorityKind.ISSUER)
        if not any(_has_signed(issuer.certificate, leaf) for issuer in issuers):
            raise denied("this certificate is not of this server: come with one that you had from here")

    def mint(self, caller: Caller, csr: bytes, ttl: timedelta) -> tuple[bytes, ...]:
        """The issuing CA that `csr` asks for, DER, under the active root, which is not in the chain.

        Raises as `check` does; INVALID for a request that is none, of another trust domain, or for a key of ours;
        UNAVAILABLE where nothing may be signed now, or not be recorded; CONFLICT where the root's key is not here.
        """
        self.check(caller)
        if ttl <= timedelta(0):
            raise invalid("ttl_seconds must be more than 0")
        ring = self._signing.current().ring
        request = parse_issuer_request(csr, ring.trust_domain)
        _check_foreign(request.spki, ring)
        lives = self._alive(caller.id)
        order = DownstreamOrder(caller, lives[0].serial if lives else "")
        made = self._maker.make_downstream(ring, request.spki, min(ttl, self._policy.max_ttl), order)
        _log.info("downstream_signed", caller=str(caller.id), before=order.renews)
        return (made,)

    def roots(self) -> tuple[bytes, ...]:
        """The roots that are trusted here, DER, and first the one that `mint` leads to."""
        ring = self._signing.latest().ring
        active = ring.active(AuthorityKind.ROOT)
        return tuple(root.certificate for root in sorted(ring.trusted, key=lambda root: root != active))

    def acknowledge(self, caller: Caller, trusted: Collection[bytes], issuing: bytes) -> None:
        """Takes down that everybody behind the caller trusts these roots (SHA-256), and uses nothing older than the
        issuing CA (DER). Where a root of ours is not among them, that is taken down as a refusal of the bundle that
        brought it in: it may have been trusted there before.

        Raises as `check` does, INVALID for a certificate that is not one that the caller had from here and that has not
        ended; UNAVAILABLE where that cannot be made durable.
        """
        self.check(caller)
        if len(trusted) > _MAX_TOLD:
            raise invalid(f"trusted holds {len(trusted)} roots: at most {_MAX_TOLD} are read")
        serial = _serial_of(issuing)
        record = next((each for each in self._alive(caller.id) if each.serial == serial), None)
        if record is None:
            raise invalid("issuing is no certificate that the caller had from here, or it has ended")
        ring, now = self._signing.latest().ring, self._clock.now().replace(microsecond=0)
        known = {digest.hex() for digest in trusted}
        lacking = [root for root in ring.trusted if root_digest(root.certificate) not in known]
        sequence = min((root.bundle_sequence for root in lacking), default=ring.sequence)
        refusal = f"not everybody below trusts root {lacking[0].id}" if lacking else ""
        fact = BundleFact(record.serial, str(caller.id), sequence, Channel.STREAM, record.not_after, now, refusal)
        self._evidence.add([fact])

    def alarms(self) -> tuple[Alarm, ...]:
        """What those who are below suffer."""
        if not self._signing.latest().ring.crls or not any(self._alive(identity) for identity in self._policy.allowed):
            return ()
        problem = "revocation lists are in use: who checks them here refuses what nested servers sign"
        return (Alarm(Severity.WARNING, "downstream", problem),)

    def _alive(self, identity: SpiffeId) -> Sequence[CertificateRecord]:
        """The issuing CAs of that server that have not ended, newest first."""
        before: int | None = None
        found: list[CertificateRecord] = []
        while True:
            query = LedgerQuery(spiffe_id=str(identity), valid_at=self._clock.now(), limit=_PAGE, before=before)
            page = self._ledger.find(query)
            found += [record for record in page.records if record.kind == CertificateKind.DOWNSTREAM.value]
            before = page.next_before
            if before is None:
                return found


def _check_foreign(spki: bytes, ring: AuthorityRing) -> None:
    identifier = subject_key_identifier(spki).hex()
    if ring.find(identifier) is not None:
        raise invalid(f"csr is for the key of authority {identifier} of this server")


def _has_signed(issuer: bytes, leaf: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(x509.load_der_x509_certificate(issuer))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _serial_of(certificate: bytes) -> str:
    try:
        return f"{x509.load_der_x509_certificate(certificate).serial_number:x}"
    except ValueError as error:
        raise invalid("issuing is no certificate") from error
