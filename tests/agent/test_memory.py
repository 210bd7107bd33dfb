"""The proxies that rely on an agent, in a file."""

from __future__ import annotations

import asyncio
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from meshca.agent.memory import FILE_NAME, ProxyFile, ProxyMemory
from meshca.agent.relying import KnownProxy
from meshca.errors import MeshcaError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KNOWN = (
    KnownProxy("a", NOW, "t1", "i1"),
    KnownProxy("", NOW + timedelta(hours=1), ""),
    KnownProxy("ä\u2028", NOW, None),
)


def test_what_is_saved_is_loaded_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    file = ProxyFile(tmp_path / "state")
    assert file.load() == ()
    file.save(KNOWN)
    assert file.load() == KNOWN
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [entry.name for entry in file.path.parent.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"format": 1, "proxies": []}',
        b'{"format": 2, "proxies": [["a", "yesterday", "", ""]]}',
        b'{"format": 2, "proxies": [["a", "2026-01-01T00:00:00", "", ""]]}',
        b'{"format": 2, "proxies": [["a", "2026-01-01T00:00:00+00:00", ""]]}',
        b'{"format": 2, "proxies": [[1, "2026-01-01T00:00:00+00:00", "", ""]]}',
        b'{"format": 2, "proxies": [["a", "2026-01-01T00:00:00+00:00", "", null]]}',
        b"\xff" * 100,
    ],
)
async def test_a_damaged_file_is_an_error_never_nobody(tmp_path: Path, content: bytes) -> None:
    file = ProxyFile(tmp_path)
    file.path.write_bytes(content)
    with pytest.raises(MeshcaError, match="damaged"):
        file.load()
    with capture_logs() as logs:
        assert await ProxyMemory(file).recall() is None
    assert [event["event"] for event in logs] == ["proxies_forgotten"]


class CountingFile(ProxyFile):
    """Counts its writes."""

    writes = 0

    def save(self, known: tuple[KnownProxy, ...]) -> None:
        self.writes += 1
        super().save(known)


async def test_many_changes_at_once_are_few_writes_and_no_change_is_none(tmp_path: Path) -> None:
    file = CountingFile(tmp_path)
    memory, known = ProxyMemory(file), [KnownProxy(f"p{n}", NOW, "") for n in range(100)]
    shown: list[KnownProxy] = []

    async def learn(proxy: KnownProxy) -> None:
        shown.append(proxy)
        assert await memory.keep(lambda: tuple(shown))
        assert proxy in file.load()

    await asyncio.gather(*map(learn, known))
    assert file.load() == tuple(known)
    assert file.writes <= 2
    assert await memory.keep(lambda: tuple(shown))
    assert await ProxyMemory(file).recall() == tuple(known)
    assert file.writes <= 2


async def test_a_disk_that_refuses_is_told_once_and_tried_again(tmp_path: Path) -> None:
    obstacle = tmp_path / f".{FILE_NAME}.tmp"
    obstacle.mkdir()
    memory = ProxyMemory(ProxyFile(tmp_path))
    with capture_logs() as logs:
        assert not await memory.keep(lambda: KNOWN)
        assert not await memory.keep(lambda: KNOWN)
        obstacle.rmdir()
        assert await memory.keep(lambda: KNOWN)
    assert [event["event"] for event in logs] == ["proxies_not_saved"]


async def test_a_file_that_is_missing_beside_a_saved_identity_is_lost_and_without_one_there_was_none(
    tmp_path: Path,
) -> None:
    memory = ProxyMemory(ProxyFile(tmp_path))
    assert await memory.recall(restored=True) is None
    assert await memory.recall() == ()
    assert await memory.recall(restored=True) == (), "now it says that there is nobody"
