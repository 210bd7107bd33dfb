"""How many files this process may have open: connections must not use up what the ledger and the keys need."""

from __future__ import annotations

import resource
from contextlib import suppress

_OUR_OWN = 256  # database, keys, admin socket, HTTP
_LISTENERS = 2


def raise_open_files_limit() -> None:
    """Lifts the soft limit to the hard one: 1,024, as it often is, is a handful of idle connections for a server."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # a kernel that allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def affordable_connections(wanted: int) -> int:
    """`wanted` connections of each listener, or as many as the limit of this process leaves for one; at least 64."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(64, min(wanted, (soft - _OUR_OWN) // _LISTENERS))
