"""The stores in memory: for tests and trials. They keep rows and documents as SQL does, so they refuse the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from threading import Lock

from meshca.authority.ring import AuthorityRing
from meshca.errors import conflict, not_found, unauthenticated
from meshca.pki.records import CertificateRecord, LedgerPage, LedgerQuery
from meshca.ports import StoredRing
from meshca.stores.mapping import certificate_record, certificate_values, join_token, join_token_row
from meshca.stores.queries import check_query
from meshca.stores.ring_document import read_ring, write_ring
from meshca.stores.tables import CertificateRow, JoinTokenRow
from meshca.tokens.join import JoinToken


class MemoryLedger:
    """`ports.CertificateLedger` in memory."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._rows: list[CertificateRow] = []
        self._serials: set[str] = set()

    def record(self, records: Sequence[CertificateRecord]) -> None:
        """Keeps all of `records`, or raises CONFLICT where a serial is known and keeps none."""
        rows = [CertificateRow(**certificate_values(record)) for record in records]
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


class MemoryAuthorityStore:
    """`ports.AuthorityStore` in memory."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._revision = 0
        self._document = ""

    def load(self) -> StoredRing:
        """The ring. Raises NOT_FOUND where none was ever saved."""
        with self._lock:
            revision, document = self._revision, self._document
        if revision == 0:
            raise not_found("no authority ring was ever saved")
        return StoredRing(read_ring(document), revision)

    def save(self, ring: AuthorityRing, *, expected_revision: int) -> StoredRing:
        """Saves if the stored revision is `expected_revision` (0: none); raises CONFLICT otherwise."""
        document = write_ring(ring)
        with self._lock:
            if self._revision != expected_revision:
                raise conflict(f"the authority ring's revision is {self._revision}, not {expected_revision}")
            self._revision, self._document = expected_revision + 1, document
            return StoredRing(ring, self._revision)


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


def _matches(row: CertificateRow, query: LedgerQuery) -> bool:
    return (
        (query.before is None or (row.id or 0) < query.before)
        and (query.spiffe_id is None or row.spiffe_id == query.spiffe_id)
        and (query.serial is None or row.serial.startswith(query.serial))
        and (query.since is None or row.recorded_at >= query.since.timestamp())
        and (query.until is None or row.recorded_at < query.until.timestamp())
        and (query.valid_at is None or row.not_before <= query.valid_at.timestamp() < row.not_after)
    )
