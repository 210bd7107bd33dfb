"""An agent that is killed at any step of saving an identity leaves files that are whole, and the next one goes on."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from structlog.testing import capture_logs

from meshca.agent.state import AgentState
from tests.agent.crashing import BINDING, save
from tests.agent.identities import identity
from tests.fakes.certificate_authority import fresh_root


def saved_serial(directory: Path) -> str:
    """Of the saved identity, once it is verified whole; `-` where there is none."""
    with capture_logs() as logs:
        held = AgentState(directory / "state", BINDING).load(datetime.now(UTC))
    assert logs == [], "what is there is whole"
    return "-" if held is None else held.serial


def written_serial(output: Path) -> str:
    """Of the certificate files, as a reader that resolves them once sees them; `-` where there are none."""
    if not (output / "..data").exists():
        return "-"
    current = (output / "..data").resolve()
    key = load_pem_private_key((current / "key.pem").read_bytes(), None)
    leaf = x509.load_pem_x509_certificates((current / "cert-chain.pem").read_bytes())[0]
    assert key.public_key() == leaf.public_key()
    assert x509.load_pem_x509_certificates((current / "root-cert.pem").read_bytes())
    return f"{leaf.serial_number:x}"


def test_no_crash_leaves_a_torn_identity_behind_or_stops_the_next_agent(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.agent.crashing", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    deaths = [line.split() for line in done.stdout.splitlines()]
    assert len(deaths) > 40, "each step of two runs"
    root = fresh_root()
    ends = set()
    for name, before, after in deaths:
        directory = tmp_path / name
        saved, written = saved_serial(directory), written_serial(directory / "out")
        assert {saved, written} <= {before, after}, name
        assert (saved, written) != (before, after), f"{name}: saved first, for the token may be spent"
        ends.add((saved == after, written == after))

        recovered = identity(root)
        save(directory, recovered)
        assert (saved_serial(directory), written_serial(directory / "out")) == (recovered.serial, recovered.serial)
        links = {entry.name for entry in (directory / "out").iterdir() if not entry.name.startswith("..meshca-")}
        assert links == {"..data", "key.pem", "cert-chain.pem", "root-cert.pem"}, name
        assert len(list((directory / "out").glob("..meshca-*"))) <= 2, name
        assert [entry.name for entry in (directory / "state").iterdir()] == ["identity.json"], name
    assert ends == {(False, False), (True, False), (True, True)}
