"""The journal: every step that was taken on the ring, by whom and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from meshca.authority.ring import (
    Advanced,
    AuthorityRing,
    CrlsPublished,
    DirectoryTaken,
    IssuerRequested,
    Prepared,
    RingEvent,
    RootsAnnounced,
    RotationBegun,
    RotationFinished,
)

SCHEDULE = "schedule"


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One durable change of the ring.

    `actor` is `schedule`, or says which operator asked; `step` names what was done, to `authority_id` ("" for none);
    `forced` that evidence was missing and the operator went on all the same; `sequence` is the trust bundle's after it.
    """

    at: datetime
    actor: str
    step: str
    authority_id: str
    reason: str
    forced: bool
    sequence: int


def entry_for(
    event: RingEvent, ring: AuthorityRing, *, at: datetime, actor: str, reason: str = "", forced: bool = False
) -> JournalEntry:
    """The journal's line for `event`, which `ring` is about to go through; its sequence is that of before."""
    rotation = ring.rotation
    match event:
        case Prepared(authority):
            step, subject = f"prepare {authority.kind.value}", authority.id
        case Advanced(authority_id, taken):
            step, subject = taken.value, authority_id
        case RotationBegun():
            step, subject = "begin rotation", ""
        case CrlsPublished(crls):
            step, subject = ("publish revocation lists" if crls else "withdraw revocation lists"), ""
        case IssuerRequested():
            step, subject = "request issuer", ""
        case DirectoryTaken():
            step, subject = "read ca_dir", ""
        case RootsAnnounced():
            step, subject = "hear roots", ""
        case RotationFinished():
            step, subject = "finish rotation", rotation.successor if rotation else ""
        case _:
            step, subject = "abort rotation", rotation.successor if rotation else ""
    return JournalEntry(at, actor, step, subject, reason, forced, ring.sequence)
