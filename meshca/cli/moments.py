"""Times on the command line: RFC 3339, `now`, or how long ago; and how far off they are, in words."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


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


def in_words(seconds: int) -> str:
    """A length of time by its two largest units: `3s`, `1m 5s`, `2h`, `364d 23h`."""
    index = next((i for i, (size, _) in enumerate(_UNITS) if seconds >= size), len(_UNITS) - 1)
    parts, rest = [], seconds
    for size, unit in _UNITS[index : index + 2]:
        count, rest = divmod(rest, size)
        parts.append((count, unit))
    return " ".join(f"{count}{unit}" for count, unit in parts if count) or "0s"


def from_now(moment: int, now: int) -> str:
    """How far off a moment is: `in 3s`, `now`, `1m 5s ago`. Both are Unix seconds."""
    if moment == now:
        return "now"
    return f"in {in_words(moment - now)}" if moment > now else f"{in_words(now - moment)} ago"
