"""Where the server is, as flags and the server itself spell it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from meshca.errors import invalid

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_MAX_NAME_BYTES = 253
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A host (DNS name, or IP address without brackets) and a port from 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def target(self) -> str:
        """The gRPC target. Its scheme is explicit: a bare `unix:1` or `xds:1` would mean something else."""
        return f"dns:///{self}"


def parse_server_address(field: str, text: str) -> ServerAddress:
    """The address that `host:port` or `[ipv6]:port` spells. Raises INVALID, naming `field`, for anything else."""
    host, port = _split(field, text)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not ((_is_ip(bare) and (":" in bare) == (bare != host)) or _is_name(host)):
        raise invalid(f"{field} {text[:300]!r}: the host is neither a DNS name nor an IP address ([…] around IPv6)")
    return ServerAddress(bare, port)


def mtls_address(text: str, server: ServerAddress) -> ServerAddress:
    """The mTLS listener that the server tells of; one that names every interface or no host is on `server`'s host.

    Raises INVALID for what is no address.
    """
    host, port = _split("mtls_address", text)
    if host in ("", "0.0.0.0", "[::]"):  # noqa: S104  # a wildcard that is read, not bound
        return ServerAddress(server.host, port)
    return parse_server_address("mtls_address", text)


def _split(field: str, text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise invalid(f"{field} {text[:300]!r} is not host:port, such as ca.example.org:15012")
    return host, int(port)


def _is_name(host: str) -> bool:
    return len(host) <= _MAX_NAME_BYTES and all(_LABEL.fullmatch(label) for label in host.split("."))


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host
