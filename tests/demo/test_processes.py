"""The demonstration's processes: how their ends are told, what they inherit, and that none is left behind."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from meshca.demo.processes import Child, run_meshca
from meshca.errors import ErrorKind, MeshcaError


def python(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program)


async def ended(child: Child) -> None:
    async with asyncio.timeout(20):
        while child.is_running:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("print('no luck'); raise SystemExit(3)", "the part ended by itself (exit code 3)\n  no luck"),
        ("import os; os.kill(os.getpid(), 9)", "the part ended by itself (killed by SIGKILL)"),
    ],
)
async def test_a_process_that_ended_is_told_with_its_last_words(tmp_path: Path, program: str, words: str) -> None:
    child = Child("the part", python(program), tmp_path / "log")
    await child.start()
    await ended(child)
    with pytest.raises(MeshcaError) as raised:
        child.check()
    assert (raised.value.kind, raised.value.message) == (ErrorKind.UNAVAILABLE, words)


async def test_one_that_ends_before_it_is_ready_is_not_waited_for(tmp_path: Path) -> None:
    child = Child("the part", python("raise SystemExit(1)"), tmp_path / "log")
    await child.start()
    with pytest.raises(MeshcaError, match=r"ended by itself \(exit code 1\)"):
        await child.wait_for_file(tmp_path / "ready", seconds=100)


async def test_one_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    child = Child("the part", python("import time; time.sleep(100)"), tmp_path / "log")
    await child.start()
    with pytest.raises(MeshcaError, match="did not come up within 0s"):
        await child.wait_for_file(tmp_path / "ready", seconds=0.1)
    await child.stop()
    assert not child.is_running


async def test_stopping_what_never_started_or_has_ended_is_nothing(tmp_path: Path) -> None:
    child = Child("the part", python(""), tmp_path / "log")
    await child.stop()
    await child.start()
    await ended(child)
    await child.stop()


async def test_only_warnings_and_errors_are_complaints(tmp_path: Path) -> None:
    lines = [
        '{"event": "a", "level": "info"}',
        '{"event": "b", "level": "warning"}',
        "[x][critical][main] no",
        "meshca: e",
    ]
    child = Child("the part", python(f"print({chr(10).join(lines)!r})"), tmp_path / "log")
    await child.start()
    await ended(child)
    assert child.complaints(lines=10) == lines[1:]
    assert child.complaints(lines=1) == lines[-1:]


async def test_a_command_that_fails_is_told_with_its_words() -> None:
    with pytest.raises(MeshcaError, match="`meshca bundle show` failed: meshca: give --data-dir"):
        await run_meshca("bundle", "show")


async def test_settings_of_somebodys_real_server_are_none_for_the_demonstration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHCA_DATA_DIR", str(tmp_path))
    with pytest.raises(MeshcaError, match="give --data-dir"):
        await run_meshca("bundle", "show")


async def test_modules_in_the_working_directory_are_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "typer.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    assert (await run_meshca("--version")).startswith("meshca ")


async def test_a_command_whose_caller_gives_up_is_ended(short_tmp: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(short_tmp / "admin.sock"))
        silent.listen()
        silent.setblocking(False)
        command = asyncio.create_task(run_meshca("bundle", "show", "--admin", str(short_tmp / "admin.sock")))
        async with asyncio.timeout(20):
            connection, _ = await asyncio.get_running_loop().sock_accept(silent)
        with connection:
            assert children()
            command.cancel()
            with pytest.raises(asyncio.CancelledError):
                await command
            assert not children()


def children() -> list[str]:
    """The ids of this process's children that run `meshca bundle show`."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in found if b"bundle" in Path(f"/proc/{pid}/cmdline").read_bytes()]
