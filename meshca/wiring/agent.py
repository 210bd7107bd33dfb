"""The agent process: built from its settings, run until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

from cryptography import x509

from meshca.agent.addresses import parse_server_address
from meshca.agent.agent import Agent
from meshca.agent.authority import AuthorityEndpoint, CertificateWish, GrpcCertificateAuthority
from meshca.agent.directive import DirectedRenewal
from meshca.agent.files import CertificateFiles
from meshca.agent.holding import AgentOutputs, Holding
from meshca.agent.hub import SecretHub
from meshca.agent.memory import ProxyFile, ProxyMemory
from meshca.agent.ready import ReadyFile
from meshca.agent.sds import SdsServer
from meshca.agent.sockets import SocketPlace
from meshca.agent.state import AgentState, state_binding
from meshca.agent.tokens import JoinTokenSource, TokenFileSource, TokenSource
from meshca.agent.upstream import Upstream
from meshca.errors import invalid
from meshca.ports import Clock
from meshca.settings.agent import AgentSettings
from meshca.wiring.clock import SystemClock
from meshca.wiring.logs import configure_logging


def run_agent(settings: AgentSettings) -> None:
    """Runs the agent until SIGTERM or SIGINT; raises what keeps it from starting."""
    configure_logging(settings.log_format, settings.log_level)
    os.umask(0o077)
    asyncio.run(_run(settings))


def build_agent(settings: AgentSettings, clock: Clock | None = None) -> Agent:
    """The agent that `settings` describe, by the system's time unless a clock is given.

    Raises INVALID for an address, file or token that cannot be one.
    """
    clock = clock or SystemClock()
    server = parse_server_address("--server", settings.server)
    trust_pem = _read_trust(settings.trust_bundle)
    socket = settings.socket.absolute()
    state_dir = settings.state_dir or socket.parent / "state"
    hub = SecretHub(clock, max_streams=settings.max_streams, memory=ProxyMemory(ProxyFile(state_dir)))
    sds = SdsServer(hub, SocketPlace(socket, settings.socket_group), max_streams=settings.max_streams)
    holding = Holding(
        hub=hub,
        sds=sds,
        state=AgentState(state_dir, state_binding(trust_pem, server)),
        outputs=AgentOutputs(
            files=None if settings.output_dir is None else CertificateFiles(settings.output_dir),
            ready=None if settings.ready_file is None else ReadyFile(settings.ready_file, socket),
        ),
        clock=clock,
    )
    directed = DirectedRenewal(clock, random.random)
    return Agent(
        authority=GrpcCertificateAuthority(
            AuthorityEndpoint(server, trust_pem, settings.server_name),
            _tokens(settings),
            clock,
            wish=CertificateWish(settings.key_type, settings.ttl),
        ),
        holding=holding,
        sds=sds,
        upstream=Upstream(holding, hub, directed, clock, random.random, server_name=settings.server_name),
        directed=directed,
        clock=clock,
        dice=random.random,
    )


async def _run(settings: AgentSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await build_agent(settings).run(stop)


def _tokens(settings: AgentSettings) -> TokenSource:
    if settings.join_token is not None:
        return JoinTokenSource(settings.join_token.get_secret_value())
    assert settings.token_file is not None, "settings have exactly one of the two"
    return TokenFileSource(settings.token_file)


def _read_trust(path: Path) -> bytes:
    try:
        pem = path.read_bytes()
        x509.load_pem_x509_certificates(pem)
    except OSError as error:
        raise invalid(f"--trust-bundle {path}: cannot be read: {error.strerror}") from error
    except (ValueError, x509.InvalidVersion) as error:
        raise invalid(f"--trust-bundle {path}: has no PEM certificates: get it with `meshca bundle show`") from error
    return pem
