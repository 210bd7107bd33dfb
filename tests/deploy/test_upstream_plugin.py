"""The worked example of an upstream authority: it passes the conformance run, and a server of ours lives by it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import MESHCA, meshca

EXAMPLE = Path(__file__).parents[2] / "deploy" / "upstream-plugin" / "upstream_plugin.py"
CA = ("-addext", "basicConstraints=critical,CA:true", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
NEW = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650")


def openssl_root(directory: Path, name: str) -> tuple[Path, Path]:
    """A root that openssl made, and its key."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    where = ("-keyout", str(key), "-out", str(certificate), "-subj", f"/O=Corp/CN={name}")
    command = ["openssl", *NEW, *where, *CA]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return certificate, key


@pytest.fixture
def address(short_tmp: Path) -> Iterator[str]:
    certificate, key = openssl_root(short_tmp, "root")
    socket = short_tmp / "plugin.sock"
    where = ("--socket", socket, "--trust-domain", "example.org", "--roots", certificate, "--key", key)
    with subprocess.Popen([sys.executable, EXAMPLE, *where], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"serving on {socket}\n"
        try:
            assert socket.stat().st_mode & 0o777 == 0o700 & ~0o077
            yield f"unix:{socket}"
        finally:
            process.terminate()
            assert process.wait(10) == 0


def test_it_passes_the_conformance_run(address: str) -> None:
    assert meshca("plugin", "test", address).endswith(f"\n{address}: every check passed\n")
    document = json.loads(meshca("plugin", "test", address, "-o", "json"))
    assert document["passed"] is True
    assert {check["outcome"] for check in document["checks"]} == {"ok"}
    assert len(document["checks"]) == 16


def test_it_signs_for_its_own_trust_domain_alone(address: str) -> None:
    command = [*MESHCA, "plugin", "test", address, "--trust-domain", "other.org"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "FAILED  Mint answers within the deadline, with a chain that passes every check\n" in done.stdout
    assert "INVALID_ARGUMENT: csr is not for spiffe://example.org, and for that alone\n" in done.stdout
    assert "skipped the chain leads to the first of the roots\n" in done.stdout
    assert done.stdout.endswith(f"\n{address}: 1 of 16 checks failed\n")


def test_a_trust_domain_is_founded_on_it_by_the_fingerprint_of_its_root_and_not_without(
    address: str, short_tmp: Path
) -> None:
    config, data_dir = short_tmp / "meshca.toml", short_tmp / "ca"
    config.write_text(f'[upstream]\naddress = "{address}"\n')
    init = ("init", "--data-dir", data_dir, "--trust-domain", "example.org", "--config", config)
    asked = meshca(*init, status=3)
    digest = asked.split()[-1]
    assert f"signs under root 'CN=root,O=Corp', SHA-256 {digest}: compare that with" in asked
    assert "not 00" in meshca(*init, "--root-sha256", "00", status=3)
    assert not data_dir.exists()
    by_openssl = subprocess.run(
        ["openssl", "x509", "-in", short_tmp / "root.pem", "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    said = meshca(*init, "--root-sha256", by_openssl.strip().rpartition("=")[2])
    assert "issuing CA    none yet: the upstream authority signs it when the server runs" in said
    assert f"meshca server --data-dir {data_dir} --config {config}" in said


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--root-sha256", "00"), "--root-sha256 goes with --config"),
        (("--config", "{config}", "--root-cert", "x"), "give one of --root-cert, --ca-dir and --config"),
        (("--config", "{empty}"), "has no [upstream]"),
        (("--config", "{config}", "--root-sha256", "00"), "UNAVAILABLE"),
    ],
)
def test_what_init_cannot_make_sense_of_is_refused(options: tuple[str, ...], problem: str, short_tmp: Path) -> None:
    files = {"config": short_tmp / "meshca.toml", "empty": short_tmp / "empty.toml"}
    files["config"].write_text(f'[upstream]\naddress = "unix:{short_tmp}/nobody.sock"\n')
    files["empty"].write_text("")
    words = [option.format(**files) for option in options]
    status = 7 if problem == "UNAVAILABLE" else 3
    said = meshca("init", "--data-dir", short_tmp / "ca", "--trust-domain", "example.org", *words, status=status)
    assert problem in said
    assert not (short_tmp / "ca").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "give ADDRESS, or --config"),
        (("unix:/x", "--config", "y"), "give ADDRESS, or --config"),
        (("host:1",), "give ca_file, cert_file and key_file, for mutual TLS"),
        (("host:1", "--ca-file", "x"), "give all of ca_file, cert_file and key_file, or none of them"),
    ],
)
def test_what_cannot_be_tested_is_refused(words: tuple[str, ...], problem: str) -> None:
    assert problem in meshca("plugin", "test", *words, status=3)
