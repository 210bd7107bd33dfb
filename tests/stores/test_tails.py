"""How a log is read: whatever has ended costs nothing, neither at the beginning nor later."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.dialects import sqlite
from sqlmodel.sql.expression import SelectOfScalar

from meshca.stores.migrations import Migrations
from meshca.stores.tables import BundleFactRow, CertificateRow
from meshca.stores.tails import _select


def plan(query: SelectOfScalar[Any]) -> list[str]:
    """SQLite's steps, in its words."""
    sql = query.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        Migrations().upgrade(connection)
        steps = [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")]
    engine.dispose()
    return steps


@pytest.mark.parametrize(
    ("query", "table", "ends"),
    [
        (_select(CertificateRow, "not_after", 0, 100, 10), "certificates", "not_after"),
        (_select(BundleFactRow, "until", 0, 100, 10), "evidence", "until"),
    ],
)
def test_the_first_part_is_looked_up_by_end_in_the_index_alone(
    query: SelectOfScalar[Any], table: str, ends: str
) -> None:
    assert plan(query) == [
        f"SEARCH {table} USING INTEGER PRIMARY KEY (rowid=?)",
        "LIST SUBQUERY 1",
        f"SEARCH {table} USING COVERING INDEX ix_{table}_{ends} ({ends}>?)",
        "USE TEMP B-TREE FOR ORDER BY",
    ]


@pytest.mark.parametrize(
    ("query", "table"),
    [
        (_select(CertificateRow, "not_after", 5, 100, 10), "certificates"),
        (_select(BundleFactRow, "until", 5, 100, 10), "evidence"),
    ],
)
def test_what_is_new_is_looked_up_by_id(query: SelectOfScalar[Any], table: str) -> None:
    assert plan(query) == [f"SEARCH {table} USING INTEGER PRIMARY KEY (rowid>?)"]
