"""How a log is read: whatever has ended costs nothing, neither at the beginning nor later."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Select, create_engine
from sqlalchemy.dialects import sqlite

from meshca.stores.evidence import FACTS
from meshca.stores.ledger import HELD
from meshca.stores.migrations import Migrations
from meshca.stores.tails import _select


def plan(query: Select[Any]) -> list[str]:
    """SQLite's steps, in its words."""
    sql = query.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        Migrations().upgrade(connection)
        steps = [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")]
    engine.dispose()
    return steps


@pytest.mark.parametrize(
    ("query", "table", "index"),
    [
        (_select(HELD, 0, 100, 10), "certificates", "INDEX ix_certificates_not_after (not_after>?)"),
        (_select(FACTS, 0, 100, 10), "evidence", "COVERING INDEX ix_evidence_until (until>?)"),
    ],
)
def test_the_first_part_is_looked_up_by_end(query: Select[Any], table: str, index: str) -> None:
    assert plan(query) == [
        f"SEARCH {table} USING INTEGER PRIMARY KEY (rowid=?)",
        "LIST SUBQUERY 1",
        f"SEARCH {table} USING {index}",
        "USE TEMP B-TREE FOR ORDER BY",
    ]


@pytest.mark.parametrize(
    ("query", "table"),
    [
        (_select(HELD, 5, 100, 10), "certificates"),
        (_select(FACTS, 5, 100, 10), "evidence"),
    ],
)
def test_what_is_new_is_looked_up_by_id(query: Select[Any], table: str) -> None:
    assert plan(query) == [f"SEARCH {table} USING INTEGER PRIMARY KEY (rowid>?)"]
