"""Plug-ins in process: what other packages offer by entry point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points

from meshca.errors import MeshcaError, invalid, not_found
from meshca.ports import UpstreamAuthority

UPSTREAM_AUTHORITIES = "meshca.upstream_authorities"

Options = Mapping[str, object]


def load_upstream(name: str, options: Options, offered: Iterable[EntryPoint] | None = None) -> UpstreamAuthority:
    """The upstream authority that an entry point of that name makes: a callable that takes the options.

    Raises NOT_FOUND where there is none, INVALID where it cannot be loaded or does not take the options.
    """
    found = tuple(entry_points(group=UPSTREAM_AUTHORITIES) if offered is None else offered)
    named = [entry for entry in found if entry.name == name]
    if not named:
        names = ", ".join(sorted({entry.name for entry in found})) or "none"
        raise not_found(f"there is no plug-in {name!r} of the group {UPSTREAM_AUTHORITIES}: installed are {names}")
    if len(named) > 1:
        raise invalid(f"plug-in {name!r} is there {len(named)} times: {', '.join(entry.value for entry in named)}")
    return _made(named[0], options)


def _made(entry: EntryPoint, options: Options) -> UpstreamAuthority:
    try:
        make: Callable[[Options], UpstreamAuthority] = entry.load()
        return make(options)
    except MeshcaError as error:
        raise MeshcaError(error.kind, f"plug-in {entry.name!r}: {error.message}") from error
    except Exception as error:
        # others' code may raise anything; its words may hold what was in the options
        raise invalid(f"plug-in {entry.name!r} ({entry.value}) cannot be used: {type(error).__name__}") from error
