"""The server's data directory: its layout, how it is made, how it is opened, and that only one server uses it."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509

from meshca.errors import conflict, internal, invalid, not_found
from meshca.pki.imports import ImportRules, check_root
from meshca.pki.keys import CA_ALGORITHMS, KeyAlgorithm
from meshca.pki.plugged_in import PluggedInCa
from meshca.pki.profiles import IssuanceProfile
from meshca.plugins.disk_keys import DiskKeyManager
from meshca.ports import Clock, StoredRing
from meshca.services.authorities import AuthorityMaker, found
from meshca.services.imports import found_on_root, found_plugged_in
from meshca.services.trials import Trials
from meshca.spiffe.ids import TrustDomain
from meshca.stores.sql import SqlStores, create_sqlite, open_sqlite

PASSPHRASE_VARIABLE = "MESHCA_PASSPHRASE"  # noqa: S105  # the variable's name
_MIN_PASSPHRASE_BYTES = 12
_MAX_SOCKET_PATH = 107
_SHORTEST_ISSUER = timedelta(seconds=1)
_LONGEST_ROOT = timedelta(days=36500)


@dataclass(frozen=True, slots=True)
class DataDir:
    """The paths inside a data directory."""

    path: Path

    @property
    def database(self) -> Path:
        """The SQLite database."""
        return self.path / "meshca.db"

    @property
    def keys(self) -> Path:
        """The directory of encrypted private keys."""
        return self.path / "keys"

    @property
    def passphrase(self) -> Path:
        """The generated passphrase (development only)."""
        return self.path / "passphrase"

    @property
    def admin_socket(self) -> Path:
        """Where operators' commands find the running server."""
        return self.path / "admin.sock"

    @property
    def lock(self) -> Path:
        """Held by the server that uses the directory."""
        return self.path / "lock"


@dataclass(frozen=True, slots=True)
class Founding:
    """What `meshca init` is asked for."""

    trust_domain: TrustDomain
    root_key: KeyAlgorithm = KeyAlgorithm.P256
    root_ttl: timedelta = timedelta(days=3650)
    issuer_key: KeyAlgorithm = KeyAlgorithm.P256
    issuer_ttl: timedelta = timedelta(days=30)
    external: x509.Certificate | None = None  # the root, where its key is elsewhere
    plugged_in: PluggedInCa | None = None  # root and issuing CA, where others made them

    def __post_init__(self) -> None:
        for key in (self.root_key, self.issuer_key):
            if key not in CA_ALGORITHMS:
                names = ", ".join(algorithm.value for algorithm in CA_ALGORITHMS)
                raise invalid(f"key type {key.value} cannot be a CA's: use one of {names}")
        if not timedelta(0) < self.issuer_ttl < self.root_ttl:
            raise invalid(f"issuer-ttl {self.issuer_ttl} must be positive and shorter than root-ttl {self.root_ttl}")
        if self.issuer_ttl < _SHORTEST_ISSUER:
            raise invalid(f"issuer-ttl {self.issuer_ttl} is too short to issue anything: at least 1s")
        if self.root_ttl > _LONGEST_ROOT:
            raise invalid(f"root-ttl {self.root_ttl} is too long: at most 36500d")


