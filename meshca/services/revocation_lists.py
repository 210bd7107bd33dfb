"""Revocation lists: what is banned, as CRLs in the trust bundle, one of every issuing CA, or none while nothing is.

They are derived from the ledger and the bans, so that nothing has to be kept of them but what is published.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from cryptography import x509

from meshca.authority.journal import SCHEDULE, entry_for
from meshca.authority.ring import Authority, AuthorityRing, CrlsPublished, IssuedCrl, apply
from meshca.errors import ErrorKind, MeshcaError, conflict, unavailable
from meshca.pki.certificates import CertificateKind
from meshca.pki.crl import MAX_ENTRIES, RevokedSerial, lint_crl, prepare_crl, revoked_serials, sign_crl
from meshca.pki.records import CertificateRecord, LedgerQuery
from meshca.ports import CertificateLedger, Clock, KeyManager
from meshca.services.ring import RingKeeper
from meshca.services.signing import issuer_of
from meshca.spiffe.bans import Ban, BanKind, BanList
from meshca.spiffe.revocation_lists import check_revocation_lists

VALIDITY = timedelta(days=7)
# A list may be replaced at any moment, and says for a week what it says: whoever keeps it is to ask again soon.
FRESH = timedelta(minutes=5)
_ATTEMPTS = 5
_PAGE = 10_000

_log = structlog.get_logger("meshca.revocation")
_Revoked = Mapping[str, Collection[RevokedSerial]]  # by the id of the authority that signed them


def crl_validity(longest_leaf: timedelta) -> timedelta:
    """For how long a list is good. It is made anew at half of that, and what is left then is more than any leaf's life:
    nobody is left with a good certificate and a list that has ended, however long the server is away."""
    return max(VALIDITY, 2 * longest_leaf)


@dataclass(frozen=True, slots=True)
class ServedList:
    """A list (DER) as it is given to whoever asks: since when it says so, and how long it may be kept unasked."""

    crl: bytes
    since: datetime
    fresh_for: timedelta


@dataclass(frozen=True, slots=True)
class _Found:
    """A certificate that is banned and has not ended."""

    ends: datetime
    issuer_id: str
    revoked: RevokedSerial


class RevocationLists:
    """Keeps the lists in the bundle what they should be. May be used on any thread."""

    def __init__(
        self, keeper: RingKeeper, keys: KeyManager, ledger: CertificateLedger, clock: Clock, validity: timedelta
    ) -> None:
        self._keeper = keeper
        self._keys = keys
        self._ledger = ledger
        self._clock = clock
        self._validity = validity
        self._publishing = threading.Lock()
        self._empty: dict[str, IssuedCrl] = {}
        self._serving = threading.Lock()

    def served(self, ring: AuthorityRing, bans: BanList, issuer_id: str) -> ServedList | None:
        """The list of an issuing CA for whoever asks: the one in the bundle, or one of nothing while nothing is banned.
        None where there is no such CA.

        Raises UNAVAILABLE where something is banned and its list not made yet, or the key is out; CONFLICT where the CA
        may not sign lists.
        """
        now, issuer = self._now(), ring.find(issuer_id)
        if issuer is None or issuer not in ring.leaf_issuers:
            return None
        crl = ring.crl_of(issuer_id)
        if crl is None and bans.bans:
            raise unavailable("the revocation lists are yet to be made", retry_after=1.0)
        crl = crl or self._nothing_of(issuer, ring, bans, now)
        return ServedList(crl.crl, crl.this_update, max(min(FRESH, crl.next_update - now), timedelta(0)))

    def _nothing_of(self, issuer: Authority, ring: AuthorityRing, bans: BanList, now: datetime) -> IssuedCrl:
        """A list without entries, which is in no bundle: made when it is asked for, and kept for half its life."""
        with self._serving:
            known = self._empty.get(issuer.id)
            if known is None or known.revision != bans.revision or _is_old(known, now):
                made = self._list(issuer, (), None, bans.revision, now)
                here = {each.id for each in ring.leaf_issuers}
                self._empty = {key: each for key, each in self._empty.items() if key in here} | {issuer.id: made}
            return self._empty[issuer.id]

    def follow(self) -> None:
        """Publishes anew where bans or issuing CAs changed, or the lists grow old; the ledger is not looked at for
        that. Raises as `publish`."""
        ring = self._keeper.refresh().ring
        if self._is_due(ring, self._keeper.bans, self._now()):
            self.publish(SCHEDULE, "")

    def tick(self) -> None:
        """As `follow`, and also where somebody got a certificate from a door that had not heard yet. Raises as
        `publish`, and UNAVAILABLE where the ledger cannot be read."""
        ring, bans, now = self._keeper.refresh().ring, self._keeper.bans, self._now()
        if self._is_due(ring, bans, now) or self._is_missing(ring, bans, now):
            self.publish(SCHEDULE, "")

    def publish(self, actor: str, reason: str) -> None:
        """Makes the lists and publishes them, or withdraws them where nothing is banned.

        Raises CONFLICT where others keep changing the ring, or an issuing CA may not sign lists, UNAVAILABLE where a
        store or key is out, INTERNAL where a list is not what it must be: then the lists from before stay.
        """
        with self._publishing:
            for _ in range(_ATTEMPTS):
                if self._published(actor, reason):
                    return
        raise conflict("the authority ring keeps changing: the revocation lists could not be published")

    def _published(self, actor: str, reason: str) -> bool:
        stored, now = self._keeper.refresh(), self._now()
        bans = self._keeper.bans
        if not stored.ring.crls and not (bans.bans and stored.ring.leaf_issuers):
            return True
        event = CrlsPublished(self._make(stored.ring, bans, now), now)
        check_revocation_lists(apply(stored.ring, event).bundle(), now)
        entry = entry_for(event, stored.ring, at=now, actor=actor, reason=reason)
        try:
            saved = self._keeper.change(stored, (event,), entry)
        except MeshcaError as error:
            if error.kind is not ErrorKind.CONFLICT:
                raise
            return False
        _log.info("revocation_lists_published", lists=len(event.crls), sequence=saved.ring.sequence)
        return True

    def _is_due(self, ring: AuthorityRing, bans: BanList, now: datetime) -> bool:
        if not bans.bans:
            return bool(ring.crls)
        if {crl.issuer_id for crl in ring.crls} != {issuer.id for issuer in ring.leaf_issuers}:
            return True
        return any(crl.revision != bans.revision or _is_old(crl, now) for crl in ring.crls)

    def _is_missing(self, ring: AuthorityRing, bans: BanList, now: datetime) -> bool:
        if not bans.bans:
            return False
        revoked = self._revoked(bans, now)
        return any(
            {each.serial for each in revoked.get(crl.issuer_id, ())} - revoked_serials(crl.crl) for crl in ring.crls
        )

    def _make(self, ring: AuthorityRing, bans: BanList, now: datetime) -> tuple[IssuedCrl, ...]:
        if not bans.bans:
            return ()
        revoked = self._revoked(bans, now)
        return tuple(
            self._list(issuer, revoked.get(issuer.id, ()), ring.crl_of(issuer.id), bans.revision, now)
            for issuer in ring.leaf_issuers
        )

    def _list(
        self,
        authority: Authority,
        revoked: Collection[RevokedSerial],
        before: IssuedCrl | None,
        revision: int,
        now: datetime,
    ) -> IssuedCrl:
        signer = self._keys.signer(authority.key_id)
        issuer = issuer_of(authority, signer)
        if not issuer.certificate.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign:
            raise conflict(
                f"issuing CA {authority.id} may not sign revocation lists, since it was imported without the key usage"
                " cRLSign: no list is published until another one has taken its place"
            )
        # by the time, so that it grows even where a backup was restored and what came after is forgotten
        number = max(int(now.timestamp()), 0 if before is None else before.number + 1)
        prepared = prepare_crl(revoked, issuer, number=number, now=now, validity=self._validity)
        lint_crl(prepared, revoked, issuer)
        crl = sign_crl(prepared, issuer, signer)
        return IssuedCrl(authority.id, crl, number, prepared.this_update, prepared.next_update, revision)

    def _revoked(self, bans: BanList, now: datetime) -> _Revoked:
        """The banned certificates that have not ended; where they are too many, those that live longest."""
        found = {each.revoked.serial: each for ban in bans.bans for each in self._of(ban, now)}
        chosen = sorted(found.values(), key=lambda each: each.ends, reverse=True)
        if len(chosen) > MAX_ENTRIES:
            _log.error("revocation_lists_full", certificates=len(chosen), listed=MAX_ENTRIES)
        by_issuer: defaultdict[str, list[RevokedSerial]] = defaultdict(list)
        for each in chosen[:MAX_ENTRIES]:
            by_issuer[each.issuer_id].append(each.revoked)
        return by_issuer

    def _of(self, ban: Ban, now: datetime) -> Iterator[_Found]:
        if ban.kind is BanKind.SERIAL:
            if ban.until is not None and ban.until > now:
                yield _Found(ban.until, ban.issuer_id, RevokedSerial(int(ban.subject, 16), ban.at))
            return
        for record in self._records(ban.spiffe_id, now):
            if record.kind == CertificateKind.LEAF.value:
                yield _Found(record.not_after, record.issuer_id, RevokedSerial(int(record.serial, 16), ban.at))

    def _records(self, spiffe_id: str, now: datetime) -> Iterable[CertificateRecord]:
        before: int | None = None
        while True:
            page = self._ledger.find(LedgerQuery(spiffe_id=spiffe_id, valid_at=now, limit=_PAGE, before=before))
            yield from page.records
            before = page.next_before
            if before is None:
                return

    def _now(self) -> datetime:
        return self._clock.now().replace(microsecond=0)


def _is_old(crl: IssuedCrl, now: datetime) -> bool:
    """Past half its life; or before its beginning, since the clock was set back."""
    return not crl.this_update <= now < crl.this_update + (crl.next_update - crl.this_update) / 2
