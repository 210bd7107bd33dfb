"""What certificates may look like, and what a caller was granted."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import timedelta

from meshca.errors import invalid
from meshca.pki.keys import DEFAULT_FAMILIES, KeyFamily
from meshca.spiffe.ids import SpiffeId

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_DNS_NAME = re.compile(r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class IssuanceProfile:
    """The rules for leaves: lifetimes, how far notBefore is set back for skewed clocks, key families admitted, and the
    organization in the subject; without one the subject is empty, as X509-SVID prefers. Under `crl_url`, if any, the
    revocation list of each issuing CA is found by its id.
    """

    default_ttl: timedelta = timedelta(hours=1)
    max_ttl: timedelta = timedelta(hours=24)
    backdate: timedelta = timedelta(seconds=60)
    key_types: frozenset[KeyFamily] = DEFAULT_FAMILIES
    organization: str = ""
    crl_url: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """What one certificate may say: decided from the authenticated caller, never from the CSR.

    Raises INVALID where a DNS name is none (RFC 1123, lower case; a leading `*.` is allowed) or stands twice.
    """

    subject: SpiffeId
    ttl: timedelta
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[IPAddress, ...] = ()

    def __post_init__(self) -> None:
        if not self.subject.path:
            raise invalid(f"a leaf cannot be issued to {self.subject}: it names a trust domain")
        if self.ttl < timedelta(seconds=1):
            raise invalid(f"ttl is {self.ttl}: at least one second is needed")
        if len(set(self.dns_names)) != len(self.dns_names):
            raise invalid(f"a DNS name is granted twice: {', '.join(self.dns_names)}")
        for name in self.dns_names:
            if not is_dns_name(name):
                raise invalid(f"DNS name {name!r} is not a lower-case host name")


def crl_address(crl_url: str, authority_id: str) -> str:
    """Where the revocation list of an issuing CA is found."""
    return f"{crl_url}/{authority_id}"


def is_dns_name(name: str) -> bool:
    """Whether a certificate of ours may carry it: RFC 1123, lower case, perhaps with a leading `*.`."""
    return len(name) <= 253 and _DNS_NAME.fullmatch(name) is not None


def choose_ttl(wanted_seconds: int, profile: IssuanceProfile) -> timedelta:
    """The lifetime for a request: its wish, or the default for 0 or less.

    Raises INVALID (reason `TTL_ERROR`) above the maximum; nothing is silently shortened but by the issuer's own end.
    """
    if wanted_seconds <= 0:
        return profile.default_ttl
    if wanted_seconds > profile.max_ttl.total_seconds():
        wanted = f"{wanted_seconds}s"
        allowed = f"{int(profile.max_ttl.total_seconds())}s"
        message = f"requested TTL {wanted} is greater than the max allowed TTL {allowed}"
        raise invalid(message, reason="TTL_ERROR")
    return timedelta(seconds=wanted_seconds)
