"""What may be kept of a proxy's NACK text.

Envoy echoes a whole Secret, private key and all, where a message breaks its constraints.
"""

from __future__ import annotations

import re
import unicodedata

MAX_REASON = 512
REDACTED = "[redacted]"

_ECHO_END = ": Proto constraint validation failed"
_READ = 4096  # characters: far more than is kept, and little enough to search
_WHITESPACE = re.compile(r"\s+")

_KEY_MATERIAL = re.compile(
    r"-----\s*BEGIN"
    r"|PRIVATE\s+KEY"  # as PEM spells it; Envoy's own "Failed to load private key" is lower case and stays
    r"|(?:[A-Za-z0-9+/=_-]|\\.|[\r\n]){40,}"  # a long run of base64 or hex, its lines perhaps broken or escaped
    r"|[A-Za-z0-9+/=_-]{16,}(?:\s+[A-Za-z0-9+/=_-]{16,})+"  # the lines of a PEM joined by blanks
    r"|(?:\b(?:0x)?[0-9A-Fa-f]{1,3}[\s,:;.-]+){10,}"  # bytes one by one, in hex or decimal
)


def redact_nack(reason: str) -> str:
    """`reason`, safe to log and to forward: at most 512 printable characters on one line.

    The echo of the refused message is dropped. From the first sign of key material (PEM, `PRIVATE KEY`, a long run of
    base64) nothing is kept: what follows such a sign may be the rest of it.
    """
    _, marker, tail = reason.rpartition(_ECHO_END)
    kept = (marker.removeprefix(": ") + tail)[:_READ]
    kept = _without_key_material("".join(c for c in kept if c.isspace() or not _is_invisible(c)))
    kept = _without_key_material(_WHITESPACE.sub(" ", kept).strip())
    return kept if len(kept) <= MAX_REASON else kept[: MAX_REASON - 1] + "…"


def _without_key_material(text: str) -> str:
    found = _KEY_MATERIAL.search(text)
    return text if found is None else text[: found.start()] + REDACTED


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character).startswith("C")
