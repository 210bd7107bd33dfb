"""SPIFFE ids and trust domains (SPIFFE-ID, sections 2.1 to 2.4)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from meshca.errors import invalid

SCHEME = "spiffe://"
MAX_ID_BYTES = 2048
MAX_TRUST_DOMAIN_BYTES = 255

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """A trust domain's name: 1 to 255 bytes of `[a-z0-9._-]`.

    Raises INVALID for anything else; upper case is refused, not folded, as go-spiffe and py-spiffe do.
    """

    name: str

    def __post_init__(self) -> None:
        if not self.name:
            raise invalid("trust domain is empty: give a name such as example.org")
        if len(self.name) > MAX_TRUST_DOMAIN_BYTES:
            raise invalid(f"trust domain is {len(self.name)} bytes long: at most {MAX_TRUST_DOMAIN_BYTES} are allowed")
        if not _TRUST_DOMAIN.fullmatch(self.name):
            raise invalid(f"trust domain {self.name!r} has a character outside a-z, 0-9, '.', '_' and '-'")

    def __str__(self) -> str:
        return self.name

    @property
    def id(self) -> SpiffeId:
        """The trust domain's own id: `spiffe://<name>` with an empty path."""
        return SpiffeId(self, "")


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A SPIFFE id: a trust domain and a path that is empty or `/segment(/segment)*`.

    Raises INVALID where the path or the whole length breaks SPIFFE-ID sections 2.2 and 2.3.
    """

    trust_domain: TrustDomain
    path: str

    def __post_init__(self) -> None:
        _check_path(self.path)
        length = len(SCHEME) + len(self.trust_domain.name) + len(self.path)
        if length > MAX_ID_BYTES:
            raise invalid(f"SPIFFE id is {length} bytes long: at most {MAX_ID_BYTES} are allowed")

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain.name}{self.path}"

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """The id that `text` spells; raises INVALID for whatever the specification does not allow."""
        if len(text) > MAX_ID_BYTES:
            raise invalid(f"SPIFFE id is {len(text)} characters long: at most {MAX_ID_BYTES} are allowed")
        if not text.startswith(SCHEME):
            raise invalid(f"SPIFFE id {text!r} does not start with {SCHEME}")
        name, slash, rest = text[len(SCHEME) :].partition("/")
        return cls(TrustDomain(name), slash + rest)


def parse_workload_id(text: str) -> SpiffeId:
    """A leaf identity: a SPIFFE id whose path is not empty (X509-SVID section 5.2)."""
    spiffe_id = SpiffeId.parse(text)
    if not spiffe_id.path:
        raise invalid(f"SPIFFE id {text!r} names a trust domain: a workload's id needs a path such as /ns/a/sa/b")
    return spiffe_id


def _check_path(path: str) -> None:
    if not path:
        return
    if not path.startswith("/"):
        raise invalid(f"SPIFFE id path {path!r} does not start with '/'")
    for segment in path[1:].split("/"):
        if not segment:
            raise invalid(f"SPIFFE id path {path!r} has an empty segment: drop the trailing or doubled '/'")
        if segment in (".", ".."):
            raise invalid(f"SPIFFE id path {path!r} has a dot segment")
        if not _SEGMENT.fullmatch(segment):
            raise invalid(f"SPIFFE id path {path!r} has a character outside a-z, A-Z, 0-9, '.', '_' and '-'")
