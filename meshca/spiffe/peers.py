"""Who is at the other end: what the transport saw (Peer) and what was proven (Caller)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from meshca.spiffe.ids import SpiffeId


class AuthenticationMethod(Enum):
    """How a caller proved who it is; the value is what the ledger records."""

    X509_SVID = "x509_svid"
    JWT = "jwt"
    JOIN_TOKEN = "join_token"  # noqa: S105  # a name, no token
    LOCAL = "local"  # the server for itself, or an operator on the admin socket


@dataclass(frozen=True, slots=True)
class Peer:
    """What a front door knows of the remote end before anything is believed.

    `address` is the peer's network address without its port; `certificate_chain` holds the DER certificates of a
    verified TLS handshake, leaf first, or nothing; `bearer_tokens` the values of `authorization: Bearer …`, in order.
    """

    address: str
    certificate_chain: tuple[bytes, ...] = ()
    bearer_tokens: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Peer({self.address!r}, {len(self.certificate_chain)} certificates, {len(self.bearer_tokens)} tokens)"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. `attested` tells in a few words by what: an issuer, a token's id, a serial.

    `join_token` is the hash of the single-use token that issuance must spend before it signs; empty for none. A caller
    with a certificate has its `serial` (lower-case hex) and the end of its life here, `valid_until`.
    """

    id: SpiffeId
    method: AuthenticationMethod
    attested: str
    join_token: str = ""
    serial: str = ""
    valid_until: datetime | None = None
