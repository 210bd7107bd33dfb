"""Which proxies rely on what is served, and who of them has not accepted it. Pure.

It is kept twice: of the trust half, and of the identity half, of which a proxy may use an older one. What is said here
of trust holds for both.

A proxy relies on it while it has a stream that wants trust. One that is away does so until the last certificate that
it was given ends: it may come back and use that. Its silence is never taken for consent (trust before use).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

MAX_AWAY = 1000
# A clock that is days ahead must not make us forget: what has ended no longer counts, but is kept for as long.
_KEPT_AFTER_END = timedelta(days=7)


class Standing(Enum):
    """What a stream's proxy did about the trust that is served now."""

    APART = "apart"  # wants none on this stream
    OWES = "owes"  # gave no verdict yet
    REFUSED = "refused"
    HOLDS = "holds"  # accepted it


@dataclass(frozen=True, slots=True)
class Debt:
    """A proxy that has not accepted the trust served now; `refusal` says why where it refused it, redacted."""

    node_id: str
    away: bool
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class KnownProxy:
    """What outlives a restart: when the last certificate ends that the proxy was given, and the version of the trust
    that it is known to have accepted: "" for none, None for one that never wanted any. `identity` is the version of the
    certificate with its key that it is known to have accepted, "" where it may use an older one."""

    node_id: str
    until: datetime
    trust: str | None
    identity: str = ""


@dataclass(frozen=True, slots=True)
class _Away:
    until: datetime
    trust: str

    def owes(self, trust: str, now: datetime) -> bool:
        return now < self.until and self.trust != trust


@dataclass(slots=True)
class _Proxy:
    """`given` is the end of the last certificate it was given; `away` is set while it has no stream that wants trust,
    though it had one before."""

    given: datetime | None = None
    away: _Away | None = None
    streams: dict[Hashable, tuple[Standing, str]] = field(default_factory=dict)

    def relies(self, now: datetime) -> bool:
        return bool(self.wanting()) or (self.away is not None and now < self.away.until)

    def wanting(self) -> list[tuple[Standing, str]]:
        return [stands for stands in self.streams.values() if stands[0] is not Standing.APART]


