"""What proxies are served of one identity: the trust half and the identity half. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from meshca.compile.secrets import bundle_secrets, identity_secrets
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.svids import X509Svid
from meshca.xds.snapshot import SECRET_TYPE, Resource, Snapshot


@dataclass(frozen=True)
class Publication:
    """Secrets that are served together. `not_after` ends the identity half; trust has no end of its own."""

    trust: tuple[Resource, ...]
    identity: tuple[Resource, ...]
    not_after: datetime

    @cached_property
    def snapshot(self) -> Snapshot:
        """Both halves."""
        return Snapshot.of(SECRET_TYPE, (*self.trust, *self.identity))

    @property
    def trust_versions(self) -> dict[str, str]:
        """The trust half's versions by name."""
        return {resource.name: resource.version for resource in self.trust}

    @property
    def identity_versions(self) -> dict[str, str]:
        """The identity half's versions by name."""
        return {resource.name: resource.version for resource in self.identity}

    @cached_property
    def identity_version(self) -> str:
        """One version for the whole identity half."""
        return Snapshot.of(SECRET_TYPE, self.identity).version(SECRET_TYPE)

    @cached_property
    def trust_version(self) -> str:
        """One version for the whole trust half."""
        return Snapshot.of(SECRET_TYPE, self.trust).version(SECRET_TYPE)

    def visible_to(self, holder_of: Collection[str], now: datetime) -> Snapshot:
        """What a stream may see at `now`.

        After the end of the identity half that half is only for streams whose proxy accepted it before (`holder_of`
        names what it accepted): there nothing changes, but nobody is given an expired certificate as new.
        """
        if now < self.not_after:
            return self.snapshot
        kept = (resource for resource in self.identity if resource.name in holder_of)
        return Snapshot.of(SECRET_TYPE, (*self.trust, *kept))

    def with_trust_of(self, newer: Publication) -> Publication:
        """This identity half beside the newer trust half: the step between two publications (trust before use)."""
        return Publication(newer.trust, self.identity, self.not_after)


def publication_of(svid: X509Svid, bundle: TrustBundle, now: datetime) -> Publication:
    """What to serve of an identity. Raises INVALID where `identity_secrets` does: nothing unfit is ever published."""
    return Publication(
        trust=bundle_secrets(bundle),
        identity=identity_secrets(svid, bundle, now),
        not_after=svid.leaf.not_valid_after_utc,
    )
