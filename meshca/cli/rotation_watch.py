"""Follows a rotation of the root to its end, through outages of the server, and shows each change of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from meshca.cli.admin_views import laggard_lines, rotation_fields, rotation_lines
from meshca.cli.moments import in_words
from meshca.cli.output import iso, print_json_line, printable
from meshca.errors import ErrorKind, MeshcaError

if TYPE_CHECKING:
    from meshca.proto.meshca.v1 import admin_pb2 as pb

POLL_SECONDS = 0.5
_AFTER_ACTIVATION = ("switching", "renewing", "retiring")
_NAMED_IN_A_LINE = 5
_NAMED_IN_A_BLOCK = 10


class Outcome(StrEnum):
    """What has become of the rotation that is watched."""

    UNDER_WAY = "under_way"
    RENEWED = "renewed"  # every newest certificate is under the new root; the old one is still in the bundle
    OVER = "over"  # the old root has left the bundle, too
    ABORTED = "aborted"


class Watch:
    """One rotation, from the root `predecessor` ("" where none was active) to another.

    Once everybody has renewed, it is watched to its end where the last old certificate ends within `linger` seconds.
    """

    def __init__(self, predecessor: str, linger: int) -> None:
        self._predecessor = predecessor
        self._linger = linger
        self._since = 0
        self._last = 0

    def look(self, status: pb.GetStatusResponse) -> Outcome:
        """What has become of it at the moment of `status`, which is later than those before."""
        rotation = status.rotation
        ours = bool(rotation.origin) and self._since in (0, rotation.since)
        self._since = rotation.since if ours else self._since
        self._last = status.now
        switched = active_root(status) not in ("", self._predecessor)
        if not switched:
            return Outcome.UNDER_WAY if ours else Outcome.ABORTED
        if not ours and rotation.origin:
            return Outcome.OVER  # the next one has begun meanwhile
        if rotation.phase not in ("retiring", "idle"):
            return Outcome.UNDER_WAY
        if not ours:
            return Outcome.OVER
        soon = self._linger > 0 and rotation.old_ends - status.now <= self._linger
        return Outcome.UNDER_WAY if soon else Outcome.RENEWED

    @property
    def elapsed(self) -> int:
        """For how many seconds the rotation has been under way, by the server's clock."""
        return max(0, self._last - self._since) if self._since else 0


class View(Protocol):
    """Where progress is shown."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, status: pb.GetStatusResponse, outcome: Outcome, elapsed: int) -> None:
        """Where it stands now."""

    def note(self, text: str) -> None:
        """Something beside it."""


def follow(fetch: Callable[[], pb.GetStatusResponse], watch: Watch, view: View) -> tuple[Outcome, pb.GetStatusResponse]:
    """What became of the rotation, and the status that told it. Raises what `fetch` raises, but for UNAVAILABLE."""
    while True:
        status = _patiently(fetch, view)
        outcome = watch.look(status)
        view.show(status, outcome, watch.elapsed)
        if outcome is not Outcome.UNDER_WAY:
            return outcome, status
        time.sleep(POLL_SECONDS)


def _patiently(fetch: Callable[[], pb.GetStatusResponse], view: View) -> pb.GetStatusResponse:
    """The next status: a server that is away is waited for."""
    away = False
    while True:
        try:
            status = fetch()
        except MeshcaError as error:
            if error.kind is not ErrorKind.UNAVAILABLE:
                raise
            if not away:
                view.note(f"waiting for the server: {error.message}")
            away = True
            time.sleep(POLL_SECONDS)
        else:
            if away:
                view.note("the server is back")
            return status


def active_root(status: pb.GetStatusResponse) -> str:
    """The id of the root that signs, or empty."""
    return next((a.id for a in status.authorities if a.kind == "root" and a.state == "active"), "")


class _Stream:
    """A view that prints what changed and needs no end."""

    def __init__(self) -> None:
        self._shown: object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def _is_news(self, state: object) -> bool:
        news = state != self._shown
        self._shown = state
        return news


class LineView(_Stream):
    """A line for each change, for logs."""

    def show(self, status: pb.GetStatusResponse, outcome: Outcome, elapsed: int) -> None:
        """Prints a line, if it differs from the one before in more than its time."""
        line = _line(status)
        if self._is_news((line, outcome)):
            print(f"{iso(status.now)}  +{in_words(elapsed)}  {line}", flush=True)

    def note(self, text: str) -> None:
        """Prints it."""
        print(text, flush=True)


class JsonView(_Stream):
    """A JSON object for each change, on a line of its own; what is for people goes to stderr."""

    def show(self, status: pb.GetStatusResponse, outcome: Outcome, elapsed: int) -> None:
        """Prints an object, if it differs from the one before in more than its time."""
        fields: dict[str, Any] = {"outcome": outcome.value, **rotation_fields(status.rotation)}
        if self._is_news(fields):
            print_json_line({"at": iso(status.now), "elapsed_seconds": elapsed, **fields})

    def note(self, text: str) -> None:
        """Prints it."""
        print(text, file=sys.stderr, flush=True)


class BlockView:
    """One block on a terminal, written anew each time."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, status: pb.GetStatusResponse, outcome: Outcome, elapsed: int) -> None:  # noqa: ARG002  # as others
        """Writes the block."""
        from rich.text import Text

        self._live.update(Text("\n".join(_block(status, elapsed))), refresh=True)

    def note(self, text: str) -> None:
        """Prints it above the block."""
        self._console.print(text, markup=False)


def _line(status: pb.GetStatusResponse) -> str:
    rotation = status.rotation
    coverage, phase = rotation.coverage, rotation.phase
    words = [f"{phase}  coverage {coverage.covered}/{coverage.holders}"]
    if phase in _AFTER_ACTIVATION:
        words.append(f"renewed {rotation.renewed}/{rotation.holders}")
    if phase != "idle":
        words.append(f"waits for {printable(rotation.waits_for)}")
    if coverage.laggards:
        words.append(f"behind: {', '.join(laggard_lines(coverage, _NAMED_IN_A_LINE))}")
    return "  ".join(words)


def _block(status: pb.GetStatusResponse, elapsed: int) -> list[str]:
    fields = {**rotation_lines(status.rotation, status.now), "elapsed": in_words(elapsed)}
    lines = [f"{name:<12}{text}" for name, text in fields.items()]
    behind = laggard_lines(status.rotation.coverage, _NAMED_IN_A_BLOCK)
    return [*lines, *(f"{'' if index else 'behind':<12}{line}" for index, line in enumerate(behind))]
