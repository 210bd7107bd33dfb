"""The stores in memory: for tests and trials. They keep rows and documents as SQL does, so they refuse the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from threading import Lock
from typing import TypeVar

from meshca.authority.evidence import BundleFact, CertificateFact
from meshca.authority.journal import JournalEntry
from meshca.authority.ring import AuthorityRing
from meshca.errors import conflict, not_found, unauthenticated
from meshca.pki.certificates import HELD_KINDS, CertificateKind
from meshca.pki.records import CertificateRecord, LedgerPage, LedgerQuery
from meshca.ports import StoredRing, Tail
from meshca.spiffe.bans import Ban, BanKind, BanList
from meshca.stores.mapping import (
    BUNDLE_FACT,
    CERTIFICATE_FACT,
    ban,
    ban_values,
    bundle_fact,
    bundle_fact_values,
    certificate_fact,
    certificate_record,
    certificate_values,
    join_token,
    join_token_row,
    journal_entry,
    journal_entry_values,
    line_of,
    to_seconds,
)
from meshca.stores.queries import check_limit, check_query, check_tail
from meshca.stores.ring_document import read_ring, write_ring
from meshca.stores.tables import BanRow, BundleFactRow, CertificateRow, JoinTokenRow, JournalEntryRow
from meshca.tokens.join import JoinToken

R = TypeVar("R", CertificateRow, BundleFactRow)


class MemoryLedger:
    """`ports.CertificateLedger` in memory."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._rows: list[CertificateRow] = []
        self._serials: set[str] = set()

    def record(self, records: Sequence[CertificateRecord]) -> None:
        """Keeps all of `records`, or raises CONFLICT where a serial is known and keeps none."""
        rows = [CertificateRow(**certificate_values(record).values) for record in records]
        serials = {row.serial for row in rows}
        with self._lock:
            if len(serials) != len(rows) or serials & self._serials:
                raise conflict("a serial is in the ledger already")
            for row in rows:
                row.id = len(self._rows) + 1
                self._rows.append(row)
            self._serials |= serials

    async def record_async(self, records: Sequence[CertificateRecord]) -> None:
        """`record`, which waits for nothing here."""
        self.record(records)

    def find(self, query: LedgerQuery) -> LedgerPage:
        """The records that match, newest first. Raises INVALID for a bad query."""
        check_query(query)
        with self._lock:
            newest_first = self._rows[::-1]
        found = [row for row in newest_first if _matches(row, query)]
        page = found[: query.limit]
        return LedgerPage(tuple(map(certificate_record, page)), page[-1].id if len(found) > len(page) else None)

    def tail(self, after: int, now: datetime, limit: int) -> Tail[CertificateFact]:
        """What was recorded of leaves, and CAs below, after the cursor and has not expired by `now`. Raises INVALID
        where `after`, `now` or `limit` is out of bounds."""
        check_tail(after, now, limit)
        with self._lock:
            rows = self._rows[after:]
        held = (row for row in rows if CertificateKind(row.kind) in HELD_KINDS)
        living = [row for row in held if row.not_after > now.timestamp()][:limit]
        lines = (line_of(row, CERTIFICATE_FACT) for row in living)
        return Tail(tuple(map(certificate_fact, lines)), _cursor(living, limit, after + len(rows)))


class MemoryEvidenceStore:
    """`ports.EvidenceStore` in memory."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._rows: list[BundleFactRow] = []
        self._newest = 0  # grows with each fact, and never goes back

    def add(self, facts: Sequence[BundleFact]) -> None:
        """Keeps all of `facts`."""
        rows = [BundleFactRow(**bundle_fact_values(fact).values) for fact in facts]
        with self._lock:
            for row in rows:
                self._newest += 1
                row.id = self._newest
            self._rows += rows

    def tail(self, after: int, now: datetime, limit: int) -> Tail[BundleFact]:
        """What was added after the cursor and has not ended by `now`. Raises INVALID for a bad argument."""
        check_tail(after, now, limit)
        with self._lock:
            rows, newest = list(self._rows), max(self._newest, after)
        living = [row for row in rows if (row.id or 0) > after and row.until > now.timestamp()][:limit]
        lines = (line_of(row, BUNDLE_FACT) for row in living)
        return Tail(tuple(map(bundle_fact, lines)), _cursor(living, limit, newest))

    def newest(self) -> datetime | None:
        """When the last of them was taken down; None without any."""
        with self._lock:
            return bundle_fact(line_of(self._rows[-1], BUNDLE_FACT)).at if self._rows else None

    def prune(self, now: datetime) -> int:
        """Forgets facts that ended; how many."""
        with self._lock:
            before = len(self._rows)
            self._rows = [row for row in self._rows if row.until > now.timestamp()]
            return before - len(self._rows)


class MemoryAuthorityStore:
    """`ports.AuthorityStore` in memory."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._revision = 0
        self._document = ""
        self._journal: list[JournalEntryRow] = []

    def load(self) -> StoredRing:
        """The ring. Raises NOT_FOUND where none was ever saved."""
        with self._lock:
            revision, document = self._revision, self._document
        if revision == 0:
            raise not_found("no authority ring was ever saved")
        return StoredRing(read_ring(document), revision)

    def save(self, ring: AuthorityRing, *, expected_revision: int, entries: Sequence[JournalEntry] = ()) -> StoredRing:
        """Saves, with `entries` in the journal, if the stored revision is `expected_revision` (0: none).

        Raises CONFLICT otherwise.
        """
        document, lines = write_ring(ring), [JournalEntryRow(**journal_entry_values(entry).values) for entry in entries]
        with self._lock:
            if self._revision != expected_revision:
                raise conflict(f"the authority ring's revision is {self._revision}, not {expected_revision}")
            self._revision, self._document = expected_revision + 1, document
            self._journal += lines
            return StoredRing(ring, self._revision)

    def journal(self, limit: int) -> tuple[JournalEntry, ...]:
        """The latest `limit` entries, newest first. Raises INVALID for a bad limit."""
        check_limit(limit)
        with self._lock:
            return tuple(map(journal_entry, self._journal[: -limit - 1 : -1]))


