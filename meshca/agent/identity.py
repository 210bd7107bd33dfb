"""What an agent holds, and the rules by which something new may take its place. Pure: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from meshca.agent.addresses import ServerAddress
from meshca.agent.publication import Publication, publication_of
from meshca.agent.renewal import Lifetime
from meshca.errors import invalid
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import SpiffeId
from meshca.spiffe.svids import X509Svid
from meshca.spiffe.verification import verify_x509_path


@dataclass(frozen=True)
class AgentIdentity:
    """A verified SVID with its key, the bundle that vouches for it, and where it can be renewed.

    `mtls` is None where the server told of no mTLS listener. `publication` is what proxies are served of it.
    """

    svid: X509Svid
    bundle: TrustBundle
    mtls: ServerAddress | None
    life: Lifetime
    publication: Publication = field(repr=False)

    @property
    def spiffe_id(self) -> SpiffeId:
        """Whose identity it is."""
        return self.svid.spiffe_id

    @cached_property
    def serial(self) -> str:
        """The leaf's serial number in lower-case hex."""
        return f"{self.svid.leaf.serial_number:x}"


def verified_identity(
    svid: X509Svid, bundle: TrustBundle, mtls: ServerAddress | None, *, received_at: datetime, now: datetime
) -> AgentIdentity:
    """The identity, once everything about it is checked at `now`: path to the bundle, validity, purposes, key.

    Raises INVALID or UNAUTHENTICATED where something does not hold.
    """
    published = publication_of(svid, bundle, now)
    path = verify_x509_path(svid.chain, {bundle.trust_domain: bundle}, now=now)
    life = Lifetime(min(received_at, now), path.not_after)
    if life.has_ended(now):
        raise invalid(f"the certificate of {svid.spiffe_id} expired at {path.not_after:%Y-%m-%dT%H:%M:%SZ}")
    return AgentIdentity(svid, bundle, mtls, life, published)


def check_succession(held: AgentIdentity, new: AgentIdentity) -> None:
    """Raises INVALID where `new` must not replace `held`: another identity, or an older or contradictory bundle."""
    if new.spiffe_id != held.spiffe_id:
        raise invalid(f"the new certificate is of {new.spiffe_id}, but this agent is {held.spiffe_id}")
    if new.bundle.sequence < held.bundle.sequence:
        raise invalid(
            f"the trust bundle went back from sequence {held.bundle.sequence} to {new.bundle.sequence}:"
            " an older bundle may trust roots that were given up"
        )
    same_sequence = new.bundle.sequence == held.bundle.sequence
    if same_sequence and set(new.bundle.x509_authorities) != set(held.bundle.x509_authorities):
        raise invalid(f"the trust bundle has other roots than before under the same sequence {new.bundle.sequence}")
