"""A token issuer's key set in memory."""

from __future__ import annotations

import threading

from meshca.errors import MeshcaError, unavailable
from meshca.tokens.jwks import JwksDocument, parse_jwks


class FakeJwksSource:
    """`ports.JwksSource` whose answer tests set: `data`, or `failure`. It counts fetches, and can hold them."""

    def __init__(self, data: bytes | None = None) -> None:
        self.data = data
        self.failure: MeshcaError | None = None
        self.fetches = 0
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def fetch(self) -> JwksDocument:
        self.fetches += 1
        self.entered.set()
        assert self.gate.wait(30), "nobody opened the gate"
        if self.failure is not None:
            raise self.failure
        if self.data is None:
            raise unavailable("key set of the test: there is none")
        return parse_jwks(self.data)
