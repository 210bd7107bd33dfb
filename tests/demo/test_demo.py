"""`meshca demo` as a newcomer runs it: it shows what it promises, fails where something fails, and leaves nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs import MESHCA, meshca

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

SHORT = ("--once", "--ttl", "3", "--renewals", "1")


@dataclass
class Demonstration:
    """A running `meshca demo`; `directory` is its place, or that of its temporary one."""

    process: asyncio.subprocess.Process
    directory: Path
    output: str = ""

    async def until(self, words: str) -> None:
        """Reads on until that was said."""
        assert self.process.stdout is not None
        while words not in self.output:
            line = await self.process.stdout.readline()
            assert line, f"it never said {words!r}:\n{self.output}"
            self.output += line.decode()

    async def end(self) -> int:
        """Its exit code, when it has ended by itself."""
        assert self.process.stdout is not None
        self.output += (await self.process.stdout.read()).decode()
        return await self.process.wait()

    def processes(self, words: str = "") -> list[int]:
        """The ids of its processes whose command line has `words`."""
        return [pid for pid, line in command_lines() if str(self.directory) in line and words in line]


def command_lines() -> list[tuple[int, str]]:
    """Every process of this machine, but ours and `meshca demo` itself."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode() if entry.name.isdigit() else ""
        except OSError:
            continue  # it has ended meanwhile
        if line and " demo " not in line and int(entry.name) != os.getpid():
            found.append((int(entry.name), line))
    return found


@asynccontextmanager
async def demonstration(directory: Path, *options: str) -> AsyncIterator[Demonstration]:
    """`meshca demo` in a temporary directory below `directory`, or where `options` say."""
    process = await asyncio.create_subprocess_exec(
        *MESHCA,
        "demo",
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(directory)},
    )
    try:
        async with asyncio.timeout(60):
            yield Demonstration(process, directory)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.communicate()


async def test_once_shows_every_figure_ends_with_zero_and_leaves_nothing(short_tmp: Path) -> None:
    async with demonstration(short_tmp, *SHORT) as demo:
        assert await demo.end() == 0, demo.output
        table = demo.output.partition("\n\n")[2]
        for line in (
            "spiffe://demo.meshca.test/ns/demo/sa/client\n",
            "spiffe://demo.meshca.test/ns/demo/sa/service\n",
            "mutual TLS handshakes",
            "requests sent",
            "requests failed              0\n",
            "caller with its certificate  admitted\n",
            "caller without certificate   refused\n",
            "caller from a foreign CA     refused\n",
            "every figure is right\n",
        ):
            assert line in table
        assert len(re.findall(r"^  ([2-9]) serials seen +[0-9a-f]{40}\n( +[0-9a-f]{40}\n)+", table, re.MULTILINE)) == 2
        assert re.search(r"^serials in the ledger +([0-9]+) of \1$", table, re.MULTILINE)
        assert max(map(len, demo.output.splitlines())) <= 80
        assert demo.processes() == []
        assert list(short_tmp.iterdir()) == []


async def test_it_runs_again_where_an_earlier_one_was_killed_and_gives_its_figures_as_json(short_tmp: Path) -> None:
    place = short_tmp / "d"
    async with demonstration(short_tmp, *SHORT, "--dir", str(place)) as demo:
        await demo.until("requests flow")
        for pid in (demo.process.pid, *demo.processes()):
            os.kill(pid, signal.SIGKILL)
        await demo.end()
    figures = json.loads(await asyncio.to_thread(meshca, "demo", *SHORT, "-o", "json", "--dir", place))
    assert figures["problems"] == []
    assert figures["failed"] == 0
    assert figures["recorded"] >= 4
    assert figures["handshakes"] >= figures["requests"] > 20
    assert figures["admitted_with_certificate"]
    assert figures["refused_without_certificate"]
    assert figures["refused_foreign_ca"]
    assert [len(set(serials)) >= 2 for serials in figures["serials"].values()] == [True, True]


@pytest.mark.parametrize(
    ("victim", "name"),
    [
        ("client/run", "client's agent"),
        ("service/envoy.json", "service's Envoy"),
    ],
)
async def test_a_process_that_is_killed_ends_it_with_its_name(short_tmp: Path, victim: str, name: str) -> None:
    async with demonstration(short_tmp, "--once") as demo:
        await demo.until("service  first")
        (pid,) = demo.processes(victim)
        os.kill(pid, signal.SIGKILL)
        assert await demo.end() == 7
        assert f"meshca: {name} ended by itself (killed by SIGKILL)" in demo.output
        assert demo.processes() == []
        assert list(short_tmp.iterdir()) == []


async def test_figures_that_are_wrong_are_named_and_end_it_with_one(short_tmp: Path) -> None:
    place = short_tmp / "d"
    async with demonstration(short_tmp, "--once", "--ttl", "4", "--dir", str(place)) as demo:
        await demo.until("service  first")
        with closing(sqlite3.connect(place / "ca" / "meshca.db", timeout=10, isolation_level=None)) as ledger:
            ledger.execute("BEGIN IMMEDIATE")  # now nothing can be recorded, and so nothing issued
            await demo.until("result")
        assert await demo.end() == 1
        assert "NOT RIGHT" in demo.output
        assert "meshca: spiffe://demo.meshca.test/ns/demo/sa/service: " in demo.output
        assert f"the logs are below {place}" in demo.output
        assert demo.processes() == []


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("making", signal.SIGINT),
        ("starting", signal.SIGHUP),
        ("service  first", signal.SIGTERM),
        ("everything goes on", signal.SIGINT),
    ],
)
async def test_a_signal_ends_everything_at_any_moment(short_tmp: Path, moment: str, number: signal.Signals) -> None:
    async with demonstration(short_tmp, *SHORT[1:]) as demo:
        await demo.until(moment)
        demo.process.send_signal(number)
        done = moment == "everything goes on"
        assert await demo.end() == (0 if done else 128 + number), demo.output
        assert ("the demonstration was interrupted" in demo.output) != done
        assert demo.processes() == []
        assert list(short_tmp.iterdir()) == []


async def test_a_place_that_holds_something_else_is_left_alone(short_tmp: Path) -> None:
    (short_tmp / "thesis.txt").write_text("mine")
    said = await asyncio.to_thread(meshca, "demo", "--once", "--dir", short_tmp, status=5)
    assert "holds something else than an earlier demonstration" in said
    assert [path.name for path in short_tmp.iterdir()] == ["thesis.txt"]


async def test_a_place_whose_path_is_too_long_is_refused_before_anything_starts(tmp_path: Path) -> None:
    said = await asyncio.to_thread(meshca, "demo", "--once", "--dir", tmp_path / ("d" * 100), status=3)
    assert "too long for Unix sockets: at most 84 bytes" in said
