"""Keys on disk: the contract, and what only a disk can do wrong."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.keys import KeyAlgorithm
from meshca.plugins.disk_keys import DiskKeyManager
from tests.contracts.key_manager import KeyManagerContract, verify
from tests.fakes.key_manager import MemoryKeyManager

PASSPHRASE = b"correct horse battery"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    made.mkdir(mode=0o700)
    return made


def refusal(directory: Path, key_id: str = "one", passphrase: bytes = PASSPHRASE) -> MeshcaError:
    """Why a fresh manager gives no signer: one INTERNAL line that names the file and no secret."""
    with pytest.raises(MeshcaError) as caught:
        DiskKeyManager(directory, passphrase).signer(key_id)
    assert caught.value.kind is ErrorKind.INTERNAL
    assert str(directory) in caught.value.message
    assert "\n" not in caught.value.message
    assert passphrase.decode() not in caught.value.message
    return caught.value


def put(directory: Path, pem: bytes, mode: int = 0o600) -> None:
    file = directory / "one.pem"
    file.write_bytes(pem)
    file.chmod(mode)


class TestDiskKeyManager(KeyManagerContract):
    @pytest.fixture
    def keys(self, directory: Path) -> DiskKeyManager:
        return DiskKeyManager(directory, PASSPHRASE)


class TestMemoryKeyManager(KeyManagerContract):
    @pytest.fixture
    def keys(self) -> MemoryKeyManager:
        return MemoryKeyManager()


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.P256, KeyAlgorithm.RSA2048, KeyAlgorithm.ED25519])
def test_a_key_outlives_its_manager(directory: Path, algorithm: KeyAlgorithm) -> None:
    made = DiskKeyManager(directory, PASSPHRASE).generate("one", algorithm)
    again = DiskKeyManager(directory, PASSPHRASE).signer("one")
    assert (again.public_key_der, again.algorithm) == (made.public_key_der, algorithm)
    verify(made, again.sign(b"data"), b"data")


def test_the_directory_holds_one_private_encrypted_file_and_no_leftovers(directory: Path) -> None:
    old = os.umask(0)
    try:
        DiskKeyManager(directory, PASSPHRASE).generate("one", KeyAlgorithm.P256)
    finally:
        os.umask(old)
    (file,) = directory.iterdir()
    assert (file.name, stat.S_IMODE(file.stat().st_mode)) == ("one.pem", 0o600)
    assert file.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")


def test_openssl_reads_the_file_and_finds_a_passphrase_stretched_by_scrypt(directory: Path) -> None:
    DiskKeyManager(directory, PASSPHRASE).generate("one", KeyAlgorithm.P256)
    file = directory / "one.pem"
    openssl = shutil.which("openssl")
    assert openssl is not None
    opened = [openssl, "pkey", "-in", str(file), "-noout", "-text", "-passin", f"pass:{PASSPHRASE.decode()}"]
    assert b"P-256" in subprocess.run(opened, check=True, capture_output=True).stdout
    shown = subprocess.run([openssl, "asn1parse", "-in", str(file)], check=True, capture_output=True).stdout
    assert b":scrypt" in shown
    assert b":4000" in shown  # the cost, 2**14
    assert b":aes-256-cbc" in shown


def test_a_file_that_openssl_made_with_the_passphrase_is_usable(directory: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    put(directory, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE)))
    assert DiskKeyManager(directory, PASSPHRASE).signer("one").algorithm is KeyAlgorithm.P384


def test_a_wrong_passphrase_is_refused(directory: Path) -> None:
    DiskKeyManager(directory, PASSPHRASE).generate("one", KeyAlgorithm.P256)
    assert "passphrase is wrong" in refusal(directory, passphrase=b"wrong horse").message


def test_a_key_that_is_not_encrypted_is_refused(directory: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    put(directory, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert "not encrypted" in refusal(directory).message


@pytest.mark.parametrize("pem", [b"", b"garbage", b"\xff\xfe"])
def test_a_damaged_file_is_refused(directory: Path, pem: bytes) -> None:
    put(directory, pem)
    assert "damaged" in refusal(directory).message


def test_a_curve_that_meshca_does_not_make_is_refused(directory: Path) -> None:
    key = ec.generate_private_key(ec.SECP256K1())
    put(directory, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE)))
    assert "does not make" in refusal(directory).message


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(directory: Path, mode: int) -> None:
    DiskKeyManager(directory, PASSPHRASE).generate("one", KeyAlgorithm.P256)
    (directory / "one.pem").chmod(mode)
    message = refusal(directory).message
    assert f"mode {mode:04o}" in message
    assert "chmod 600" in message


def test_a_directory_that_others_can_enter_is_refused_for_reading_and_writing(directory: Path) -> None:
    DiskKeyManager(directory, PASSPHRASE).generate("one", KeyAlgorithm.P256)
    directory.chmod(0o750)
    assert "chmod 700" in refusal(directory).message
    with pytest.raises(MeshcaError, match="chmod 700"):
        DiskKeyManager(directory, PASSPHRASE).generate("two", KeyAlgorithm.P256)
    assert not (directory / "two.pem").exists()


def test_a_symbolic_link_is_not_followed(directory: Path, tmp_path: Path) -> None:
    DiskKeyManager(directory, PASSPHRASE).generate("one", KeyAlgorithm.P256)
    (directory / "one.pem").rename(tmp_path / "elsewhere.pem")
    (directory / "one.pem").symlink_to(tmp_path / "elsewhere.pem")
    assert "symbolic link" in refusal(directory).message


def test_a_dangling_link_is_not_written_through(directory: Path, tmp_path: Path) -> None:
    (directory / "one.pem").symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(MeshcaError) as caught:
        DiskKeyManager(directory, PASSPHRASE).generate("one", KeyAlgorithm.P256)
    assert caught.value.kind is ErrorKind.CONFLICT
    assert not (tmp_path / "elsewhere.pem").exists()


def test_a_pipe_in_a_keys_place_does_not_hang(directory: Path) -> None:
    os.mkfifo(directory / "one.pem", 0o600)
    assert "is not a file" in refusal(directory).message


def test_a_huge_file_is_not_read(directory: Path) -> None:
    put(directory, b"x" * 70_000)
    assert "at most" in refusal(directory).message


def test_a_missing_directory_is_never_made(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(MeshcaError, match="cannot be opened"):
        DiskKeyManager(missing, PASSPHRASE).generate("one", KeyAlgorithm.P256)
    assert "cannot be opened" in refusal(missing).message
    assert not missing.exists()


def test_a_second_manager_does_not_overwrite_a_key(directory: Path) -> None:
    DiskKeyManager(directory, PASSPHRASE).generate("one", KeyAlgorithm.P256)
    before = (directory / "one.pem").read_bytes()
    with pytest.raises(MeshcaError) as caught:
        DiskKeyManager(directory, PASSPHRASE).generate("one", KeyAlgorithm.P256)
    assert caught.value.kind is ErrorKind.CONFLICT
    assert [(f.name, f.read_bytes()) for f in directory.iterdir()] == [("one.pem", before)]


def test_a_loaded_key_needs_its_file_no_more(directory: Path) -> None:
    DiskKeyManager(directory, PASSPHRASE).generate("one", KeyAlgorithm.P256)
    keys = DiskKeyManager(directory, PASSPHRASE)
    signer = keys.signer("one")
    (directory / "one.pem").unlink()
    assert keys.signer("one") is signer


@pytest.mark.parametrize("passphrase", [b"", b"x" * 1024])
def test_a_passphrase_that_cannot_protect_is_invalid(directory: Path, passphrase: bytes) -> None:
    with pytest.raises(MeshcaError) as caught:
        DiskKeyManager(directory, passphrase)
    assert caught.value.kind is ErrorKind.INVALID


def test_nothing_secret_shows_in_a_repr(directory: Path) -> None:
    keys = DiskKeyManager(directory, PASSPHRASE)
    signer = keys.generate("one", KeyAlgorithm.P256)
    assert repr(signer) == "LocalSigner(p256)"
    assert PASSPHRASE.decode() not in repr(keys)
