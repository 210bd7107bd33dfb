"""What relying parties acknowledge on their streams, on its way into the evidence store: off the loop, in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import structlog

from meshca.authority.evidence import BundleFact, Channel
from meshca.errors import ErrorKind, MeshcaError, unavailable

MAX_WAITING = 100_000
MAX_BATCH = 1_000
GATHER_SECONDS = 0.025
RETRY_SECONDS = 1.0

_log = structlog.get_logger("meshca.evidence")
_Key = tuple[str, bool, Channel]


class AcknowledgementQueue:
    """Facts that are still to be made durable; of one certificate at the most three, the newest of each kind: what its
    streams accepted, what they refused, and what it fetched.

    `record` writes facts and returns when they are durable (it runs in a thread); where it cannot for now, they wait
    here, so that a fact is late but neither lost nor counted too soon. All else happens on one loop.
    """

    def __init__(
        self,
        record: Callable[[Sequence[BundleFact]], None],
        *,
        limit: int = MAX_WAITING,
        gather_seconds: float = GATHER_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._record = record
        self._limit = limit
        self._gather_seconds = gather_seconds
        self._retry_seconds = retry_seconds
        self._waiting: dict[_Key, BundleFact] = {}
        self._is_writing = False
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    def __len__(self) -> int:
        """How many wait; those that are being written are not among them."""
        return len(self._waiting)

    def offer(self, fact: BundleFact) -> None:
        """Takes a fact. Raises UNAVAILABLE where too many wait: the peer then has to acknowledge again, later."""
        if len(self._waiting) >= self._limit and _key(fact) not in self._waiting:
            message = "acknowledgements cannot be recorded right now: come back later"
            raise unavailable(message, retry_after=self._retry_seconds)
        self._put(fact)
        self._none.clear()
        self._some.set()

    async def run(self) -> None:
        """Writes what is offered, until it is cancelled. Raises what `record` raises, other than a passing outage."""
        while True:
            await self._some.wait()
            await asyncio.sleep(self._gather_seconds)  # others follow within moments, and share the durable write
            batch = self._next_batch()
            if not await self._written(batch):
                self._put_back(batch)
                await asyncio.sleep(self._retry_seconds)
            elif not self._waiting:
                self._none.set()

    async def settled(self) -> None:
        """Returns once everything that was offered is durable."""
        await self._none.wait()

    def _next_batch(self) -> tuple[BundleFact, ...]:
        """The oldest that wait; never so many that the store could not take them at once."""
        keys = tuple(islice(self._waiting, MAX_BATCH))
        batch = tuple(self._waiting.pop(key) for key in keys)
        if not self._waiting:
            self._some.clear()
        return batch

    async def _written(self, batch: tuple[BundleFact, ...]) -> bool:
        try:
            await asyncio.to_thread(self._record, batch)
        except MeshcaError as error:
            if error.kind not in (ErrorKind.UNAVAILABLE, ErrorKind.EXHAUSTED):
                raise
            _log.warning("acknowledgements_not_recorded", count=len(batch), reason=error.message)
            return False
        return True

    def _put_back(self, batch: Iterable[BundleFact]) -> None:
        """They come before what was offered meanwhile, and some are superseded by that."""
        newer, self._waiting = self._waiting.values(), {}
        for fact in (*batch, *newer):
            self._put(fact)
        self._some.set()

    def _put(self, fact: BundleFact) -> None:
        refused = self._waiting.get(_refusal_key(fact))
        accepted = fact.channel is Channel.STREAM and not fact.refusal
        if refused is not None and accepted and fact.bundle_sequence >= refused.bundle_sequence:
            # whoever accepted a bundle after it refused it, or one from before, holds what it accepted
            del self._waiting[_refusal_key(fact)]
        self._waiting.pop(_key(fact), None)  # what is said last is written last
        self._waiting[_key(fact)] = fact


def _key(fact: BundleFact) -> _Key:
    return fact.serial, bool(fact.refusal), fact.channel


def _refusal_key(fact: BundleFact) -> _Key:
    return fact.serial, True, Channel.STREAM
