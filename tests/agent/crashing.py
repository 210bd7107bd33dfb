"""A program that is killed before each step it takes in the file system while it saves an identity, in turn.

    python -m tests.agent.crashing DIRECTORY

It prints one line per death: how many steps were taken, and whether the writer had finished. `DIRECTORY/<steps>/` is
what the dead writer left behind. It forks itself, which the test's own process, full of threads, must not.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from meshca.agent.files import CertificateFiles
from meshca.agent.holding import write_files
from meshca.agent.identity import AgentIdentity
from meshca.agent.state import AgentState
from tests.agent.identities import identity
from tests.fakes.certificate_authority import fresh_root

BINDING = "of the test"
# What changes a directory, and the opening of files: the state between two of these is what a crash can leave behind.
STEPS = frozenset({"open", "os.rename", "os.remove", "os.symlink", "os.mkdir", "os.rmdir", "os.chmod"})


def save(directory: Path, held: AgentIdentity) -> None:
    """What an agent does with a new identity."""
    AgentState(directory / "state", BINDING).save(held)
    write_files(CertificateFiles(directory / "out"), held)


def die_before(step: int) -> None:
    """Kills this process before its step of that number, from 0."""
    taken = count()

    def watch(event: str, _arguments: tuple[Any, ...]) -> None:
        if event in STEPS and next(taken) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def finishes(step: int, work: Callable[[], None]) -> bool:
    """Whether a child that is to die before that step came to the end of its work."""
    child = os.fork()
    if child == 0:
        die_before(step)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status == 0


def main(root: Path) -> None:
    authority = fresh_root()
    first, second = identity(authority), identity(authority)
    for prior in (False, True):
        for step in count():
            directory = root / f"{'again' if prior else 'first'}-{step}"
            directory.mkdir(mode=0o700)
            if prior:
                save(directory, first)
            done = finishes(step, lambda where=directory: save(where, second))  # type: ignore[misc]  # bound now
            sys.stdout.write(f"{directory.name} {first.serial if prior else '-'} {second.serial}\n")
            sys.stdout.flush()  # else the next child has it, too
            if done:
                break


if __name__ == "__main__":
    main(Path(sys.argv[1]))
