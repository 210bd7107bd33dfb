"""The Unix socket's surroundings: who may reach it, and that no other agent already answers there."""

from __future__ import annotations

import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from meshca.errors import conflict, invalid

MAX_PATH_BYTES = 107  # sockaddr_un.sun_path without its final NUL
_PROBE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class SocketPlace:
    """Where the agent listens. The members of `group` may connect too (0660 in a 0750 directory)."""

    path: Path
    group: str | None = None

    def prepare(self) -> None:
        """Makes the directory and clears a dead socket.

        Raises INVALID where the path cannot serve or the directory is open to others' writes, and CONFLICT where
        something answers on the socket.
        """
        if len(os.fsencode(self.path)) > MAX_PATH_BYTES:
            raise invalid(f"--socket {self.path}: the path is longer than {MAX_PATH_BYTES} bytes: choose a shorter one")
        gid = self._gid()
        try:
            self._make_directory(gid)
            self._clear()
        except OSError as error:
            raise invalid(f"--socket {self.path}: cannot be prepared: {error.strerror}") from error

    def open_to_group(self) -> None:
        """Gives the bound socket its final mode. Raises INVALID where the group cannot be set."""
        gid = self._gid()
        try:
            if gid is not None:
                os.chown(self.path, -1, gid)
            self.path.chmod(0o600 if gid is None else 0o660)
        except OSError as error:
            raise invalid(f"--socket-group {self.group}: cannot be given the socket: {error.strerror}") from error

    def inode(self) -> tuple[int, int] | None:
        """Device and inode of what is at the path now; None where nothing is. Raises INVALID where that is hidden."""
        try:
            status = self.path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise invalid(f"--socket {self.path}: cannot be looked at: {error.strerror}") from error
        return status.st_dev, status.st_ino

    def _gid(self) -> int | None:
        if self.group is None:
            return None
        try:
            return grp.getgrnam(self.group).gr_gid
        except KeyError:
            raise invalid(f"--socket-group {self.group}: there is no such group on this host") from None

    def _make_directory(self, gid: int | None) -> None:
        directory = self.path.parent
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True)
            if gid is not None:
                os.chown(directory, -1, gid)
                directory.chmod(0o750)
            return
        status = directory.stat()
        if {status.st_uid, directory.lstat().st_uid} - {os.geteuid(), 0}:  # of the directory, or of a link to it
            raise invalid(f"--socket {self.path}: its directory {directory} belongs to another user: choose another")
        if stat.S_IMODE(status.st_mode) & 0o022:
            raise invalid(
                f"--socket {self.path}: others may write to its directory {directory} and replace the socket:"
                " chmod go-w it or choose another"
            )

    def _clear(self) -> None:
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise invalid(f"--socket {self.path}: what is there is no socket: remove it or choose another path")
        if self._answers():
            raise conflict(f"--socket {self.path}: another agent serves it: stop that one or choose another path")
        self.path.unlink()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PROBE_SECONDS)
            try:
                probe.connect(os.fsencode(self.path))
            except ConnectionRefusedError:
                return False
            except (TimeoutError, BlockingIOError):
                return True  # a listener with a full queue is alive
            return True


@contextmanager
def private_umask() -> Iterator[None]:
    """Whatever is created inside is for its owner only: a socket must not be open to others before its mode is set."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)
