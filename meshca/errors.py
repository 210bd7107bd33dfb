"""The one root error. Its kind is coarse and for machines; its message is for the person who must act.

A message names the field, what is wrong with its value and what would mend it. It never holds a key, a token or any
other secret. Front doors map the kind to a status code and decide how much of the message the caller may see.
"""

from __future__ import annotations

from enum import Enum
from typing import Never


class ErrorKind(Enum):
    """What sort of failure it is, in as few words as a caller can act upon."""

    INVALID = "invalid"  # the request is wrong and stays wrong
    UNAUTHENTICATED = "unauthenticated"  # nobody knows who asks
    DENIED = "denied"  # known, but not entitled
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"  # the state changed underneath, or already exists
    EXHAUSTED = "exhausted"  # a limit; later may succeed
    UNAVAILABLE = "unavailable"  # a dependency is out; later may succeed
    INTERNAL = "internal"  # our fault, or our state's


class MeshcaError(Exception):
    """Every failure that meshca raises on purpose.

    `retry_after` (seconds) is set where the kind is EXHAUSTED or UNAVAILABLE and a useful hint exists. `reason` is a
    constant for metrics and machines where the kind alone does not tell enough, such as `TTL_ERROR`.
    """

    def __init__(
        self, kind: ErrorKind, message: str, *, retry_after: float | None = None, reason: str | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after = retry_after
        self.reason = reason


def detached(error: MeshcaError) -> MeshcaError:
    """The same error without its past, to be kept or raised elsewhere: a traceback, or a cause's, holds the frames of
    the whole call, and they it, until a garbage collection comes by."""
    return MeshcaError(error.kind, error.message, retry_after=error.retry_after, reason=error.reason)


def invalid(message: str, *, reason: str | None = None) -> MeshcaError:
    """An INVALID error: the input is wrong and will stay wrong."""
    return MeshcaError(ErrorKind.INVALID, message, reason=reason)


def unauthenticated(message: str) -> MeshcaError:
    """An UNAUTHENTICATED error; the message is for our own log."""
    return MeshcaError(ErrorKind.UNAUTHENTICATED, message)


def denied(message: str) -> MeshcaError:
    """A DENIED error: the caller is known but not entitled."""
    return MeshcaError(ErrorKind.DENIED, message)


def not_found(message: str) -> MeshcaError:
    """A NOT_FOUND error."""
    return MeshcaError(ErrorKind.NOT_FOUND, message)


def conflict(message: str) -> MeshcaError:
    """A CONFLICT error: somebody else changed it first, or it exists already."""
    return MeshcaError(ErrorKind.CONFLICT, message)


def exhausted(message: str, *, retry_after: float | None = None) -> MeshcaError:
    """An EXHAUSTED error: a limit was reached; `retry_after` is in seconds."""
    return MeshcaError(ErrorKind.EXHAUSTED, message, retry_after=retry_after)


def unavailable(message: str, *, retry_after: float | None = None, reason: str | None = None) -> MeshcaError:
    """An UNAVAILABLE error: something we depend on is out."""
    return MeshcaError(ErrorKind.UNAVAILABLE, message, retry_after=retry_after, reason=reason)


def internal(message: str, *, reason: str | None = None) -> MeshcaError:
    """An INTERNAL error: our own fault, or our own state's."""
    return MeshcaError(ErrorKind.INTERNAL, message, reason=reason)


def unreachable(value: Never) -> Never:
    """For the end of an exhaustive match; the type checker proves that it is never called."""
    raise AssertionError(f"unhandled case {value!r}")
