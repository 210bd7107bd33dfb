"""Addresses in an Envoy configuration: TCP and Unix sockets, parsed once."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any

from meshca.errors import invalid

# sun_path holds 108 bytes with the closing NUL; Envoy refuses 108 (measured).
MAX_PIPE_BYTES = 107
# Decimal, as Envoy's JSON wants it: only the owner may connect.
PIPE_MODE = 0o600

_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_MAX_HOST_BYTES = 253


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host (an IP address without brackets, or a DNS name) and a port from 0 to 65535."""

    host: str
    port: int

    @property
    def is_ip(self) -> bool:
        """Whether the host is an IP address."""
        return _ip(self.host) is not None

    @property
    def is_loopback(self) -> bool:
        """Whether the host is an IP address of this machine alone."""
        address = _ip(self.host)
        return address is not None and address.is_loopback

    def as_envoy(self) -> dict[str, Any]:
        """The `envoy.config.core.v3.Address`."""
        return {"socket_address": {"address": self.host, "port_value": self.port}}


@dataclass(frozen=True, slots=True)
class PipeAddress:
    """A Unix socket: an absolute path of at most 107 bytes."""

    path: str

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise invalid(
                f"unix socket path {self.path!r} is not absolute: Envoy would read it below its own directory"
            )
        if "\0" in self.path:
            raise invalid("unix socket path has a NUL byte")
        length = len(self.path.encode())
        if length > MAX_PIPE_BYTES:
            raise invalid(
                f"unix socket path {self.path!r} is {length} bytes long: the system allows {MAX_PIPE_BYTES}, "
                "choose a shorter directory"
            )

    def as_envoy(self) -> dict[str, Any]:
        """The `envoy.config.core.v3.Address` of a socket to connect to."""
        return {"pipe": {"path": self.path}}

    def as_envoy_listener(self) -> dict[str, Any]:
        """The `envoy.config.core.v3.Address` of a socket to make: for the owner alone (Envoy's default is 0755)."""
        return {"pipe": {"path": self.path, "mode": PIPE_MODE}}


Address = TcpAddress | PipeAddress


def parse_address(name: str, text: str) -> Address:
    """The address that `unix:/path`, `host:port` or `[ipv6]:port` spells; `localhost` becomes 127.0.0.1.

    Raises INVALID that starts with `name` for anything else.
    """
    if text.startswith("unix:"):
        return PipeAddress(text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or int(port) > 65535:
        raise invalid(f"{name} {text!r} is neither host:port (such as 127.0.0.1:8080) nor unix:/path")
    return TcpAddress(_parse_host(name, text, host), int(port))


def listen_address(name: str, address: Address) -> dict[str, Any]:
    """The `envoy.config.core.v3.Address` to listen on. Raises INVALID where the host is not an IP address."""
    if isinstance(address, PipeAddress):
        return address.as_envoy_listener()
    if not address.is_ip:
        raise invalid(f"{name} {address.host!r}: Envoy listens on an IP address or unix:/path, not on a name")
    return address.as_envoy()


def _parse_host(name: str, text: str, host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if _ip(bare) is not None and (":" in bare) == (bare != host):
        return bare
    if not host or len(host) > _MAX_HOST_BYTES or not all(_HOST_LABEL.fullmatch(label) for label in host.split(".")):
        raise invalid(f"{name} {text!r}: {host!r} is neither an IP address ([…] around IPv6) nor a DNS name")
    if re.fullmatch(r"[0-9.]+", host, re.ASCII):
        raise invalid(f"{name} {text!r}: {host!r} looks like an IP address but is none")
    return host


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
