"""What a ledger query may ask, whichever store answers it."""

from __future__ import annotations

import re

from meshca.errors import invalid
from meshca.pki.records import LedgerQuery

MAX_LIMIT = 10_000
_SERIAL = re.compile(r"[0-9a-f]{4,64}", re.ASCII)


def check_query(query: LedgerQuery) -> None:
    """Raises INVALID, naming the field, for a query that no store answers."""
    if not 1 <= query.limit <= MAX_LIMIT:
        raise invalid(f"limit is {query.limit}: it must lie between 1 and {MAX_LIMIT}")
    if query.serial is not None and not _SERIAL.fullmatch(query.serial):
        raise invalid(f"serial {query.serial!r:.80} is not 4 to 64 lower-case hex digits")
    if query.before is not None and query.before < 1:
        raise invalid(f"before is {query.before}: use the cursor of an earlier page")
    for name in ("since", "until", "valid_at"):
        time = getattr(query, name)
        if time is not None and time.tzinfo is None:
            raise invalid(f"{name} {time.isoformat()} has no time zone: add one, such as Z")
