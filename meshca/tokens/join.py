"""Single-use join tokens: what an operator hands to a new agent. Only their hash is ever stored."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime

from meshca.errors import invalid
from meshca.spiffe.ids import SpiffeId

PREFIX = "mjt_"
ENTROPY_BYTES = 32
_SHAPE = re.compile(re.escape(PREFIX) + r"[A-Za-z0-9_-]{43}", re.ASCII)


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A join token as stored: `token_hash` (hex SHA-256 of its text) stands for `spiffe_id` until `expires_at`."""

    token_hash: str
    spiffe_id: SpiffeId
    created_at: datetime
    expires_at: datetime

    @property
    def short_id(self) -> str:
        """A name for logs and the ledger that tells nothing of the token."""
        return self.token_hash[:16]


def format_join_token(entropy: bytes) -> str:
    """The token's text for 32 random bytes: a prefix that secret scanners can find, then base64url."""
    if len(entropy) != ENTROPY_BYTES:
        raise invalid(f"a join token takes {ENTROPY_BYTES} random bytes, not {len(entropy)}")
    return PREFIX + base64.urlsafe_b64encode(entropy).rstrip(b"=").decode("ascii")


def looks_like_join_token(text: str) -> bool:
    """Whether `text` has a join token's shape (it may still be unknown, used or expired)."""
    return _SHAPE.fullmatch(text) is not None


def hash_join_token(text: str) -> str:
    """What the store keeps: the hex SHA-256. The text has 256 bits of entropy, so no salt and no stretching."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
