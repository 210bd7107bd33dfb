"""The SQL stores keep the contracts, open only what is theirs, and survive what disks and processes do to them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from operator import itemgetter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.authority.evidence import CertificateFact
from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.records import LedgerQuery
from meshca.stores.authorities import SqlAuthorityStore
from meshca.stores.evidence import SqlEvidenceStore
from meshca.stores.join_tokens import SqlJoinTokenStore
from meshca.stores.ledger import SqlLedger
from meshca.stores.memory import MemoryLedger
from meshca.stores.migrations import Migrations
from meshca.stores.revocations import SqlRevocationStore
from meshca.stores.sql import SqlStores, create_sqlite, open_sqlite
from tests.contracts.authority_store import AuthorityStoreContract, a_ring, an_entry
from tests.contracts.crowd import all_at_once
from tests.contracts.evidence_store import EvidenceStoreContract, a_fact, numbers
from tests.contracts.join_token_store import JoinTokenStoreContract, a_token
from tests.contracts.ledger import NOW, LedgerContract, a_record, serials
from tests.contracts.revocation_store import RevocationStoreContract
from tests.contracts.tails import read_meanwhile

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meshca.db"


@pytest.fixture
def stores(path: Path) -> Iterator[SqlStores]:
    made = create_sqlite(path)
    yield made
    made.close()


class TestSqlLedger(LedgerContract):
    @pytest.fixture
    def ledger(self, stores: SqlStores) -> SqlLedger:
        return stores.ledger


class TestSqlEvidenceStore(EvidenceStoreContract):
    @pytest.fixture
    def evidence(self, stores: SqlStores) -> SqlEvidenceStore:
        return stores.evidence


class TestSqlAuthorityStore(AuthorityStoreContract):
    @pytest.fixture
    def authorities(self, stores: SqlStores) -> SqlAuthorityStore:
        return stores.authorities


class TestSqlRevocationStore(RevocationStoreContract):
    @pytest.fixture
    def revocations(self, stores: SqlStores) -> SqlRevocationStore:
        return stores.revocations


class TestSqlJoinTokenStore(JoinTokenStoreContract):
    @pytest.fixture
    def join_tokens(self, stores: SqlStores) -> SqlJoinTokenStore:
        return stores.join_tokens


def start(mode: str, path: Path, *rest: str) -> subprocess.Popen[str]:
    """A process of `tests/stores/recorder.py`."""
    command = [sys.executable, "-m", "tests.stores.recorder", mode, str(path), *rest]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def output(mode: str, path: Path, *rest: str) -> list[str]:
    """What such a process says, by line."""
    with start(mode, path, *rest) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return said.splitlines()


class TestMakingAndOpening:
    def test_what_was_stored_is_there_after_reopening(self, path: Path) -> None:
        made = create_sqlite(path)
        made.ledger.record([a_record(1)])
        made.evidence.add([a_fact(1)])
        made.authorities.save(a_ring(), expected_revision=0, entries=[an_entry(1)])
        made.join_tokens.add(a_token())
        made.close()
        opened = open_sqlite(path)
        assert opened.ledger.find(LedgerQuery()).records == (a_record(1),)
        assert opened.evidence.tail(0, NOW, 10).items == (a_fact(1),)
        assert opened.authorities.load().ring == a_ring()
        assert opened.authorities.journal(10) == (an_entry(1),)
        assert opened.join_tokens.redeem(a_token().token_hash, NOW) == a_token()
        opened.close()

    def test_the_files_are_private(self, stores: SqlStores, path: Path) -> None:
        stores.ledger.record([a_record(1)])
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert set(modes) == {"meshca.db", "meshca.db-wal", "meshca.db-shm", "meshca.db.lock"}
        assert set(modes.values()) == {0o600}

    def test_a_path_with_characters_that_mean_something_in_a_uri_is_only_a_path(self, tmp_path: Path) -> None:
        path = tmp_path / "a?mode=memory#b %20c.db"
        create_sqlite(path).close()
        open_sqlite(path).close()
        assert path.is_file()

    def test_writes_are_flushed_before_they_are_acknowledged(self, stores: SqlStores) -> None:
        stores.ledger.record([a_record(1)])
        bulk = stores._database._bulk
        assert bulk is not None
        (mode,), (synchronous,) = (bulk.execute(f"PRAGMA {p}").fetchone() for p in ("journal_mode", "synchronous"))
        assert (mode, synchronous) == ("wal", 2)  # 2 is FULL

    def test_a_database_that_exists_is_never_made_over(self, path: Path) -> None:
        create_sqlite(path).close()
        before = path.read_bytes()
        with pytest.raises(MeshcaError, match="exists already") as caught:
            create_sqlite(path)
        assert caught.value.kind is ErrorKind.CONFLICT
        assert path.read_bytes() == before

    def test_a_directory_that_is_missing_is_not_made(self, tmp_path: Path) -> None:
        with pytest.raises(MeshcaError, match="cannot be made") as caught:
            create_sqlite(tmp_path / "missing" / "meshca.db")
        assert caught.value.kind is ErrorKind.UNAVAILABLE
        assert list(tmp_path.iterdir()) == []

    def refusal(self, path: Path) -> MeshcaError:
        """Why `path` is not opened: one line that names it. Nothing in its directory is made, removed or changed."""
        before = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
        with pytest.raises(MeshcaError) as caught:
            open_sqlite(path)
        assert {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()} == before
        assert str(path) in caught.value.message
        assert "\n" not in caught.value.message
        return caught.value

    def test_a_missing_database_is_not_found_and_not_made(self, path: Path) -> None:
        refusal = self.refusal(path)
        assert refusal.kind is ErrorKind.NOT_FOUND
        assert "meshca init" in refusal.message

    def test_a_file_that_is_no_database_is_refused(self, path: Path) -> None:
        path.write_bytes(b"not a database " * 100)
        refusal = self.refusal(path)
        assert refusal.kind is ErrorKind.INTERNAL
        assert "no SQLite database" in refusal.message

    def test_a_path_that_cannot_be_followed_is_no_reason_to_begin_anew(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(MeshcaError, match="out of reach") as caught:
            open_sqlite(tmp_path / "file" / "meshca.db")
        assert caught.value.kind is ErrorKind.INTERNAL

    @pytest.mark.parametrize("content", [b"", b"x"])
    def test_a_file_with_nothing_in_it_is_refused(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        assert self.refusal(path).kind is ErrorKind.INTERNAL

    def test_a_directory_in_its_place_is_refused(self, path: Path) -> None:
        path.mkdir()
        assert self.refusal(path).kind is ErrorKind.INTERNAL

    @pytest.mark.parametrize(
        "schema",
        [
            "CREATE TABLE songs (title)",
            "CREATE TABLE meta (a, b)",
            "CREATE TABLE meta (key, value); INSERT INTO meta VALUES ('application', 'jukebox')",
        ],
    )
    def test_a_database_of_something_else_is_refused(self, path: Path, schema: str) -> None:
        foreign = sqlite3.connect(path)
        foreign.executescript(schema)
        foreign.close()
        refusal = self.refusal(path)
        assert refusal.kind is ErrorKind.INTERNAL
        assert "not meshca's" in refusal.message

    def test_a_database_that_is_damaged_is_refused(self, path: Path) -> None:
        create_sqlite(path).close()
        path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 4096)
        damaged = path.read_bytes()
        with pytest.raises(MeshcaError, match="damaged") as caught:
            open_sqlite(path)
        assert caught.value.kind is ErrorKind.INTERNAL
        assert path.read_bytes() == damaged

    def test_a_database_restored_without_write_ahead_mode_gets_it_back(self, path: Path) -> None:
        create_sqlite(path).close()
        foreign = sqlite3.connect(path)
        foreign.execute("PRAGMA journal_mode=DELETE")
        foreign.close()
        open_sqlite(path).close()
        foreign = sqlite3.connect(path)
        assert foreign.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        foreign.close()


class TestSchemaVersions:
    @pytest.fixture
    def next_version(self, tmp_path: Path) -> Migrations:
        """The migrations of a meshca that is one step further."""
        ours, theirs = ROOT / "meshca/stores/migrations", tmp_path / "next"
        shutil.copytree(ours, theirs, ignore=shutil.ignore_patterns("__pycache__"))
        (theirs / "versions/9999_next.py").write_text(
            "from alembic import op\n"
            f"revision, down_revision = 'next', '{Migrations().known()[0]}'\n"
            "def upgrade(): op.execute('CREATE TABLE added (x INTEGER)')\n"
            "def downgrade(): op.drop_table('added')\n"
        )
        return Migrations(theirs)

    def test_an_older_schema_is_brought_up_to_date_and_keeps_its_records(
        self, path: Path, next_version: Migrations
    ) -> None:
        made = create_sqlite(path)
        made.ledger.record([a_record(1)])
        made.close()
        opened = open_sqlite(path, migrations=next_version)
        with opened._database.reading() as connection:
            assert next_version.current(connection) == "next"
            assert connection.exec_driver_sql("SELECT count(*) FROM added").scalar() == 0
        assert serials(opened.ledger) == [1]
        opened.close()

    def test_a_newer_schema_is_refused_and_left_alone(self, path: Path, next_version: Migrations) -> None:
        create_sqlite(path).close()
        open_sqlite(path, migrations=next_version).close()
        refusal = TestMakingAndOpening().refusal(path)
        assert refusal.kind is ErrorKind.INTERNAL
        assert "schema next" in refusal.message
        assert "newer meshca" in refusal.message


class TestProcesses:
    def test_every_acknowledged_record_survives_kill_9(self, path: Path) -> None:
        create_sqlite(path).close()
        with start("forever", path) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(300)]
            process.kill()
            said += process.stdout.readlines()
        acknowledged = {int(line) for line in said if line.endswith("\n")}
        opened = open_sqlite(path)
        recorded = set(serials(opened.ledger, limit=10_000))
        opened.ledger.record([a_record(99)])
        opened.close()
        assert len(acknowledged) >= 300
        assert acknowledged <= recorded

    def test_processes_that_record_at_the_same_time_lose_nothing(self, path: Path) -> None:
        create_sqlite(path).close()
        with start("some", path, "1000") as one, start("some", path, "2000") as two:
            said = [process.communicate(timeout=60)[0] for process in (one, two)]
        assert said == ["ok\n", "ok\n"]
        opened = open_sqlite(path)
        assert sorted(serials(opened.ledger, limit=1000)) == [*range(1000, 1100), *range(2000, 2100)]
        opened.close()

    def test_cursors_skip_nothing_while_processes_write(self, stores: SqlStores, path: Path) -> None:
        said: list[str] = []
        certificates: list[CertificateFact] = []

        def write() -> None:
            with start("some", path, "1000") as one, start("some", path, "2000") as two:
                said.extend(process.communicate(timeout=60)[0] for process in (one, two))

        def write_and_read() -> None:
            certificates.extend(read_meanwhile(stores.ledger.tail, NOW, write))

        facts = read_meanwhile(stores.evidence.tail, NOW, write_and_read)
        assert said == ["ok\n", "ok\n"]
        expected = [*range(1000, 1100), *range(2000, 2100)]
        assert sorted(int(fact.serial, 16) for fact in facts) == expected
        assert sorted(int(fact.serial, 16) for fact in certificates) == expected

    def test_a_token_is_redeemed_by_one_of_two_processes(self, path: Path) -> None:
        made = create_sqlite(path)
        hashes = [a_token(f"t{i}").token_hash for i in range(40)]
        for i in range(40):
            made.join_tokens.add(a_token(f"t{i}"))
        made.close()
        with start("redeem", path, ",".join(hashes)) as one, start("redeem", path, ",".join(hashes)) as two:
            for process in (one, two):
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            for process in (one, two):
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            won = [line for process in (one, two) for line in process.communicate(timeout=60)[0].splitlines()]
        assert sorted(won) == sorted(hashes)


class TestTroubleWithTheDisk:
    def test_a_full_disk_stores_nothing_and_recovers_when_there_is_room(self, path: Path) -> None:
        create_sqlite(path).close()
        first, small, large, after = output("full", path)
        assert first == after == "ok"
        for refused in (small, large):
            assert refused.startswith(f"unavailable: database {path}: the disk reports an input/output error")
        opened = open_sqlite(path)
        assert serials(opened.ledger) == [3, 1]
        opened.close()

    def test_a_full_database_says_that_the_disk_is_full(self, stores: SqlStores) -> None:
        stores.ledger.record([a_record(1)])
        bulk = stores._database._bulk
        assert bulk is not None
        bulk.execute("PRAGMA max_page_count=1")  # goes with the connection, which the failure drops
        with pytest.raises(MeshcaError, match="the disk is full") as caught:
            stores.ledger.record([a_record(i) for i in range(1000, 1500)])
        assert caught.value.kind is ErrorKind.UNAVAILABLE
        assert caught.value.retry_after is not None
        stores.ledger.record([a_record(2)])
        assert serials(stores.ledger) == [2, 1]

    def test_a_read_only_database_stores_nothing_and_recovers_when_it_is_writable(self, short_tmp: Path) -> None:
        path = short_tmp / "meshca.db"
        refused, after = output("read_only", path)
        assert refused.startswith(f"unavailable: database {path}: it is read-only")
        assert after == "ok"
        opened = open_sqlite(path)
        assert serials(opened.ledger) == [2]
        opened.close()

    def test_a_foreign_lock_is_unavailable_and_recovers_when_it_is_gone(self, path: Path) -> None:
        create_sqlite(path).close()
        stores = open_sqlite(path, busy_timeout=0.05)
        foreign = sqlite3.connect(path, isolation_level=None)
        foreign.execute("BEGIN IMMEDIATE")
        with pytest.raises(MeshcaError, match="locked by another process") as by_ledger:
            stores.ledger.record([a_record(1)])
        with pytest.raises(MeshcaError, match="locked by another process") as by_tokens:
            stores.join_tokens.add(a_token())
        assert by_ledger.value.kind is by_tokens.value.kind is ErrorKind.UNAVAILABLE
        assert serials(stores.ledger) == []  # reading goes on
        foreign.execute("ROLLBACK")
        stores.ledger.record([a_record(2)])
        assert serials(stores.ledger) == [2]
        foreign.close()
        stores.close()

    def test_a_removed_database_takes_no_records_until_it_is_back(self, stores: SqlStores, path: Path) -> None:
        stores.ledger.record([a_record(1)])
        aside = path.with_name("aside")
        path.rename(aside)
        with pytest.raises(MeshcaError, match="removed or replaced") as caught:
            stores.ledger.record([a_record(2)])
        assert caught.value.kind is ErrorKind.UNAVAILABLE
        assert not path.exists()
        aside.rename(path)
        stores.ledger.record([a_record(3)])
        assert serials(stores.ledger) == [3, 1]

    def test_a_replaced_database_takes_no_records(self, stores: SqlStores, path: Path) -> None:
        replacement = path.with_name("replacement")
        shutil.copyfile(path, replacement)
        os.replace(replacement, path)
        with pytest.raises(MeshcaError, match="removed or replaced"):
            stores.ledger.record([a_record(1)])

    def test_reading_a_database_that_is_gone_is_unavailable(self, stores: SqlStores, path: Path) -> None:
        path.unlink()
        stores._database.reset()
        reads: list[Callable[[], object]] = [
            lambda: stores.ledger.find(LedgerQuery()),
            lambda: stores.ledger.tail(0, NOW, 10),
            lambda: stores.evidence.tail(0, NOW, 10),
            lambda: stores.authorities.journal(10),
            stores.authorities.load,
        ]
        for read in reads:
            with pytest.raises(MeshcaError, match="cannot be opened") as caught:
                read()
            assert caught.value.kind is ErrorKind.UNAVAILABLE

    def test_a_line_that_cannot_be_read_is_an_internal_error_that_names_it(self, stores: SqlStores, path: Path) -> None:
        stores.ledger.record([a_record(1)])
        foreign = sqlite3.connect(path)
        foreign.execute("UPDATE certificates SET dns_names = '{'")
        foreign.commit()
        foreign.close()
        with pytest.raises(MeshcaError, match="ledger line 1 cannot be read") as caught:
            stores.ledger.find(LedgerQuery())
        assert caught.value.kind is ErrorKind.INTERNAL

    @pytest.mark.parametrize(
        ("change", "refused"),
        [
            ("UPDATE evidence SET channel = 'rumour'", "evidence line 1 cannot be read"),
            ("UPDATE evidence SET at = 'x'", "evidence line 1 cannot be read"),
            ("UPDATE authority_journal SET at = 'x'", "journal line 1 cannot be read"),
        ],
    )
    def test_a_fact_or_entry_that_cannot_be_read_is_an_internal_error_that_names_it(
        self, stores: SqlStores, path: Path, change: str, refused: str
    ) -> None:
        stores.evidence.add([a_fact(1)])
        stores.authorities.save(a_ring(), expected_revision=0, entries=[an_entry(1)])
        foreign = sqlite3.connect(path)
        foreign.execute(change)
        foreign.commit()
        foreign.close()
        with pytest.raises(MeshcaError, match=refused) as caught:
            (stores.evidence.tail(0, NOW, 10), stores.authorities.journal(10))
        assert caught.value.kind is ErrorKind.INTERNAL


class TestTheCrowd:
    def test_concurrent_records_share_flushes_and_are_all_durable(self, path: Path) -> None:
        stores = create_sqlite(path)

        def act(thread: int) -> None:
            for i in range(50):
                stores.ledger.record([a_record(1000 * thread + i)])

        before = stores.ledger.flushes
        assert all_at_once(32, act) == [None] * 32
        assert stores.ledger.flushes - before < 32 * 50 / 3
        stores.close()
        opened = open_sqlite(path)
        assert len(serials(opened.ledger, limit=10_000)) == 32 * 50
        opened.close()

    def test_records_that_cannot_be_stored_hurt_only_their_own_callers(self, stores: SqlStores) -> None:
        stores.ledger.record([a_record(0)])
        bad = {1: a_record(0), 2: a_record(2, attested="\ud800"), 3: a_record(3, bundle_sequence=2**70)}

        def act(thread: int) -> None:
            stores.ledger.record([bad.get(thread, a_record(thread))])

        outcomes = all_at_once(32, act)
        kinds = {i: o.kind for i, o in enumerate(outcomes) if o is not None}
        assert kinds == {
            0: ErrorKind.CONFLICT,
            1: ErrorKind.CONFLICT,
            2: ErrorKind.INTERNAL,
            3: ErrorKind.INTERNAL,
        }
        assert sorted(serials(stores.ledger)) == [0, *range(4, 32)]

    def test_facts_that_cannot_be_stored_hurt_neither_others_nor_certificates(self, stores: SqlStores) -> None:
        bad = {1: a_fact(1, refusal="\ud800"), 3: a_fact(3, bundle_sequence=2**70)}

        def act(thread: int) -> None:
            if thread % 2:
                stores.evidence.add([bad.get(thread, a_fact(thread))])
            else:
                stores.ledger.record([a_record(thread)])

        outcomes = all_at_once(32, act)
        assert {i: o.kind for i, o in enumerate(outcomes) if o is not None} == dict.fromkeys(bad, ErrorKind.INTERNAL)
        assert sorted(serials(stores.ledger)) == list(range(0, 32, 2))
        assert sorted(numbers(stores.evidence)) == list(range(5, 32, 2))

    def test_readers_do_not_wait_for_a_writer(self, stores: SqlStores, path: Path) -> None:
        stores.ledger.record([a_record(1)])
        foreign = sqlite3.connect(path, isolation_level=None)
        foreign.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        assert serials(stores.ledger) == [1]
        assert time.monotonic() - started < 2  # the busy timeout is 5 s
        foreign.close()


def test_a_store_cannot_write_through_its_reading_connections(stores: SqlStores) -> None:
    with (
        stores._database.reading() as connection,
        pytest.raises(Exception, match="readonly"),
    ):
        connection.exec_driver_sql("DELETE FROM meta")


IDS = st.sampled_from(["spiffe://example.org/a", "spiffe://example.org/b"])
RECORDS = st.lists(
    st.tuples(st.text("0123456789abcdef", min_size=4, max_size=6), IDS, st.integers(0, 9)),
    max_size=12,
    unique_by=itemgetter(0),
)
MOMENTS = st.none() | st.integers(-1, 40).map(lambda quarter: NOW + timedelta(seconds=quarter / 4))
QUERIES = st.builds(
    LedgerQuery,
    spiffe_id=st.none() | IDS,
    serial=st.none() | st.text("0123456789abcdef", min_size=4, max_size=5),
    since=MOMENTS,
    until=MOMENTS,
    valid_at=MOMENTS,
    limit=st.integers(1, 5),
    before=st.none() | st.integers(1, 12),
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "meshca.db"
    create_sqlite(path).close()
    return path


@given(rows=RECORDS, queries=st.lists(QUERIES, min_size=1, max_size=10))
def test_sql_finds_what_memory_finds(
    template: Path, rows: list[tuple[str, str, int]], queries: list[LedgerQuery]
) -> None:
    records = [
        a_record(second, serial=serial, spiffe_id=spiffe_id, not_before=NOW, not_after=NOW + timedelta(seconds=second))
        for serial, spiffe_id, second in rows
    ]
    path = template.with_name("copy.db")
    shutil.copyfile(template, path)
    stores, memory = open_sqlite(path), MemoryLedger()
    try:
        stores.ledger.record(records)
        memory.record(records)
        for query in queries:
            assert stores.ledger.find(query) == memory.find(query)
    finally:
        stores.close()


def refusal_to_record(stores: SqlStores, number: int) -> MeshcaError:
    with pytest.raises(MeshcaError) as caught:
        stores.ledger.record([a_record(number)])
    return caught.value


def test_a_write_ahead_log_that_was_removed_takes_no_records_that_a_crash_would_lose(
    stores: SqlStores, path: Path
) -> None:
    """SQLite itself goes on into the removed file, without a word."""
    stores.ledger.record([a_record(1)])
    Path(f"{path}-wal").unlink()
    for _ in range(2):  # the first refusal resets the connections, and must not make a new log
        error = refusal_to_record(stores, 2)
        assert error.kind is ErrorKind.UNAVAILABLE
        assert "meshca.db-wal was removed: stop the server by SIGTERM, so that it saves what was in it" in error.message
    with pytest.raises(MeshcaError, match=r"meshca\.db-wal was removed"):
        stores.ledger.find(LedgerQuery())


def test_a_write_ahead_log_that_was_removed_is_saved_by_a_clean_stop(stores: SqlStores, path: Path) -> None:
    stores.ledger.record([a_record(1)])
    Path(f"{path}-wal").unlink()
    refusal_to_record(stores, 2)
    stores.close()
    again = open_sqlite(path)
    assert serials(again.ledger) == [1]
    again.ledger.record([a_record(2)])
    again.close()


def test_a_write_ahead_log_that_was_replaced_is_noticed_too(stores: SqlStores, path: Path) -> None:
    stores.ledger.record([a_record(1)])
    log = Path(f"{path}-wal")
    shutil.copy(log, f"{log}.copy")
    os.replace(f"{log}.copy", log)
    assert refusal_to_record(stores, 2).kind is ErrorKind.UNAVAILABLE


def test_a_write_ahead_log_that_is_put_back_serves_again(stores: SqlStores, path: Path) -> None:
    stores.ledger.record([a_record(1)])
    log = Path(f"{path}-wal")
    log.rename(f"{log}.away")
    refusal_to_record(stores, 2)
    Path(f"{log}.away").rename(log)
    stores.ledger.record([a_record(2)])
    assert len(stores.ledger.find(LedgerQuery()).records) == 2
