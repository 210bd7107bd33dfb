"""The signing door of one process: the token listener and the mTLS listener."""

from __future__ import annotations

import asyncio
import gc
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from meshca.rpc.certificates import (
    ISTIO_SERVICE,
    MESHCA_SERVICE,
    CertificateDoor,
    DoorMetrics,
    certificate_handlers,
)
from meshca.rpc.limits import PeerLimiter
from meshca.rpc.listeners import Listener, ListenerLimits
from meshca.rpc.peers import mtls_peer, token_peer
from meshca.settings.server import ServerSettings, parse_listen_address
from meshca.wiring.core import Core
from meshca.wiring.open_files import affordable_connections

_SERVICES = (ISTIO_SERVICE, MESHCA_SERVICE)


@dataclass(frozen=True, slots=True)
class DoorAddresses:
    """Where the door really listens, as host:port."""

    token: str
    mtls: str


def door_threads(settings: ServerSettings) -> ThreadPoolExecutor:
    """The threads of a process, for what must not hold up its loop: `limits.threads` of them."""
    return ThreadPoolExecutor(settings.limits.threads, "meshca")


class Door:
    """Both listeners of one process, on the running loop. `open` binds and serves; `close` drains."""

    def __init__(
        self, core: Core, settings: ServerSettings, metrics: DoorMetrics, *, shared_ports: bool = False
    ) -> None:
        self._core = core
        self._settings = settings
        limits = settings.limits
        bounds = ListenerLimits(
            max_concurrent_calls=limits.max_concurrent_calls,
            max_connection_age=limits.max_connection_age,
            max_connections=affordable_connections(limits.max_connections),
            shared_port=shared_ports,
        )
        limiter = PeerLimiter(limits.requests_per_second, limits.burst, time.monotonic)
        token = CertificateDoor(
            core.authentication, core.issuance, limiter, core.clock, metrics, token_peer, self._mtls_address
        )
        mtls = CertificateDoor(core.authentication, core.issuance, limiter, core.clock, metrics, mtls_peer, str)
        self._token = Listener(certificate_handlers(token, metrics), _SERVICES, bounds)
        self._mtls = Listener(certificate_handlers(mtls, metrics), _SERVICES, bounds)
        self._advertised = settings.advertise_mtls or ""

    async def open(self) -> DoorAddresses:
        """Binds both addresses and serves. Raises UNAVAILABLE where an address cannot be had."""
        token = self._bind(self._token, self._settings.token_listen, client_certificates=False)
        mtls = self._bind(self._mtls, self._settings.mtls_listen, client_certificates=True)
        self._advertised = self._advertised or mtls
        # what is loaded by now stays: the collector need not go through it again and again while the door is open
        gc.collect()
        gc.freeze()
        await self._token.start()
        await self._mtls.start()
        return DoorAddresses(token, mtls)

    async def close(self) -> None:
        """Ends both listeners; calls under way get the grace period, both at once."""
        grace = self._settings.shutdown_grace
        await asyncio.gather(self._token.stop(grace), self._mtls.stop(grace))

    def _bind(self, listener: Listener, address: str, *, client_certificates: bool) -> str:
        host, _ = parse_listen_address(address)
        identity = self._core.identity
        port = listener.bind_tls(address, lambda: identity.material, client_certificates=client_certificates)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _mtls_address(self) -> str:
        return self._advertised
