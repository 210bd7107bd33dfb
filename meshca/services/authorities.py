"""Making authorities: a new key, a certificate prepared, linted, recorded, signed and verified."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from meshca.authority.external import NEEDS_REQUEST, is_external, why_no_cross
from meshca.authority.ring import (
    Advanced,
    Authority,
    AuthorityKind,
    AuthorityRing,
    AuthorityState,
    CrossCertificate,
    Prepared,
    Step,
    apply_all,
)
from meshca.errors import conflict
from meshca.pki.certificates import CertificateKind, Issuer, PreparedCertificate
from meshca.pki.keys import KeyAlgorithm, fingerprint
from meshca.pki.lint import lint_cross, lint_issuer, lint_root
from meshca.pki.prepare import prepare_cross, prepare_issuer, prepare_root, subject_key_identifier
from meshca.pki.records import UPSTREAM, CertificateRecord
from meshca.pki.sign import sign, verify_issued
from meshca.pki.signatures import SIGNATURE_ALGORITHMS
from meshca.ports import AuthorityStore, CertificateLedger, Clock, KeyManager, Signer, StoredRing
from meshca.services.issuance import random_serial
from meshca.services.signing import issuer_of
from meshca.spiffe.ids import TrustDomain
from meshca.spiffe.peers import AuthenticationMethod, Caller


@dataclass(frozen=True, slots=True)
class DownstreamOrder:
    """Who asks for an issuing CA of its own, and the serial of the one that it had before ("" for none)."""

    caller: Caller
    renews: str = ""


class AuthorityMaker:
    """Makes roots and issuing CAs whose keys live in our key manager."""

    def __init__(
        self, keys: KeyManager, ledger: CertificateLedger, clock: Clock, serials: Callable[[], int] = random_serial
    ) -> None:
        self._keys = keys
        self._ledger = ledger
        self._clock = clock
        self._serials = serials

    def make_root(self, trust_domain: TrustDomain, algorithm: KeyAlgorithm, ttl: timedelta) -> Authority:
        """A new self-signed root, PREPARED. Its private key is durable when this returns."""
        now = self._clock.now()
        with self._new_key(AuthorityKind.ROOT, algorithm) as (key_id, signer):
            spki = signer.public_key_der
            prepared = prepare_root(spki, algorithm, trust_domain, serial=self._serials(), now=now, ttl=ttl)
            lint_root(prepared, SIGNATURE_ALGORITHMS[algorithm], str(trust_domain.id))
            self._record(prepared, trust_domain, now)
            issued = sign(prepared, signer)
            verify_issued(issued, Issuer(prepared.issuer_id, algorithm, issued.der))
        return _authority(AuthorityKind.ROOT, prepared, issued.der, key_id)

    def make_successor(
        self, ring: AuthorityRing, algorithm: KeyAlgorithm, ttl: timedelta, *, cross_sign: bool
    ) -> Authority:
        """As `make_root`, and with `cross_sign` a cross certificate by the active root of `ring`, where that can sign
        one. Raises what the key manager raises where its key cannot be opened."""
        made = self.make_root(ring.trust_domain, algorithm, ttl)
        parent = ring.active(AuthorityKind.ROOT)
        if not cross_sign or parent is None or why_no_cross(ring, self._clock.now()) is not None:
            return made
        try:
            return replace(made, cross=self._cross(made, parent, ring))
        except BaseException:
            self.discard(made)
            raise

    def _cross(self, made: Authority, parent: Authority, ring: AuthorityRing) -> CrossCertificate:
        now, parent_key = self._clock.now(), self._keys.signer(parent.key_id)
        signed_by, root = issuer_of(parent, parent_key), issuer_of(made, self._keys.signer(made.key_id))
        prepared = prepare_cross(root, signed_by, ring.trust_domain, serial=self._serials(), now=now)
        lint_cross(prepared, root, signed_by, str(ring.trust_domain.id), now)
        self._record(prepared, ring.trust_domain, now, sequence=ring.sequence)
        issued = sign(prepared, parent_key)
        verify_issued(issued, signed_by)
        return CrossCertificate(issued.der, parent.id, prepared.not_after)

    def make_issuer(self, ring: AuthorityRing, algorithm: KeyAlgorithm, ttl: timedelta) -> Authority:
        """A new issuing CA under the active root of `ring`, PREPARED.

        Raises CONFLICT where there is no active root, or its key is not here; INTERNAL where the root has expired.
        """
        now, (parent, parent_key) = self._clock.now(), self._active_root(ring)
        with self._new_key(AuthorityKind.ISSUER, algorithm) as (key_id, signer):
            spki, serial = signer.public_key_der, self._serials()
            prepared = prepare_issuer(spki, parent, ring.trust_domain, serial=serial, now=now, ttl=ttl)
            lint_issuer(prepared, parent, str(ring.trust_domain.id), now)
            self._record(prepared, ring.trust_domain, now, sequence=ring.sequence)
            issued = sign(prepared, parent_key)
            verify_issued(issued, parent)
        return _authority(AuthorityKind.ISSUER, prepared, issued.der, key_id)

    def make_downstream(self, ring: AuthorityRing, spki: bytes, ttl: timedelta, order: DownstreamOrder) -> bytes:
        """An issuing CA under the active root of `ring` for the key of another server, DER; it may sign leaves only.

        Raises as `make_issuer`.
        """
        now, (parent, parent_key) = self._clock.now(), self._active_root(ring)
        serial, kind, trust_domain = self._serials(), CertificateKind.DOWNSTREAM, ring.trust_domain
        prepared = prepare_issuer(spki, parent, trust_domain, serial=serial, now=now, ttl=ttl, kind=kind)
        lint_issuer(prepared, parent, str(trust_domain.id), now)
        record = _record_of(prepared, trust_domain, now, ring.sequence)
        self._ledger.record([_for_caller(record, order)])
        issued = sign(prepared, parent_key)
        verify_issued(issued, parent)
        return issued.der

    def _active_root(self, ring: AuthorityRing) -> tuple[Issuer, Signer]:
        root = ring.active(AuthorityKind.ROOT)
        if root is None:
            raise conflict("there is no active root to sign an issuing CA with")
        if is_external(root):
            raise conflict(f"the key of root {root.id} is not here, so no issuing CA can be made: {NEEDS_REQUEST}")
        signer = self._keys.signer(root.key_id)
        return issuer_of(root, signer), signer

    def discard(self, authority: Authority) -> None:
        """Destroys the key of an authority that never came into a ring."""
        self._keys.delete(authority.key_id)

    @contextmanager
    def _new_key(self, kind: AuthorityKind, algorithm: KeyAlgorithm) -> Iterator[tuple[str, Signer]]:
        """A new key, destroyed again where its certificate cannot be made: no tick may leave keys of nobody behind."""
        key_id = f"{kind.value}-{secrets.token_hex(8)}"
        signer = self._keys.generate(key_id, algorithm)
        try:
            yield key_id, signer
        except BaseException:
            self._keys.delete(key_id)
            raise

    def _record(
        self, prepared: PreparedCertificate, trust_domain: TrustDomain, now: datetime, *, sequence: int = 0
    ) -> None:
        self._ledger.record([_record_of(prepared, trust_domain, now, sequence)])


def found(
    maker: AuthorityMaker,
    store: AuthorityStore,
    trust_domain: TrustDomain,
    *,
    root: tuple[KeyAlgorithm, timedelta],
    issuer: tuple[KeyAlgorithm, timedelta],
) -> StoredRing:
    """A trust domain's first ring: an active root and an active issuing CA, saved.

    Raises CONFLICT where the store holds a ring already.
    """
    ring = AuthorityRing(trust_domain)
    first_root = maker.make_root(trust_domain, *root)
    ring = apply_all(ring, Prepared(first_root), Advanced(first_root.id, Step.ACTIVATE))
    first_issuer = maker.make_issuer(ring, *issuer)
    ring = apply_all(ring, Prepared(first_issuer), Advanced(first_issuer.id, Step.ACTIVATE))
    return store.save(ring, expected_revision=0)


def _record_of(
    prepared: PreparedCertificate, trust_domain: TrustDomain, now: datetime, sequence: int
) -> CertificateRecord:
    return CertificateRecord(
        serial=prepared.serial_hex,
        kind=prepared.kind.value,
        spiffe_id=str(trust_domain.id),
        dns_names=(),
        caller_id=str(trust_domain.id),
        method=AuthenticationMethod.LOCAL.value,
        attested="authority",
        key_fingerprint=fingerprint(prepared.spki),
        issuer_id=prepared.issuer_id,
        not_before=prepared.not_before,
        not_after=prepared.not_after,
        bundle_sequence=sequence,
        recorded_at=now.replace(microsecond=0),
    )


def _for_caller(record: CertificateRecord, order: DownstreamOrder) -> CertificateRecord:
    caller = order.caller
    return replace(
        record,
        spiffe_id=str(caller.id),
        caller_id=str(caller.id),
        method=caller.method.value,
        attested=caller.attested,
        protocol=UPSTREAM,
        renews=order.renews,
    )


def _authority(kind: AuthorityKind, prepared: PreparedCertificate, der: bytes, key_id: str) -> Authority:
    return Authority(
        id=subject_key_identifier(prepared.spki).hex(),
        kind=kind,
        state=AuthorityState.PREPARED,
        certificate=der,
        chain=(),
        issuer_id=prepared.issuer_id,
        key_id=key_id,
        not_before=prepared.not_before,
        not_after=prepared.not_after,
    )
