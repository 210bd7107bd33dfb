"""Channels to the server: how they are made safe, and what they must not inherit from gRPC or the environment."""

from __future__ import annotations

from datetime import timedelta

import grpc
import grpc.aio

from meshca.agent.addresses import ServerAddress
from meshca.agent.identity import AgentIdentity

Options = list[tuple[str, object]]


def svid_credentials(held: AgentIdentity) -> grpc.ChannelCredentials:
    """Mutual TLS with the SVID; the server is verified by the bundle."""
    return grpc.ssl_channel_credentials(
        root_certificates=held.bundle.pem.encode("ascii"),
        private_key=held.svid.private_key_pem,
        certificate_chain=held.svid.chain_pem.encode("ascii"),
    )


def open_channel(
    address: ServerAddress,
    credentials: grpc.ChannelCredentials,
    *,
    server_name: str | None,
    connect_within: timedelta,
    max_receive: int,
    more: Options | None = None,
) -> grpc.aio.Channel:
    """A channel of its own. `server_name` is the name in the server's certificate where that is not the host."""
    options: Options = [
        ("grpc.max_receive_message_length", max_receive),
        ("grpc.min_reconnect_backoff_ms", round(connect_within.total_seconds() * 1000)),  # bounds connecting, too
        ("grpc.use_local_subchannel_pool", 1),  # no backoff that an earlier channel left behind
        ("grpc.enable_retries", 0),  # when to try again is for us to decide
        ("grpc.enable_http_proxy", 0),  # an environment meant for web traffic must not redirect identities
        *(more or ()),
    ]
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
        options.append(("grpc.default_authority", server_name))
    return grpc.aio.secure_channel(address.target, credentials, options=options)
