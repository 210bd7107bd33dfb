"""Values to rows and back. A row that cannot be read as a value is INTERNAL: our state is damaged, or not ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlmodel import SQLModel

from meshca.authority.evidence import BundleFact, CertificateFact, Channel, brings_lists, proves_bundle
from meshca.authority.journal import JournalEntry
from meshca.errors import MeshcaError, internal
from meshca.pki.records import CertificateRecord
from meshca.spiffe.bans import Ban, BanKind
from meshca.spiffe.ids import SpiffeId
from meshca.stores.database import Row
from meshca.stores.tables import BanRow, BundleFactRow, CertificateRow, JoinTokenRow, JournalEntryRow
from meshca.tokens.join import JoinToken


def to_seconds(time: datetime, name: str) -> int:
    """Whole seconds since 1970 of an aware time. Raises INTERNAL where rounding would be needed, or a time zone."""
    if time.tzinfo is None or time.microsecond:
        raise internal(f"{name} {time.isoformat()} is not a UTC time in whole seconds")
    return int(time.timestamp())


@lru_cache(maxsize=4096)  # neighbours in a log share their seconds
def from_seconds(seconds: int) -> datetime:
    """The aware UTC time of whole seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC)


def certificate_values(record: CertificateRecord) -> Row:
    """A new line of the ledger. Raises INTERNAL for a time that is not in whole seconds."""
    values = {
        "serial": record.serial,
        "kind": record.kind,
        "spiffe_id": record.spiffe_id,
        "dns_names": json.dumps(record.dns_names) if record.dns_names else "[]",
        "caller_id": record.caller_id,
        "method": record.method,
        "attested": record.attested,
        "key_fingerprint": record.key_fingerprint,
        "issuer_id": record.issuer_id,
        "not_before": to_seconds(record.not_before, "not_before"),
        "not_after": to_seconds(record.not_after, "not_after"),
        "bundle_sequence": record.bundle_sequence,
        "recorded_at": to_seconds(record.recorded_at, "recorded_at"),
        "protocol": record.protocol,
        "renews": record.renews,
    }
    return Row(CertificateRow, values)


def certificate_record(row: CertificateRow) -> CertificateRecord:
    """The record of a ledger line. Raises INTERNAL where the line cannot be read."""
    try:
        return CertificateRecord(
            serial=row.serial,
            kind=row.kind,
            spiffe_id=row.spiffe_id,
            dns_names=_names(row.dns_names),
            caller_id=row.caller_id,
            method=row.method,
            attested=row.attested,
            key_fingerprint=row.key_fingerprint,
            issuer_id=row.issuer_id,
            not_before=from_seconds(row.not_before),
            not_after=from_seconds(row.not_after),
            bundle_sequence=row.bundle_sequence,
            recorded_at=from_seconds(row.recorded_at),
            protocol=row.protocol,
            renews=row.renews,
        )
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise internal(f"ledger line {row.id} cannot be read: {error}; restore it from a backup") from error


def line_of(row: SQLModel, columns: Sequence[str]) -> tuple[Any, ...]:
    """The values of these columns."""
    return tuple(getattr(row, column) for column in columns)


# What evidence reads of a line of the ledger: a fleet's worth of lines, so no more than that, and no rows are made.
CERTIFICATE_FACT = (
    "id",
    "serial",
    "renews",
    "spiffe_id",
    "issuer_id",
    "not_after",
    "bundle_sequence",
    "protocol",
    "recorded_at",
)


def certificate_fact(line: Sequence[Any]) -> CertificateFact:
    """The fact of a ledger line's `CERTIFICATE_FACT`. Raises INTERNAL where the line cannot be read."""
    row_id, serial, renews, spiffe_id, issuer_id, not_after, sequence, protocol, at = line
    try:
        proves, with_lists = proves_bundle(protocol, renews), brings_lists(protocol)
        ends, recorded = from_seconds(not_after), from_seconds(at)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise internal(f"ledger line {row_id} cannot be read: {error}; restore it from a backup") from error
    return CertificateFact(serial, renews, spiffe_id, issuer_id, ends, sequence, proves, recorded, with_lists)


