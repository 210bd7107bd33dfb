"""Run by Alembic for each migration command: it uses the caller's connection and transaction."""

from __future__ import annotations

from alembic import context

from meshca.stores.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,
)
context.run_migrations()
