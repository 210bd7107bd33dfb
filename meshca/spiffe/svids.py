"""X509-SVIDs with their private key: what a workload presents (X509-SVID; Workload API section 5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.errors import invalid
from meshca.spiffe.ids import SpiffeId


@dataclass(frozen=True)
class X509Svid:
    """An identity's certificate chain and private key.

    `chain` holds DER certificates, the leaf first, as they are presented; `private_key_pem` is unencrypted PKCS#8 PEM
    and kept out of the repr. Raises INVALID where one is empty or a certificate does not parse. Nothing else is checked
    here: whoever serves it verifies it first (`compile.secrets`).
    """

    spiffe_id: SpiffeId
    chain: tuple[bytes, ...] = field(repr=False)
    private_key_pem: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not self.chain:
            raise invalid(f"the SVID of {self.spiffe_id} has no certificate")
        if not self.private_key_pem:
            raise invalid(f"the SVID of {self.spiffe_id} has no private key")
        _ = self.certificates

    @cached_property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The chain, parsed, leaf first."""
        return tuple(self._parse(position, der) for position, der in enumerate(self.chain))

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate that names the identity."""
        return self.certificates[0]

    @cached_property
    def chain_pem(self) -> str:
        """The chain as concatenated PEM, leaf first."""
        return "".join(c.public_bytes(Encoding.PEM).decode("ascii") for c in self.certificates)

    def _parse(self, position: int, der: bytes) -> x509.Certificate:
        try:
            return x509.load_der_x509_certificate(der)
        except (ValueError, x509.InvalidVersion) as error:
            raise invalid(f"the SVID of {self.spiffe_id}: chain[{position}] is not a DER certificate") from error
