"""What a discovery stream wants done, or has learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Send:
    """Write this response to the peer: `body`, a serialised DiscoveryResponse or DeltaDiscoveryResponse (`shape`).

    Secrets are inside, so it is kept out of the repr; `type_url`, `versions` (by resource name) and `nonce` are for
    logs.
    """

    body: bytes = field(repr=False)
    shape: Any
    type_url: str
    versions: Mapping[str, str]
    nonce: str

    @property
    def response(self) -> Any:
        """The message."""
        return self.shape.FromString(self.body)


@dataclass(frozen=True, slots=True)
class Acked:
    """The peer says that it holds these versions, by resource name.

    That is: parsed and taken; Envoy does not tell more. Also given when a peer that reconnects names what it holds and
    that is what would be sent.
    """

    type_url: str
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Nacked:
    """The peer refused a response with these versions, by resource name. `reason` is redacted and safe to log.

    A version that it had accepted before is not the culprit, though it may have been in the response.
    """

    type_url: str
    versions: Mapping[str, str]
    reason: str


Effect = Send | Acked | Nacked
