"""JSON objects as tokens and key sets carry them, refused where two readers could read them differently."""

from __future__ import annotations

import json
from typing import NoReturn


def parse_json_object(data: bytes) -> dict[str, object]:
    """The object that `data` spells (RFC 8259, UTF-8).

    Raises ValueError, with a reason that quotes nothing of `data`, where it is no such object, names a member twice
    (RFC 7515 section 4, RFC 7519 section 4), holds NaN or Infinity, or is nested too deeply.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique_members, parse_constant=_no_constant)
    except _AmbiguousError:
        raise
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except ValueError as error:
        raise ValueError("not JSON") from error
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("JSON, but not an object")  # noqa: TRY004  # a matter of content, as the others are
    return value


class _AmbiguousError(ValueError):
    pass


def _unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _AmbiguousError("JSON that names a member twice")
    return members


def _no_constant(_: str) -> NoReturn:
    raise _AmbiguousError("JSON with NaN or Infinity")
