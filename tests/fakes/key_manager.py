"""A key manager without a disk."""

from __future__ import annotations

import re
from threading import Lock

from meshca.errors import conflict, invalid, not_found
from meshca.pki.keys import KeyAlgorithm, PrivateKey, generate_private_key
from meshca.plugins.local_signer import LocalSigner

_KEY_ID = re.compile(r"[a-z0-9-]{1,64}")


class MemoryKeyManager:
    """`ports.KeyManager` for tests."""

    def __init__(self) -> None:
        self._signers: dict[str, LocalSigner] = {}
        self._lock = Lock()

    def generate(self, key_id: str, algorithm: KeyAlgorithm) -> LocalSigner:
        _check(key_id)
        return self.adopt(key_id, generate_private_key(algorithm))

    def adopt(self, key_id: str, key: PrivateKey) -> LocalSigner:
        _check(key_id)
        signer = LocalSigner(key)
        with self._lock:
            if key_id in self._signers:
                raise conflict(f"key {key_id} exists already")
            self._signers[key_id] = signer
        return signer

    def signer(self, key_id: str) -> LocalSigner:
        _check(key_id)
        if key_id not in self._signers:
            raise not_found(f"there is no key {key_id}")
        return self._signers[key_id]

    def delete(self, key_id: str) -> None:
        _check(key_id)
        self._signers.pop(key_id, None)


def _check(key_id: str) -> None:
    if not _KEY_ID.fullmatch(key_id):
        raise invalid(f"key id {key_id!r} is not 1 to 64 characters of a-z, 0-9 and '-'")