class MemoryRevocationStore:
    """`ports.RevocationStore` in memory."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._rows: list[BanRow] = []

    def add(self, new: Ban) -> None:
        """Keeps the ban. Raises CONFLICT where one of the same subject stands."""
        row = BanRow(**ban_values(new).values)
        with self._lock:
            if self._find(row.kind, row.subject) is not None:
                raise conflict(f"{row.kind} {row.subject} is revoked already")
            self._rows.append(row)

    def lift(self, kind: BanKind, subject: str, at: datetime) -> Ban:
        """The ban, lifted. Raises NOT_FOUND where none stands."""
        seconds = to_seconds(at, "lifted_at")
        with self._lock:
            row = self._find(kind.value, subject)
            if row is None:
                raise not_found(f"{kind.value} {subject} is not revoked")
            row.lifted_at = seconds
            return ban(row)

    def standing(self, known: BanList) -> BanList:
        """The bans that stand, oldest first; `known` itself where nothing changed."""
        with self._lock:
            revision = len(self._rows) + sum(row.lifted_at is not None for row in self._rows)
            if revision == known.revision:
                return known
            return BanList(revision, tuple(ban(row) for row in self._rows if row.lifted_at is None))

    def history(self, limit: int) -> tuple[Ban, ...]:
        """The latest `limit` bans, newest first. Raises INVALID for a bad limit."""
        check_limit(limit)
        with self._lock:
            return tuple(map(ban, self._rows[: -limit - 1 : -1]))

    def _find(self, kind: str, subject: str) -> BanRow | None:
        matching = (row for row in self._rows if (row.kind, row.subject, row.lifted_at) == (kind, subject, None))
        return next(matching, None)


class MemoryJoinTokenStore:
    """`ports.JoinTokenStore` in memory."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._rows: dict[str, JoinTokenRow] = {}

    def add(self, token: JoinToken) -> None:
        """Keeps the token. Raises CONFLICT where the hash is known."""
        row = join_token_row(token)
        with self._lock:
            if row.token_hash in self._rows:
                raise conflict("the join token is known already")
            self._rows[row.token_hash] = row

    def redeem(self, token_hash: str, now: datetime) -> JoinToken:
        """The token, used up in the same step. Raises UNAUTHENTICATED where it is unknown, used or expired."""
        seconds = math.floor(now.timestamp())
        with self._lock:
            row = self._unspent(token_hash, seconds)
            row.used_at = seconds
        return join_token(row)

    def find(self, token_hash: str, now: datetime) -> JoinToken:
        """The token, if it is unspent. Raises UNAUTHENTICATED where it is unknown, used or expired."""
        with self._lock:
            return join_token(self._unspent(token_hash, math.floor(now.timestamp())))

    def _unspent(self, token_hash: str, seconds: int) -> JoinTokenRow:
        row = self._rows.get(token_hash)
        if row is None or row.used_at is not None or row.expires_at <= seconds:
            raise unauthenticated("join token is unknown, used or expired")
        return row

    def prune(self, now: datetime) -> int:
        """Forgets expired tokens; how many."""
        seconds = math.floor(now.timestamp())
        with self._lock:
            expired = [key for key, row in self._rows.items() if row.expires_at <= seconds]
            for key in expired:
                del self._rows[key]
        return len(expired)


def _cursor(rows: Sequence[R], limit: int, newest: int) -> int:
    """Behind the last of the rows; where they are less than asked for, behind everything there is."""
    return rows[-1].id or 0 if len(rows) == limit else newest


def _matches(row: CertificateRow, query: LedgerQuery) -> bool:
    return (
        (query.before is None or (row.id or 0) < query.before)
        and (query.spiffe_id is None or row.spiffe_id == query.spiffe_id)
        and (query.serial is None or row.serial.startswith(query.serial))
        and (query.since is None or row.recorded_at >= query.since.timestamp())
        and (query.until is None or row.recorded_at < query.until.timestamp())
        and (query.valid_at is None or row.not_before <= query.valid_at.timestamp() < row.not_after)
    )
