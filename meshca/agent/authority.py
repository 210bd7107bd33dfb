"""The client of the certificate authority: a new key, a request, and an answer that is checked before it counts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Protocol

import grpc
import grpc.aio

from meshca.agent.addresses import ServerAddress
from meshca.agent.answers import accept_answer, pushback, refusal
from meshca.agent.channels import open_channel, svid_credentials
from meshca.agent.identity import AgentIdentity
from meshca.agent.keys import KeyRequest, new_key_request
from meshca.agent.tokens import TokenSource
from meshca.errors import ErrorKind, MeshcaError, unauthenticated
from meshca.pki.keys import KeyAlgorithm
from meshca.ports import Clock
from meshca.proto.meshca.v1 import certificates_pb2 as pb
from meshca.proto.meshca.v1.certificates_pb2_grpc import CertificateServiceStub
from meshca.rpc.status import PUSHBACK

DEADLINE = timedelta(seconds=10)
MAX_ANSWER_BYTES = 1024 * 1024
# The mTLS listener is out of reach or does not take the certificate: a token may still do. Other refusals stand.
_TOKEN_MAY_HELP = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.UNAUTHENTICATED, ErrorKind.DENIED})


class CertificateAuthority(Protocol):
    """Where an agent gets its identity."""

    async def obtain(self, held: AgentIdentity | None) -> AgentIdentity:
        """A new identity in place of `held`. Raises MeshcaError where none is to be had now; `held` then stays."""
        ...


@dataclass(frozen=True, slots=True)
class AuthorityEndpoint:
    """The server as configured: its token listener, the PEM roots that are trusted at first contact, and the name in
    its certificate where that is not the host of the address."""

    server: ServerAddress
    trust_pem: bytes = field(repr=False)
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class CertificateWish:
    """What to ask for: the key's type and the lifetime (None: the server's default)."""

    key_algorithm: KeyAlgorithm = KeyAlgorithm.P256
    ttl: timedelta | None = None


class GrpcCertificateAuthority:
    """Asks a meshca server.

    With a valid SVID over its mTLS listener; at first, once that has expired, or where that listener refuses or is out
    of reach, with a token over its token listener. Each call has a channel of its own: calls are rare, each comes with
    new credentials, and a channel that is kept would keep gRPC's own, longer, backoff after an outage.
    """

    def __init__(
        self,
        endpoint: AuthorityEndpoint,
        tokens: TokenSource,
        clock: Clock,
        *,
        wish: CertificateWish | None = None,
        deadline: timedelta = DEADLINE,
    ) -> None:
        self._endpoint = endpoint
        self._tokens = tokens
        self._clock = clock
        self._wish = wish or CertificateWish()
        self._deadline = deadline

    async def obtain(self, held: AgentIdentity | None) -> AgentIdentity:
        """A new identity for a new key.

        Raises the server's refusal, UNAVAILABLE, or INVALID for an answer that must not be believed.
        """
        if held is None or held.mtls is None or held.life.has_ended(self._clock.now()):
            return await self._obtain_by_token(held)
        try:
            return await self._obtain_by_svid(held, held.mtls)
        except MeshcaError as error:
            if error.kind not in _TOKEN_MAY_HELP:
                raise
            return await self._obtain_by_token(held, after=error)

    async def _obtain_by_svid(self, held: AgentIdentity, address: ServerAddress) -> AgentIdentity:
        return await self._ask(address, svid_credentials(held), (), held)

    async def _obtain_by_token(self, held: AgentIdentity | None, after: MeshcaError | None = None) -> AgentIdentity:
        try:
            token = await asyncio.to_thread(self._tokens.read)
            if token is None:
                raise unauthenticated("no token is left: give a new --join-token or a --token-file")
            identity = await self._ask_with_token(token, held)
        except MeshcaError as error:
            raise error if after is None else _both(after, error) from error
        self._tokens.spend()
        return replace(identity, first=True)

    async def _ask_with_token(self, token: str, held: AgentIdentity | None) -> AgentIdentity:
        roots = self._endpoint.trust_pem if held is None else held.bundle.pem.encode("ascii")
        credentials = grpc.ssl_channel_credentials(root_certificates=roots)
        try:
            return await self._ask(self._endpoint.server, credentials, (("authorization", f"Bearer {token}"),), held)
        except MeshcaError as error:
            # a server (or a proxy before it) may repeat the header that it does not like
            message = error.message.replace(token, "[token]")
            raise MeshcaError(error.kind, message, retry_after=error.retry_after, reason=error.reason) from None

    async def _ask(
        self,
        address: ServerAddress,
        credentials: grpc.ChannelCredentials,
        metadata: tuple[tuple[str, str], ...],
        held: AgentIdentity | None,
    ) -> AgentIdentity:
        request = await asyncio.to_thread(new_key_request, self._wish.key_algorithm)
        async with self._channel(address, credentials) as channel:
            try:
                answer = await CertificateServiceStub(channel).SignCertificates(
                    self._message(request), metadata=metadata, timeout=self._deadline.total_seconds()
                )
            except grpc.aio.AioRpcError as error:
                raise _refusal(address, error) from error
        return accept_answer(answer, request, self._endpoint.server, held, self._clock.now())

    def _message(self, request: KeyRequest) -> pb.SignCertificatesRequest:
        ttl = 0 if self._wish.ttl is None else max(int(self._wish.ttl.total_seconds()), 1)
        return pb.SignCertificatesRequest(requests=[pb.SigningRequest(csr=request.csr, ttl_seconds=ttl)])

    def _channel(self, address: ServerAddress, credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
        return open_channel(
            address,
            credentials,
            server_name=self._endpoint.server_name,
            connect_within=self._deadline,
            max_receive=MAX_ANSWER_BYTES,
        )


def _refusal(address: ServerAddress, error: grpc.aio.AioRpcError) -> MeshcaError:
    asked = dict(error.trailing_metadata() or ()).get(PUSHBACK)
    wait = None if asked is None else pushback(str(asked)).total_seconds()
    found = refusal(error.code(), error.details() or "", retry_after=wait)
    return MeshcaError(found.kind, f"{address}: {found.message}", retry_after=found.retry_after)


def _both(first: MeshcaError, second: MeshcaError) -> MeshcaError:
    """One error for the two ways that failed; its kind is that of the way tried last."""
    waits = [e.retry_after for e in (first, second) if e.retry_after is not None]
    message = f"with the certificate: {first.message}; with the token: {second.message}"
    return MeshcaError(second.kind, message, retry_after=max(waits, default=None), reason=second.reason)
