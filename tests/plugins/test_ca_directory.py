"""A directory of CA files is seen as it was at one moment, though it is swapped all the time."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from meshca.errors import ErrorKind, MeshcaError
from meshca.plugins.ca_directory import CaDirectoryFiles

NAMES = ("ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem")


def fill(directory: Path, content: bytes) -> Path:
    directory.mkdir()
    for name in NAMES:
        (directory / name).write_bytes(content)
    return directory


def point(link: Path, target: Path) -> None:
    """As Kubernetes does: a new link beside the old one, renamed over it."""
    new = link.with_name("..data_tmp")
    new.symlink_to(target.name)
    os.replace(new, link)


def mounted(directory: Path) -> Path:
    """A directory as Kubernetes mounts a secret, with the files of generation one."""
    directory.mkdir()
    fill(directory / "..one", b"1")
    point(directory / "..data", directory / "..one")
    for name in NAMES:
        (directory / name).symlink_to(f"..data/{name}")
    return directory


def test_the_files_that_are_there_are_read_and_no_others(tmp_path: Path) -> None:
    fill(tmp_path / "ca", b"x")
    (tmp_path / "ca" / "notes.txt").write_text("not ours")
    (tmp_path / "ca" / "root-cert.pem").unlink()
    assert CaDirectoryFiles(tmp_path / "ca").read() == dict.fromkeys(NAMES[:3], b"x")


def test_what_is_mounted_is_read_through_the_link_that_swaps_it(tmp_path: Path) -> None:
    directory = mounted(tmp_path / "ca")
    assert CaDirectoryFiles(directory).read() == dict.fromkeys(NAMES, b"1")
    point(directory / "..data", fill(directory / "..two", b"2"))
    assert CaDirectoryFiles(directory).read() == dict.fromkeys(NAMES, b"2")


def test_a_directory_that_is_swapped_all_the_time_is_never_seen_mixed(tmp_path: Path) -> None:
    directory = mounted(tmp_path / "ca")
    fill(directory / "..two", b"2")
    stop, source, seen = threading.Event(), CaDirectoryFiles(directory), set()
    refused: list[MeshcaError] = []

    def swap() -> None:
        while not stop.is_set():
            for generation in ("..two", "..one"):
                point(directory / "..data", directory / generation)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(200):
            try:
                files = source.read()
            except MeshcaError as error:
                refused.append(error)
                continue
            assert set(files) == set(NAMES)
            assert len(set(files.values())) == 1, "a mixture of two generations"
            seen |= set(files.values())
    finally:
        stop.set()
        swapping.join()
    assert seen
    words = f"{directory}: its files are changing while they are read: they are read again soon"
    assert {(error.kind, error.message) for error in refused} <= {(ErrorKind.UNAVAILABLE, words)}


def test_a_directory_that_is_a_link_itself_may_be_swapped_too(tmp_path: Path) -> None:
    fill(tmp_path / "one", b"1")
    (tmp_path / "ca").symlink_to("one")
    source = CaDirectoryFiles(tmp_path / "ca")
    assert source.read()["ca-cert.pem"] == b"1"
    fill(tmp_path / "two", b"2")
    point(tmp_path / "ca", tmp_path / "two")
    assert source.read() == dict.fromkeys(NAMES, b"2")


@pytest.mark.parametrize("what", ["nothing", "a file", "a loop"])
def test_what_cannot_be_read_is_unavailable_and_named(tmp_path: Path, what: str) -> None:
    place = tmp_path / "ca"
    if what == "a file":
        place.write_text("x")
    elif what == "a loop":
        fill(place, b"x")
        (place / "ca-key.pem").unlink()
        (place / "ca-key.pem").symlink_to("ca-key.pem")
    with pytest.raises(MeshcaError) as refused:
        CaDirectoryFiles(place).read()
    assert refused.value.kind is ErrorKind.UNAVAILABLE
    assert refused.value.message.startswith(str(place))
