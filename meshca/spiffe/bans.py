"""Bans: identities and certificates that an operator has cut off, until the ban is lifted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from meshca.spiffe.ids import SpiffeId
from meshca.spiffe.peers import Caller


class BanKind(Enum):
    """What is banned; the value is what is stored and shown."""

    IDENTITY = "identity"  # nothing more is issued to it, and no certificate of it is accepted
    SERIAL = "serial"  # one certificate is accepted no more; its identity may prove itself otherwise


@dataclass(frozen=True, slots=True)
class Ban:
    """One ban, from `at` until `lifted_at` (None: it stands). Times are UTC, in whole seconds.

    `subject` is a SPIFFE id, or a serial in lower-case hex; of a serial `spiffe_id`, `issuer_id` and `until` say whose
    certificate it is, which authority signed it and when it ends, as the ledger had it.
    """

    kind: BanKind
    subject: str
    spiffe_id: str
    reason: str
    actor: str
    at: datetime
    issuer_id: str = ""
    until: datetime | None = None
    lifted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class BanList:
    """The bans that stand, as of one look at the store; `revision` grows with each ban and each lifting."""

    revision: int = 0
    bans: tuple[Ban, ...] = ()
    _identities: frozenset[SpiffeId] = field(init=False, repr=False, compare=False)
    _serials: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        subjects = {kind: self._subjects(kind) for kind in BanKind}
        object.__setattr__(self, "_identities", frozenset(map(SpiffeId.parse, subjects[BanKind.IDENTITY])))
        object.__setattr__(self, "_serials", frozenset(subjects[BanKind.SERIAL]))

    def has_identity(self, spiffe_id: SpiffeId) -> bool:
        """Whether nothing may be issued to it."""
        return spiffe_id in self._identities

    def has_serial(self, serial: str) -> bool:
        """Whether the certificate of that serial (lower-case hex) is to be refused."""
        return serial in self._serials

    def concerns(self, caller: Caller) -> bool:
        """Whether a caller is to be served nothing: by who it is, or by the certificate that it came with."""
        return self.has_identity(caller.id) or self.has_serial(caller.serial)

    def _subjects(self, kind: BanKind) -> Iterable[str]:
        return (ban.subject for ban in self.bans if ban.kind is kind)


NO_BANS = BanList()
