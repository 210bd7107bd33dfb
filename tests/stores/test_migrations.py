"""The migrations make exactly the schema that the tables declare, and can be taken back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect

from meshca.stores.migrations import Migrations
from meshca.stores.tables import METADATA


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def test_upgrading_from_nothing_gives_the_declared_schema(connection: Connection) -> None:
    Migrations().upgrade(connection)
    assert set(inspect(connection).get_table_names()) >= {"certificates", "authority_ring", "join_tokens", "meta"}
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    assert compare_metadata(context, METADATA) == []


def test_each_revision_can_be_taken_back_and_made_again(connection: Connection) -> None:
    migrations = Migrations()
    for revision in reversed(migrations.known()):
        migrations.upgrade(connection, revision)
        migrations.downgrade(connection, "-1")
        migrations.upgrade(connection, revision)
    assert migrations.current(connection) == migrations.known()[0]


def test_going_back_to_the_base_leaves_nothing(connection: Connection) -> None:
    migrations = Migrations()
    migrations.upgrade(connection)
    migrations.downgrade(connection, "base")
    assert migrations.current(connection) is None
    assert inspect(connection).get_table_names() == ["alembic_version"]
