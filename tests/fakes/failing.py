"""Ports that fail when a test says so, and that keep the order of what was asked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from meshca.authority.evidence import CertificateFact
from meshca.authority.journal import JournalEntry
from meshca.authority.ring import AuthorityRing
from meshca.errors import unavailable
from meshca.pki.keys import KeyAlgorithm, PrivateKey
from meshca.pki.records import CertificateRecord, LedgerPage, LedgerQuery
from meshca.ports import AuthorityStore, CertificateLedger, KeyManager, Signer, StoredRing, Tail

Journal = list[tuple[str, object]]


@dataclass
class JournalledLedger:
    """`ports.CertificateLedger`: writes down each record; raises UNAVAILABLE, and records nothing, while `out`, or
    after `out_after` more records, and on `tail` while `unreadable`."""

    inner: CertificateLedger
    journal: Journal = field(default_factory=list)
    out: bool = False
    unreadable: bool = False
    out_after: int | None = None

    def record(self, records: Sequence[CertificateRecord]) -> None:
        self.journal.append(("record", tuple(records)))
        self.out = self.out or self.out_after == 0
        self.out_after = None if self.out_after is None else self.out_after - 1
        if self.out:
            raise unavailable("the ledger cannot be written: database or disk is full", retry_after=1.0)
        self.inner.record(records)

    async def record_async(self, records: Sequence[CertificateRecord]) -> None:
        self.journal.append(("record", tuple(records)))
        if self.out:
            raise unavailable("the ledger cannot be written: database or disk is full", retry_after=1.0)
        await self.inner.record_async(records)

    def find(self, query: LedgerQuery) -> LedgerPage:
        return self.inner.find(query)

    def tail(self, after: int, now: datetime, limit: int) -> Tail[CertificateFact]:
        if self.unreadable:
            raise unavailable("the ledger cannot be read", retry_after=1.0)
        return self.inner.tail(after, now, limit)


@dataclass(frozen=True)
class JournalledSigner:
    """`ports.Signer`: writes down each signature before it makes it."""

    inner: Signer
    journal: Journal

    @property
    def algorithm(self) -> KeyAlgorithm:
        return self.inner.algorithm

    @property
    def public_key_der(self) -> bytes:
        return self.inner.public_key_der

    @property
    def blocks(self) -> bool:
        return self.inner.blocks

    def sign(self, data: bytes) -> bytes:
        self.journal.append(("sign", data))
        return self.inner.sign(data)


@dataclass
class JournalledKeyManager:
    """`ports.KeyManager` whose signers keep a journal; `delete` raises UNAVAILABLE once after `fail_delete`."""

    inner: KeyManager
    journal: Journal = field(default_factory=list)
    fail_delete: bool = False

    def generate(self, key_id: str, algorithm: KeyAlgorithm) -> Signer:
        return JournalledSigner(self.inner.generate(key_id, algorithm), self.journal)

    def adopt(self, key_id: str, key: PrivateKey) -> Signer:
        return JournalledSigner(self.inner.adopt(key_id, key), self.journal)

    def signer(self, key_id: str) -> Signer:
        return JournalledSigner(self.inner.signer(key_id), self.journal)

    def delete(self, key_id: str) -> None:
        if self.fail_delete:
            self.fail_delete = False
            raise unavailable("the key manager is out")
        self.inner.delete(key_id)


@dataclass
class CrashingAuthorityStore:
    """`ports.AuthorityStore` that raises UNAVAILABLE at the next save: before it is durable, or just after.

    `overtake` is called once, at the next save: what somebody else does between our look and our save; `loaded` at
    each load, with what was read. While `out`, nothing can be read.
    """

    inner: AuthorityStore
    overtake: Callable[[], object] | None = None
    fail_before: bool = False
    fail_after: bool = False
    out: bool = False
    loaded: Callable[[StoredRing], object] | None = None

    def load(self) -> StoredRing:
        if self.out:
            raise unavailable("the store cannot be read")
        stored = self.inner.load()
        if self.loaded is not None:
            self.loaded(stored)
        return stored

    def save(self, ring: AuthorityRing, *, expected_revision: int, entries: Sequence[JournalEntry] = ()) -> StoredRing:
        if self.overtake is not None:
            overtake, self.overtake = self.overtake, None
            overtake()
        if self.fail_before:
            self.fail_before = False
            raise unavailable("the store went away before it saved")
        saved = self.inner.save(ring, expected_revision=expected_revision, entries=entries)
        if self.fail_after:
            self.fail_after = False
            raise unavailable("the store went away after it saved")
        return saved

    def journal(self, limit: int) -> tuple[JournalEntry, ...]:
        return self.inner.journal(limit)
