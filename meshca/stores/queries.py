"""What readers may ask, whichever store answers."""

from __future__ import annotations

import re
from datetime import datetime

from meshca.errors import invalid
from meshca.pki.records import LedgerQuery

MAX_LIMIT = 10_000
_SERIAL = re.compile(r"[0-9a-f]{4,64}", re.ASCII)


def check_limit(limit: int) -> None:
    """Raises INVALID for a limit that no store keeps to."""
    if not 1 <= limit <= MAX_LIMIT:
        raise invalid(f"limit is {limit}: it must lie between 1 and {MAX_LIMIT}")


def check_tail(after: int, now: datetime, limit: int) -> None:
    """Raises INVALID, naming the argument, for a part of a log that no store gives."""
    check_limit(limit)
    if after < 0:
        raise invalid(f"after is {after}: use 0, or the cursor of an earlier part")
    if now.tzinfo is None:
        raise invalid(f"now {now.isoformat()} has no time zone")


def check_query(query: LedgerQuery) -> None:
    """Raises INVALID, naming the field, for a query that no store answers."""
    check_limit(query.limit)
    if query.serial is not None and not _SERIAL.fullmatch(query.serial):
        raise invalid(f"serial {query.serial!r:.80} is not 4 to 64 lower-case hex digits")
    if query.before is not None and query.before < 1:
        raise invalid(f"before is {query.before}: use the cursor of an earlier page")
    for name in ("since", "until", "valid_at"):
        time = getattr(query, name)
        if time is not None and time.tzinfo is None:
            raise invalid(f"{name} {time.isoformat()} has no time zone: add one, such as Z")
