"""The systemd units: systemd takes them, finds them confined, and they start what the command line has."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
NAMES = ["meshca-server.service", "meshca-agent.service"]

analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze")


def settings(name: str) -> list[tuple[str, str]]:
    """The unit's settings in order; a name may come again."""
    lines = (line.strip() for line in (UNITS / name).read_text().splitlines())
    return [(line.partition("=")[0], line.partition("=")[2]) for line in lines if line[:1].isalpha()]


def only(name: str, setting: str) -> str:
    found = [value for key, value in settings(name) if key == setting]
    assert len(found) == 1, f"{name} has {setting} {len(found)} times"
    return found[0]


def installed(name: str, directory: Path) -> Path:
    """The unit as on a machine where the program is installed: systemd-analyze looks whether it is there."""
    unit = directory / name
    unit.write_text((UNITS / name).read_text().replace("/opt/meshca/bin/meshca", sys.executable))
    return unit


@analyze
@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_no_fault(name: str, tmp_path: Path) -> None:
    command = ["systemd-analyze", "verify", "--man=no", str(installed(name, tmp_path))]
    judged = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert judged.returncode == 0, judged.stderr
    assert name not in judged.stderr


@analyze
@pytest.mark.parametrize("name", NAMES)
def test_systemd_rates_the_exposure_below_two_of_ten(name: str, tmp_path: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(installed(name, tmp_path))]
    judged = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert judged.returncode == 0, judged.stdout[-400:] + judged.stderr


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("MemoryDenyWriteExecute", "yes"),
        ("StateDirectoryMode", "0700"),
        ("UMask", "0077"),
        ("LimitCORE", "0"),
        ("Restart", "on-failure"),
    ],
)
def test_a_unit_is_confined(name: str, setting: str, value: str) -> None:
    assert only(name, setting) == value


def test_the_agents_socket_lies_in_a_directory_of_its_own() -> None:
    name = "meshca-agent.service"
    assert only(name, "RuntimeDirectoryMode") == "0700"
    assert f"--socket /run/{only(name, 'RuntimeDirectory')}/agent.sock" in only(name, "ExecStart")


def test_secrets_come_as_credentials_and_never_on_a_command_line() -> None:
    assert only("meshca-server.service", "LoadCredential").startswith("passphrase:")
    assert ("Environment", "MESHCA_PASSPHRASE_FILE=%d/passphrase") in settings("meshca-server.service")
    assert only("meshca-agent.service", "LoadCredential").startswith("join-token:")
    assert "--token-file %d/join-token" in only("meshca-agent.service", "ExecStart")


@pytest.mark.parametrize("name", NAMES)
def test_every_flag_is_one_that_the_command_has(name: str) -> None:
    _, command, *arguments = shlex.split(only(name, "ExecStart"))
    told = subprocess.run(
        [sys.executable, "-m", "meshca.cli", command, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"COLUMNS": "200"},
    ).stdout
    flags = [argument for argument in arguments if argument.startswith("--")]
    assert flags
    assert [flag for flag in flags if f"{flag} " not in told] == []


def test_every_user_of_a_unit_is_made() -> None:
    made = {line.split()[1] for line in (UNITS / "meshca.sysusers.conf").read_text().splitlines() if line[:1] == "u"}
    assert {only(name, "User") for name in NAMES} == made
