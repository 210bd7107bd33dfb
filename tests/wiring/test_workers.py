"""Workers: whatever one of them does, it is running again soon, and that it is not is no secret."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from structlog.testing import capture_logs

from meshca.errors import ErrorKind, MeshcaError
from meshca.http.metrics import Metrics
from meshca.settings.server import ServerSettings
from meshca.spiffe.ids import TrustDomain
from meshca.wiring.clock import SystemClock
from meshca.wiring.core import build_core
from meshca.wiring.data_dir import Founding, create_data_dir
from meshca.wiring.exposition import WorkerTotals, parse_report, read_samples, write_report
from meshca.wiring.worker import serve
from meshca.wiring.workers import WorkerPatience, Workers

IMPATIENT = WorkerPatience(start=20, silence=20, absence=20, restart=(0.01,))

# Reports until its standard input ends. Each worker first takes the next of the given deeds, while there are any.
WORKER = """#!{python} -S
import os, sys, threading, time
from pathlib import Path

place = Path({place!r})
sys.stdin.readline()
(place / f"{{os.getpid()}}.pid").touch()
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()

def report(text="[]"):
    print(text, flush=True)

def deed():
    for path in sorted(place.glob("*.deed")):
        try:
            path.rename(path.with_suffix(f".{{os.getpid()}}"))
        except FileNotFoundError:
            continue
        return path.with_suffix(f".{{os.getpid()}}").read_text()
    return ""

exec(deed())
while True:
    report()
    time.sleep(0.02)
