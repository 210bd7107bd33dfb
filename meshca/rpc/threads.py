"""The threads of a listener: a few, since more of them only fight for the interpreter, and one more for each that a
slow peer keeps waiting."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DoorThreads(Executor):
    """Runs what is submitted, in order, on `size` threads and those that `stretch` adds."""

    def __init__(self, size: int, most_extra: int) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()  # None ends the thread that takes it
        self._lock = Lock()
        self._size = size
        self._most_extra = most_extra
        self._extra = 0
        self._is_open = True
        self._add(size)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """What `fn` gives, in time. Raises RuntimeError after `shutdown`, as every executor does."""
        if not self._is_open:
            raise RuntimeError("the threads have ended")
        future: Future[T] = Future()

        def task() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  # it belongs to whoever asks the future
                future.set_exception(error)
            else:
                future.set_result(result)

        self._tasks.put(task)
        return future

    def stretch(self, waiting: int) -> None:
        """Has one extra thread for each of `waiting` that work for nobody else now, within bounds."""
        with self._lock:
            wanted = min(waiting, self._most_extra) if self._is_open else 0
            change, self._extra = wanted - self._extra, wanted
            if change > 0:
                self._add(change)
            for _ in range(-change):
                self._tasks.put(None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes nothing more; the threads end when what was submitted is done. Does not wait for that."""
        self.stretch(0)
        with self._lock:
            if self._is_open:
                self._is_open = False
                for _ in range(self._size):
                    self._tasks.put(None)

    def _add(self, count: int) -> None:
        for _ in range(count):
            Thread(target=_work, args=(self._tasks,), name="door", daemon=True).start()


def _work(tasks: SimpleQueue[Any]) -> None:
    while (task := tasks.get()) is not None:
        task()
        task = None  # an idle thread must not keep the last call alive
