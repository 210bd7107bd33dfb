"""Private keys at rest: PKCS #8 encrypted by PBES2 (RFC 8018) with scrypt (RFC 7914) and AES-256-CBC.

cryptography's own encryption stretches a passphrase by 2,048 rounds of PBKDF2, too little against guessing; it can read
scrypt but not write it. OpenSSL reads these files too: `openssl pkey -in FILE`.
"""

from __future__ import annotations

import base64
import os

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from meshca.errors import internal
from meshca.pki.keys import PrivateKey

# OWASP's choice for 16 MiB of memory, the most that OpenSSL grants by default: about 100 ms.
_COST, _BLOCK, _PARALLEL = 2**14, 8, 5
_KEY_BYTES = 32
_LABEL = "ENCRYPTED PRIVATE KEY"

_PBES2 = x509.ObjectIdentifier("1.2.840.113549.1.5.13")
_SCRYPT = x509.ObjectIdentifier("1.3.6.1.4.1.11591.4.11")
_AES_256_CBC = x509.ObjectIdentifier("2.16.840.1.101.3.4.1.42")


@asn1.sequence
class _ScryptParameters:
    salt: bytes
    cost: int
    block_size: int
    parallelization: int
    key_length: int


@asn1.sequence
class _Derivation:
    algorithm: x509.ObjectIdentifier
    parameters: _ScryptParameters


@asn1.sequence
class _Encryption:
    algorithm: x509.ObjectIdentifier
    initialization_vector: bytes


@asn1.sequence
class _Pbes2Parameters:
    derivation: _Derivation
    encryption: _Encryption


@asn1.sequence
class _Pbes2:
    algorithm: x509.ObjectIdentifier
    parameters: _Pbes2Parameters


@asn1.sequence
class _EncryptedPrivateKeyInfo:
    encryption: _Pbes2
    data: bytes


def encrypt_key(key: PrivateKey, passphrase: bytes) -> bytes:
    """The key as PEM, encrypted under `passphrase`."""
    salt, vector = os.urandom(16), os.urandom(16)
    secret = Scrypt(salt, _KEY_BYTES, _COST, _BLOCK, _PARALLEL).derive(passphrase)
    parameters = _ScryptParameters(
        salt=salt, cost=_COST, block_size=_BLOCK, parallelization=_PARALLEL, key_length=_KEY_BYTES
    )
    scheme = _Pbes2Parameters(
        derivation=_Derivation(algorithm=_SCRYPT, parameters=parameters),
        encryption=_Encryption(algorithm=_AES_256_CBC, initialization_vector=vector),
    )
    data = _encrypt(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), secret, vector)
    info = _EncryptedPrivateKeyInfo(encryption=_Pbes2(algorithm=_PBES2, parameters=scheme), data=data)
    return _pem(asn1.encode_der(info))


def decrypt_key(pem: bytes, passphrase: bytes, name: str) -> object:
    """The private key in `pem`. Raises INTERNAL, naming `name`, where it is not encrypted, damaged or locked to us."""
    try:
        return load_pem_private_key(pem, passphrase)
    except TypeError as error:
        raise internal(f"{name} is not encrypted: it is not used; replace it by one that meshca wrote") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise internal(f"{name} cannot be decrypted: the passphrase is wrong or the file is damaged") from error


def _encrypt(plain: bytes, secret: bytes, vector: bytes) -> bytes:
    padder = PKCS7(algorithms.AES.block_size).padder()
    encryptor = Cipher(algorithms.AES(secret), modes.CBC(vector)).encryptor()
    return encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der).decode("ascii")
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {_LABEL}-----", *lines, f"-----END {_LABEL}-----", ""]).encode("ascii")
