"""What an agent holds, and the rules by which something new may take its place. Pure: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property

from cryptography import x509

from meshca.agent.addresses import ServerAddress
from meshca.agent.publication import Publication, publication_of
from meshca.agent.renewal import Lifetime
from meshca.errors import invalid
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import SpiffeId
from meshca.spiffe.revocation_lists import check_revocation_lists
from meshca.spiffe.svids import X509Svid
from meshca.spiffe.verification import verify_x509_path


@dataclass(frozen=True)
class AgentIdentity:
    """A verified SVID with its key, the bundle that vouches for it, and where it can be renewed.

    `mtls` is None where the server told of no mTLS listener. `publication` is what proxies are served of it. `first`:
    the certificate renews none, and the server takes whoever uses it to have the bundle that it came with.
    """

    svid: X509Svid
    bundle: TrustBundle
    mtls: ServerAddress | None
    life: Lifetime
    publication: Publication = field(repr=False)
    first: bool = False

    @property
    def spiffe_id(self) -> SpiffeId:
        """Whose identity it is."""
        return self.svid.spiffe_id

    @cached_property
    def serial(self) -> str:
        """The leaf's serial number in lower-case hex."""
        return f"{self.svid.leaf.serial_number:x}"

    @cached_property
    def issuer_id(self) -> str:
        """The key identifier of the leaf's issuer in lower-case hex; empty where the leaf does not tell."""
        try:
            extension = self.svid.leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        except x509.ExtensionNotFound:
            return ""
        return (extension.value.key_identifier or b"").hex()


def verified_identity(
    svid: X509Svid, bundle: TrustBundle, mtls: ServerAddress | None, *, received_at: datetime, now: datetime
) -> AgentIdentity:
    """The identity, once everything about it is checked at `now`: path to the bundle, validity, purposes, key, and the
    revocation lists of the bundle.

    Raises INVALID or UNAUTHENTICATED where something does not hold.
    """
    check_revocation_lists(bundle, now)
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
    _check_bundle_succession(held.bundle, new.bundle)


def with_bundle(held: AgentIdentity, bundle: TrustBundle, now: datetime) -> AgentIdentity:
    """The same certificate beside a newer bundle; `held` itself where nothing of the bundle changed.

    Raises INVALID for a bundle of another trust domain and as `check_succession` does, and INVALID or UNAUTHENTICATED
    where it does not vouch for the certificate.
    """
    if bundle.trust_domain != held.bundle.trust_domain:
        raise invalid(f"the trust bundle is of {bundle.trust_domain}, but this agent is of {held.bundle.trust_domain}")
    _check_bundle_succession(held.bundle, bundle)
    if bundle.sequence == held.bundle.sequence:
        return held
    found = verified_identity(held.svid, bundle, held.mtls, received_at=held.life.received_at, now=now)
    return replace(found, first=held.first)


def with_newest_bundle(new: AgentIdentity, held: AgentIdentity | None, now: datetime) -> AgentIdentity:
    """`new`, but beside the bundle of `held` where that is newer: one may have come while `new` was asked for.

    Raises as `with_bundle` does.
    """
    if held is None:
        return new
    if held.bundle.sequence > new.bundle.sequence:
        return with_bundle(new, held.bundle, now)
    check_succession(held, new)
    return new


def _check_bundle_succession(held: TrustBundle, new: TrustBundle) -> None:
    if new.sequence < held.sequence:
        raise invalid(
            f"the trust bundle went back from sequence {held.sequence} to {new.sequence}:"
            " an older bundle may trust roots that were given up"
        )
    if new.sequence != held.sequence:
        return
    if set(new.revocation_lists) != set(held.revocation_lists):
        raise invalid(f"the trust bundle has other revocation lists under the same sequence {new.sequence}")
    if set(new.x509_authorities) != set(held.x509_authorities):
        raise invalid(f"the trust bundle has other roots than before under the same sequence {new.sequence}")