def bundle_fact_values(fact: BundleFact) -> Row:
    """A new line of evidence. Raises INTERNAL for a time that is not in whole seconds."""
    values = {
        "serial": fact.serial,
        "spiffe_id": fact.spiffe_id,
        "bundle_sequence": fact.bundle_sequence,
        "channel": fact.channel.value,
        "until": to_seconds(fact.until, "until"),
        "at": to_seconds(fact.at, "at"),
        "refusal": fact.refusal,
    }
    return Row(BundleFactRow, values)


BUNDLE_FACT = ("id", "serial", "spiffe_id", "bundle_sequence", "channel", "until", "at", "refusal")


def bundle_fact(line: Sequence[Any]) -> BundleFact:
    """The fact of `BUNDLE_FACT` of a line of evidence. Raises INTERNAL where the line cannot be read."""
    row_id, serial, spiffe_id, sequence, channel, until, at, refusal = line
    try:
        return BundleFact(serial, spiffe_id, sequence, Channel(channel), from_seconds(until), from_seconds(at), refusal)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise internal(f"evidence line {row_id} cannot be read: {error}; restore it from a backup") from error


def journal_entry_values(entry: JournalEntry) -> Row:
    """A new line of the journal. Raises INTERNAL for a time that is not in whole seconds."""
    values = {
        "at": to_seconds(entry.at, "at"),
        "actor": entry.actor,
        "step": entry.step,
        "authority_id": entry.authority_id,
        "reason": entry.reason,
        "forced": entry.forced,
        "sequence": entry.sequence,
    }
    return Row(JournalEntryRow, values)


def journal_entry(row: JournalEntryRow) -> JournalEntry:
    """The entry of a line of the journal. Raises INTERNAL where the line cannot be read."""
    try:
        return JournalEntry(
            at=from_seconds(row.at),
            actor=row.actor,
            step=row.step,
            authority_id=row.authority_id,
            reason=row.reason,
            forced=row.forced,
            sequence=row.sequence,
        )
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise internal(f"journal line {row.id} cannot be read: {error}; restore it from a backup") from error


def ban_values(ban: Ban) -> Row:
    """A new ban. Raises INTERNAL for a time that is not in whole seconds."""
    values = {
        "kind": ban.kind.value,
        "subject": ban.subject,
        "spiffe_id": ban.spiffe_id,
        "reason": ban.reason,
        "actor": ban.actor,
        "at": to_seconds(ban.at, "at"),
        "issuer_id": ban.issuer_id,
        "until": None if ban.until is None else to_seconds(ban.until, "until"),
        "lifted_at": None if ban.lifted_at is None else to_seconds(ban.lifted_at, "lifted_at"),
    }
    return Row(BanRow, values)


def ban(row: BanRow) -> Ban:
    """The ban of a row. Raises INTERNAL where the row cannot be read: a ban is never passed over."""
    try:
        SpiffeId.parse(row.spiffe_id)
        if row.kind == BanKind.IDENTITY.value and row.subject != row.spiffe_id:
            raise ValueError("its subject is not its identity")
        return Ban(
            kind=BanKind(row.kind),
            subject=row.subject,
            spiffe_id=row.spiffe_id,
            reason=row.reason,
            actor=row.actor,
            at=from_seconds(row.at),
            issuer_id=row.issuer_id,
            until=None if row.until is None else from_seconds(row.until),
            lifted_at=None if row.lifted_at is None else from_seconds(row.lifted_at),
        )
    except (MeshcaError, ValueError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise internal(f"ban {row.id} cannot be read: {error}; restore it from a backup") from error


def join_token_row(token: JoinToken) -> JoinTokenRow:
    """The unused row of a join token. Raises INTERNAL for a time that is not in whole seconds."""
    return JoinTokenRow(
        token_hash=token.token_hash,
        spiffe_id=str(token.spiffe_id),
        created_at=to_seconds(token.created_at, "created_at"),
        expires_at=to_seconds(token.expires_at, "expires_at"),
    )


def join_token(row: JoinTokenRow) -> JoinToken:
    """The join token of a row. Raises INTERNAL where the row cannot be read."""
    try:
        spiffe_id = SpiffeId.parse(row.spiffe_id)
        return JoinToken(row.token_hash, spiffe_id, from_seconds(row.created_at), from_seconds(row.expires_at))
    except (MeshcaError, ValueError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise internal(f"join token {row.token_hash[:16]} cannot be read: {error}") from error


def _names(text: str) -> tuple[str, ...]:
    names = json.loads(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("dns_names is not a list of names")
    return tuple(names)
