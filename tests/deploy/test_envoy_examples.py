"""The examples are what the command prints, and a real Envoy takes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.deploy.examples import ENVOY, commands, printed
from tests.envoys import running, validate

NAMES = ["server.json", "client.json", "both.json"]


def test_every_example_has_its_command() -> None:
    assert sorted(commands()) == sorted(NAMES) == sorted(path.name for path in ENVOY.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_the_example_is_what_its_command_prints(name: str) -> None:
    assert (ENVOY / name).read_text() == printed(commands()[name]), "run `make envoy-examples`"


@pytest.mark.envoy
@pytest.mark.parametrize("name", NAMES)
def test_envoy_finds_no_fault(name: str) -> None:
    judged = validate(json.loads((ENVOY / name).read_text()))
    assert judged.returncode == 0, judged.stderr
    assert not judged.stderr.strip()


@pytest.mark.envoy
def test_envoy_starts_from_the_example_and_waits_for_its_agent(short_tmp: Path) -> None:
    here = (ENVOY / "both.json").read_text().replace("/run/meshca-agent", str(short_tmp))
    config = json.loads(here.replace("/run/meshca-envoy", str(short_tmp)))
    with running(config, short_tmp) as envoy:
        envoy.wait_until(lambda: envoy.stat("cluster.agent.upstream_cx_connect_fail") >= 1, "to look for its agent")
        assert "INITIALIZING" in envoy.state()