def create_data_dir(path: Path, founding: Founding, passphrase: bytes | None, clock: Clock) -> StoredRing:
    """Makes a data directory whole or not at all: it is built beside its place and renamed into it.

    With `passphrase` None one is generated into a 0600 file. Raises CONFLICT where `path` holds anything.
    """
    _check_vacant(path)
    building = _building_place(path)
    try:
        stored = _build(DataDir(building), founding, passphrase, clock)
        _sync(building)
        os.rename(building, path)  # an empty directory in the way is replaced, anything else refuses
    except OSError as error:
        raise internal(f"data directory {path} cannot be made: {error.strerror}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    _sync(path.parent)
    return stored


def _building_place(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise invalid(
            f"data directory {path} cannot be made: {path.parent}: {error.strerror}; choose a place that can be written"
        ) from error


def open_stores(data_dir: DataDir) -> SqlStores:
    """The stores of an existing data directory; creates nothing.

    Raises NOT_FOUND where there is none, INTERNAL where it is not readable as ours.
    """
    _check_state(data_dir)
    return open_sqlite(data_dir.database)


def open_keys(data_dir: DataDir, passphrase: bytes) -> DiskKeyManager:
    """The key manager of an existing data directory. Raises NOT_FOUND where its key directory is missing."""
    if not data_dir.keys.is_dir():
        raise not_found(f"{data_dir.keys} is missing: restore it from the backup that belongs to {data_dir.database}")
    return DiskKeyManager(data_dir.keys, passphrase)


def read_passphrase(file: Path | None, environment: Mapping[str, str], data_dir: DataDir | None) -> bytes | None:
    """The passphrase of the private keys: from `file`, else the environment, else the data directory; else None.

    Raises INVALID where a source that was named cannot be used.
    """
    if file is not None:
        return _passphrase_from(file)
    if environment.get(PASSPHRASE_VARIABLE):
        return _checked(environment[PASSPHRASE_VARIABLE].encode(), f"${PASSPHRASE_VARIABLE}")
    if data_dir is not None and data_dir.passphrase.exists():
        return _passphrase_from(data_dir.passphrase)
    return None


def lock_data_dir(data_dir: DataDir) -> int:
    """Takes the directory for this process; the returned descriptor holds it.

    Raises NOT_FOUND where there is no state in it, CONFLICT where another server has it.
    """
    _check_state(data_dir)
    descriptor = os.open(data_dir.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise conflict(f"{data_dir.path} is in use by another meshca server") from error
    return descriptor


def check_socket_path(path: Path) -> Path:
    """The path, if a Unix socket can have it; raises INVALID otherwise."""
    length = len(os.fsencode(path))
    if length > _MAX_SOCKET_PATH:
        raise invalid(f"admin_socket {path} is {length} bytes long: at most {_MAX_SOCKET_PATH}; choose a shorter one")
    return path


def clear_socket(path: Path) -> None:
    """Removes what a killed server left at `path`. Raises CONFLICT where it is no socket, or somebody serves it."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise conflict(f"admin_socket {path} is there already and is no socket: remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(os.fsencode(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except TimeoutError:
            pass  # a listener with a full queue is alive
    raise conflict(f"admin_socket {path} is served by another server: stop that one or choose another path")


def _check_state(data_dir: DataDir) -> None:
    if not data_dir.database.exists():
        raise not_found(f"{data_dir.path} holds no meshca state: run `meshca init` or restore a backup")


def _check_vacant(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise conflict(f"{path} exists and is no directory")
    if path.is_dir() and any(path.iterdir()):
        raise conflict(f"{path} is not empty: meshca init never touches what is there; choose another directory")


def _build(data_dir: DataDir, founding: Founding, passphrase: bytes | None, clock: Clock) -> StoredRing:
    if passphrase is None:
        passphrase = secrets.token_urlsafe(32).encode("ascii")
        _write_private(data_dir.passphrase, passphrase + b"\n")
    data_dir.keys.mkdir(mode=0o700)
    stores = create_sqlite(data_dir.database)
    try:
        keys, now = DiskKeyManager(data_dir.keys, passphrase), clock.now()
        rules = ImportRules(founding.trust_domain, now, IssuanceProfile().max_ttl)
        if founding.plugged_in is not None:
            return found_plugged_in(stores.authorities, keys, Trials(stores.ledger, clock), founding.plugged_in, rules)
        if founding.external is not None:
            external = check_root(founding.external, rules)
            return found_on_root(stores.authorities, keys, founding.trust_domain, external, founding.issuer_key, now)
        maker = AuthorityMaker(keys, stores.ledger, clock)
        root = (founding.root_key, founding.root_ttl)
        issuer = (founding.issuer_key, founding.issuer_ttl)
        return found(maker, stores.authorities, founding.trust_domain, root=root, issuer=issuer)
    finally:
        stores.close()


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _passphrase_from(file: Path) -> bytes:
    try:
        mode = file.stat().st_mode
        data = file.read_bytes()
    except OSError as error:
        raise invalid(f"passphrase file {file} cannot be read: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise invalid(f"passphrase file {file} can be read by others (mode {stat.S_IMODE(mode):04o}): chmod 600 it")
    return _checked(data.rstrip(b"\r\n"), f"passphrase file {file}")


def _checked(passphrase: bytes, source: str) -> bytes:
    if len(passphrase) < _MIN_PASSPHRASE_BYTES:
        raise invalid(f"{source} holds {len(passphrase)} bytes: a passphrase needs at least {_MIN_PASSPHRASE_BYTES}")
    return passphrase
