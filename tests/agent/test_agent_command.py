"""`meshca agent` as a program: its configuration, its signals, its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from meshca.errors import MeshcaError
from meshca.settings.agent import AgentSettings
from meshca.settings.sources import load_settings
from meshca.wiring.agent import build_agent
from tests.agent.discovery import until
from tests.fakes.certificate_authority import SPIFFE_ID, FakeAuthority, fresh_root

JOIN = "mjt_" + "j" * 43
PROGRAM = (sys.executable, "-m", "meshca.cli", "agent")


def start(arguments: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen([*PROGRAM, *arguments], env={**os.environ, **environment}, stdout=out, stderr=out)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_until_a_signal_and_exits_0_without_a_word_of_its_secrets(
    short_tmp: Path, stop: signal.Signals
) -> None:
    async with FakeAuthority(join_tokens=(JOIN,)) as ca:
        (short_tmp / "roots.pem").write_bytes(ca.trust_pem)
        ready, log = short_tmp / "ready.json", short_tmp / "log"
        arguments = ["--server", ca.token_address, "--trust-bundle", str(short_tmp / "roots.pem")]
        environment = {
            "MESHCA_AGENT_JOIN_TOKEN": JOIN,
            "MESHCA_AGENT_SOCKET": str(short_tmp / "run" / "agent.sock"),
            "MESHCA_AGENT_READY_FILE": str(ready),
        }
        process = start(arguments, environment, log)
        try:
            await until(lambda: ready.exists() or process.poll() is not None, 30)
            assert process.poll() is None, log.read_text()
            assert json.loads(ready.read_text())["pid"] == process.pid
            process.send_signal(stop)
            assert await asyncio.to_thread(process.wait, 10) == 0
        finally:
            process.kill()
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] for event in events] == ["identity_obtained", "stopping", "stopped"]
    assert events[0]["spiffe_id"] == SPIFFE_ID
    assert JOIN not in log.read_text()
    assert "PRIVATE" not in log.read_text()
    assert not ready.exists()


def test_a_fault_in_the_configuration_is_one_clear_message_and_exit_code_3(short_tmp: Path) -> None:
    arguments = ["--server", "ca", "--trust-bundle", "none", "--join-token", JOIN, "--socket", str(short_tmp / "s")]
    process = start(arguments, {}, short_tmp / "log")
    assert process.wait(30) == 3
    (line,) = (short_tmp / "log").read_text().splitlines()
    assert line == "meshca: --server 'ca' is not host:port, such as ca.example.org:15012"


# Settings


def settings(short_tmp: Path, **changes: object) -> AgentSettings:
    flags: dict[str, object] = {
        "server": "127.0.0.1:15012",
        "trust_bundle": short_tmp / "roots.pem",
        "join_token": JOIN,
        "socket": short_tmp / "run" / "agent.sock",
    }
    return load_settings(AgentSettings, {**flags, **changes}, None)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"join_token": None}, "give exactly one of join_token"),
        ({"token_file": "token"}, "give exactly one of join_token"),
        ({"key_type": "ed25519"}, "Envoy refuses"),
        ({"key_type": "rsa1024"}, "key_type"),
        ({"ttl": "10 minutes"}, "is not a duration"),
        ({"ttl": "500ms"}, "at least 1s"),
        ({"server": None}, "server"),
        ({"sockets": "x"}, "unknown key"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(short_tmp: Path, changes: dict[str, object], problem: str) -> None:
    with pytest.raises(MeshcaError, match=problem) as refusal:
        settings(short_tmp, **changes)
    assert JOIN not in refusal.value.message


def test_every_flag_has_an_environment_variable(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "SERVER": "ca.example.org:1",
        "TRUST_BUNDLE": "roots.pem",
        "TOKEN_FILE": "token",
        "SOCKET": "agent.sock",
        "SOCKET_GROUP": "mesh",
        "OUTPUT_DIR": "out",
        "STATE_DIR": "state",
        "KEY_TYPE": "rsa2048",
        "TTL": "1h30m",
        "SERVER_NAME": "ca.example.org",
        "READY_FILE": "ready",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "debug",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"MESHCA_AGENT_{name}", value)
    read = load_settings(AgentSettings, {}, None)
    assert read.ttl is not None
    assert (read.server, read.key_type.value, read.ttl.total_seconds()) == ("ca.example.org:1", "rsa2048", 5400)
    unset = {name for name in values if getattr(read, name.lower()) is None}
    assert unset == set()


def test_the_join_token_is_kept_out_of_the_settings_repr(short_tmp: Path) -> None:
    assert JOIN not in repr(settings(short_tmp))


@pytest.mark.parametrize(
    "content", [None, b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_trust_bundle_without_certificates_is_refused(short_tmp: Path, content: bytes | None) -> None:
    if content is not None:
        (short_tmp / "roots.pem").write_bytes(content)
    with pytest.raises(MeshcaError, match="--trust-bundle"):
        build_agent(settings(short_tmp))


async def test_state_is_kept_beside_the_socket_unless_told_otherwise(short_tmp: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    (short_tmp / "roots.pem").write_bytes(fresh_root().certificate.public_bytes(Encoding.PEM))
    beside = build_agent(settings(short_tmp))
    elsewhere = build_agent(settings(short_tmp, state_dir=short_tmp / "mine"))
    assert beside._holding._state.path == short_tmp / "run" / "state" / "identity.json"
    assert elsewhere._holding._state.path == short_tmp / "mine" / "identity.json"
