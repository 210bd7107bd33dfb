"""The migrations make exactly the schema that the tables declare, keep what was stored, and can be taken back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect

from meshca.authority.ring import AuthorityKind
from meshca.pki.records import LedgerQuery
from meshca.stores.migrations import Migrations
from meshca.stores.sql import SqlStores, open_sqlite
from meshca.stores.tables import METADATA
from tests.contracts.authority_store import a_ring, an_entry
from tests.contracts.evidence_store import a_fact
from tests.contracts.join_token_store import a_token
from tests.contracts.ledger import NOW, a_record, fact_of, serials
from tests.contracts.revocation_store import a_ban

SCHEMA_0001 = Path(__file__).parents[1] / "assets/schema_0001.sql"  # the dump of a database that such a meshca wrote


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def departures(connection: Connection) -> list[object]:
    """How the schema differs from the one that the tables declare."""
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, METADATA))


def schema(connection: Connection) -> dict[str, object]:
    """All tables with their columns and indexes."""
    found = inspect(connection)
    return {
        table: [[str(column) for column in found.get_columns(table)], sorted(map(str, found.get_indexes(table)))]
        for table in found.get_table_names()
    }


def test_upgrading_from_nothing_gives_the_declared_schema(connection: Connection) -> None:
    Migrations().upgrade(connection)
    assert set(inspect(connection).get_table_names()) >= {"certificates", "authority_ring", "join_tokens", "meta"}
    assert departures(connection) == []


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


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database of schema 0001 with rows in every table."""
    path = tmp_path / "meshca.db"
    database = sqlite3.connect(path)
    database.executescript(SCHEMA_0001.read_text())
    database.close()
    return path


@pytest.fixture
def stores(old: Path) -> Iterator[SqlStores]:
    opened = open_sqlite(old)
    yield opened
    opened.close()


class TestOpeningADatabaseOfSchema0001:
    def test_its_schema_is_todays(self, stores: SqlStores) -> None:
        with stores._database.reading() as connection:
            assert Migrations().current(connection) == Migrations().known()[0]
            assert departures(connection) == []

    def test_everything_in_it_is_still_there(self, stores: SqlStores) -> None:
        records = (a_record(3), a_record(2, dns_names=("a.example.org",)), a_record(1))
        assert stores.ledger.find(LedgerQuery()).records == records
        assert stores.ledger.tail(0, NOW, 10).items == tuple(map(fact_of, records[::-1]))
        stored = stores.authorities.load()
        assert stored.revision == 2
        roots = tuple(replace(root, cross=None) for root in a_ring().of(AuthorityKind.ROOT))
        assert stored.ring.of(AuthorityKind.ROOT) == roots
        assert (stored.ring.rotation, stored.ring.held_since) == (None, None)
        assert stores.authorities.journal(10) == ()
        assert stores.join_tokens.redeem(a_token().token_hash, NOW) == a_token()

    def test_what_is_new_can_be_stored_in_it(self, stores: SqlStores) -> None:
        record = a_record(4, protocol="istio", renews=a_record(3).serial)
        stores.ledger.record([record])
        stores.evidence.add([a_fact(4)])
        stores.authorities.save(a_ring(4), expected_revision=2, entries=[an_entry(4)])
        stores.revocations.add(a_ban(4))
        assert stores.ledger.tail(3, NOW, 10).items == (fact_of(record),)
        assert stores.evidence.tail(0, NOW, 10).items == (a_fact(4),)
        assert stores.authorities.load().ring == a_ring(4)
        assert stores.authorities.journal(10) == (an_entry(4),)
        assert stores.revocations.history(10) == (a_ban(4),)


def test_going_back_to_0001_and_forth_keeps_the_records(old: Path, connection: Connection) -> None:
    Migrations().upgrade(connection, "0001")
    stores = open_sqlite(old)
    with stores._database.transaction() as migrated:
        Migrations().downgrade(migrated, "0001")
        assert schema(migrated) == schema(connection)
    stores.close()
    again = open_sqlite(old)
    assert serials(again.ledger) == [3, 2, 1]
    again.close()
