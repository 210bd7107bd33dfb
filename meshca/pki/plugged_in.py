"""The files of a plugged-in CA: Istio's `cacerts`, or the three files of a TLS secret as cert-manager writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from meshca.errors import invalid
from meshca.pki.imports import der_of, name_of, parse_certificates, spki_of
from meshca.pki.keys import PrivateKey, spki_der

CACERTS = ("ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem")
TLS_SECRET = ("tls.crt", "tls.key", "ca.crt")
CRL = "ca-crl.pem"
NAMES = (*CACERTS, *TLS_SECRET, CRL)


@dataclass(frozen=True, slots=True)
class PluggedInCa:
    """What the files say: the issuing CA first, then what stands above it; its key; the roots.

    `ignores_crl` says that there is a CRL, which is not used. Nothing is checked yet but that they belong together.
    """

    certificates: tuple[x509.Certificate, ...]
    key: PrivateKey = field(repr=False)
    roots: tuple[x509.Certificate, ...]
    ignores_crl: bool = False

    @property
    def digest(self) -> str:
        """Stands for the certificates, and with them for the key: the hex SHA-256 of all of them."""
        ders = (*map(der_of, self.certificates), b"", *map(der_of, self.roots))
        return hashlib.sha256(b"".join(hashlib.sha256(der).digest() for der in ders)).hexdigest()


def parse_plugged_in(files: Mapping[str, bytes]) -> PluggedInCa:
    """The CA in `files`, by name; `tls.crt` goes before `ca-cert.pem`, as in Istio.

    Raises INVALID for a set that is not whole, with what is missing, and where key and certificate do not match.
    """
    tls = "tls.crt" in files or ("tls.key" in files and "ca-cert.pem" not in files)
    layout = TLS_SECRET if tls else CACERTS
    missing = [name for name in layout if name not in files]
    if len(missing) == len(layout):
        raise invalid(f"no CA is there: put {', '.join(CACERTS)} there, or {', '.join(TLS_SECRET)}")
    if missing:
        raise invalid(f"{', '.join(missing)} is missing beside {', '.join(sorted(set(layout) - set(missing)))}")
    certificate, key, roots = ("tls.crt", "tls.key", "ca.crt") if tls else ("ca-cert.pem", "ca-key.pem", CACERTS[3])
    own = parse_certificates(files[certificate], certificate)
    chain = () if tls else parse_certificates(files["cert-chain.pem"], "cert-chain.pem")
    anchors = parse_certificates(files[roots], roots)
    private = _parse_key(files[key], key)
    if spki_der(private.public_key()) != spki_of(own[0]):
        raise invalid(f"{key} is not the key of {certificate} ({name_of(own[0])}): give the two that belong together")
    above = tuple(c for c in dict.fromkeys((*own[1:], *chain)) if c not in anchors and c != own[0])
    for root in above:
        if root.subject == root.issuer:  # only what is meant as a root may become one
            raise invalid(
                f"the chain holds the root {name_of(root)}, which {roots} does not: put it there, or leave it out"
            )
    return PluggedInCa((own[0], *above), private, anchors, CRL in files)


def _parse_key(pem: bytes, source: str) -> PrivateKey:
    try:
        key = load_pem_private_key(pem, None)
    except TypeError as error:
        raise invalid(f"{source} is encrypted: give the key without a passphrase; meshca encrypts its copy") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise invalid(f"{source} holds no private key in PEM that can be read") from error
    if not isinstance(key, PrivateKey):
        raise invalid(f"{source} holds a key of a kind that cannot sign here: use P-256, P-384 or RSA")
    return key
