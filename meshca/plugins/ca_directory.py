"""The files of a plugged-in CA in a directory, such as a mounted Kubernetes secret."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from meshca.errors import unavailable
from meshca.pki.imports import MAX_PEM_BYTES
from meshca.pki.plugged_in import NAMES

_SWAPPED = "..data"  # what Kubernetes points to another directory to swap all files at once
_ATTEMPTS = 3
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe in a file's place must not hang us


class CaDirectoryFiles:
    """`ports.CaSource` over a directory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Mapping[str, bytes]:
        """The files that there are, by name: all as they were at one moment, though somebody may be swapping them.

        Raises UNAVAILABLE where the directory or a file cannot be read, or does not come to rest.
        """
        for _ in range(_ATTEMPTS):
            first, second = self._read_once(), self._read_once()
            if first == second:
                return first
        raise unavailable(f"{self._path}: its files are changing while they are read: they are read again soon")

    def _read_once(self) -> dict[str, bytes]:
        swapped = self._path / _SWAPPED
        try:
            # the directory is found once: a swap in between leaves us with the files of one side
            where = swapped if swapped.is_dir() else self._path
            directory = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise unavailable(f"{self._path} cannot be read: {error.strerror}") from error
        try:
            read = {name: self._read_file(directory, name) for name in NAMES}
        finally:
            os.close(directory)
        return {name: data for name, data in read.items() if data is not None}

    def _read_file(self, directory: int, name: str) -> bytes | None:
        try:
            with os.fdopen(os.open(name, _FILE, dir_fd=directory), "rb") as file:
                return file.read(MAX_PEM_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unavailable(f"{self._path / name} cannot be read: {error.strerror}") from error
