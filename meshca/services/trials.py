"""A trial of an issuing CA that was imported: it signs a leaf like any other, and our own verifier must accept it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from datetime import datetime, timedelta

from meshca.errors import MeshcaError, invalid
from meshca.pki.certificates import CertificateKind, Issuer, PreparedCertificate
from meshca.pki.csr import CertificateRequest
from meshca.pki.imports import CaChain, der_of, name_of
from meshca.pki.keys import KeyAlgorithm, KeyFamily, fingerprint, generate_private_key, spki_der
from meshca.pki.lint import lint_leaf
from meshca.pki.prepare import prepare
from meshca.pki.profiles import Grant, IssuanceProfile
from meshca.pki.records import CertificateRecord
from meshca.pki.sign import sign
from meshca.ports import CertificateLedger, Clock, Signer
from meshca.services.issuance import random_serial
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import SpiffeId, TrustDomain
from meshca.spiffe.peers import AuthenticationMethod
from meshca.spiffe.verification import verify_x509_svid

TRIAL_PATH = "/meshca/trial"
_TTL = timedelta(minutes=1)
_PROFILE = IssuanceProfile()


class Trials:
    """Signs leaves that nobody ever gets: their keys are thrown away. Each is recorded first, as all that is signed."""

    def __init__(self, ledger: CertificateLedger, clock: Clock, serials: Callable[[], int] = random_serial) -> None:
        self._ledger = ledger
        self._clock = clock
        self._serials = serials

    def prove(self, chain: CaChain, authority_id: str, signer: Signer, trust_domain: TrustDomain) -> None:
        """Raises INVALID where what `signer` signs for the issuing CA of `chain` does not verify up to its root."""
        issuer = Issuer(authority_id, signer.algorithm, der_of(chain.issuer), chain.chain)
        now = self._clock.now()
        prepared = self._prepare(issuer, trust_domain, now)
        self._ledger.record([_record(prepared, trust_domain, now)])
        leaf = sign(prepared, signer).der
        bundle = TrustBundle(trust_domain, (der_of(chain.root),), 1)
        try:
            verify_x509_svid([leaf, issuer.certificate_der, *issuer.chain], {trust_domain: bundle}, now=now)
        except MeshcaError as error:
            raise invalid(
                f"issuing CA {name_of(chain.issuer)}: a trial leaf that it signed does not verify: {error.message};"
                " have the chain signed in the way of the request"
            ) from error

    def _prepare(self, issuer: Issuer, trust_domain: TrustDomain, now: datetime) -> PreparedCertificate:
        """A leaf with the kinds of name that the server's own certificate has, too."""
        request = CertificateRequest(spki_der(generate_private_key(KeyAlgorithm.P256).public_key()), KeyFamily.P256)
        names = ("localhost",), (ipaddress.ip_address("127.0.0.1"),)
        grant = Grant(SpiffeId(trust_domain, TRIAL_PATH), _TTL, *names)
        serial, kind = self._serials(), CertificateKind.TRIAL
        prepared = prepare(request, grant, issuer, _PROFILE, serial=serial, now=now, kind=kind)
        lint_leaf(prepared, grant, request.family, issuer, _PROFILE, now)
        return prepared


def _record(prepared: PreparedCertificate, trust_domain: TrustDomain, now: datetime) -> CertificateRecord:
    return CertificateRecord(
        serial=prepared.serial_hex,
        kind=prepared.kind.value,
        spiffe_id=str(SpiffeId(trust_domain, TRIAL_PATH)),
        dns_names=("localhost",),
        caller_id=str(trust_domain.id),
        method=AuthenticationMethod.LOCAL.value,
        attested="import",
        key_fingerprint=fingerprint(prepared.spki),
        issuer_id=prepared.issuer_id,
        not_before=prepared.not_before,
        not_after=prepared.not_after,
        bundle_sequence=0,
        recorded_at=now.replace(microsecond=0),
    )
