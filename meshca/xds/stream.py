"""One discovery stream without I/O: requests and snapshots in, effects out (xDS transport protocol, v3).

SotW and delta differ in how a request tells the peer's verdict and wishes and in the shape of a response; the rest, in
`subscription`, is the same. After an error the stream is over and must not be used again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse, DiscoveryResponse
from envoy.service.discovery.v3.discovery_pb2 import Resource as DeltaResource

from meshca.errors import exhausted, internal, invalid, not_found
from meshca.xds.effects import Acked, Effect, Nacked, Send
from meshca.xds.redaction import redact_nack
from meshca.xds.snapshot import Resource, Snapshot, joint_version
from meshca.xds.subscription import Flight, Subscription

MAX_NAMES = 100
MAX_NAME_LENGTH = 2048
MAX_NAME_CHARACTERS = 16 * 1024  # of all names of one stream together: a hub has thousands of streams
MAX_NODE_ID_LENGTH = 1024

_WILDCARD = "*"
_NONE = Subscription()  # stands for one that was never made; only ever read
_SHOWN = 200  # characters of a foreign value that an error message repeats


class StreamMode(Enum):
    """The protocol variant."""

    SOTW = "sotw"  # DiscoveryRequest, DiscoveryResponse: each request names all that is wanted
    DELTA = "delta"  # DeltaDiscoveryRequest, DeltaDiscoveryResponse: requests and responses tell changes


class XdsStream:
    """The state of one discovery stream.

    `type_urls` is what may be subscribed here; `aggregated` says that it is an ADS stream, as it must be for several
    types. On a stream of its own a type need not be named. `nonces` gives a new value each time, on all streams.
    There are no wildcards: who names nothing, or `*`, gets nothing.
    """

    # slots, since a hub holds thousands of these
    __slots__ = ("_aggregated", "_node_id", "_nonces", "_subscriptions", "_type_urls", "_variant")

    def __init__(
        self, mode: StreamMode, type_urls: frozenset[str], nonces: Callable[[], str], *, aggregated: bool = False
    ) -> None:
        if not type_urls or (len(type_urls) > 1 and not aggregated):
            raise internal(f"a stream that is not aggregated serves one type, not {len(type_urls)}")
        self._variant = _VARIANTS[mode, aggregated]
        self._aggregated = aggregated
        self._type_urls = type_urls
        self._nonces = nonces
        self._subscriptions: dict[str, Subscription] = {}
        self._node_id = ""

    @property
    def node_id(self) -> str:
        """The peer's name for itself, from the first request that carries one; empty before. It proves nothing."""
        return self._node_id

    def subscribed(self, type_url: str) -> frozenset[str]:
        """The names of that type that the peer wants now, known or not."""
        return self._of(type_url).names

    def accepted(self, type_url: str) -> Mapping[str, str]:
        """The version that the peer accepted last of each wanted name; names without one are left out."""
        return self._of(type_url).accepted

    def may_hold(self, type_url: str) -> Mapping[str, frozenset[str]]:
        """The versions that the peer may hold now of each wanted name: accepted last, or on their way to it. No version
        at all where that is not known."""
        return self._of(type_url).may_hold()

    def parked(self, type_url: str) -> Mapping[str, frozenset[str]]:
        """The versions that the peer refused and will not be sent again, by wanted name."""
        return self._of(type_url).parked

    def receive(self, request: Any, snapshot: Snapshot) -> list[Effect]:
        """Takes one request of the peer, a DiscoveryRequest or DeltaDiscoveryRequest by the stream's mode.

        Raises INVALID for a type that is not served here, a malformed name or node id, and EXHAUSTED for too many
        names: each ends the stream, but nothing else does, in particular no unknown name and no refusal.
        """
        type_url = self._type_url_of(request)
        self._meet(request.node.id)
        self._variant.check(request)
        subscription = self._subscriptions.setdefault(type_url, Subscription())
        effects = self._hear(type_url, subscription, request)
        resumed = self._variant.subscribe(subscription, request, snapshot.named(type_url))
        self._check_total()
        if resumed:
            effects.append(Acked(type_url, resumed))
        return [*effects, *self._send_due(type_url, subscription, snapshot)]

    def push(self, snapshot: Snapshot) -> list[Effect]:
        """What a new snapshot makes due on this stream."""
        return [
            effect
            for type_url, subscription in self._subscriptions.items()
            for effect in self._send_due(type_url, subscription, snapshot)
        ]

    def _of(self, type_url: str) -> Subscription:
        return self._subscriptions.get(type_url, _NONE)

    def _type_url_of(self, request: Any) -> str:
        if request.type_url in self._type_urls:
            return str(request.type_url)
        if not request.type_url and not self._aggregated:
            return next(iter(self._type_urls))
        allowed = ", ".join(sorted(self._type_urls))
        raise invalid(f"type_url {request.type_url[:_SHOWN]!r} is not served on this stream: ask for {allowed}")

    def _meet(self, node_id: str) -> None:
        if len(node_id) > MAX_NODE_ID_LENGTH:
            raise invalid(f"node.id is {len(node_id)} characters long: at most {MAX_NODE_ID_LENGTH} are allowed")
        if node_id and not node_id.isprintable():
            raise invalid("node.id has a character that cannot be printed")
        self._node_id = self._node_id or node_id

    def _check_total(self) -> None:
        total = sum(map(len, self._subscriptions.values()))
        if total > MAX_NAMES:
            raise exhausted(f"{total} resource names on one stream: at most {MAX_NAMES} are allowed")
        characters = sum(subscription.characters for subscription in self._subscriptions.values())
        if characters > MAX_NAME_CHARACTERS:
            allowed = f"at most {MAX_NAME_CHARACTERS} are allowed on one stream"
            raise exhausted(f"the resource names have {characters} characters together: {allowed}")

    def _hear(self, type_url: str, subscription: Subscription, request: Any) -> list[Effect]:
        """The peer's verdict on what it was sent, if the request carries one."""
        took, refused, reason = self._variant.verdict(subscription, request)
        effects: list[Effect] = []
        for flight in took:
            subscription.accept(flight)
            if flight.resources:
                effects.append(Acked(type_url, flight.versions))
        for flight in refused:
            subscription.refuse(flight)
            effects.append(Nacked(type_url, flight.versions, reason))
        return effects

    def _send_due(self, type_url: str, subscription: Subscription, snapshot: Snapshot) -> list[Effect]:
        current = snapshot.named(type_url)
        effects: list[Effect] = []
        if self._variant.tells_removal and (gone := subscription.withdraw(current)):
            effects.append(self._send(type_url, subscription, (), gone))
        effects.extend(self._send(type_url, subscription, resources) for resources in subscription.due(current))
        return effects

    def _send(
        self, type_url: str, subscription: Subscription, resources: tuple[Resource, ...], gone: Sequence[str] = ()
    ) -> Send:
        nonce = self._nonces()
        version = subscription.version_with(resources, nonce)
        subscription.launch(nonce, version, resources)
        body = self._variant.render(_Response(type_url, nonce, version, resources, gone))
        return Send(body, self._variant.shape, type_url, {r.name: r.version for r in resources}, nonce)


