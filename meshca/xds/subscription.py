"""What one stream knows of one resource type: names, what was sent, what was accepted, what was refused.

Nothing here knows the wire. A response is *in flight* from its sending to the peer's verdict on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from meshca.errors import internal
from meshca.xds.snapshot import Resource, joint_version

MAX_IN_FLIGHT = 32  # responses that a peer may leave without a verdict; the oldest are forgotten
MAX_PARKED = 32  # refused versions that are remembered of one name; the oldest are forgotten


@dataclass(frozen=True, slots=True)
class Flight:
    """A response on its way; `order` grows with each, `version` is that of the response."""

    order: int
    version: str
    resources: tuple[Resource, ...]

    @property
    def versions(self) -> dict[str, str]:
        """The versions it carries, by name."""
        return {resource.name: resource.version for resource in self.resources}


@dataclass(slots=True)
class _Held:
    """What the peer holds of one name, as far as the stream knows.

    `sent` is the latest sent; it is forgotten where the resource is to be sent again. `good` is the latest accepted, by
    the response of order `good_order`. `parked` are refused versions in the order of refusal. `claimed`: on connecting
    the peer named a version, of which we may not have the content. `doubtful`: a request that came too late did not
    name it, so the peer may have dropped it for a while.
    """

    sent: Resource | None = None
    good: Resource | None = None
    good_order: int = 0
    parked: dict[str, None] = field(default_factory=dict)
    claimed: bool = False
    doubtful: bool = False

    def has(self, resource: Resource) -> bool:
        return self.good is not None and self.good.version == resource.version

    def was_last_sent(self, resource: Resource) -> bool:
        return self.sent is not None and self.sent.version == resource.version

    @property
    def is_certain(self) -> bool:
        """Whether no verdict is open and nothing is to be sent again: the peer holds `good`, or nothing."""
        return self.sent is None if self.good is None else self.sent is not None and self.has(self.sent)

    def park(self, version: str) -> None:
        self.parked[version] = None
        if len(self.parked) > MAX_PARKED:
            del self.parked[next(iter(self.parked))]

    def next(self, current: Resource) -> Resource | None:
        """What to send where `current` is what there is: never a parked version, the last good one in its place."""
        if current.version not in self.parked:
            return None if self.was_last_sent(current) else current
        return self.good if self.sent is None else None


class Subscription:
    """The state of one resource type on one stream."""

    __slots__ = ("_flights", "_held", "_order", "last_nonce")

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._flights: dict[str, Flight] = {}
        self._order = 0
        self.last_nonce = ""

    def __len__(self) -> int:
        """How many names the peer wants."""
        return len(self._held)

    @property
    def characters(self) -> int:
        """How long the names are together."""
        return sum(map(len, self._held))

    @property
    def names(self) -> frozenset[str]:
        """The names the peer wants."""
        return frozenset(self._held)

    @property
    def accepted(self) -> dict[str, str]:
        """The version that the peer accepted last, by name."""
        return {name: held.good.version for name, held in self._held.items() if held.good is not None}

    def may_hold(self) -> dict[str, frozenset[str]]:
        """The versions that the peer may hold now, by wanted name: the one it accepted last, and those on their way.

        None where that is not known: it accepted none yet, or left so many responses unanswered that the oldest are
        forgotten.
        """
        if len(self._flights) >= MAX_IN_FLIGHT:
            return dict.fromkeys(self._held, frozenset())
        held = {name: {each.good.version} if each.good is not None else set() for name, each in self._held.items()}
        for flight in self._flights.values():
            for resource in flight.resources:
                if held.get(resource.name):
                    held[resource.name].add(resource.version)
        return {name: frozenset(versions) for name, versions in held.items()}

    @property
    def parked(self) -> dict[str, frozenset[str]]:
        """The versions that the peer refused, by name; names without any are left out."""
        return {name: frozenset(held.parked) for name, held in self._held.items() if held.parked}

    @property
    def is_new(self) -> bool:
        """Whether the peer never wanted nor got anything of this type on this stream."""
        return not self._held and not self._order

    @property
    def last_is_settled(self) -> bool:
        """Whether the peer gave its verdict on the latest response (or there was none)."""
        return self.last_nonce not in self._flights

    def add(self, names: Iterable[str]) -> None:
        """Wants these too, and asks for them anew where it wanted them already."""
        for name in names:
            self._held.setdefault(name, _Held()).sent = None

    def drop(self, names: Iterable[str]) -> None:
        """Wants these no longer; all that was known of them is forgotten."""
        for name in names:
            self._held.pop(name, None)

    def replace(self, names: frozenset[str]) -> None:
        """Wants exactly these; what is known of those it wanted already stays, unless it is in doubt."""
        self.drop(self.names - names)
        self.add(names - self.names)
        self._held = {name: _Held(parked=held.parked) if held.doubtful else held for name, held in self._held.items()}

    def doubt(self, names: frozenset[str]) -> None:
        """Wanted exactly these at some time; if it still wants others, they are to be sent again."""
        for name in self.names - names:
            self._held[name].doubtful = True

    def restart(self) -> None:
        """The peer starts anew and holds nothing of what was sent; what it refused stays refused."""
        self._held = {name: _Held(parked=held.parked) for name, held in self._held.items()}

    def claim(self, names: Iterable[str]) -> None:
        """The peer holds some version of each of `names`, of whatever content."""
        for name in names:
            self._held[name].claimed = True

    def resume(self, resources: Iterable[Resource]) -> dict[str, str]:
        """The peer holds these already, from an earlier stream; gives their versions by name."""
        for resource in resources:
            held = self._held[resource.name]
            held.sent = held.good = resource
            held.good_order = self._order
        return {resource.name: resource.version for resource in resources}

    def due(self, current: Mapping[str, Resource]) -> list[tuple[Resource, ...]]:
        """The responses to send now. First versions travel together; each update travels alone.

        So a refusal of an update names its culprit, and a good bundle is never parked for a bad certificate that came
        along. In order of name, which puts `ROOTCA` before `default` and a trust domain's id before a workload's.
        """
        first: list[Resource] = []
        updates: list[tuple[Resource, ...]] = []
        for name in sorted(self._held.keys() & current.keys()):
            held = self._held[name]
            resource = held.next(current[name])
            if resource is not None and held.good is None:
                first.append(resource)
            elif resource is not None:
                updates.append((resource,))
        return [tuple(first), *updates] if first else updates

    def withdraw(self, current: Mapping[str, Resource]) -> list[str]:
        """The names that the peer holds and that are no more; each is told once."""
        gone = [n for n, held in self._held.items() if n not in current and (held.sent or held.good or held.claimed)]
        gone.sort()
        for name in gone:
            # a late verdict on what was sent before does not bring it back
            self._held[name] = _Held(parked=self._held[name].parked, good_order=self._order)
        return gone

    def version_with(self, resources: Sequence[Resource], nonce: str) -> str:
        """The version of all that the peer holds once it accepts `resources`.

        Where that depends on verdicts still to come it is made unique by the nonce, so that a peer that comes back with
        it is never believed to hold what it may have refused.
        """
        if len(self._held) == len(resources) == 1:
            return resources[0].version
        view = {name: held.good for name, held in self._held.items() if held.good is not None}
        view |= {resource.name: resource for resource in resources}
        names = {resource.name for resource in resources}
        certain = all(held.is_certain for name, held in self._held.items() if name not in names)
        version = joint_version(view.values())
        return version if certain else f"{version}~{nonce}"

    def launch(self, nonce: str, version: str, resources: tuple[Resource, ...]) -> None:
        """A response is sent. Raises INTERNAL where its nonce is empty or still in flight."""
        if not nonce or nonce in self._flights or nonce == self.last_nonce:
            raise internal("the source of nonces gave one twice, or an empty one")
        self._order += 1
        self._flights[nonce] = Flight(self._order, version, resources)
        self.last_nonce = nonce
        for resource in resources:
            self._held[resource.name].sent = resource
        if len(self._flights) > MAX_IN_FLIGHT:
            del self._flights[next(iter(self._flights))]

    def land(self, nonce: str) -> Flight | None:
        """Takes the response of that nonce out of flight, or None where there is no such."""
        return self._flights.pop(nonce, None)

    def land_up_to(self, nonce: str) -> list[Flight]:
        """Takes the response of that nonce and all before it out of flight, oldest first; none where it is unknown."""
        if nonce not in self._flights:
            return []
        nonces = list(self._flights)
        return [self._flights.pop(each) for each in nonces[: nonces.index(nonce) + 1]]

    def accept(self, flight: Flight) -> None:
        """The peer took the response.

        A version that it refused before stays refused: Envoy compares hashes, so it takes its own bad half without a
        look when it comes again.
        """
        for resource in flight.resources:
            held = self._held.get(resource.name)
            if held is not None and flight.order > held.good_order and resource.version not in held.parked:
                held.good, held.good_order = resource, flight.order

    def refuse(self, flight: Flight) -> None:
        """The peer refused the response: parks what it had not accepted before, and has the last good ones sent again.

        Envoy keeps the bad half of a pair of secrets and then refuses the good other half, so all other names are sent
        again with it. Each such repair takes a newly parked version, so refusals alone never go on without end.
        """
        replaced = False
        for resource in flight.resources:
            held = self._held.get(resource.name)
            if held is None or held.has(resource):
                continue
            held.park(resource.version)
            if held.was_last_sent(resource):
                held.sent = None
                replaced = replaced or held.good is not None
        if replaced:
            self._send_partners_again()

    def _send_partners_again(self) -> None:
        for held in self._held.values():
            # one that is on its way arrives after the bad half anyway, and need not be sent twice
            if held.sent is not None and held.has(held.sent):
                held.sent = None
