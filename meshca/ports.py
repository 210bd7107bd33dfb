"""Every protocol that crosses the I/O border, on one page.

Ports are synchronous, and coroutines hop with `asyncio.to_thread`; only recording a certificate, which every call waits
for, has a form for coroutines, which holds no thread. Each has one fake in `tests/fakes/`, which passes the same
contract suite as the real implementations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar

from meshca.authority.evidence import BundleFact, CertificateFact
from meshca.authority.journal import JournalEntry
from meshca.authority.ring import AuthorityRing
from meshca.pki.keys import KeyAlgorithm, PrivateKey
from meshca.pki.records import CertificateRecord, LedgerPage, LedgerQuery
from meshca.spiffe.bans import Ban, BanKind, BanList
from meshca.spiffe.peers import Caller, Peer
from meshca.tokens.join import JoinToken
from meshca.tokens.jwks import JwksDocument

T = TypeVar("T")


class Clock(Protocol):
    """The time, so that tests own it."""

    def now(self) -> datetime:
        """Now, aware, in UTC."""
        ...


class Authenticator(Protocol):
    """One way of proving who calls."""

    def authenticate(self, peer: Peer, now: datetime) -> Caller | None:
        """The caller, or None where the peer offers nothing of this authenticator's kind.

        Raises UNAUTHENTICATED (with the precise reason, for our log only) where what it offers does not convince, and
        UNAVAILABLE where that cannot be decided now.
        """
        ...


class Signer(Protocol):
    """A private key that stays where it is."""

    @property
    def algorithm(self) -> KeyAlgorithm:
        """The key's algorithm; it fixes the signature algorithm (see `pki.signatures`)."""
        ...

    @property
    def public_key_der(self) -> bytes:
        """The DER SubjectPublicKeyInfo."""
        ...

    @property
    def blocks(self) -> bool:
        """Whether `sign` waits for something outside, or computes for more than a millisecond: a loop then leaves it to
        a thread.
        """
        ...

    def sign(self, data: bytes) -> bytes:
        """The signature over `data`, as X.509 carries it. Raises UNAVAILABLE where the key cannot be reached."""
        ...


