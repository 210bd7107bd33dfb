"""What there is to serve at one moment: resources by type and name, immutable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from google.protobuf.any_pb2 import Any as AnyMessage

from meshca.errors import internal

SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105  # a type's name

VERSION_LENGTH = 16  # hex digits: nobody but us chooses contents, so only accidents matter


@dataclass(frozen=True, slots=True)
class Resource:
    """A named resource at one version; the same version always means the same content.

    `body` is the serialised message (the value of the Any that carries it, not the Any). It may hold a private key, so
    it is kept out of the repr. Raises INTERNAL for an empty name or version: on the wire an empty version means "none".
    """

    name: str
    version: str
    body: bytes = field(repr=False)
    _wired: dict[object, bytes] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.name or not self.version:
            raise internal(f"a resource needs a name and a version, not {self.name!r} and {self.version!r}")

    def packed(self, type_url: str) -> AnyMessage:
        """The resource as the wire carries it."""
        return AnyMessage(type_url=type_url, value=self.body)

    def wired(self, encode: Callable[[Resource, str], bytes], type_url: str) -> bytes:
        """What `encode` gives for it and a type URL, made once: thousands of streams are sent the same."""
        known = self._wired.get((encode, type_url))
        if known is None:
            known = self._wired[encode, type_url] = encode(self, type_url)
        return known


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Resources by type URL and name. Whoever serves holds one and replaces it as a whole.

    Raises INTERNAL where a resource stands under a name that is not its own: a proxy would accept and ignore it.
    """

    resources: Mapping[str, Mapping[str, Resource]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frozen = {type_url: MappingProxyType(dict(named)) for type_url, named in self.resources.items()}
        for type_url, named in frozen.items():
            for name, resource in named.items():
                if name != resource.name:
                    raise internal(f"resource {resource.name!r} of {type_url} stands under the name {name!r}")
        object.__setattr__(self, "resources", MappingProxyType(frozen))

    @classmethod
    def of(cls, type_url: str, resources: Iterable[Resource]) -> Snapshot:
        """A snapshot of one type."""
        return cls({type_url: {resource.name: resource for resource in resources}})

    def named(self, type_url: str) -> Mapping[str, Resource]:
        """The resources of a type by name; empty where there are none."""
        return self.resources.get(type_url, MappingProxyType({}))

    def version(self, type_url: str) -> str:
        """The version of all resources of a type together: the same content has the same version."""
        return joint_version(self.named(type_url).values())


def content_version(*parts: bytes) -> str:
    """A version that is the same for the same parts: the first hex digits of their SHA-256, each part delimited."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:VERSION_LENGTH]


def joint_version(resources: Iterable[Resource]) -> str:
    """One version for several resources; of one alone its own, so that a proxy's statistics show it."""
    ordered = sorted(resources, key=lambda resource: resource.name)
    if len(ordered) == 1:
        return ordered[0].version
    return content_version(*(text.encode() for r in ordered for text in (r.name, r.version)))
