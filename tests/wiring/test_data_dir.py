"""Law 6: never mint over existing state. What `init` refuses, and what a server says to state that it cannot open."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.keys import KeyAlgorithm
from meshca.settings.server import ServerSettings
from meshca.spiffe.ids import TrustDomain
from meshca.wiring.clock import SystemClock
from meshca.wiring.core import build_core
from meshca.wiring.data_dir import DataDir, Founding, clear_socket, create_data_dir, lock_data_dir, read_passphrase

FOUNDING = Founding(TrustDomain("data.test"))
PASSPHRASE = b"correct horse battery"


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, with its content."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    path = tmp_path / "ca"
    create_data_dir(path, FOUNDING, PASSPHRASE, SystemClock())
    return path


def settings(data_dir: Path, tmp_path: Path, passphrase: bytes = PASSPHRASE) -> ServerSettings:
    file = tmp_path / "passphrase"
    file.write_bytes(passphrase + b"\n")
    file.chmod(0o600)
    return ServerSettings(data_dir=data_dir, passphrase_file=file)


def test_a_data_directory_is_private_and_its_keys_are_encrypted(data_dir: Path) -> None:
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    for path in data_dir.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    keys = list((data_dir / "keys").iterdir())
    assert len(keys) == 2
    assert all(key.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") for key in keys)
    assert not (data_dir / "passphrase").exists()


def test_a_generated_passphrase_opens_what_it_was_generated_for(tmp_path: Path) -> None:
    path = tmp_path / "ca"
    create_data_dir(path, FOUNDING, None, SystemClock())
    assert stat.S_IMODE((path / "passphrase").stat().st_mode) == 0o600
    core = build_core(ServerSettings(data_dir=path))
    assert core.signing.is_ready
    core.stores.close()


@pytest.mark.parametrize("name", ["meshca.db", "notes.txt", ".hidden", "keys"])
def test_init_refuses_a_directory_that_holds_anything(tmp_path: Path, name: str) -> None:
    path = tmp_path / "ca"
    path.mkdir()
    (path / name).write_bytes(b"something")
    with pytest.raises(MeshcaError, match="is not empty: meshca init never touches what is there") as caught:
        create_data_dir(path, FOUNDING, PASSPHRASE, SystemClock())
    assert caught.value.kind is ErrorKind.CONFLICT
    assert snapshot(path) == {name: b"something"}


def test_a_second_init_changes_nothing(data_dir: Path) -> None:
    before = snapshot(data_dir)
    with pytest.raises(MeshcaError, match="is not empty"):
        create_data_dir(data_dir, FOUNDING, PASSPHRASE, SystemClock())
    assert snapshot(data_dir) == before


def test_init_refuses_a_symlink_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(MeshcaError, match="exists and is no directory"):
            create_data_dir(tmp_path / name, FOUNDING, PASSPHRASE, SystemClock())


def test_an_init_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    class BrokenClock:
        calls = 0

        def now(self):  # type: ignore[no-untyped-def]
            self.calls += 1
            if self.calls > 1:
                raise OSError(28, "No space left on device")
            return SystemClock().now()

    with pytest.raises(MeshcaError, match="cannot be made: No space left on device"):
        create_data_dir(tmp_path / "ca", FOUNDING, PASSPHRASE, BrokenClock())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.P384, KeyAlgorithm.RSA3072], ids=lambda a: a.value)
def test_other_root_keys(tmp_path: Path, algorithm: KeyAlgorithm) -> None:
    founding = Founding(TrustDomain("data.test"), root_key=algorithm)
    create_data_dir(tmp_path / "ca", founding, PASSPHRASE, SystemClock())
    core = build_core(settings(tmp_path / "ca", tmp_path))
    assert core.signing.current().issuer.algorithm is KeyAlgorithm.P256
    core.stores.close()


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.RSA2048, KeyAlgorithm.ED25519, KeyAlgorithm.P521])
def test_key_types_that_no_ca_may_have(algorithm: KeyAlgorithm) -> None:
    with pytest.raises(MeshcaError, match="cannot be a CA's: use one of p256, p384, rsa3072, rsa4096"):
        Founding(TrustDomain("data.test"), root_key=algorithm)


def _truncate_database(path: Path) -> None:
    (path / "meshca.db").write_bytes((path / "meshca.db").read_bytes()[:5000])


def _foreign_database(path: Path) -> None:
    import sqlite3

    (path / "meshca.db").unlink()
    connection = sqlite3.connect(path / "meshca.db")
    connection.execute("CREATE TABLE other (a)")
    connection.commit()
    connection.close()


def _swap_keys(path: Path) -> None:
    first, second = sorted((path / "keys").iterdir())
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def _lose_key(path: Path) -> None:
    next((path / "keys").glob("issuer-*")).unlink()


def _damage_key(path: Path) -> None:
    key = next((path / "keys").glob("issuer-*"))
    key.write_bytes(key.read_bytes().replace(b"A", b"B"))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing there": (shutil.rmtree, "holds no meshca state: run `meshca init`"),
    "no database": (lambda path: (path / "meshca.db").unlink(), "holds no meshca state: run `meshca init`"),
    "database cut off": (_truncate_database, "meshca.db"),
    "no database at all": (lambda path: (path / "meshca.db").write_bytes(b"not a database" * 100), "meshca.db"),
    "somebody else's database": (_foreign_database, "meshca.db"),
    "no keys": (lambda path: shutil.rmtree(path / "keys"), "keys is missing: restore it from the backup"),
    "a key is missing": (_lose_key, "issuer-"),
    "a key is damaged": (_damage_key, "issuer-"),
    "keys swapped": (_swap_keys, "does not belong to the certificate of authority"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_server_stops_at_state_that_it_cannot_open_and_makes_none(
    data_dir: Path, tmp_path: Path, damage: str
) -> None:
    break_it, words = DAMAGE[damage]
    chosen = settings(data_dir, tmp_path)
    break_it(data_dir)
    before = snapshot(data_dir)
    with pytest.raises(MeshcaError) as caught:
        build_core(chosen)
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.kind in (ErrorKind.NOT_FOUND, ErrorKind.INTERNAL)
    after = snapshot(data_dir)
    assert {name for name in after if not name.startswith("meshca.db")} <= set(before)
    assert after.get("meshca.db") == before.get("meshca.db")


def test_a_wrong_passphrase_is_one_clear_line_without_it(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(MeshcaError) as caught:
        build_core(settings(data_dir, tmp_path, b"wrong horse battery"))
    assert caught.value.kind is ErrorKind.INTERNAL
    assert "passphrase" in caught.value.message
    assert "wrong horse" not in caught.value.message
    assert "\n" not in caught.value.message


def test_no_passphrase_at_all_names_the_two_ways_to_give_one(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MESHCA_PASSPHRASE", raising=False)
    with pytest.raises(MeshcaError, match="give --passphrase-file or MESHCA_PASSPHRASE"):
        build_core(ServerSettings(data_dir=data_dir))


def test_passphrases_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(b"short\n")
    file.chmod(0o600)
    with pytest.raises(MeshcaError, match="holds 5 bytes: a passphrase needs at least 12"):
        read_passphrase(file, {}, None)
    file.write_bytes(PASSPHRASE)
    file.chmod(0o644)
    with pytest.raises(MeshcaError, match=r"can be read by others \(mode 0644\): chmod 600 it"):
        read_passphrase(file, {}, None)
    with pytest.raises(MeshcaError, match="cannot be read: No such file"):
        read_passphrase(tmp_path / "absent", {}, None)
    assert read_passphrase(None, {"MESHCA_PASSPHRASE": PASSPHRASE.decode()}, None) == PASSPHRASE
    assert read_passphrase(None, {}, None) is None


def test_only_one_server_has_a_data_directory(data_dir: Path) -> None:
    held = lock_data_dir(DataDir(data_dir))
    with pytest.raises(MeshcaError, match="is in use by another meshca server") as caught:
        lock_data_dir(DataDir(data_dir))
    assert caught.value.kind is ErrorKind.CONFLICT
    os.close(held)
    os.close(lock_data_dir(DataDir(data_dir)))


def test_locking_makes_nothing_where_there_is_no_state(tmp_path: Path) -> None:
    with pytest.raises(MeshcaError, match="holds no meshca state"):
        lock_data_dir(DataDir(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_stale_admin_socket_is_cleared_and_nothing_else_is(short_tmp: Path) -> None:
    path = short_tmp / "admin.sock"
    clear_socket(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(MeshcaError, match="is served by another server"):
            clear_socket(path)
    clear_socket(path)
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(MeshcaError, match="is there already and is no socket"):
        clear_socket(path)
    assert path.read_text() == "precious"
