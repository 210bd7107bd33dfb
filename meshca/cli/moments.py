"""Times on the command line: RFC 3339, `now`, or how long ago."""

from __future__ import annotations

from datetime import UTC, datetime


def read_moment(flag: str, value: str | None) -> int:
    """Unix seconds of `2026-01-31T12:00:00Z`, `2026-01-31`, `now` or `1h` (ago); 0 for None. Raises INVALID."""
    from meshca.errors import MeshcaError, invalid
    from meshca.settings.sources import read_duration

    if value is None:
        return 0
    if value == "now":
        return int(datetime.now(UTC).timestamp())
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        try:
            return int((datetime.now(UTC) - read_duration(flag, value)).timestamp())
        except (MeshcaError, OverflowError):
            raise invalid(
                f"{flag} {value!r} is no time: write 2026-01-31T12:00:00Z, now, or 1h for an hour ago"
            ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