"""

DEEDS = {
    "an end": ("report(); os._exit(3)", "exit code 3"),
    "garbage": ("report(); report('garbage'); time.sleep(99)", "what it reported is no report"),
    "garbage and an end": ("report(); report('garbage'); os._exit(3)", "what it reported is no report"),
    "JSON of another form": ("report(); report('{}'); time.sleep(99)", "what it reported is no report"),
    "no UTF-8": ("report(); os.write(1, bytes([255, 10])); time.sleep(99)", "what it reported is no report"),
    "an endless line": ("report(); report('1' * 3_000_000); time.sleep(99)", "what it reported is no report"),
    "half a line": ("report(); os.write(1, b'[['); os._exit(3)", "exit code 3"),
}


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


class Crew:
    """Workers of a script of ours, and what it did."""

    def __init__(self, place: Path, count: int, patience: WorkerPatience, *deeds: str) -> None:
        self.place = place
        for number, deed in enumerate(deeds):
            (place / f"{number}.deed").write_text(deed)
        anywhere = dict.fromkeys(("token_listen", "mtls_listen"), "127.0.0.1:0")
        settings = ServerSettings.model_validate({"data_dir": place, "workers": count, "shutdown_grace": 5, **anywhere})
        self.program = place / "worker"
        self.program.write_text(WORKER.format(python=sys.executable, place=str(place)))
        self.program.chmod(0o700)
        self.workers = Workers(settings, WorkerTotals(CollectorRegistry()), patience, (str(self.program),))

    @property
    def pids(self) -> list[int]:
        """Of every worker so far."""
        return [int(path.stem) for path in self.place.glob("*.pid")]


@asynccontextmanager
async def crew(place: Path, count: int, *deeds: str, patience: WorkerPatience = IMPATIENT) -> AsyncIterator[Crew]:
    it = Crew(place, count, patience, *deeds)
    try:
        await it.workers.start()
        yield it
    finally:
        await it.workers.stop()
    assert not any(Path(f"/proc/{pid}").exists() for pid in it.pids), "a worker was left behind"


def ended(logs: list[Any]) -> list[str]:
    return [log["reason"] for log in logs if log["event"] == "worker_ended"]


@pytest.mark.parametrize("name", DEEDS)
async def test_whatever_a_worker_does_it_is_started_again(tmp_path: Path, name: str) -> None:
    deed, reason = DEEDS[name]
    with capture_logs() as logs:
        async with crew(tmp_path, 2, deed) as it:
            await until(lambda: len(it.pids) == 3 and it.workers.problem() is None and it.workers.missing == 0)
            assert not any(task.done() for task in it.workers.tasks)
    assert ended(logs) == [reason]


async def test_a_worker_that_falls_silent_is_ended_and_started_again(tmp_path: Path) -> None:
    patience = WorkerPatience(start=20, silence=3, absence=20, restart=(0.01,))
    with capture_logs() as logs:
        async with crew(tmp_path, 1, "report(); time.sleep(99)", patience=patience) as it:
            await until(lambda: len(it.pids) == 2 and it.workers.missing == 0)
    assert ended(logs) == ["it reported nothing for 3s"]


async def test_a_worker_that_reports_without_a_pause_is_ended_like_any_other(tmp_path: Path) -> None:
    """`asyncio.wait_for` of Python 3.11 loses a cancellation that comes together with what it waits for."""
    for number in range(5):
        place = tmp_path / str(number)
        place.mkdir()
        async with crew(place, 1, "while True: report()") as it, asyncio.timeout(10):
            await it.workers.stop()


async def test_a_worker_that_never_comes_up_is_told_at_the_start(tmp_path: Path) -> None:
    with capture_logs() as logs, pytest.raises(MeshcaError) as refused:
        async with crew(tmp_path, 2, "os._exit(5)"):
            pass
    assert refused.value.kind is ErrorKind.UNAVAILABLE
    assert ended(logs) == ["exit code 5"]


async def test_it_is_a_problem_at_once_where_none_is_running(tmp_path: Path) -> None:
    slow = WorkerPatience(start=20, silence=20, absence=20, restart=(99,))
    async with crew(tmp_path, 1, "report(); os._exit(3)", patience=slow) as it:
        await until(lambda: it.workers.missing == 1)
        assert it.workers.problem() == "no signing worker is running"


async def test_one_of_several_is_a_problem_only_where_it_does_not_come_back(tmp_path: Path) -> None:
    slow = WorkerPatience(start=20, silence=20, absence=1.5, restart=(99,))
    async with crew(tmp_path, 2, "report(); os._exit(3)", patience=slow) as it:
        await until(lambda: it.workers.missing == 1)
        assert it.workers.problem() is None
        await until(lambda: it.workers.problem() == "1 of 2 signing workers do not come back")


async def test_workers_that_cannot_be_spawned_are_no_end_of_the_supervision(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with crew(tmp_path, 1, "report(); time.sleep(0.5); os._exit(3)") as it:
            it.program.unlink()
            await until(lambda: len(ended(logs)) >= 3)
            assert not any(task.done() for task in it.workers.tasks)
    assert ended(logs)[:2] == ["exit code 3", "it cannot be started: No such file or directory"]


async def test_a_worker_that_can_record_nothing_any_more_ends(tmp_path: Path) -> None:
    """It would go on to take its share of the calls and to refuse them; one that is started anew can record."""
    create_data_dir(tmp_path / "ca", Founding(TrustDomain("worker.test")), None, SystemClock())
    core = build_core(ServerSettings(data_dir=tmp_path / "ca"))
    core.stores.close()
    with pytest.raises(MeshcaError, match="the ledger's writer has stopped"):
        async with asyncio.timeout(10):
            await serve(core, Metrics(lambda: core.signing.latest().ring), asyncio.Event())


def test_a_report_is_read_as_it_was_written() -> None:
    registry = CollectorRegistry()
    Counter("calls", "Calls.", ("code",), registry=registry).labels("OK").inc(3)
    assert parse_report(write_report(registry).encode()) == read_samples(registry)


@pytest.mark.parametrize(
    "line", [b"", b"nothing", b"{}", b"[1]", b'[["a", "summary", "b", []]]', b'[["a", "counter", "b", [["a", {}]]]]']
)
def test_what_is_no_report_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="validation error"):
        parse_report(line)
