"""Certificate files are replaced as a set: no reader ever sees a key beside another key's certificate."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from meshca.agent.files import CertificateFiles
from meshca.errors import ErrorKind, MeshcaError

NAMES = ("key.pem", "cert-chain.pem", "root-cert.pem")


def write(files: CertificateFiles, version: bytes) -> None:
    files.write(private_key_pem=b"key " + version, chain_pem=b"chain " + version, roots_pem=b"roots " + version)


def read_set(directory: Path) -> tuple[bytes, ...]:
    resolved = os.open(directory / "..data", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return tuple(_read_at(resolved, name) for name in NAMES)
    finally:
        os.close(resolved)


def _read_at(directory: int, name: str) -> bytes:
    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=directory), "rb") as file:
        return file.read()


def test_a_set_is_readable_under_stable_names_and_the_key_is_private(tmp_path: Path) -> None:
    files = CertificateFiles(tmp_path / "out")
    files.prepare()
    write(files, b"1")
    write(files, b"2")
    assert [(tmp_path / "out" / n).read_bytes() for n in NAMES] == [b"key 2", b"chain 2", b"roots 2"]
    assert stat.S_IMODE((tmp_path / "out" / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "out" / "cert-chain.pem").stat().st_mode) == 0o644
    assert os.readlink(tmp_path / "out" / "key.pem") == "..data/key.pem"


def test_revocation_lists_are_in_the_set_while_there_are_any(tmp_path: Path) -> None:
    files = CertificateFiles(tmp_path)
    write(files, b"1")
    assert not os.path.lexists(tmp_path / "crl.pem")
    files.write(private_key_pem=b"key", chain_pem=b"chain", roots_pem=b"roots", crl_pem=b"lists")
    assert (tmp_path / "crl.pem").read_bytes() == b"lists"
    assert stat.S_IMODE((tmp_path / "crl.pem").stat().st_mode) == 0o644
    write(files, b"2")
    assert not os.path.lexists(tmp_path / "crl.pem"), "a reader would take a link to nothing for a broken list"


def test_a_file_of_somebody_elses_stays(tmp_path: Path) -> None:
    (tmp_path / "crl.pem").write_bytes(b"theirs")
    write(CertificateFiles(tmp_path), b"1")
    assert (tmp_path / "crl.pem").read_bytes() == b"theirs"


def test_a_concurrent_reader_never_sees_a_torn_set(tmp_path: Path) -> None:
    files = CertificateFiles(tmp_path)
    write(files, b"first")
    stop = threading.Event()
    seen: set[bytes] = set()
    torn: list[tuple[bytes, ...]] = []

    def read_on() -> None:
        while not stop.is_set():
            try:
                key, chain, roots = read_set(tmp_path)
            except FileNotFoundError:
                continue  # two swaps happened meanwhile; a reader starts over
            seen.add(key)
            if not key.removeprefix(b"key ") == chain.removeprefix(b"chain ") == roots.removeprefix(b"roots "):
                torn.append((key, chain, roots))

    reader = threading.Thread(target=read_on)
    reader.start()
    for n in range(300):
        write(files, str(n).encode())
    stop.set()
    reader.join()
    assert torn == []
    assert len(seen) > 5, "the reader must have seen several versions for this test to mean anything"


def test_only_the_current_version_and_the_one_before_it_remain(tmp_path: Path) -> None:
    files = CertificateFiles(tmp_path)
    for n in range(5):
        write(files, str(n).encode())
    versions = [e for e in tmp_path.iterdir() if e.name.startswith("..meshca-")]
    assert {(v / "key.pem").read_bytes() for v in versions} == {b"key 3", b"key 4"}
    assert len(versions) == 2


def test_leftovers_of_a_killed_writer_are_swept_and_foreign_files_stay(tmp_path: Path) -> None:
    (tmp_path / "..meshca-dead").mkdir()
    (tmp_path / "..meshca-dead" / "key.pem").write_bytes(b"half")
    (tmp_path / ".key.pem.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "key.pem").write_text("a plain file of another tool")
    write(CertificateFiles(tmp_path), b"1")
    assert not (tmp_path / "..meshca-dead").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "key.pem").read_bytes() == b"key 1"
    assert not (tmp_path / ".key.pem.tmp").exists()


def test_a_disk_that_refuses_leaves_the_old_set(tmp_path: Path) -> None:
    files = CertificateFiles(tmp_path)
    write(files, b"1")
    (tmp_path / "...data.tmp").mkdir()  # the swap itself cannot be made
    with pytest.raises(MeshcaError, match="cannot write the files") as failure:
        write(files, b"2")
    assert failure.value.kind is ErrorKind.INTERNAL
    assert read_set(tmp_path) == (b"key 1", b"chain 1", b"roots 1")
    assert sum(e.name.startswith("..meshca-") for e in tmp_path.iterdir()) == 1


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(MeshcaError, match="writable by others"):
        CertificateFiles(tmp_path / "open").prepare()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o755)
    os.chown(tmp_path / "theirs", 12345, -1)
    with pytest.raises(MeshcaError, match="belongs to another user"):
        CertificateFiles(tmp_path / "theirs").prepare()


def test_a_directory_that_becomes_open_to_others_is_written_to_no_more(tmp_path: Path) -> None:
    files = CertificateFiles(tmp_path / "out")
    write(files, b"1")
    (tmp_path / "out").chmod(0o757)
    with pytest.raises(MeshcaError, match="writable by others"):
        write(files, b"2")
    assert (tmp_path / "out" / "key.pem").read_bytes() == b"key 1"