class RelyingProxies:
    """The proxies behind one agent, by node id.

    Those that give no node id share the empty one. Nothing that one of them does speaks for another, so what one owes
    that went away is only ended by time.
    """

    def __init__(self, known: Iterable[KnownProxy] = (), *, max_away: int = MAX_AWAY) -> None:
        self._proxies = {each.node_id: _recalled(each) for each in known}
        self._max_away = max_away
        self._trust = ""
        self.revision = 0  # grows with whatever must not be lost by a restart

    def served(self, trust: str) -> None:
        """Trust of that version is served from now on: every stream that wants trust owes a verdict on it."""
        if trust == self._trust:
            return
        self._trust = trust
        for proxy in self._proxies.values():
            for stream, (standing, _) in proxy.streams.items():
                if standing is not Standing.APART:
                    proxy.streams[stream] = Standing.OWES, ""

    def gave(self, node_id: str, until: datetime) -> None:
        """The proxy is about to be given a certificate that ends then."""
        proxy = self._proxies.setdefault(node_id, _Proxy())
        if proxy.given is None or proxy.given < until:
            proxy.given = until
            self.revision += 1

    def stands(self, stream: Hashable, node_id: str, standing: Standing, now: datetime, refusal: str = "") -> bool:
        """What the proxy did about the trust served now, as of one of its streams, new or known; whether that is new.

        `refusal` says why where it refused it.
        """
        proxy = self._proxies.setdefault(node_id, _Proxy())
        before, _ = proxy.streams.get(stream, (None, ""))
        proxy.streams[stream] = standing, refusal
        if before is standing:
            return False
        if standing is not Standing.APART:
            self._returned(node_id, proxy, before)
        elif before is not None:
            self._withdrew(node_id, proxy, before, now)
        return True

    def left(self, stream: Hashable, node_id: str, now: datetime) -> None:
        """A stream is over."""
        proxy = self._proxies.get(node_id)
        if proxy is None:
            return
        standing, _ = proxy.streams.pop(stream, (None, ""))
        if standing is None:
            return
        if standing is not Standing.APART:
            self._withdrew(node_id, proxy, standing, now)
        elif not proxy.streams and proxy.away is not None and proxy.given is not None and now < proxy.away.until:
            proxy.away = _Away(max(proxy.away.until, proxy.given), proxy.away.trust)
        if not proxy.streams and proxy.given is None:
            del self._proxies[node_id]
        self._bound(now)

    def add_unnamed(self, until: datetime) -> None:
        """Somebody unknown may hold a certificate that ends then, and older trust."""
        proxy = self._proxies.setdefault("", _Proxy())
        proxy.given = until if proxy.given is None else max(proxy.given, until)
        proxy.away = _Away(proxy.given, "")
        self.revision += 1

    def owes(self, node_id: str, now: datetime) -> bool:
        """Whether that proxy has not accepted the trust that is served."""
        proxy = self._proxies.get(node_id)
        return proxy is not None and self._debt(node_id, proxy, now) is not None

    def debts(self, now: datetime) -> tuple[Debt, ...]:
        """Who has not accepted the trust that is served, those that refused it first, by node id."""
        found = [debt for node_id, proxy in self._proxies.items() if (debt := self._debt(node_id, proxy, now))]
        return tuple(sorted(found, key=lambda debt: (not debt.refusal, debt.node_id)))

    def known(self, now: datetime) -> tuple[KnownProxy, ...]:
        """What must outlive a restart: all that were given a certificate."""
        kept = (self._known(node_id, proxy, now) for node_id, proxy in self._proxies.items())
        return tuple(each for each in kept if each is not None and now - each.until < _KEPT_AFTER_END)

    def _debt(self, node_id: str, proxy: _Proxy, now: datetime) -> Debt | None:
        wanting = proxy.wanting()
        refusal = next((reason for standing, reason in wanting if standing is Standing.REFUSED), "")
        if refusal or any(standing is not Standing.HOLDS for standing, _ in wanting):
            return Debt(node_id, away=False, refusal=refusal)
        if proxy.away is not None and proxy.away.owes(self._trust, now):
            return Debt(node_id, away=True)
        return None

    def _known(self, node_id: str, proxy: _Proxy, now: datetime) -> KnownProxy | None:
        wanting = proxy.wanting()
        if proxy.given is None:
            return None
        trusts = {self._trust if standing is Standing.HOLDS else "" for standing, _ in wanting}
        if proxy.away is not None and (wanting or now < proxy.away.until):
            trusts.add(proxy.away.trust)
        if not trusts and proxy.away is not None and not proxy.streams:
            trusts.add(proxy.away.trust)  # it has ended, but by a clock that may be wrong
        trust = None if not trusts else trusts.pop() if len(trusts) == 1 else ""
        return KnownProxy(node_id, proxy.given, trust)

    def _returned(self, node_id: str, proxy: _Proxy, before: Standing | None) -> None:
        if before is None or before is Standing.APART:
            self.revision += 1
        if node_id:
            proxy.away = None  # the stream tells what it has

    def _withdrew(self, node_id: str, proxy: _Proxy, standing: Standing, now: datetime) -> None:
        """One of its streams wants trust no longer. That counts only where no other of the same name does."""
        if proxy.given is None or (node_id and proxy.wanting()):
            return
        trust = self._trust if standing is Standing.HOLDS else ""
        if proxy.away is not None and now < proxy.away.until and proxy.away.trust != trust:
            trust = ""
        proxy.away = _Away(proxy.given, trust)

    def _bound(self, now: datetime) -> None:
        """Of too many that are away those that end first lose their names, but not what they owe."""
        if len(self._proxies) <= self._max_away:
            return
        gone = [
            (proxy.relies(now), proxy.given, node_id)
            for node_id, proxy in self._proxies.items()
            if node_id and proxy.given is not None and not proxy.streams
        ]
        if len(gone) <= self._max_away:
            return
        relies, until, node_id = min(gone)
        del self._proxies[node_id]
        if relies:
            self.add_unnamed(until)


def _recalled(known: KnownProxy) -> _Proxy:
    return _Proxy(known.until, None if known.trust is None else _Away(known.until, known.trust))
