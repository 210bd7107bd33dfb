"""What tainting an authority would break, told before it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshca.cli.moments import in_words
from meshca.cli.output import iso

if TYPE_CHECKING:
    from meshca.proto.meshca.v1 import admin_pb2 as pb


_LATE_CLIENTS = (
    "those without a stream learn of a new root only with their next certificate, and none is signed until the new root"
    " is used: it waits for them until theirs have ended"
)


def consequences(status: pb.GetStatusResponse, authority: pb.Authority, distrust_after: int) -> list[str]:
    """What would happen, a sentence a line. `distrust_after` is in seconds, 0 for never before nobody depends on it."""
    lines = [
        f"{authority.kind} {authority.id} is {authority.state}, until {iso(authority.not_after)}",
        f"  signs now    {_signing(authority)}",
        f"  under it     {_under(status, authority)}",
        f"  holders      {_holders(status, authority)}",
        f"  then         {_next(status, authority)}",
    ]
    if authority.kind != "root":
        return lines
    if authority.state == "active":
        lines.append(f"  clients      {_LATE_CLIENTS}")
    return [*lines, f"  distrust     {_distrust(distrust_after)}"]


def _signing(authority: pb.Authority) -> str:
    if authority.state != "active":
        return "no: what is signed now comes from another"
    return "yes: nothing is signed any more until another one may take its place"


def _under(status: pb.GetStatusResponse, authority: pb.Authority) -> str:
    below = [a for a in status.authorities if a.issuer_id == authority.id and a.id != authority.id]
    if not below:
        return "no authorities" if authority.kind == "root" else "no authorities, only what it signed for holders"
    return f"{', '.join(f'{a.kind} {a.id} ({a.state})' for a in below)}: tainted with it"


def _holders(status: pb.GetStatusResponse, authority: pb.Authority) -> str:
    """As near as the status tells: it counts who is under the active root, and who is not."""
    total, renewed = status.rotation.holders, status.rotation.renewed
    root = next((a for a in status.authorities if a.id == authority.issuer_id), authority)
    if authority.state == "prepared":
        return "none: it has signed nothing for them"
    if authority.kind == "root" and root.state == "active":
        return f"{'' if renewed == total else 'at least '}{renewed} of {total} use certificates from under it"
    count = renewed if root.state == "active" else total - renewed
    return f"at most {count} of {total} use certificates from under it"


def _next(status: pb.GetStatusResponse, authority: pb.Authority) -> str:
    if authority.id == status.rotation.successor:
        return "the rotation under way makes another root in its place"
    if authority.state == "prepared":
        return "it is never used"
    if authority.kind != "root":
        other = "another issuing CA takes its place at the next tick; " if authority.state == "active" else ""
        return f"{other}holders replace what it signed when they renew"
    if authority.state == "active" and not status.rotation.origin:
        return (
            "a rotation begins: a new root signs once every holder trusts it, and everything is issued again under it"
        )
    if authority.state == "active":
        return "the rotation under way goes on: its new root signs once every holder trusts it"
    return "holders that depend on it renew under the active root"


def _distrust(after: int) -> str:
    if after:
        return (
            f"at the latest in {in_words(after)}: who has no certificate under another root by then"
            " is refused by everybody, and who trusts no other root refuses everybody"
        )
    return "it leaves the bundle when no holder depends on it, however long that takes"
