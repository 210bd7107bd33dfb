"""Where the agent listens: a directory nobody else can write to, and no other agent already there."""

from __future__ import annotations

import grp
import os
import socket
import stat
from pathlib import Path

import pytest

from meshca.agent.sockets import SocketPlace, private_umask
from meshca.errors import ErrorKind, MeshcaError


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    with private_umask():
        listener.bind(str(path))
    listener.listen()
    return listener


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_directory_is_made_for_its_owner_only(short_tmp: Path) -> None:
    place = SocketPlace(short_tmp / "run" / "agent.sock")
    place.prepare()
    with listen(place.path):
        place.open_to_group()
        assert mode(short_tmp / "run") == 0o700
        assert mode(place.path) == 0o600


def test_with_a_group_its_members_may_connect(short_tmp: Path) -> None:
    group = grp.getgrgid(os.getegid()).gr_name
    place = SocketPlace(short_tmp / "run" / "agent.sock", group)
    place.prepare()
    with listen(place.path):
        assert mode(place.path) == 0o600, "never more open than at the end"
        place.open_to_group()
        assert mode(short_tmp / "run") == 0o750
        assert mode(place.path) == 0o660
        assert place.path.stat().st_gid == os.getegid()


def test_an_unknown_group_is_refused(short_tmp: Path) -> None:
    with pytest.raises(MeshcaError, match="no such group"):
        SocketPlace(short_tmp / "agent.sock", "no-such-group-here").prepare()


@pytest.mark.parametrize("open_mode", [0o770, 0o702, 0o777])
def test_a_directory_that_others_may_write_is_refused(short_tmp: Path, open_mode: int) -> None:
    short_tmp.chmod(open_mode)
    with pytest.raises(MeshcaError, match="others may write") as refusal:
        SocketPlace(short_tmp / "agent.sock").prepare()
    assert refusal.value.kind is ErrorKind.INVALID


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(short_tmp: Path) -> None:
    (short_tmp / "theirs").mkdir(mode=0o700)
    os.chown(short_tmp / "theirs", 12345, -1)
    with pytest.raises(MeshcaError, match="belongs to another user"):
        SocketPlace(short_tmp / "theirs" / "agent.sock").prepare()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
def test_a_link_of_another_user_to_a_good_directory_is_refused(short_tmp: Path) -> None:
    (short_tmp / "good").mkdir(mode=0o700)
    link = short_tmp / "link"
    link.symlink_to(short_tmp / "good")
    SocketPlace(link / "agent.sock").prepare()
    os.chown(link, 12345, -1, follow_symlinks=False)
    with pytest.raises(MeshcaError, match="belongs to another user"):
        SocketPlace(link / "agent.sock").prepare()


def test_a_link_in_place_of_the_socket_is_not_followed(short_tmp: Path) -> None:
    (short_tmp / "precious").write_text("precious")
    (short_tmp / "agent.sock").symlink_to(short_tmp / "precious")
    with pytest.raises(MeshcaError, match="what is there is no socket"):
        SocketPlace(short_tmp / "agent.sock").prepare()


def test_a_live_socket_belongs_to_another_agent(short_tmp: Path) -> None:
    place = SocketPlace(short_tmp / "agent.sock")
    with listen(place.path):
        with pytest.raises(MeshcaError, match="another agent serves it") as refusal:
            place.prepare()
        assert refusal.value.kind is ErrorKind.CONFLICT
        assert place.path.exists()


def test_a_dead_socket_is_cleared(short_tmp: Path) -> None:
    place = SocketPlace(short_tmp / "agent.sock")
    listen(place.path).close()
    assert place.path.exists()
    place.prepare()
    assert not place.path.exists()


def test_a_file_in_the_way_is_never_removed(short_tmp: Path) -> None:
    (short_tmp / "agent.sock").write_text("precious")
    with pytest.raises(MeshcaError, match="what is there is no socket"):
        SocketPlace(short_tmp / "agent.sock").prepare()
    assert (short_tmp / "agent.sock").read_text() == "precious"


def test_a_path_too_long_for_a_socket_is_refused_before_anything_is_made(short_tmp: Path) -> None:
    place = SocketPlace(short_tmp / ("d" * 100) / "agent.sock")
    with pytest.raises(MeshcaError, match="107 bytes"):
        place.prepare()
    assert not place.path.parent.exists()
