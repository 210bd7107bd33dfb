"""Mutual TLS on a plain socket, with few system calls."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

RECORD = 16_384
PATIENCE = 30.0  # seconds


def client_context(directory: Path) -> ssl.SSLContext:
    """TLS with the certificate and key in `directory`, trusting the root there and nothing else."""
    context = ssl.create_default_context(cafile=directory / "root.pem")
    context.load_cert_chain(directory / "chain.pem", directory / "key.pem")
    context.set_alpn_protocols(["h2"])
    return context


class Tls:
    """A TLS connection: one system call reads all that is there, one writes all that there is to say."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        self.socket = socket.create_connection((host, port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
        while not self._shaken():
            if not self._in.write(self.socket.recv(RECORD)):
                self._in.write_eof()
        if self._tls.selected_alpn_protocol() != "h2":
            raise SystemExit("the server does not speak HTTP/2")

    def _shaken(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.socket.sendall(self._out.read())
        return True

    def write(self, data: bytes) -> None:
        """Sends `data`. A peer that went away is noticed in reading."""
        self._tls.write(data)
        try:
            self.socket.sendall(self._out.read())
        except ConnectionError:
            return

    def read(self) -> bytes | None:
        """What there is to read, waiting where there is nothing; None at the end of the connection."""
        try:
            arrived = self.socket.recv(1 << 20)
        except ConnectionError:
            return None
        self._in.write(arrived)
        pieces: list[bytes] = []
        try:
            while self._in.pending or self._tls.pending():
                pieces.append(self._tls.read(1 << 20))
                if not pieces[-1]:
                    break
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        return b"".join(pieces) if arrived else None