class KeyManager(Protocol):
    """Keeps CA keys. A key id is `[a-z0-9-]{1,64}`; any other is INVALID. UNAVAILABLE: out of reach."""

    def generate(self, key_id: str, algorithm: KeyAlgorithm) -> Signer:
        """A new key under `key_id`, durable when this returns. Raises CONFLICT where the id is taken."""
        ...

    def adopt(self, key_id: str, key: PrivateKey) -> Signer:
        """Keeps a key that was made elsewhere under `key_id`, durable when this returns.

        Raises CONFLICT where the id is taken, INVALID for a key of a kind or size that cannot sign here.
        """
        ...

    def signer(self, key_id: str) -> Signer:
        """The key of that id. Raises NOT_FOUND, or INTERNAL where it is there but cannot be opened."""
        ...

    def delete(self, key_id: str) -> None:
        """Destroys the key; no error where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Tail(Generic[T]):
    """The next part of a log and the cursor behind it; an empty part means that nothing is left for now."""

    items: tuple[T, ...]
    cursor: int


class CertificateLedger(Protocol):
    """The append-only record of every certificate."""

    def record(self, records: Sequence[CertificateRecord]) -> None:
        """Returns when all of `records` are durable; records none of them otherwise.

        Concurrent calls share one durable flush. Raises UNAVAILABLE (the store is out; where it gave no answer in time
        they may yet be recorded), EXHAUSTED (too much waits already), CONFLICT (a serial is known), INTERNAL (a value
        that no record may have, such as a time with a fraction of a second).
        """
        ...

    async def record_async(self, records: Sequence[CertificateRecord]) -> None:
        """`record` without holding the loop; both share durable flushes, and raise alike.

        Who is cancelled while it waits stops waiting, no more: the records are kept, all or none, as if it had stayed.
        """
        ...

    def find(self, query: LedgerQuery) -> LedgerPage:
        """The records that match, newest first."""
        ...

    def tail(self, after: int, now: datetime, limit: int) -> Tail[CertificateFact]:
        """What was recorded of leaves, and of issuing CAs of servers below this one, after the cursor `after` (0: from
        the beginning) and has not expired by `now`: the oldest `limit` of it, in the order of recording, as far as
        evidence goes. Raises UNAVAILABLE."""
        ...


class EvidenceStore(Protocol):
    """Keeps what relying parties have shown to hold, so that it survives a restart and reaches every process."""

    def add(self, facts: Sequence[BundleFact]) -> None:
        """Returns when all of `facts` are durable, which concurrent calls share, and those of the ledger.

        Raises UNAVAILABLE and EXHAUSTED as recording a certificate does, and INTERNAL (a value that no fact may have,
        such as a time with a fraction of a second).
        """
        ...

    def tail(self, after: int, now: datetime, limit: int) -> Tail[BundleFact]:
        """What was added after the cursor `after` (0: from the beginning) and has not ended by `now`: the oldest
        `limit` of it, in the order of adding. Raises UNAVAILABLE."""
        ...

    def newest(self) -> datetime | None:
        """When the last of them was taken down, of those that are not pruned; None without any. Raises UNAVAILABLE."""
        ...

    def prune(self, now: datetime) -> int:
        """Forgets facts that ended; how many. Raises UNAVAILABLE."""
        ...


@dataclass(frozen=True, slots=True)
class StoredRing:
    """A ring as stored; `revision` grows by one with each save."""

    ring: AuthorityRing
    revision: int


class AuthorityStore(Protocol):
    """Keeps the authority ring: one document, compare-and-swap."""

    def load(self) -> StoredRing:
        """The ring. Raises NOT_FOUND where none was ever saved, INTERNAL where it cannot be read back."""
        ...

    def save(self, ring: AuthorityRing, *, expected_revision: int, entries: Sequence[JournalEntry] = ()) -> StoredRing:
        """Saves durably if the stored revision is still `expected_revision` (0: nothing stored yet), else CONFLICT.

        `entries` go into the journal in the same durable step.
        """
        ...

    def journal(self, limit: int) -> tuple[JournalEntry, ...]:
        """The latest `limit` entries of the journal, newest first. Raises UNAVAILABLE."""
        ...


class RevocationStore(Protocol):
    """Keeps the bans: rows that are added and, once, marked as lifted; nothing is ever removed."""

    def add(self, ban: Ban) -> None:
        """Stores a ban durably. Raises CONFLICT where one of the same subject stands, UNAVAILABLE."""
        ...

    def lift(self, kind: BanKind, subject: str, at: datetime) -> Ban:
        """The ban of that subject, lifted durably. Raises NOT_FOUND where none stands, UNAVAILABLE."""
        ...

    def standing(self, known: BanList) -> BanList:
        """The bans that stand, oldest first: `known` itself where nothing changed since. Raises UNAVAILABLE, and
        INTERNAL where one cannot be read."""
        ...

    def history(self, limit: int) -> tuple[Ban, ...]:
        """The latest `limit` bans, newest first, lifted ones too. Raises INVALID for a bad limit, UNAVAILABLE."""
        ...


class JoinTokenStore(Protocol):
    """Keeps the hashes of join tokens."""

    def add(self, token: JoinToken) -> None:
        """Stores durably. Raises CONFLICT where the hash is known."""
        ...

    def find(self, token_hash: str, now: datetime) -> JoinToken:
        """The token, if it could be redeemed now; changes nothing, and waits for no writer. Raises as `redeem` does."""
        ...

    def redeem(self, token_hash: str, now: datetime) -> JoinToken:
        """The token, marked as used in the same durable step: of any number of redeemers exactly one gets it.

        Raises UNAUTHENTICATED where it is unknown, used or expired, and UNAVAILABLE where the store is out.
        """
        ...

    def prune(self, now: datetime) -> int:
        """Forgets tokens that expired; how many."""
        ...


class CaSource(Protocol):
    """Where a CA that somebody else keeps comes from."""

    def read(self) -> Mapping[str, bytes]:
        """The files that there are, by name, as they were at one moment. Raises UNAVAILABLE where none can be told."""
        ...


class UpstreamAuthority(Protocol):
    """A CA elsewhere that signs our issuing CAs when asked. What it gives is believed only when it was checked.

    Each method is called on one thread at a time and may take its time; it is not waited for for ever. Raises
    UNAVAILABLE for what may work later, INVALID for a request that it will never sign.
    """

    def mint(self, csr: bytes, ttl: timedelta) -> Sequence[bytes]:
        """Signs the issuing CA that `csr` (PKCS #10, DER) asks for, to live for `ttl` at most.

        DER: the issuing CA, then the intermediates above it, without the root.
        """
        ...

    def roots(self) -> Sequence[bytes]:
        """Its roots as they are now, DER: one at least, and first the one that `mint` leads to."""
        ...

    def acknowledge(self, trusted: Sequence[bytes], issuing: bytes) -> None:
        """Hears which roots (SHA-256 of the DER) everybody here is known to trust, and the oldest issuing CA (DER) that
        a certificate may still depend on. One that does not care ignores it."""
        ...

    def close(self) -> None:
        """Lets go of what it holds; calls under way may end with UNAVAILABLE."""
        ...


class JwksSource(Protocol):
    """Where the keys of a token issuer come from: a file or an HTTPS address."""

    def fetch(self) -> JwksDocument:
        """The key set as it is now, freshly read. Raises UNAVAILABLE (out of reach) or INVALID (not a usable set)."""
        ...
