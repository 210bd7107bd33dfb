"""What the ledger keeps of each certificate, and how it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

# Services by which certificates are asked for.
ISTIO = "istio"
MESHCA = "meshca"
UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """One intended certificate: written durably before it is signed (law 2).

    A record whose certificate never reached anyone is possible (a crash between the record and the signature); a
    certificate without a record is not. `serial` is lower-case hex without leading zeros; `kind` is `leaf`, `server`,
    `issuer`, `root`, `cross`, `downstream` or `trial`; `spiffe_id` the URI SAN, but for `downstream` who asked;
    `caller_id`, `method` and `attested` say who asked and how that was proven; `key_fingerprint` is the hex SHA-256 of
    the SubjectPublicKeyInfo; `issuer_id` the authority's id; `bundle_sequence` the trust bundle delivered with it.
    `protocol` is the service by which it was asked for: `istio`, `meshca`, `upstream`, or "" for the server's own;
    `renews` the serial of the certificate that the caller proved to hold ("" where it proved itself otherwise). Times
    are UTC, in whole seconds.
    """

    serial: str
    kind: str
    spiffe_id: str
    dns_names: tuple[str, ...]
    caller_id: str
    method: str
    attested: str
    key_fingerprint: str
    issuer_id: str
    not_before: datetime
    not_after: datetime
    bundle_sequence: int
    recorded_at: datetime
    protocol: str = ""
    renews: str = ""


@dataclass(frozen=True, slots=True)
class LedgerQuery:
    """Filters of a ledger listing; each None means no filter. Newest records come first.

    `serial` may be a prefix (at least 4 hex digits). `since` and `until` bound `recorded_at` (inclusive, exclusive);
    `valid_at` keeps records whose not_before ≤ it < not_after. `limit` is 1 to 10,000.
    `before` is the cursor of an earlier page (`LedgerPage.next_before`).
    """

    spiffe_id: str | None = None
    serial: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    valid_at: datetime | None = None
    limit: int = 100
    before: int | None = None


@dataclass(frozen=True, slots=True)
class LedgerPage:
    """Records, newest first, and the cursor of the next page (None at the end)."""

    records: tuple[CertificateRecord, ...]
    next_before: int | None
