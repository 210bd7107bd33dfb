"""The door of one process: the token listener and the mTLS listener, certificates and streams on both."""

from __future__ import annotations

import asyncio
import gc
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import grpc

from meshca.compile.bundles import NO_RENEWAL, RenewalWindow
from meshca.rpc.certificates import (
    ISTIO_SERVICE,
    MESHCA_SERVICE,
    CertificateDoor,
    DoorMetrics,
    certificate_handlers,
)
from meshca.rpc.discovery import ADS, SDS, discovery_handlers
from meshca.rpc.distribution import DiscoveryDoor
from meshca.rpc.limits import Pace, PeerLimiter
from meshca.rpc.listeners import Listener, ListenerLimits
from meshca.rpc.peers import mtls_peer, token_peer
from meshca.rpc.upstream import UPSTREAM_SERVICE, UpstreamDoor, upstream_handlers
from meshca.services.acknowledgements import AcknowledgementQueue
from meshca.services.authentication import Authentication
from meshca.services.distribution import Distribution, StreamLimits, StreamMetrics
from meshca.services.signing import SigningState
from meshca.settings.server import ServerSettings, parse_listen_address
from meshca.wiring.clock import SystemClock
from meshca.wiring.core import Core
from meshca.wiring.open_files import affordable_connections

# Young objects between two collections: a push to ten thousand streams makes many that live for a moment, and each
# collection would look at all of them.
_COLLECT_AFTER = 50_000

# Issuing CAs that one nested server may have.
_MINTS_PER_SECOND, _MINTS_AT_ONCE = 1 / 60, 20

_SERVICES = (ISTIO_SERVICE, MESHCA_SERVICE, SDS, ADS)


class AllDoorMetrics(DoorMetrics, StreamMetrics, Protocol):
    """What the door counts, calls and streams."""


@dataclass(frozen=True, slots=True)
class DoorAddresses:
    """Where the door really listens, as host:port."""

    token: str
    mtls: str


def door_threads(settings: ServerSettings) -> ThreadPoolExecutor:
    """The threads of a process, for what must not hold up its loop: `limits.threads` of them."""
    return ThreadPoolExecutor(settings.limits.threads, "meshca")


class Door:
    """Both listeners of one process, on the running loop. `open` binds and serves; `close` drains.

    Streams are pushed to by a task that `open` begins, `pushing`; it never ends by itself.
    """

    def __init__(
        self, core: Core, settings: ServerSettings, metrics: AllDoorMetrics, *, shared_ports: bool = False
    ) -> None:
        self._core = core
        self._settings = settings
        self.pushing: asyncio.Task[None] | None = None
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
        self._acknowledgements = AcknowledgementQueue(core.stores.evidence.add)
        self._distribution = Distribution(
            core.clock,
            self._acknowledgements,
            metrics,
            StreamLimits(limits.max_streams, limits.max_streams_per_identity, limits.max_connection_age),
        )
        self._token = self._listener(token, metrics, bounds, DiscoveryDoor(*self._discovery(limiter), token_peer))
        self._below = self._downstream_door(limiter)
        further = () if self._below is None else upstream_handlers(self._below)
        streams = DiscoveryDoor(*self._discovery(limiter), mtls_peer)
        self._mtls = self._listener(mtls, metrics, bounds, streams, further)
        self._advertised = settings.advertise_mtls or ""

    async def open(self) -> DoorAddresses:
        """Binds both addresses and serves. Raises UNAVAILABLE where an address cannot be had."""
        token = self._bind(self._token, self._settings.token_listen, client_certificates=False)
        mtls = self._bind(self._mtls, self._settings.mtls_listen, client_certificates=True)
        self._advertised = self._advertised or mtls
        self._core.signing.follow(self._publish)
        self.pushing = asyncio.create_task(self._distribution.run(), name="streams")
        # what is loaded by now stays: the collector need not go through it again and again while the door is open
        gc.collect()
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER)
        await self._token.start()
        await self._mtls.start()
        return DoorAddresses(token, mtls)

    async def close(self) -> None:
        """Ends both listeners; calls under way get the grace period, both at once. Streams end at once, and what was
        acknowledged on them is recorded first."""
        grace = self._settings.shutdown_grace
        self._distribution.close()
        if self._below is not None:
            self._below.close()
        await asyncio.gather(self._token.stop(grace), self._mtls.stop(grace))
        if self.pushing is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace.total_seconds()):
                    await self._acknowledgements.settled()
            self.pushing.cancel()
            await asyncio.gather(self.pushing, return_exceptions=True)

    def _listener(
        self,
        door: CertificateDoor,
        metrics: AllDoorMetrics,
        bounds: ListenerLimits,
        streams: DiscoveryDoor,
        further: tuple[grpc.GenericRpcHandler, ...] = (),
    ) -> Listener:
        services = (*_SERVICES, UPSTREAM_SERVICE) if further else _SERVICES
        discovery = discovery_handlers(streams, lambda: Pace(time.monotonic))
        return Listener((*certificate_handlers(door, metrics), *discovery, *further), services, bounds)

    def _downstream_door(self, limiter: PeerLimiter) -> UpstreamDoor | None:
        """Nested servers come with their certificates, to the mTLS listener alone."""
        core, downstream = self._core, self._core.authorities.downstream
        if downstream is None:
            return None
        mints = PeerLimiter(_MINTS_PER_SECOND, _MINTS_AT_ONCE, time.monotonic)
        return UpstreamDoor(downstream, core.authentication, limiter, mints, core.clock, mtls_peer)

    def _discovery(self, limiter: PeerLimiter) -> tuple[Distribution, Authentication, PeerLimiter, SystemClock]:
        return self._distribution, self._core.authentication, limiter, self._core.clock

    def _publish(self, state: SigningState) -> None:
        """Every bundle that doors sign beside is pushed, with the order to renew that goes with it, to all but the
        banned."""
        order = state.ring.renewing
        window = NO_RENEWAL if order is None else RenewalWindow(order.issuer_ids, order.start, order.seconds)
        self._distribution.publish(state.bundle, window, bans=state.bans)

    def _bind(self, listener: Listener, address: str, *, client_certificates: bool) -> str:
        host, _ = parse_listen_address(address)
        identity = self._core.identity
        port = listener.bind_tls(address, lambda: identity.material, client_certificates=client_certificates)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _mtls_address(self) -> str:
        return self._advertised
