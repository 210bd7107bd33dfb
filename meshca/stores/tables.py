"""The rows of the SQL schema. Rows are rows, values are values: nothing is validated here, `mapping` converts.

Times are whole seconds since 1970-01-01 UTC. Types are those that every SQL database has.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, Text, text
from sqlmodel import Field, SQLModel

# SQLite gives out row ids by itself only where the column is called INTEGER; its INTEGER has 64 bits.
_ROW_ID = BigInteger().with_variant(Integer, "sqlite")
_EMPTY = {"server_default": text("''")}  # of columns that came later: what old rows hold


class CertificateRow(SQLModel, table=True):
    """One line of the ledger; `id` grows with each, so it is the order of recording and the cursor of listings."""

    __tablename__ = "certificates"
    __table_args__ = (Index("ix_certificates_spiffe_id_id", "spiffe_id", "id"),)

    id: int | None = Field(default=None, sa_column=Column("id", _ROW_ID, primary_key=True, autoincrement=True))
    serial: str = Field(sa_type=Text, unique=True, index=True)
    kind: str = Field(sa_type=Text)
    spiffe_id: str = Field(sa_type=Text)
    dns_names: str = Field(sa_type=Text)  # a JSON list
    caller_id: str = Field(sa_type=Text)
    method: str = Field(sa_type=Text)
    attested: str = Field(sa_type=Text)
    key_fingerprint: str = Field(sa_type=Text)
    issuer_id: str = Field(sa_type=Text)
    not_before: int = Field(sa_type=BigInteger)
    not_after: int = Field(sa_type=BigInteger, index=True)
    bundle_sequence: int = Field(sa_type=BigInteger)
    recorded_at: int = Field(sa_type=BigInteger, index=True)
    protocol: str = Field(default="", sa_type=Text, sa_column_kwargs=_EMPTY)
    renews: str = Field(default="", sa_type=Text, sa_column_kwargs=_EMPTY)


class BundleFactRow(SQLModel, table=True):
    """One fact about who holds which bundle; `id` grows with each, so it is the order of adding and the cursor."""

    __tablename__ = "evidence"
    # rows are pruned, and SQLite would otherwise give their ids out again: behind the cursors of all readers
    __table_args__ = {"sqlite_autoincrement": True}

    id: int | None = Field(default=None, sa_column=Column("id", _ROW_ID, primary_key=True, autoincrement=True))
    serial: str = Field(sa_type=Text)
    spiffe_id: str = Field(sa_type=Text)
    bundle_sequence: int = Field(sa_type=BigInteger)
    channel: str = Field(sa_type=Text)
    until: int = Field(sa_type=BigInteger, index=True)
    at: int = Field(sa_type=BigInteger)
    refusal: str = Field(sa_type=Text)


class AuthorityRingRow(SQLModel, table=True):
    """The authority ring: one row, its `id` always 1."""

    __tablename__ = "authority_ring"

    id: int = Field(sa_column=Column("id", Integer, primary_key=True, autoincrement=False))
    revision: int = Field(sa_type=BigInteger)
    document: str = Field(sa_type=Text)  # JSON, see ring_document


class JournalEntryRow(SQLModel, table=True):
    """One step that was taken on the ring; `id` grows with each."""

    __tablename__ = "authority_journal"

    id: int | None = Field(default=None, sa_column=Column("id", _ROW_ID, primary_key=True, autoincrement=True))
    at: int = Field(sa_type=BigInteger)
    actor: str = Field(sa_type=Text)
    step: str = Field(sa_type=Text)
    authority_id: str = Field(sa_type=Text)
    reason: str = Field(sa_type=Text)
    forced: bool = Field(sa_type=Boolean)
    sequence: int = Field(sa_type=BigInteger)


class BanRow(SQLModel, table=True):
    """One ban; `id` grows with each, and `lifted_at` is null while it stands."""

    __tablename__ = "bans"
    # one subject can be banned but once at a time, whoever asks at the same moment
    __table_args__ = (
        Index(
            "ux_bans_standing",
            "kind",
            "subject",
            unique=True,
            sqlite_where=text("lifted_at IS NULL"),
            postgresql_where=text("lifted_at IS NULL"),
        ),
    )

    id: int | None = Field(default=None, sa_column=Column("id", _ROW_ID, primary_key=True, autoincrement=True))
    kind: str = Field(sa_type=Text)
    subject: str = Field(sa_type=Text)
    spiffe_id: str = Field(sa_type=Text)
    reason: str = Field(sa_type=Text)
    actor: str = Field(sa_type=Text)
    at: int = Field(sa_type=BigInteger)
    issuer_id: str = Field(sa_type=Text)
    until: int | None = Field(default=None, sa_type=BigInteger)
    lifted_at: int | None = Field(default=None, sa_type=BigInteger)


class JoinTokenRow(SQLModel, table=True):
    """One join token; `used_at` is null until it is redeemed."""

    __tablename__ = "join_tokens"

    token_hash: str = Field(sa_column=Column("token_hash", Text, primary_key=True))
    spiffe_id: str = Field(sa_type=Text)
    created_at: int = Field(sa_type=BigInteger)
    expires_at: int = Field(sa_type=BigInteger, index=True)
    used_at: int | None = Field(default=None, sa_type=BigInteger)


class MetaRow(SQLModel, table=True):
    """Facts about the database itself; `application` says whose it is."""

    __tablename__ = "meta"

    key: str = Field(sa_column=Column("key", Text, primary_key=True))
    value: str = Field(sa_type=Text)


METADATA = SQLModel.metadata
