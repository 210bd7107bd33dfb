"""Revocation: operators cut off an identity or a certificate, and take that back."""

from __future__ import annotations

import re
from datetime import datetime

import structlog

from meshca.errors import MeshcaError, exhausted, invalid, not_found
from meshca.pki.certificates import CertificateKind
from meshca.pki.records import CertificateRecord, LedgerQuery
from meshca.ports import CertificateLedger, Clock, RevocationStore
from meshca.services.control import OPERATOR, checked_reason
from meshca.services.enrolment import check_assignable
from meshca.services.revocation_lists import RevocationLists
from meshca.services.ring import RingKeeper
from meshca.spiffe.bans import NO_BANS, Ban, BanKind
from meshca.spiffe.ids import parse_workload_id

_log = structlog.get_logger("meshca.revocation")

MAX_STANDING = 10_000
_SERIAL = re.compile(r"[0-9a-f]{4,40}", re.ASCII)


class Revocations:
    """Bans and lifts bans. This process acts on it at once, and relying parties are told; the others within a second.
    May be used on any thread."""

    def __init__(
        self,
        keeper: RingKeeper,
        store: RevocationStore,
        ledger: CertificateLedger,
        lists: RevocationLists,
        clock: Clock,
    ) -> None:
        self._keeper = keeper
        self._lists = lists
        self._store = store
        self._ledger = ledger
        self._clock = clock

    def revoke(self, spiffe_id: str, serial: str, reason: str) -> Ban:
        """Cuts off an identity, or one certificate by its serial or enough of its first digits.

        Raises INVALID for what cannot be revoked or has no reason, NOT_FOUND for a serial that is not in the ledger,
        CONFLICT where it is revoked already, EXHAUSTED where too much is, UNAVAILABLE (it may yet be revoked).
        """
        why = checked_reason(reason)
        if not why:
            raise invalid("reason is empty: say why, it is recorded")
        new = self._ban(spiffe_id, serial, why, self._now())
        if len(self._store.standing(NO_BANS).bans) >= MAX_STANDING:
            raise exhausted(f"{MAX_STANDING} revocations stand already: lift some with `meshca unban`")
        self._store.add(new)
        _log.warning("revoked", kind=new.kind.value, subject=new.subject, spiffe_id=new.spiffe_id, reason=why)
        self._publish(f"{new.subject} is revoked", why)
        return new

    def unban(self, spiffe_id: str, serial: str) -> Ban:
        """Takes a revocation back. Raises INVALID, NOT_FOUND where there is none, UNAVAILABLE."""
        kind, subject = self._named(spiffe_id, serial)
        lifted = self._store.lift(kind, subject, self._now())
        _log.warning("unbanned", kind=kind.value, subject=subject, spiffe_id=lifted.spiffe_id)
        self._publish(f"{subject} is no longer revoked", "unban")
        return lifted

    def listing(self, limit: int, *, lifted: bool) -> tuple[Ban, ...]:
        """The latest revocations, newest first: those that stand, or all. Raises INVALID for a bad limit,
        UNAVAILABLE."""
        if lifted:
            return self._store.history(limit)
        return self._store.standing(NO_BANS).bans[: -limit - 1 : -1]

    def _publish(self, done: str, reason: str) -> None:
        """Tells relying parties. What is done is done, also where they cannot be told right now."""
        try:
            self._lists.publish(OPERATOR, reason)
        except MeshcaError as error:
            problem = f"{done}, but relying parties cannot be told yet, which is tried again every second"
            raise MeshcaError(error.kind, f"{problem}: {error.message}") from error

    def _ban(self, spiffe_id: str, serial: str, reason: str, now: datetime) -> Ban:
        _check_one(spiffe_id, serial)
        if spiffe_id:
            trust_domain = self._keeper.refresh().ring.trust_domain
            subject = str(check_assignable(parse_workload_id(spiffe_id), trust_domain))
            return Ban(BanKind.IDENTITY, subject, subject, reason, OPERATOR, now)
        record = self._certificate(_checked_serial(serial))
        if record.kind != CertificateKind.LEAF.value:
            raise invalid(f"serial {record.serial} is of kind {record.kind}: only workloads' certificates are revoked")
        if record.not_after <= now:
            raise invalid(f"serial {record.serial} ended at {record.not_after:%Y-%m-%dT%H:%M:%SZ}: nothing to revoke")
        return Ban(
            BanKind.SERIAL,
            record.serial,
            record.spiffe_id,
            reason,
            OPERATOR,
            now,
            issuer_id=record.issuer_id,
            until=record.not_after,
        )

    def _certificate(self, serial: str) -> CertificateRecord:
        found = self._ledger.find(LedgerQuery(serial=serial, limit=2)).records
        if not found:
            raise not_found(f"serial {serial}: the ledger has no such certificate")
        if len(found) > 1:
            raise invalid(f"serial {serial}: more than one certificate starts so; give more digits")
        return found[0]

    def _named(self, spiffe_id: str, serial: str) -> tuple[BanKind, str]:
        """What is to be lifted: a serial by its first digits among those that are banned."""
        _check_one(spiffe_id, serial)
        if spiffe_id:
            return BanKind.IDENTITY, str(parse_workload_id(spiffe_id))
        prefix = _checked_serial(serial)
        bans = self._store.standing(NO_BANS).bans
        found = [ban.subject for ban in bans if ban.kind is BanKind.SERIAL and ban.subject.startswith(prefix)]
        if len(found) > 1:
            raise invalid(f"serial {serial}: more than one that is revoked starts so; give more digits")
        return BanKind.SERIAL, found[0] if found else prefix

    def _now(self) -> datetime:
        return self._clock.now().replace(microsecond=0)


def _check_one(spiffe_id: str, serial: str) -> None:
    if bool(spiffe_id) == bool(serial):
        raise invalid("give exactly one of --spiffe-id and --serial")


def _checked_serial(serial: str) -> str:
    text = serial.lower()
    if not _SERIAL.fullmatch(text):
        raise invalid(f"serial {serial!r:.80} is not 4 to 40 hex digits")
    return text
