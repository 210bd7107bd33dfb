"""Envoy's side of a discovery stream, as reference runs showed it: what it sends, and how it takes secrets."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

from meshca.xds.effects import Acked, Effect, Nacked, Send
from meshca.xds.snapshot import SECRET_TYPE, Resource, Snapshot
from meshca.xds.stream import StreamMode, XdsStream

POLICY_TYPE = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"


def resource(name: str, version: str) -> Resource:
    """A resource whose body tells its version, which a SotW response does not."""
    return Resource(name, version, version.encode())


def secrets(**versions: str) -> Snapshot:
    return Snapshot.of(SECRET_TYPE, [resource(name, version) for name, version in versions.items()])


def new_stream(
    mode: StreamMode,
    *,
    types: Iterable[str] = (SECRET_TYPE,),
    aggregated: bool = False,
    nonces: Iterator[str] | None = None,
) -> XdsStream:
    source = nonces or (f"nonce-{n}" for n in itertools.count(1))
    return XdsStream(mode, frozenset(types), lambda: next(source), aggregated=aggregated)


def new_ads_stream(mode: StreamMode) -> XdsStream:
    return new_stream(mode, types=(SECRET_TYPE, POLICY_TYPE), aggregated=True)


def sends(effects: Iterable[Effect]) -> list[Any]:
    return [effect.response for effect in effects if isinstance(effect, Send)]


def only_send(effects: Iterable[Effect]) -> Any:
    (response,) = sends(effects)
    return response


def acked(effects: Iterable[Effect]) -> list[Acked]:
    return [effect for effect in effects if isinstance(effect, Acked)]


def nacked(effects: Iterable[Effect]) -> list[Nacked]:
    return [effect for effect in effects if isinstance(effect, Nacked)]


def contents(response: Any) -> dict[str, str]:
    """The versions that a response carries, by name; our test bodies tell both."""
    bodies = [getattr(item, "resource", item).value.decode() for item in response.resources]
    return {body.rpartition("-")[0]: body for body in bodies}


class SotwWire:
    """Requests as Envoy's state-of-the-world client makes them."""

    mode = StreamMode.SOTW

    def __init__(self, type_url: str = SECRET_TYPE) -> None:
        self.type_url = type_url
        self.names: set[str] = set()
        self.version = ""
        self.nonce = ""
        self.error = ""

    def request(self) -> Any:
        request = DiscoveryRequest(
            type_url=self.type_url,
            resource_names=sorted(self.names),
            version_info=self.version,
            response_nonce=self.nonce,
        )
        if self.error:
            request.error_detail.code = 13
            request.error_detail.message = self.error
            self.error = ""
        return request

    def subscribe(self, *names: str) -> Any:
        self.names |= set(names)
        return self.request()

    def unsubscribe(self, *names: str) -> Any:
        self.names -= set(names)
        return self.request()

    def reconnect(self) -> Any:
        self.nonce = self.error = ""
        return self.request()

    def note(self, response: Any, error: str = "") -> None:
        """Takes a response in without answering yet."""
        self.nonce = response.nonce
        if error:
            self.error = error
        else:
            self.version = response.version_info

    def ack(self, response: Any) -> Any:
        self.note(response)
        return self.request()

    def nack(self, response: Any, error: str = "refused") -> Any:
        self.note(response, error)
        return self.request()


class DeltaWire:
    """Requests as Envoy's delta client makes them."""

    mode = StreamMode.DELTA

    def __init__(self, type_url: str = SECRET_TYPE) -> None:
        self.type_url = type_url
        self.names: set[str] = set()
        self.versions: dict[str, str] = {}

    def request(self, **fields: Any) -> Any:
        return DeltaDiscoveryRequest(type_url=self.type_url, **fields)

    def subscribe(self, *names: str) -> Any:
        self.names |= set(names)
        return self.request(resource_names_subscribe=sorted(names))

    def unsubscribe(self, *names: str) -> Any:
        self.names -= set(names)
        for name in names:
            self.versions.pop(name, None)
        return self.request(resource_names_unsubscribe=sorted(names))

    def reconnect(self) -> Any:
        return self.request(resource_names_subscribe=sorted(self.names), initial_resource_versions=self.versions)

    def ack(self, response: Any) -> Any:
        self.versions |= {item.name: item.version for item in response.resources if item.name in self.names}
        return self.request(response_nonce=response.nonce)

    def nack(self, response: Any, error: str = "refused") -> Any:
        return self.request(response_nonce=response.nonce, error_detail={"code": 13, "message": error})


Wire = SotwWire | DeltaWire