@dataclass(frozen=True, slots=True)
class _Response:
    """What a response says; `gone` are names that are no more."""

    type_url: str
    nonce: str
    version: str
    resources: Sequence[Resource]
    gone: Sequence[str] = ()


class _Variant(Protocol):
    """What differs between SotW and delta."""

    tells_removal: bool
    shape: Any  # the class of its responses

    def check(self, request: Any) -> None:
        """Raises INVALID or EXHAUSTED for names that are out of bounds."""
        ...

    def verdict(self, subscription: Subscription, request: Any) -> tuple[Sequence[Flight], Sequence[Flight], str]:
        """The responses that the peer took, those that it refused, and why."""
        ...

    def subscribe(self, subscription: Subscription, request: Any, current: Mapping[str, Resource]) -> Mapping[str, str]:
        """Applies the peer's wishes; gives the versions by name that it holds already and that are current."""
        ...

    def render(self, response: _Response) -> bytes:
        """The response message, serialised. What is the same for all streams, the resources, is serialised once."""
        ...


class _Sotw:
    """State of the world. It has no way to tell that a resource is gone.

    `resumes`: whether a peer that comes back is believed to hold what its `version_info` stands for. On ADS it is not:
    there Envoy keeps the version of a type although it dropped a resource and subscribed to it anew in the meantime,
    and would wait for it in vain.
    """

    tells_removal = False
    shape = DiscoveryResponse

    def __init__(self, *, resumes: bool) -> None:
        self._resumes = resumes

    def check(self, request: Any) -> None:
        _check_names(request.resource_names, "resource_names")

    def verdict(self, subscription: Subscription, request: Any) -> tuple[Sequence[Flight], Sequence[Flight], str]:
        """`version_info` is the version accepted last, `response_nonce` the response that is answered.

        A peer may answer several responses at once, as Envoy does where they overtake its answer: then it took all up
        to the one with that version, and refused the others. No verdict is an ACK unless it names the version.
        """
        flights = subscription.land_up_to(request.response_nonce)
        candidates = flights[:-1] if request.HasField("error_detail") else flights
        taken = max((i + 1 for i, f in enumerate(candidates) if f.version == request.version_info), default=0)
        return flights[:taken], flights[taken:], _reason(request)

    def subscribe(self, subscription: Subscription, request: Any, current: Mapping[str, Resource]) -> Mapping[str, str]:
        """A request tells all names anew, but only if it knows the latest response: an older one is out of date.

        What an older one no longer names was dropped at that time, and is sent again should the next request name it.
        Without a nonce, or with one of an earlier stream, it is a new subscription, unless a response is in flight,
        which the peer then has not seen yet. On the first one `version_info` tells what the peer holds.
        """
        names = frozenset(request.resource_names) - {_WILDCARD}
        is_first, is_foreign = subscription.is_new, not subscription.last_nonce or not request.response_nonce
        if not is_foreign and request.response_nonce != subscription.last_nonce:
            subscription.doubt(names)
            return {}
        subscription.replace(names)
        if is_foreign and subscription.last_is_settled:
            subscription.restart()
        held = [current[name] for name in subscription.names if name in current]
        if not (is_first and self._resumes and held and joint_version(held) == request.version_info):
            return {}
        return subscription.resume(held)

    def render(self, response: _Response) -> bytes:
        head = DiscoveryResponse(version_info=response.version, type_url=response.type_url, nonce=response.nonce)
        return _joined(head, response, _sotw_entry)


