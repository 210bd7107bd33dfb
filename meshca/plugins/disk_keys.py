"""CA keys as encrypted files in one private directory."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from meshca.errors import MeshcaError, conflict, internal, invalid, not_found, unavailable
from meshca.pki.keys import KeyAlgorithm, PrivateKey, generate_private_key
from meshca.plugins.key_encryption import decrypt_key, encrypt_key
from meshca.plugins.local_signer import LocalSigner

_KEY_ID = re.compile(r"[a-z0-9-]{1,64}", re.ASCII)
_MAX_PASSPHRASE_BYTES = 1023  # OpenSSL's own bound
_MAX_FILE_BYTES = 64 * 1024
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe in a key's place must not hang us
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class DiskKeyManager:
    """`ports.KeyManager` over a directory of PKCS #8 files, `<key id>.pem`, each 0600 in a directory that is 0700.

    The directory must exist. A key is read once and then kept in memory. Raises INVALID for a passphrase that is empty
    or longer than 1,023 bytes.
    """

    def __init__(self, directory: Path, passphrase: bytes) -> None:
        if not 1 <= len(passphrase) <= _MAX_PASSPHRASE_BYTES:
            raise invalid(f"the passphrase of the private keys must have 1 to {_MAX_PASSPHRASE_BYTES} bytes")
        self._directory = directory
        self._passphrase = passphrase
        self._signers: dict[str, LocalSigner] = {}
        self._lock = Lock()

    def generate(self, key_id: str, algorithm: KeyAlgorithm) -> LocalSigner:
        """A new key, durable when this returns.

        Raises INVALID for a bad id, CONFLICT where it is taken, INTERNAL where others can enter the directory,
        UNAVAILABLE where the file cannot be written.
        """
        return self.adopt(key_id, generate_private_key(algorithm))

    def adopt(self, key_id: str, key: PrivateKey) -> LocalSigner:
        """Keeps a key that was made elsewhere, encrypted like all others; durable when this returns.

        Raises INVALID for a key that cannot sign here, and as `generate` does.
        """
        name, signer = _file_name(key_id), LocalSigner(key)
        pem = encrypt_key(key, self._passphrase)
        with self._opened() as directory:
            try:
                _write_new(directory, name, pem)
            except FileExistsError as error:
                raise conflict(f"key file {self._directory / name} exists already: it is never overwritten") from error
            except OSError as error:
                raise self._unavailable(name, error) from error
        with self._lock:
            self._signers[key_id] = signer
        return signer

    def signer(self, key_id: str) -> LocalSigner:
        """The key of that id.

        Raises INVALID for a bad id, NOT_FOUND, and INTERNAL where the file is there but cannot be trusted or decrypted.
        """
        name = _file_name(key_id)
        with self._lock:
            if key_id not in self._signers:
                self._signers[key_id] = self._load(name)
            return self._signers[key_id]

    def delete(self, key_id: str) -> None:
        """Removes the key's file; no error where there is none. Raises UNAVAILABLE where it cannot be removed."""
        name = _file_name(key_id)
        with self._lock, self._opened() as directory:
            self._signers.pop(key_id, None)
            try:
                os.unlink(name, dir_fd=directory)
                os.fsync(directory)
            except FileNotFoundError:
                return
            except OSError as error:
                raise self._unavailable(name, error) from error

    def __repr__(self) -> str:
        return f"DiskKeyManager({str(self._directory)!r})"

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """A descriptor of the directory, once it is seen that nobody else can enter it."""
        try:
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise internal(f"key directory {self._directory} cannot be opened: {error.strerror}") from error
        try:
            _check_private(os.fstat(descriptor), f"key directory {self._directory}", "700")
            yield descriptor
        finally:
            os.close(descriptor)

    def _load(self, name: str) -> LocalSigner:
        path = self._directory / name
        with self._opened() as directory:
            pem = self._read(directory, name)
        key = decrypt_key(pem, self._passphrase, f"key file {path}")
        try:
            return LocalSigner(key)
        except MeshcaError as error:
            raise internal(f"key file {path} holds a key of a kind that meshca does not make") from error

    def _read(self, directory: int, name: str) -> bytes:
        path = self._directory / name
        try:
            descriptor = os.open(name, _READ, dir_fd=directory)
        except FileNotFoundError as error:
            raise not_found(f"key file {path} does not exist: restore it from a backup") from error
        except OSError as error:
            problem = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be opened: {error.strerror}"
            raise internal(f"key file {path} {problem}") from error
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_FILE_BYTES:
                raise internal(f"key file {path} is not a file of at most {_MAX_FILE_BYTES} bytes")
            _check_private(found, f"key file {path}", "600")
            return file.read(_MAX_FILE_BYTES)

    def _unavailable(self, name: str, error: OSError) -> MeshcaError:
        return unavailable(f"key file {self._directory / name} cannot be written: {error.strerror}")


def _file_name(key_id: str) -> str:
    if not _KEY_ID.fullmatch(key_id):
        raise invalid(f"key id {key_id!r:.80} is not 1 to 64 characters of a-z, 0-9 and '-'")
    return f"{key_id}.pem"


def _check_private(found: os.stat_result, name: str, remedy: str) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise internal(
            f"{name} is open to others (mode {mode:04o}): chmod {remedy} it, and replace keys that were exposed"
        )


def _write_new(directory: int, name: str, data: bytes) -> None:
    """Written whole beside its place, then linked into it: a link, unlike a rename, never replaces a key."""
    temporary = f".{name}.{secrets.token_hex(8)}"
    try:
        _write_durably(directory, temporary, data)
        os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    finally:
        _remove(directory, temporary)
    os.fsync(directory)


def _write_durably(directory: int, name: str, data: bytes) -> None:
    descriptor = os.open(name, _WRITE, 0o600, dir_fd=directory)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _remove(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
