"""A process that records and redeems in somebody else's database: `python -m tests.stores.recorder MODE PATH …`."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread

from meshca.errors import MeshcaError
from meshca.stores.sql import create_sqlite, open_sqlite
from tests.contracts.evidence_store import a_fact
from tests.contracts.join_token_store import NOW
from tests.contracts.ledger import a_record

NOBODY = 65534


def say(word: object) -> None:
    """One line, in one write, so that a kill never leaves half of one."""
    os.write(1, f"{word}\n".encode())


def attempt(act: Callable[[], object]) -> None:
    """Says `ok`, or the kind and the message of the refusal."""
    try:
        act()
    except MeshcaError as error:
        say(f"{error.kind.value}: {error.message}")
    else:
        say("ok")


def forever(path: Path, _: str) -> None:
    """Eight threads record for ever; each serial is said after it was acknowledged."""
    stores = open_sqlite(path)

    def work(thread: int) -> None:
        number = 1_000_000 * thread
        while True:
            stores.ledger.record([a_record(number)])
            say(number)
            number += 1

    for thread in range(8):
        Thread(target=work, args=(thread,), daemon=True).start()
    time.sleep(60)


def some(path: Path, first: str) -> None:
    """Four threads record 25 serials each, beginning at `first`, and a fact about each of them."""
    stores = open_sqlite(path)
    numbers = range(int(first), int(first) + 100)

    def work(thread: int) -> None:
        for number in numbers[thread::4]:
            stores.ledger.record([a_record(number)])
            stores.evidence.add([a_fact(number)])

    threads = [Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stores.close()
    say("ok")


def redeem(path: Path, hashes: str) -> None:
    """Waits for a line on stdin, then tries each of the tokens; says those it got."""
    stores = open_sqlite(path)
    say("ready")
    sys.stdin.readline()
    for token_hash in hashes.split(","):
        try:
            stores.join_tokens.redeem(token_hash, NOW)
        except MeshcaError:
            continue
        say(token_hash)
    stores.close()


def full(path: Path, _: str) -> None:
    """Records while files may not grow, and again when they may."""
    stores = open_sqlite(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    attempt(lambda: stores.ledger.record([a_record(1)]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{path}-wal").stat().st_size + 1000, hard))
    attempt(lambda: stores.ledger.record([a_record(2)]))
    attempt(lambda: stores.ledger.record([a_record(i) for i in range(1000, 1500)]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    attempt(lambda: stores.ledger.record([a_record(3)]))
    stores.close()


def read_only(path: Path, _: str) -> None:
    """Records in a database that may only be read, and again when it may be written. Root gives up its rights first."""
    create_sqlite(path).close()
    open_sqlite(path).close()  # loads all modules while they can still be read
    if os.geteuid() == 0:
        for owned in (path.parent, path, f"{path}.lock"):
            os.chown(owned, NOBODY, NOBODY)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    path.chmod(0o400)
    stores = open_sqlite(path)
    attempt(lambda: stores.ledger.record([a_record(1)]))
    for beside in path.parent.glob(f"{path.name}*"):  # SQLite gives the files beside it the database's mode
        beside.chmod(0o600)
    attempt(lambda: stores.ledger.record([a_record(2)]))
    stores.close()


MODES: dict[str, Callable[[Path, str], None]] = {
    "forever": forever,
    "some": some,
    "redeem": redeem,
    "full": full,
    "read_only": read_only,
}


def main(arguments: Sequence[str]) -> None:
    mode, path, *rest = arguments
    MODES[mode](Path(path), rest[0] if rest else "")


if __name__ == "__main__":
    main(sys.argv[1:])
