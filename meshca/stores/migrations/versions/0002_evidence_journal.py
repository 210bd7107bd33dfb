"""What evidence needs: how a certificate was asked for, acknowledged bundles, and the journal of the ring."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Adds two columns to the ledger, empty for old lines and without rewriting them, and two tables."""
    with op.batch_alter_table("certificates") as certificates:
        certificates.add_column(sa.Column("protocol", sa.Text, nullable=False, server_default=""))
        certificates.add_column(sa.Column("renews", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "evidence",
        sa.Column("id", _ROW_ID, primary_key=True, autoincrement=True),
        sa.Column("serial", sa.Text, nullable=False),
        sa.Column("spiffe_id", sa.Text, nullable=False),
        sa.Column("bundle_sequence", sa.BigInteger, nullable=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("refusal", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_evidence_until", "evidence", ["until"])
    op.create_table(
        "authority_journal",
        sa.Column("id", _ROW_ID, primary_key=True, autoincrement=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("authority_id", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("forced", sa.Boolean, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Takes them away; SQLite copies the ledger for that."""
    op.drop_table("authority_journal")
    op.drop_table("evidence")
    with op.batch_alter_table("certificates") as certificates:
        certificates.drop_column("renews")
        certificates.drop_column("protocol")
