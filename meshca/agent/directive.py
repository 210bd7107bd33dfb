"""Renewals that the server asks for before their time, as when an authority is given up."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from meshca.agent.alarm import Alarm, alarm
from meshca.agent.identity import AgentIdentity
from meshca.errors import invalid
from meshca.ports import Clock
from meshca.proto.meshca.v1 import discovery_pb2 as pb

MAX_WINDOW = timedelta(days=30)
MAX_ISSUERS = 1000
LATE_JITTER = timedelta(seconds=3)
_ID = re.compile(r"[0-9a-f]{2,128}")

_log = structlog.get_logger("meshca.agent")


@dataclass(frozen=True, slots=True)
class Directive:
    """Whoever holds a certificate of one of these issuers (lower-case hex of the key identifier) renews it at a moment
    of its own from `start` on and within `window`."""

    issuer_ids: frozenset[str]
    start: datetime
    window: timedelta


def parse_directive(message: pb.RenewalDirective, now: datetime) -> Directive:
    """What the message directs. Raises INVALID for ids that are none and for times that nobody can mean."""
    if len(message.issuer_ids) > MAX_ISSUERS:
        raise invalid(f"issuer_ids has {len(message.issuer_ids)} entries: at most {MAX_ISSUERS} are read")
    if not all(_ID.fullmatch(each) for each in message.issuer_ids):
        raise invalid("issuer_ids has an entry that is no lower-case hex")
    if not 0 <= message.window_seconds <= MAX_WINDOW.total_seconds():
        raise invalid(f"window_seconds is {message.window_seconds}: 0 to {MAX_WINDOW.days} days are heeded")
    if not 0 <= message.window_start <= (now + MAX_WINDOW).timestamp():
        raise invalid(f"window_start is {message.window_start}: a time up to {MAX_WINDOW.days} days ahead is heeded")
    start = datetime.fromtimestamp(message.window_start, UTC)
    return Directive(frozenset(message.issuer_ids), start, timedelta(seconds=message.window_seconds))


def directed_time(directive: Directive, now: datetime, dice: float) -> datetime:
    """When to renew, evenly drawn by `dice` (0 ≤ dice < 1) from a window of that length, never less than three seconds.
    Who hears of it late, as a whole fleet does after an outage, is spread as widely as those who were on time."""
    return max(directive.start, now) + max(directive.window, LATE_JITTER) * dice


class DirectedRenewal:
    """The directive in force, and the one moment that was drawn for it.

    It concerns the certificates that were received before that moment, each once: when the authority goes on to issue
    by the same issuer, it is not asked again and again.
    """

    def __init__(self, clock: Clock, dice: Callable[[], float]) -> None:
        self._clock = clock
        self._dice = dice
        self._directive: Directive | None = None
        self._alarm: Alarm | None = None
        self._followed = ""
        self.changed = asyncio.Event()

    def heed(self, directive: Directive | None, held: AgentIdentity | None) -> None:
        """Follows it from now on; the same as before changes nothing. None: nothing is directed any more."""
        if directive == self._directive:
            return
        self._directive, self._alarm = directive, None
        if directive is not None:
            at = directed_time(directive, self._clock.now(), self._dice())
            self._alarm = alarm(at, self._clock)
            if held is not None and self._concerns(held):
                _log.info("renewal_directed", serial=held.serial, at=f"{at:%Y-%m-%dT%H:%M:%SZ}")
        self.changed.set()

    def left(self, held: AgentIdentity | None) -> float:
        """Seconds until `held` is to be renewed; infinite where that is not directed."""
        if held is None or self._alarm is None or not self._concerns(held):
            return math.inf
        return self._alarm.left(self._clock)

    def begin(self, held: AgentIdentity | None) -> None:
        """A renewal of `held` begins, for whatever reason; should it fail, the usual retries follow."""
        if self.left(held) <= 0 and held is not None:
            self._followed = held.serial

    def _concerns(self, held: AgentIdentity) -> bool:
        assert self._directive is not None
        assert self._alarm is not None
        if held.serial == self._followed or held.issuer_id not in self._directive.issuer_ids:
            return False
        return held.life.received_at < self._alarm.at
