"""The agent's discovery stream to the server: trust bundles and directed renewals come down, verdicts go up.

A bundle is accepted towards the server when every proxy that relies on the agent has accepted it, however long that
takes: the server moves on that evidence. What is said on a stream shows, too, that the certificate with which it was
opened is in use, and none from before: so after a renewal the stream stays as it is until every proxy has accepted the
new certificate, and is then opened anew with that. Without the stream the agent goes on with what it holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import structlog
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from meshca.agent.addresses import ServerAddress
from meshca.agent.answers import parse_bundle, printable, refusal
from meshca.agent.channels import open_channel, svid_credentials
from meshca.agent.directive import DirectedRenewal, parse_directive
from meshca.agent.holding import Holding
from meshca.agent.hub import SecretHub
from meshca.agent.identity import AgentIdentity
from meshca.agent.offers import Offer, Offers, Verdict, shown
from meshca.agent.relying import Debt
from meshca.errors import MeshcaError, invalid
from meshca.ports import Clock
from meshca.proto.meshca.v1 import certificates_pb2, discovery_pb2

BUNDLE_TYPE = "type.googleapis.com/meshca.v1.TrustBundle"
DIRECTIVE_TYPE = "type.googleapis.com/meshca.v1.RenewalDirective"
DIRECTIVE = "renewal"

MAX_RESPONSE_BYTES = 4 * 1024 * 1024  # more than any bundle that is accepted, so that a larger one can be refused
CONNECT_WITHIN = timedelta(seconds=10)
FIRST_WAIT = timedelta(milliseconds=250)
MAX_WAIT = timedelta(seconds=30)
UNSERVED_WAIT = timedelta(minutes=1)  # the server is of a version that has no such streams
_STABLE_SECONDS = 10.0  # a stream that lasted as long was no failure
_NAP_SECONDS = 2.0  # the longest time to notice that a certificate has ended, or that a disk is well again
_WAITING_TOLD = (2.0, 30.0)  # seconds until it is first logged who is waited for, and between that and the next time
_MAX_SHOWN = 20
_KEEPALIVE: list[tuple[str, object]] = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
]

_log = structlog.get_logger("meshca.agent")


def reconnect_delay(failures: int, dice: float, *, unserved: bool = False) -> timedelta:
    """How long to wait after so many (≥ 1) failures in a row; half of it is jitter (0 ≤ dice < 1)."""
    longest = UNSERVED_WAIT if unserved else min(FIRST_WAIT * float(2 ** min(failures - 1, 20)), MAX_WAIT)
    return longest * (0.5 + 0.5 * dice)


class Upstream:
    """Keeps one stream to the server. `dice` gives a random number from 0 up to 1."""

    def __init__(
        self,
        holding: Holding,
        hub: SecretHub,
        directed: DirectedRenewal,
        clock: Clock,
        dice: Callable[[], float],
        *,
        server_name: str | None = None,
    ) -> None:
        self._holding = holding
        self._hub = hub
        self._directed = directed
        self._clock = clock
        self._dice = dice
        self._server_name = server_name
        self._offers = Offers()
        self._directive_version: str | None = None
        self._told = 0.0
        self._is_up = False
        self._used = ""  # the serial of the certificate that was seen to be in use, with none from before it

    async def run(self) -> None:
        """Until it is cancelled."""
        failures = 0
        while True:
            held, address = await self._usable()
            began = _loop_time()
            try:
                await self._follow(held, address)
            except MeshcaError as error:
                failures = 1 if _loop_time() - began > _STABLE_SECONDS else failures + 1
                await asyncio.sleep(self._lost(error, failures).total_seconds())

    async def _usable(self) -> tuple[AgentIdentity, ServerAddress]:
        """An identity that the server takes, and where."""
        while True:
            held = self._holding.identity
            if held is not None and held.mtls is not None and not held.life.has_ended(self._clock.now()):
                return held, held.mtls
            await self._holding.changed(_NAP_SECONDS)

    def _lost(self, error: MeshcaError, failures: int) -> timedelta:
        unserved = error.message.startswith(grpc.StatusCode.UNIMPLEMENTED.name)
        wait = reconnect_delay(failures, self._dice(), unserved=unserved)
        # once: when it is lost, or will not come up; what gRPC says of a first failure may be that a write failed
        say = _log.info if self._is_up or (failures == 3 and not unserved) else _log.debug
        say("upstream_lost", reason=error.message, next_try_seconds=round(wait.total_seconds(), 3))
        self._is_up = False
        return wait

    async def _follow(self, held: AgentIdentity, address: ServerAddress) -> None:
        """One stream, until it is to be opened anew. Raises MeshcaError where it ends otherwise."""
        channel = open_channel(
            address,
            svid_credentials(held),
            server_name=self._server_name,
            connect_within=CONNECT_WITHIN,
            max_receive=MAX_RESPONSE_BYTES,
            more=_KEEPALIVE,
        )
        async with channel:
            stream = _Stream(AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources())
            await self._subscribe(stream, held)
            await self._converse(stream, held)

    async def _converse(self, stream: _Stream, held: AgentIdentity) -> None:
        seen = self._hub.moves
        reading, moving = _task(stream.read()), _task(self._hub.progress(seen, _NAP_SECONDS))
        try:
            while True:
                await asyncio.wait((reading, moving), return_when=asyncio.FIRST_COMPLETED)
                if moving.done():
                    seen = moving.result()
                    moving = _task(self._hub.progress(seen, _NAP_SECONDS))
                if reading.done():
                    await self._hear(stream, reading.result())
                    reading = _task(stream.read())
                if self._is_superseded(held) or not await self._settle(stream, held):
                    return
        finally:
            reading.cancel()
            moving.cancel()
            await asyncio.gather(reading, moving, return_exceptions=True)

    async def _subscribe(self, stream: _Stream, held: AgentIdentity) -> None:
        name = str(held.bundle.trust_domain.id)
        covered = await self._is_covered(held)
        version = self._offers.claim(self._sequence(), covered=covered)
        node = Node(id=str(held.spiffe_id), user_agent_name="meshca-agent")
        await stream.subscribe(BUNDLE_TYPE, name, version, node)
        await stream.subscribe(DIRECTIVE_TYPE, DIRECTIVE, self._directive_version, node)

    async def _hear(self, stream: _Stream, response: DeltaDiscoveryResponse) -> None:
        self._is_up = True
        try:
            if response.type_url == BUNDLE_TYPE:
                accepted = await self._take_bundle(response)
            elif response.type_url == DIRECTIVE_TYPE:
                accepted = self._take_directive(response)
            else:
                raise invalid(f"type_url {response.type_url[:200]!r} was not subscribed")
        except MeshcaError as error:
            reason = printable(error.message)
            _log.error("upstream_refused", type_url=printable(response.type_url), reason=reason)
            await stream.answer(response.type_url, Verdict(response.nonce, reason))
            return
        if accepted:
            await stream.answer(response.type_url, Verdict(response.nonce))

    async def _take_bundle(self, response: DeltaDiscoveryResponse) -> bool:
        """Makes it the agent's. Whether the server is to be told at once, as for one that was accepted before."""
        held = self._holding.identity
        assert held is not None, "there is no stream without an identity"
        if response.removed_resources:
            raise invalid("a trust bundle can be replaced, but not removed")
        version, body = _only(response, str(held.bundle.trust_domain.id))
        bundle = parse_bundle(_decoded(certificates_pb2.TrustBundle, body))
        if bundle.sequence < held.bundle.sequence and self._offers.was_accepted(version, bundle.sequence):
            return True  # the server's repair of a refusal
        await self._holding.take(bundle)
        self._offers.add(Offer(response.nonce, version, bundle.sequence, _loop_time()))
        self._told = max(self._told, _loop_time() + _WAITING_TOLD[0] - _WAITING_TOLD[1])
        return False

    def _take_directive(self, response: DeltaDiscoveryResponse) -> bool:
        if response.removed_resources and not response.resources:
            self._directive_version = None
            self._directed.heed(None, self._holding.identity)
            return True
        version, body = _only(response, DIRECTIVE)
        directive = parse_directive(_decoded(discovery_pb2.RenewalDirective, body), self._clock.now())
        self._directive_version = version
        self._directed.heed(directive, self._holding.identity)
        return True

    def _is_superseded(self, held: AgentIdentity) -> bool:
        """Whether everybody has gone on to a newer certificate than the stream's, and restarts find that."""
        newest = self._holding.identity
        if newest is None or newest.serial == held.serial or newest.mtls is None or not self._holding.is_durable:
            return False
        return not newest.life.has_ended(self._clock.now()) and self._is_used(newest)

    def _is_used(self, held: AgentIdentity) -> bool:
        """Whether nobody behind the agent uses a certificate from before that one any more."""
        newest = self._holding.identity
        if newest is not None and newest.serial == held.serial and not self._hub.identity_debts():
            self._used = held.serial
        return self._used == held.serial

    async def _settle(self, stream: _Stream, held: AgentIdentity) -> bool:
        """Gives the verdicts that can be given now. False: one was given and no longer holds, so that only a new stream
        can tell (by the versions that it names as held)."""
        if self._offers.is_settled:
            return True
        debts = self._hub.debts()
        if debts:
            if debts[0].refusal:
                await self._answer(stream, self._offers.refuse(debts))
            self._tell_waiting(debts)
            return True
        if not await self._is_covered(held):
            return True
        return await self._accept(stream)

    async def _accept(self, stream: _Stream) -> bool:
        verdicts, newest = self._offers.accept(), self._offers.newest
        assert newest is not None
        await self._answer(stream, verdicts)
        waited = round(_loop_time() - newest.since, 3)
        _log.info("bundle_acknowledged", sequence=newest.sequence, waited_seconds=waited)
        return bool(verdicts)

    async def _answer(self, stream: _Stream, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            await stream.answer(BUNDLE_TYPE, verdict)

    async def _is_covered(self, held: AgentIdentity) -> bool:
        """Whether every proxy has accepted what is served, none uses a certificate from before the stream's, and that
        is where a restart finds it."""
        if not self._is_used(held) or not self._holding.is_durable:
            return False
        return not self._hub.debts() and await self._hub.remember(verdicts=True) and not self._hub.debts()

    def _sequence(self) -> int:
        held = self._holding.identity
        return -1 if held is None else held.bundle.sequence

    def _tell_waiting(self, debts: tuple[Debt, ...]) -> None:
        if _loop_time() - self._told < _WAITING_TOLD[1]:
            return
        self._told = _loop_time()
        names = [shown(debt.node_id) + (" (away)" if debt.away else "") for debt in debts[:_MAX_SHOWN]]
        _log.warning("bundle_waits", sequence=self._sequence(), nodes=names, count=len(debts))


class _Stream:
    """The wire's side of one stream. Everything raises MeshcaError once the stream has ended."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def read(self) -> DeltaDiscoveryResponse:
        """The next response."""
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise refusal(error.code(), error.details() or "") from error
        if response is grpc.aio.EOF:
            raise await self._end()
        return response

    async def subscribe(self, type_url: str, name: str, held: str | None, node: Node) -> None:
        """Asks for one resource, of which the version `held` need not be sent."""
        versions = {} if held is None else {name: held}
        await self._write(
            DeltaDiscoveryRequest(
                node=node, type_url=type_url, resource_names_subscribe=[name], initial_resource_versions=versions
            )
        )

    async def answer(self, type_url: str, verdict: Verdict) -> None:
        """Accepts or refuses a response."""
        request = DeltaDiscoveryRequest(type_url=type_url, response_nonce=verdict.nonce)
        if verdict.refusal:
            code: int = grpc.StatusCode.INVALID_ARGUMENT.value[0]
            request.error_detail.CopyFrom(Status(code=code, message=verdict.refusal))
        await self._write(request)

    async def _write(self, request: DeltaDiscoveryRequest) -> None:
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            raise refusal(error.code(), error.details() or "") from error
        except asyncio.InvalidStateError as error:  # it ended before
            raise await self._end() from error

    async def _end(self) -> MeshcaError:
        return refusal(await self._call.code(), await self._call.details() or "")


def _only(response: DeltaDiscoveryResponse, name: str) -> tuple[str, bytes]:
    """Version and body of the one resource that was asked for. Raises INVALID for anything else."""
    if [resource.name for resource in response.resources] != [name]:
        names = ", ".join(repr(resource.name[:100]) for resource in response.resources[:3]) or "none"
        raise invalid(f"{name!r} alone was subscribed, and the response has: {names}")
    resource = response.resources[0]
    if resource.resource.type_url != response.type_url or not resource.version:
        raise invalid(f"{name!r} has no version, or is a {resource.resource.type_url[:200]!r}")
    return resource.version, resource.resource.value


def _decoded(message: Any, body: bytes) -> Any:
    try:
        return message.FromString(body)
    except DecodeError as error:
        raise invalid(f"it is no {message.DESCRIPTOR.full_name}") from error


def _task(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coroutine)


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
