"""The authority ring as a JSON document: what the stores keep of it, and backups show."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any

from meshca.authority.ring import (
    Authority,
    AuthorityKind,
    AuthorityRing,
    AuthorityState,
    CrossCertificate,
    IssuedCrl,
    ListsWithdrawn,
    PendingIssuer,
    RenewalOrder,
    RootRotation,
)
from meshca.errors import MeshcaError, internal
from meshca.spiffe.ids import TrustDomain
from meshca.stores.mapping import from_seconds, to_seconds

FORMAT = 4
_NO_UPSTREAM: dict[str, Any] = {"announced": []}
_NO_LISTS_NOR_IMPORTS: dict[str, Any] = {"crls": [], "pending": None, "directory": "", **_NO_UPSTREAM}


def write_ring(ring: AuthorityRing) -> str:
    """The document: certificates as base64 DER, times as seconds since 1970."""
    document = {
        "format": FORMAT,
        "trust_domain": ring.trust_domain.name,
        "sequence": ring.sequence,
        "authorities": [_write_authority(authority) for authority in ring.authorities],
        "rotation": None if ring.rotation is None else _write_rotation(ring.rotation),
        "held_since": _write_time(ring.held_since, "held_since"),
        "renewal": None if ring.renewal is None else _write_renewal(ring.renewal),
        "crls": [_write_crl(crl) for crl in ring.crls],
        "pending": None if ring.pending is None else _write_pending(ring.pending),
        "directory": ring.directory,
        "announced": list(ring.announced),
        "withdrawn": None if ring.withdrawn is None else _write_withdrawn(ring.withdrawn),
    }
    return json.dumps(document)


def read_ring(text: str) -> AuthorityRing:
    """The ring that `write_ring` wrote. Raises INTERNAL for anything else."""
    try:
        document = _current(json.loads(text))
        rotation, renewal, pending = document["rotation"], document["renewal"], document["pending"]
        withdrawn = {"withdrawn": None, **document}["withdrawn"]  # documents from before do not tell
        return AuthorityRing(
            trust_domain=TrustDomain(document["trust_domain"]),
            sequence=_integer(document["sequence"]),
            authorities=tuple(_read_authority(fields) for fields in _list(document["authorities"])),
            rotation=None if rotation is None else _read_rotation(rotation),
            held_since=_read_time(document["held_since"]),
            renewal=None if renewal is None else _read_renewal(renewal),
            crls=tuple(_read_crl(fields) for fields in _list(document["crls"])),
            pending=None if pending is None else _read_pending(pending),
            directory=_text(document["directory"]),
            announced=tuple(_text(digest) for digest in _list(document["announced"])),
            withdrawn=None if withdrawn is None else _read_withdrawn(withdrawn),
        )
    except KeyError as error:
        raise internal(f"the stored authority ring cannot be read: {error} is missing") from error
    except (MeshcaError, ValueError, TypeError, OverflowError, OSError) as error:
        raise internal(f"the stored authority ring cannot be read: {error}") from error


def _current(document: dict[str, Any]) -> dict[str, Any]:
    """The document in today's format. Format 1 knew no rotation of roots, nor since when an authority is as it is;
    format 2 no revocation lists and no external CAs; format 3 no upstream authority."""
    match _integer(document["format"]):
        case 1:
            unknown = {"since": None, "distrust_at": None}
            authorities = [{**fields, **unknown} for fields in _list(document["authorities"])]
            unmoved = {"rotation": None, "held_since": None, "renewal": None}
            return {**document, "authorities": authorities, **unmoved, **_NO_LISTS_NOR_IMPORTS}
        case 2:
            return {**document, **_NO_LISTS_NOR_IMPORTS}
        case 3:
            return {**document, **_NO_UPSTREAM}
        case 4:
            return document
        case other:
            raise ValueError(f"its format is {other}, this meshca knows {FORMAT}")


def _write_authority(authority: Authority) -> dict[str, Any]:
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
        "since": _write_time(authority.since, "since"),
        "distrust_at": _write_time(authority.distrust_at, "distrust_at"),
        "cross": None if authority.cross is None else _write_cross(authority.cross),
    }


def _write_cross(cross: CrossCertificate) -> dict[str, Any]:
    return {
        "certificate": _base64(cross.certificate),
        "signer_id": cross.signer_id,
        "not_after": to_seconds(cross.not_after, "not_after"),
    }


def _read_cross(fields: dict[str, Any]) -> CrossCertificate:
    return CrossCertificate(
        certificate=_bytes(fields["certificate"]),
        signer_id=_text(fields["signer_id"]),
        not_after=from_seconds(_integer(fields["not_after"])),
    )


def _read_authority(fields: dict[str, Any]) -> Authority:
    cross = {"cross": None, **fields}["cross"]  # documents from before have none
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
        since=_read_time(fields["since"]),
        distrust_at=_read_time(fields["distrust_at"]),
        cross=None if cross is None else _read_cross(cross),
    )


def _write_rotation(rotation: RootRotation) -> dict[str, Any]:
    return {
        "origin": rotation.origin,
        "reason": rotation.reason,
        "since": to_seconds(rotation.since, "since"),
        "predecessor": rotation.predecessor,
        "successor": rotation.successor,
    }


def _read_rotation(fields: dict[str, Any]) -> RootRotation:
    return RootRotation(
        origin=_text(fields["origin"]),
        reason=_text(fields["reason"]),
        since=from_seconds(_integer(fields["since"])),
        predecessor=_text(fields["predecessor"]),
        successor=_text(fields["successor"]),
    )


def _write_pending(pending: PendingIssuer) -> dict[str, Any]:
    return {
        "key_id": pending.key_id,
        "request": _base64(pending.request),
        "since": to_seconds(pending.since, "since"),
    }


def _read_pending(fields: dict[str, Any]) -> PendingIssuer:
    return PendingIssuer(
        key_id=_text(fields["key_id"]),
        request=_bytes(fields["request"]),
        since=from_seconds(_integer(fields["since"])),
    )


def _write_renewal(order: RenewalOrder) -> dict[str, Any]:
    return {
        "issuer_ids": list(order.issuer_ids),
        "start": to_seconds(order.start, "start"),
        "seconds": order.seconds,
    }


def _read_renewal(fields: dict[str, Any]) -> RenewalOrder:
    return RenewalOrder(
        issuer_ids=tuple(_text(each) for each in _list(fields["issuer_ids"])),
        start=from_seconds(_integer(fields["start"])),
        seconds=_integer(fields["seconds"]),
    )


def _write_crl(crl: IssuedCrl) -> dict[str, Any]:
    return {
        "issuer_id": crl.issuer_id,
        "crl": _base64(crl.crl),
        "number": crl.number,
        "this_update": to_seconds(crl.this_update, "this_update"),
        "next_update": to_seconds(crl.next_update, "next_update"),
        "revision": crl.revision,
        "sequence": crl.sequence,
        "since": _write_time(crl.since, "since"),
    }


def _read_crl(fields: dict[str, Any]) -> IssuedCrl:
    return IssuedCrl(
        issuer_id=_text(fields["issuer_id"]),
        crl=_bytes(fields["crl"]),
        number=_integer(fields["number"]),
        this_update=from_seconds(_integer(fields["this_update"])),
        next_update=from_seconds(_integer(fields["next_update"])),
        revision=_integer(fields["revision"]),
        sequence=_integer(fields["sequence"]),
        since=_read_time(fields["since"]),
    )


def _write_withdrawn(withdrawn: ListsWithdrawn) -> dict[str, Any]:
    return {"sequence": withdrawn.sequence, "since": to_seconds(withdrawn.since, "since")}


def _read_withdrawn(fields: dict[str, Any]) -> ListsWithdrawn:
    return ListsWithdrawn(sequence=_integer(fields["sequence"]), since=from_seconds(_integer(fields["since"])))


def _write_time(time: datetime | None, name: str) -> int | None:
    return None if time is None else to_seconds(time, name)


def _read_time(value: object) -> datetime | None:
    return None if value is None else from_seconds(_integer(value))


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
