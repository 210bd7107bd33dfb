"""When to renew and when to try again. Pure: times are arguments, and so is the randomness (0 ≤ dice < 1)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

SHARE_OF_LIFE = 0.5
JITTER = 0.1  # so that agents that started together do not come back together
FLOOR = timedelta(milliseconds=500)  # no two calls are closer together than about this, whatever a certificate says
FIRST_RETRY = timedelta(milliseconds=250)
MAX_RETRY = timedelta(seconds=60)
MIN_RETRY_CAP = timedelta(seconds=1)
RETRY_CAP_SHARE = 0.1  # of the lifetime: short-lived certificates need prompt retries
UNKNOWN_LIFETIME_CAP = timedelta(seconds=15)
MAX_PUSHBACK = timedelta(minutes=5)  # a server may slow an agent down, but not silence it


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A certificate's life as its holder sees it: from receipt (notBefore is backdated) to notAfter."""

    received_at: datetime
    not_after: datetime

    @property
    def length(self) -> timedelta:
        """What was left of the life at receipt; never negative."""
        return max(self.not_after - self.received_at, timedelta(0))

    def has_ended(self, now: datetime) -> bool:
        """Whether the certificate has expired."""
        return now >= self.not_after


def renewal_time(life: Lifetime, dice: float) -> datetime:
    """When to renew: half the life after receipt, ± 10 %, but at least FLOOR after receipt."""
    share = SHARE_OF_LIFE * (1 + JITTER * (2 * dice - 1))
    return life.received_at + max(life.length * share, FLOOR)


def retry_delay(
    failures: int, life: Lifetime | None, now: datetime, dice: float, *, pushback: timedelta | None = None
) -> timedelta:
    """How long to wait after the given number (≥ 1) of failures in a row.

    Doubles from FIRST_RETRY up to a cap that follows the lifetime; half of it is jitter. While the certificate lives
    the wait never reaches its end (but for FLOOR); once it has expired, or before there is one, the cap alone bounds.
    `pushback` is what the server asked for: the least wait, up to MAX_PUSHBACK, spread upwards by a tenth.
    """
    doubled = FIRST_RETRY * float(2 ** min(failures - 1, 20))
    wait = min(doubled, _cap(life)) * (0.5 + 0.5 * dice)
    if life is not None and not life.has_ended(now):
        wait = min(wait, max((life.not_after - now) / 2, FLOOR))
    if pushback is not None:
        wait = max(wait, min(pushback, MAX_PUSHBACK) * (1 + JITTER * dice))
    return wait


def _cap(life: Lifetime | None) -> timedelta:
    if life is None:
        return UNKNOWN_LIFETIME_CAP
    return min(max(life.length * RETRY_CAP_SHARE, MIN_RETRY_CAP), MAX_RETRY)
