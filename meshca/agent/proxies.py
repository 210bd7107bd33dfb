"""Who is served, what each proxy accepted, and what it refused (law 7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

MAX_PROXIES = 1000


@dataclass(frozen=True, slots=True)
class Refusal:
    """A resource version that a proxy refused at `since`, and the version that it keeps (None: it has none).

    `reason` is redacted.
    """

    version: str
    kept: str | None
    reason: str
    since: datetime


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """One proxy, by the node id that it gives itself, which proves nothing.

    `streams` counts its open streams, `since` is when the first of these opened (or the last one closed); `accepted`
    are the versions it acknowledged last, by resource name; `refusals` those it refused and nothing newer replaced.
    """

    node_id: str
    streams: int
    since: datetime
    accepted: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    refusals: Mapping[str, Refusal] = field(default_factory=lambda: MappingProxyType({}))


class ProxyRegistry:
    """The proxies of one agent: all connected ones, and the latest that left, 1,000 together."""

    def __init__(self, limit: int = MAX_PROXIES) -> None:
        self._limit = limit
        self._proxies: dict[str, ProxyStatus] = {}

    def all(self) -> tuple[ProxyStatus, ...]:
        """Every proxy known, those longest unchanged first."""
        return tuple(self._proxies.values())

    def get(self, node_id: str) -> ProxyStatus | None:
        """The proxy of that node id."""
        return self._proxies.get(node_id)

    def opened(self, node_id: str, now: datetime) -> None:
        """A stream of that proxy opened."""
        known = self._proxies.get(node_id)
        if known is None:
            self._put(ProxyStatus(node_id, 1, now))
        else:
            self._put(replace(known, streams=known.streams + 1, since=known.since if known.streams else now))

    def closed(self, node_id: str, now: datetime) -> None:
        """A stream of that proxy closed."""
        known = self._proxies.get(node_id)
        if known is not None:
            left = known.streams - 1
            self._put(replace(known, streams=left, since=known.since if left else now))

    def accepted(self, node_id: str, versions: Mapping[str, str]) -> None:
        """The proxy acknowledged these versions by name. A version that it kept all along ends no refusal."""
        known = self._proxies.get(node_id)
        if known is None:
            return
        ended = {name for name, refusal in known.refusals.items() if versions.get(name, refusal.kept) != refusal.kept}
        refusals = {name: refusal for name, refusal in known.refusals.items() if name not in ended}
        self._put(
            replace(
                known,
                accepted=MappingProxyType({**known.accepted, **versions}),
                refusals=MappingProxyType(refusals),
            )
        )

    def refused(self, node_id: str, versions: Iterable[tuple[str, str]], reason: str, now: datetime) -> None:
        """The proxy refused these (name, version)."""
        known = self._proxies.get(node_id)
        if known is None:
            return
        new = {name: Refusal(version, known.accepted.get(name), reason, now) for name, version in versions}
        self._put(replace(known, refusals=MappingProxyType({**known.refusals, **new})))

    def _put(self, status: ProxyStatus) -> None:
        self._proxies.pop(status.node_id, None)
        self._proxies[status.node_id] = status
        if len(self._proxies) > self._limit:
            gone = next((p.node_id for p in self._proxies.values() if p.streams == 0), None)
            if gone is not None:
                del self._proxies[gone]
