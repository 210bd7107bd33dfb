"""Callers who must be refused: one without a certificate, one with the right name from a CA of its own."""

from __future__ import annotations

import os
import re
import socket
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshca.errors import unavailable
from meshca.pki.certificates import Issuer
from meshca.pki.csr import CertificateRequest
from meshca.pki.keys import KeyAlgorithm, KeyFamily, PrivateKey, generate_private_key, spki_der
from meshca.pki.prepare import prepare, prepare_root, serial_from
from meshca.pki.profiles import Grant, IssuanceProfile
from meshca.pki.sign import sign
from meshca.plugins.local_signer import LocalSigner
from meshca.spiffe.ids import SpiffeId

_TIMEOUT_SECONDS = 5.0
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})\b")


def foreign_credentials(identity: SpiffeId) -> bytes:
    """Key and certificate (PEM) that name `identity`, under a root that nobody here trusts."""
    now = datetime.now(UTC)
    root_key, key = generate_private_key(KeyAlgorithm.P256), generate_private_key(KeyAlgorithm.P256)
    serials = [serial_from(os.urandom(20)) for _ in range(2)]
    root = prepare_root(
        spki_der(root_key.public_key()),
        KeyAlgorithm.P256,
        identity.trust_domain,
        serial=serials[0],
        now=now,
        ttl=timedelta(days=1),
    )
    issuer = Issuer(root.issuer_id, KeyAlgorithm.P256, sign(root, LocalSigner(root_key)).der)
    request = CertificateRequest(spki_der(key.public_key()), KeyFamily.P256)
    grant = Grant(identity, timedelta(hours=1))
    leaf = prepare(request, grant, issuer, IssuanceProfile(), serial=serials[1], now=now)
    return _key_pem(key) + sign(leaf, LocalSigner(root_key)).pem.encode("ascii")


def is_admitted(inbound: Path, credentials: bytes | None) -> bool:
    """Whether the sidecar lets a TLS client with `credentials` (PEM), or with none, come as far as HTTP.

    Raises UNAVAILABLE where nothing listens or nothing comes back: silence is no refusal.
    """
    return ask(inbound, credentials) is not None


def ask(inbound: Path, credentials: bytes | None) -> int | None:
    """The status of one HTTP request to the sidecar; None where it ended the connection instead.

    Raises UNAVAILABLE as `is_admitted` does.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the intruder does not care whom it talks to
    if credentials is not None:
        _load(context, credentials)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(_TIMEOUT_SECONDS)
        try:
            raw.connect(str(inbound))
            return _status(context, raw)
        except OSError as error:
            raise unavailable(f"the service's Envoy does not answer on {inbound}: {error}") from error


def _status(context: ssl.SSLContext, raw: socket.socket) -> int | None:
    try:
        with context.wrap_socket(raw) as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n\r\n")
            answer = _STATUS_LINE.match(tls.recv(4096))
    except (ssl.SSLError, ConnectionError):
        return None  # an alert, or the connection's end, instead of an answer
    return int(answer[1]) if answer is not None else None


def _load(context: ssl.SSLContext, credentials: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:  # the ssl module reads files only
        file.write(credentials)
        file.flush()
        context.load_cert_chain(file.name)


def _key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
