"""Reading a log by its cursor, as a reader of `tail` does."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TypeVar

from meshca.ports import Tail

T = TypeVar("T")
Reader = Callable[[int, datetime, int], Tail[T]]


def parts(tail: Reader[T], now: datetime, *, limit: int, after: int = 0) -> list[Tail[T]]:
    """The parts of the log behind `after`, up to the one that is empty."""
    found = [tail(after, now, limit)]
    while found[-1].items:
        found.append(tail(found[-1].cursor, now, limit))
    return found


def read_meanwhile(tail: Reader[T], now: datetime, writing: Callable[[], object], *, limit: int = 7) -> list[T]:
    """What a reader gets that reads on while `writing` runs, and to the end after it."""
    found: list[T] = []
    cursor, deadline = 0, time.monotonic() + 60
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(writing)
        is_over = False
        while not is_over:
            assert time.monotonic() < deadline, "waited 60 s in vain"
            is_over = written.done()  # before the last look, not after it
            for part in parts(tail, now, limit=limit, after=cursor):
                found.extend(part.items)
                cursor = part.cursor
        written.result()
    return found
