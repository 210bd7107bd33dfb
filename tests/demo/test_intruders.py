"""The demonstration's intruders: only an answer is an admission, and only a closed door is a refusal."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshca.demo.intruders import ask, foreign_credentials, is_admitted
from meshca.errors import ErrorKind, MeshcaError
from meshca.spiffe.ids import SpiffeId

CLIENT = SpiffeId.parse("spiffe://demo.test/ns/a/sa/client")


@contextmanager
def hanging_up(path: Path) -> Iterator[None]:
    """A listener that ends one connection as soon as something was said on it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def hang_up() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)

        thread = threading.Thread(target=hang_up)
        thread.start()
        yield
        thread.join()


@pytest.mark.parametrize("credentials", [None, foreign_credentials(CLIENT)])
def test_a_connection_that_is_ended_is_a_refusal(short_tmp: Path, credentials: bytes | None) -> None:
    with hanging_up(short_tmp / "in.sock"):
        assert ask(short_tmp / "in.sock", credentials) is None


def test_nobody_there_is_no_refusal(short_tmp: Path) -> None:
    with pytest.raises(MeshcaError, match="the service's Envoy does not answer") as raised:
        is_admitted(short_tmp / "in.sock", None)
    assert raised.value.kind is ErrorKind.UNAVAILABLE
