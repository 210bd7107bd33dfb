"""Identities for the agent's tests: real keys, real certificates, valid now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshca.agent.addresses import ServerAddress
from meshca.agent.identity import AgentIdentity, verified_identity
from meshca.spiffe.ids import SpiffeId
from meshca.spiffe.svids import X509Svid
from tests.fakes.certificate_authority import SPIFFE_ID, certificate_for
from tests.svids import TestCa, bundle_of, new_key


def identity(
    issuer: TestCa,
    *trusted: TestCa,
    sequence: int = 1,
    ttl: timedelta = timedelta(hours=1),
    spiffe_id: str = SPIFFE_ID,
    mtls: ServerAddress | None = None,
) -> AgentIdentity:
    """An identity that `issuer` issued just now, beside a bundle of `trusted` (default: the issuer alone)."""
    now = datetime.now(UTC)
    key = new_key()
    parsed = SpiffeId.parse(spiffe_id)
    leaf = certificate_for(issuer, key.public_key(), spiffe_id, not_after=now + ttl)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    bundle = bundle_of(parsed.trust_domain.name, *(trusted or (issuer,)), sequence=sequence)
    return verified_identity(X509Svid(parsed, (leaf,), pem), bundle, mtls, received_at=now, now=now)
