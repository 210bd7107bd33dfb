"""Fair admission: each peer has its own token bucket, so that a flood drains only its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from meshca.errors import exhausted

_MAX_PEERS = 10_000


# Of one stream: an Envoy that starts with a hundred names, as many as there may be, asks for each and acknowledges each
# by itself; one that comes back asks once. And each push makes five acknowledgements due at the most.
STREAM_BURST = 250
STREAM_RATE = 20.0


class Pace:
    """A token bucket of one stream: `rate` requests a second, `burst` at once. `monotonic` gives seconds."""

    __slots__ = ("_burst", "_monotonic", "_rate", "_seen", "_tokens")

    def __init__(self, monotonic: Callable[[], float], rate: float = STREAM_RATE, burst: int = STREAM_BURST) -> None:
        self._monotonic = monotonic
        self._rate = rate
        self._burst = self._tokens = float(burst)
        self._seen = monotonic()

    def admit(self) -> None:
        """Takes one request; raises EXHAUSTED, with the seconds until the bucket is full again, where there is no room:
        whoever comes back sooner would soon be here again."""
        now = self._monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._seen) * self._rate)
        self._seen = now
        if self._tokens < 1:
            raise exhausted("too many requests on this stream: slow down", retry_after=self._burst / self._rate)
        self._tokens -= 1


class PeerLimiter:
    """A token bucket for each peer: `rate` calls a second, `burst` at once.

    It belongs to the loop. Its table is bounded: beyond 10,000 peers the one seen
    longest ago is forgotten (and starts with a full bucket when it comes back).
    """

    def __init__(self, rate: float, burst: int, monotonic: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._monotonic = monotonic
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, peer: str, cost: int = 1) -> None:
        """Takes `cost` from the peer's bucket; raises EXHAUSTED with the seconds until that much is there again.

        A cost above the burst is admitted when the bucket is full, and leaves it in debt.
        """
        now = self._monotonic()
        tokens, seen = self._buckets.pop(peer, (self._burst, now))
        tokens = min(self._burst, tokens + (now - seen) * self._rate)
        need = min(float(cost), self._burst)
        admitted = tokens >= need
        self._buckets[peer] = (tokens - cost if admitted else tokens, now)
        if len(self._buckets) > _MAX_PEERS:
            self._buckets.popitem(last=False)
        if not admitted:
            raise exhausted("too many requests from this peer: slow down", retry_after=(need - tokens) / self._rate)
