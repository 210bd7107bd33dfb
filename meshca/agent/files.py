"""Certificate files for programs that read files: key, chain and roots, replaced as one set.

`DIR/key.pem`, `DIR/cert-chain.pem` and `DIR/root-cert.pem`, and `DIR/crl.pem` while revocation lists are in use, are
links through `DIR/..data`, itself a link to the directory of one version. Renaming a new `..data` over the old swaps
all of them at once. A reader that must have a
matching pair resolves `..data` once and opens its files there; the version before the current one is kept, so that it
can finish.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from pathlib import Path

from meshca.agent.durable import replace_link, sync_directory, write_new
from meshca.errors import internal, invalid

KEY = "key.pem"
CHAIN = "cert-chain.pem"
ROOTS = "root-cert.pem"
CRLS = "crl.pem"  # for ztunnel's CRL_PATH, which takes several lists
CURRENT = "..data"
_VERSION_PREFIX = "..meshca-"


class CertificateFiles:
    """The output directory of one identity; blocking, so coroutines call it in a thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def prepare(self) -> None:
        """Makes the directory (0755) where it is missing. Raises INVALID where that fails, it belongs to another user
        or others may write to it."""
        try:
            if not self._directory.exists():
                self._directory.mkdir(parents=True)
                self._directory.chmod(0o755)  # whatever the umask: the files have modes of their own
            status = self._directory.stat()
        except OSError as error:
            raise invalid(f"--output-dir {self._directory}: cannot be made: {error.strerror}") from error
        if status.st_uid not in (os.geteuid(), 0):
            raise invalid(f"--output-dir {self._directory}: belongs to another user: choose another")
        if stat.S_IMODE(status.st_mode) & 0o022:
            raise invalid(f"--output-dir {self._directory}: is writable by others: chmod go-w it")

    def write(self, *, private_key_pem: bytes, chain_pem: bytes, roots_pem: bytes, crl_pem: bytes = b"") -> None:
        """Replaces the whole set; there is no file of revocation lists where `crl_pem` is empty.

        Raises INTERNAL where the disk refuses, and as `prepare`; the old set then stays."""
        self.prepare()
        try:
            files = {KEY: (private_key_pem, 0o600), CHAIN: (chain_pem, 0o644), ROOTS: (roots_pem, 0o644)}
            self._write({**files, CRLS: (crl_pem, 0o644)} if crl_pem else files)
        except OSError as error:
            raise internal(f"--output-dir {self._directory}: cannot write the files: {error.strerror}") from error

    def _write(self, files: dict[str, tuple[bytes, int]]) -> None:
        previous = self._current_version()
        version = self._directory / f"{_VERSION_PREFIX}{secrets.token_hex(8)}"
        try:
            _fill(version, files)
            replace_link(self._directory / CURRENT, version.name)
        except OSError:
            shutil.rmtree(version, ignore_errors=True)
            raise
        for name in files:
            self._link(name)
        if CRLS not in files:
            self._unlink(CRLS)
        self._remove_all_versions_but({version.name, previous})

    def _current_version(self) -> str | None:
        try:
            return os.readlink(self._directory / CURRENT)
        except OSError:  # the first set, or something that is no link: both are replaced
            return None

    def _link(self, name: str) -> None:
        path, target = self._directory / name, f"{CURRENT}/{name}"
        if not path.is_symlink() or os.readlink(path) != target:
            replace_link(path, target)

    def _unlink(self, name: str) -> None:
        """Takes away our own link, and nothing else."""
        path = self._directory / name
        if path.is_symlink() and os.readlink(path) == f"{CURRENT}/{name}":
            path.unlink()

    def _remove_all_versions_but(self, kept: set[str | None]) -> None:
        for entry in self._directory.iterdir():
            if entry.name.startswith(_VERSION_PREFIX) and entry.name not in kept and not entry.is_symlink():
                shutil.rmtree(entry)


def _fill(version: Path, files: dict[str, tuple[bytes, int]]) -> None:
    version.mkdir()
    version.chmod(0o755)
    for name, (data, mode) in files.items():
        write_new(version / name, data, mode)
    sync_directory(version)
