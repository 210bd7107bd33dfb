"""Many threads that do the same thing at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

from meshca.errors import MeshcaError

T = TypeVar("T")


def all_at_once(size: int, act: Callable[[int], T]) -> list[T | MeshcaError]:
    """What each of `size` threads got from `act(its number)`: the result, or the refusal."""
    barrier = Barrier(size, timeout=30)

    def one(number: int) -> T | MeshcaError:
        barrier.wait()
        try:
            return act(number)
        except MeshcaError as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))