class _Delta:
    """Incremental."""

    tells_removal = True
    shape = DeltaDiscoveryResponse

    def check(self, request: Any) -> None:
        _check_names(request.resource_names_subscribe, "resource_names_subscribe")

    def verdict(self, subscription: Subscription, request: Any) -> tuple[Sequence[Flight], Sequence[Flight], str]:
        """Each response has a verdict of its own."""
        flight = subscription.land(request.response_nonce)
        if flight is None:
            return (), (), ""
        if request.HasField("error_detail"):
            return (), (flight,), _reason(request)
        return (flight,), (), ""

    def subscribe(self, subscription: Subscription, request: Any, current: Mapping[str, Resource]) -> Mapping[str, str]:
        """Names come and go by themselves. A name that is asked for again is sent again: the peer may have lost it.

        On the first request `initial_resource_versions` tells what the peer holds from an earlier stream.
        """
        is_first = subscription.is_new
        subscription.drop(request.resource_names_unsubscribe)
        subscription.add(set(request.resource_names_subscribe) - {_WILDCARD})
        if not is_first:
            return {}
        held = {
            name: version for name in subscription.names if (version := request.initial_resource_versions.get(name))
        }
        same = [current[name] for name, version in held.items() if name in current and current[name].version == version]
        subscription.claim(held.keys())
        return subscription.resume(same)

    def render(self, response: _Response) -> bytes:
        head = DeltaDiscoveryResponse(
            system_version_info=response.version,
            removed_resources=response.gone,
            type_url=response.type_url,
            nonce=response.nonce,
        )
        return _joined(head, response, _delta_entry)


# they hold no state of a stream
_VARIANTS: dict[tuple[StreamMode, bool], _Variant] = {
    (StreamMode.SOTW, False): _Sotw(resumes=True),
    (StreamMode.SOTW, True): _Sotw(resumes=False),
    (StreamMode.DELTA, False): _Delta(),
    (StreamMode.DELTA, True): _Delta(),
}


def fetch(request: Any, type_url: str, snapshot: Snapshot) -> Any:
    """The answer to a unary Fetch: a DiscoveryResponse with all of the named resources that exist.

    Raises as `XdsStream.receive` does, and NOT_FOUND where none of them exists: an empty answer would look like one.
    """
    if request.type_url not in ("", type_url):
        raise invalid(f"type_url {request.type_url[:_SHOWN]!r} is not served here: ask for {type_url}")
    _check_names(request.resource_names, "resource_names")
    current = snapshot.named(type_url)
    resources = [current[name] for name in sorted(set(request.resource_names)) if name in current]
    if not resources:
        raise not_found("none of the named resources exists")
    return DiscoveryResponse.FromString(
        _Sotw(resumes=False).render(_Response(type_url, "", joint_version(resources), resources))
    )


def _joined(head: Any, response: _Response, encode: Callable[[Resource, str], bytes]) -> bytes:
    """A message whose repeated resources come serialised: serialised messages of a type add up by concatenation."""
    entries = [resource.wired(encode, response.type_url) for resource in response.resources]
    return b"".join((head.SerializeToString(), *entries))


def _sotw_entry(resource: Resource, type_url: str) -> bytes:
    return bytes(DiscoveryResponse(resources=[resource.packed(type_url)]).SerializeToString())


def _delta_entry(resource: Resource, type_url: str) -> bytes:
    entry = DeltaResource(name=resource.name, version=resource.version, resource=resource.packed(type_url))
    return bytes(DeltaDiscoveryResponse(resources=[entry]).SerializeToString())


def _check_names(names: Iterable[str], field: str) -> None:
    for count, name in enumerate(names, start=1):
        if count > MAX_NAMES:
            raise exhausted(f"{field} has more than {MAX_NAMES} names, the most that one stream may have")
        if not name or len(name) > MAX_NAME_LENGTH:
            raise invalid(f"{field}: a name has {len(name)} characters: 1 to {MAX_NAME_LENGTH} are allowed")
        if not name.isprintable():
            raise invalid(f"{field}: a name has a character that cannot be printed")


def _reason(request: Any) -> str:
    """Why the peer refused. Its presence, not its code, makes `error_detail` a refusal: ztunnel sends code 0."""
    if not request.HasField("error_detail"):
        return "the version was not taken, and no error was given"
    return redact_nack(request.error_detail.message) or f"no reason given (code {request.error_detail.code})"
