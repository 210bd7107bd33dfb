"""The authority ring as a JSON document: what the stores keep of it, and backups show."""

from __future__ import annotations

import base64
import json
from typing import Any

from meshca.authority.ring import Authority, AuthorityKind, AuthorityRing, AuthorityState
from meshca.errors import MeshcaError, internal
from meshca.spiffe.ids import TrustDomain
from meshca.stores.mapping import from_seconds, to_seconds

FORMAT = 1


def write_ring(ring: AuthorityRing) -> str:
    """The document: certificates as base64 DER, times as seconds since 1970."""
    document = {
        "format": FORMAT,
        "trust_domain": ring.trust_domain.name,
        "sequence": ring.sequence,
        "authorities": [_write_authority(authority) for authority in ring.authorities],
    }
    return json.dumps(document)


def read_ring(text: str) -> AuthorityRing:
    """The ring that `write_ring` wrote. Raises INTERNAL for anything else."""
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']!r}, this meshca knows {FORMAT}")
        return AuthorityRing(
            trust_domain=TrustDomain(document["trust_domain"]),
            sequence=_integer(document["sequence"]),
            authorities=tuple(_read_authority(fields) for fields in _list(document["authorities"])),
        )
    except KeyError as error:
        raise internal(f"the stored authority ring cannot be read: {error} is missing") from error
    except (MeshcaError, ValueError, TypeError, OverflowError, OSError) as error:
        raise internal(f"the stored authority ring cannot be read: {error}") from error


def _write_authority(authority: Authority) -> dict[str, Any]:
    last_leaf = authority.last_leaf_not_after
    return {
        "id": authority.id,
        "kind": authority.kind.value,
        "state": authority.state.value,
        "certificate": _base64(authority.certificate),
        "chain": [_base64(certificate) for certificate in authority.chain],
        "issuer_id": authority.issuer_id,
        "key_id": authority.key_id,
        "not_before": to_seconds(authority.not_before, "not_before"),
        "not_after": to_seconds(authority.not_after, "not_after"),
        "bundle_sequence": authority.bundle_sequence,
        "last_leaf_not_after": None if last_leaf is None else to_seconds(last_leaf, "last_leaf_not_after"),
    }


def _read_authority(fields: dict[str, Any]) -> Authority:
    last_leaf = fields["last_leaf_not_after"]
    return Authority(
        id=_text(fields["id"]),
        kind=AuthorityKind(fields["kind"]),
        state=AuthorityState(fields["state"]),
        certificate=_bytes(fields["certificate"]),
        chain=tuple(_bytes(certificate) for certificate in _list(fields["chain"])),
        issuer_id=_text(fields["issuer_id"]),
        key_id=_text(fields["key_id"]),
        not_before=from_seconds(_integer(fields["not_before"])),
        not_after=from_seconds(_integer(fields["not_after"])),
        bundle_sequence=_integer(fields["bundle_sequence"]),
        last_leaf_not_after=None if last_leaf is None else from_seconds(_integer(last_leaf)),
    )


def _base64(der: bytes) -> str:
    return base64.b64encode(der).decode("ascii")


def _bytes(text: object) -> bytes:
    return base64.b64decode(_text(text), validate=True)


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.40} is not a list")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not text")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r:.40} is not a whole number")
    return value
