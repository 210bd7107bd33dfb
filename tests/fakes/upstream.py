"""An upstream authority in memory: honest, until a test gives it another answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from cryptography import x509

from meshca.errors import invalid
from tests.assets.authorities import FOUNDED
from tests.assets.foreign import DAY, ForeignCa, foreign_ca, subject

TRUST_DOMAIN_URI = "spiffe://example.org"


class FakeUpstream:
    """`ports.UpstreamAuthority`: the first of `authorities` signs. `now` is its clock.

    `mints` and `tells` are what a test puts in the place of an honest answer; `minted` counts.
    """

    def __init__(self, *authorities: ForeignCa, now: Callable[[], datetime] = lambda: FOUNDED) -> None:
        self.authorities = list(authorities) or [foreign_ca(subject("Upstream Root"), until=FOUNDED + 3650 * DAY)]
        self.now = now
        self.minted = 0
        self.asked = 0
        self.heard: list[tuple[tuple[bytes, ...], bytes]] = []
        self.mints: Callable[[bytes, timedelta], Sequence[bytes]] = self.sign
        self.tells: Callable[[], Sequence[bytes]] = self.all_roots
        self.closed = False

    def mint(self, csr: bytes, ttl: timedelta) -> Sequence[bytes]:
        self.minted += 1
        return self.mints(csr, ttl)

    def roots(self) -> Sequence[bytes]:
        self.asked += 1
        return self.tells()

    def acknowledge(self, trusted: Sequence[bytes], issuing: bytes) -> None:
        self.heard.append((tuple(trusted), issuing))

    def close(self) -> None:
        self.closed = True

    def all_roots(self) -> Sequence[bytes]:
        """The honest answer."""
        return [authority.der for authority in self.authorities]

    def sign(self, csr: bytes, ttl: timedelta, **otherwise: object) -> Sequence[bytes]:
        """The honest answer, or one that differs from it in what `foreign_ca` takes."""
        request = checked_request(csr)
        if ttl <= timedelta(0):
            raise invalid("ttl must be positive")
        now = self.now().replace(microsecond=0)
        root = self.authorities[0]
        options: dict[str, object] = {
            "public_key": request.public_key(),
            "since": now - timedelta(minutes=1),
            "until": min(now + ttl, root.certificate.not_valid_after_utc),
            "path_length": 0,
            "uris": (TRUST_DOMAIN_URI,),
        }
        return [foreign_ca(request.subject, root, **{**options, **otherwise}).der]  # type: ignore[arg-type]


def checked_request(csr: bytes) -> x509.CertificateSigningRequest:
    """The request. Raises INVALID where it is none, or its signature does not verify."""
    try:
        request = x509.load_der_x509_csr(csr)
    except ValueError as error:
        raise invalid("csr does not parse") from error
    if not request.is_signature_valid:
        raise invalid("csr signature does not verify")
    return request


def from_options(options: Mapping[str, object]) -> FakeUpstream:
    """What an entry point of the group `meshca.upstream_authorities` names."""
    if options:
        raise invalid(f"options: {', '.join(options)} is not known")
    return FakeUpstream()


def that_breaks(options: Mapping[str, object]) -> FakeUpstream:
    """A plug-in that cannot be made."""
    raise RuntimeError(f"the password is {options['password']}")
