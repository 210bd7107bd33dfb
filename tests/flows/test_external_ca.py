"""Roots that are kept elsewhere, with real programs: openssl is the CA that signs, an agent relies on what it signs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.programs import MESHCA, TRUST_DOMAIN, Agent, Server, meshca

pytestmark = pytest.mark.slow

CART = f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/cart"
CONFIG = """\
tick = "1s"
[leaf]
default_ttl = "30s"
max_ttl = "60s"
[rotation]
soak = "0s"
confirm_within = "2s"
[authority]
poll = "200ms"
"""
P256 = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
CA = ("-addext", "basicConstraints=critical,CA:true", "-addext", "keyUsage=critical,keyCertSign,cRLSign")


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)


class Authority:
    """A root of openssl's, in a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory, self.name = directory, name
        self.certificate, self.key = directory / f"{name}.pem", directory / f"{name}.key"
        where = ("-keyout", self.key, "-out", self.certificate)
        openssl("req", "-x509", *P256, *where, "-days", 3650, "-subj", f"/O=Corp/CN={name}", *CA)

    def sign(self, request: Path, chain: Path, *, with_root: bool = False) -> None:
        """What the people who keep the root do with a request, in one line of their handbook."""
        by = ("-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial")
        openssl("x509", "-req", "-in", request, *by, "-days", 90, "-copy_extensions", "copyall", "-out", chain)
        if with_root:
            chain.write_text(chain.read_text() + self.certificate.read_text())

    def cacerts(self, directory: Path) -> Path:
        """An issuing CA of this root in Istio's layout."""
        directory.mkdir()
        request, extensions = self.directory / "ca.csr", self.directory / "ca.ext"
        openssl("req", "-new", *P256, "-keyout", directory / "ca-key.pem", "-out", request, "-subj", "/CN=Mesh CA")
        extensions.write_text(
            "basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign\n"
            "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        by = ("-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-extfile", extensions)
        openssl("x509", "-req", "-in", request, *by, "-days", 90, "-out", directory / "ca-cert.pem")
        root = self.certificate.read_text()
        (directory / "root-cert.pem").write_text(root)
        (directory / "cert-chain.pem").write_text((directory / "ca-cert.pem").read_text() + root)
        return directory


async def until(holds: Callable[[], object], what: str, seconds: float = 60) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not await asyncio.to_thread(holds):
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{what} did not come to pass") from None


def status(server: Server) -> dict[str, Any]:
    command = [*MESHCA, "status", "--data-dir", str(server.data_dir), "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def roots(server: Server) -> list[str]:
    return [a["state"] for a in status(server)["authorities"] if a["kind"] == "root"]


def readiness(address: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as refused:
        return refused.read().decode()


def trusts(directory: Path, *authorities: Authority) -> bool:
    bundle = (directory / "root-cert.pem").read_text()
    return bundle.count("BEGIN") == len(authorities) and all(a.certificate.read_text() in bundle for a in authorities)


def is_under(directory: Path, authority: Authority) -> bool:
    """Whether what the agent wrote verifies up to that root, by openssl's judgement."""
    chain = directory / "cert-chain.pem"
    command = ["openssl", "verify", "-CAfile", str(authority.certificate), "-untrusted", str(chain), str(chain)]
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


async def test_an_offline_root_signs_and_the_next_one_takes_over_through_the_gates(short_tmp: Path) -> None:
    first, second = Authority(short_tmp, "first"), Authority(short_tmp, "second")
    data_dir, out = short_tmp / "ca", short_tmp / "certs"
    told = meshca("init", "--data-dir", data_dir, "--trust-domain", TRUST_DOMAIN, "--root-cert", first.certificate)
    assert "issuing CA    none yet" in told
    server = Server(short_tmp, CONFIG)
    starting = asyncio.create_task(server.start())
    try:
        await until((data_dir / "admin.sock").exists, "the admin socket")
        assert status(server)["health"] == "critical"
        assert not starting.done(), "nothing is served before there is an issuing CA"
        request, chain = short_tmp / "request.pem", short_tmp / "chain.pem"
        meshca("authority", "csr", "--data-dir", data_dir, "-o", request)
        assert meshca("authority", "csr", "--data-dir", data_dir) == request.read_text()
        second.sign(request, chain)
        refused = meshca("authority", "import", chain, "--data-dir", data_dir, status=3)
        assert "append the intermediates, and the root if it is new" in refused
        first.sign(request, chain)
        meshca("authority", "import", chain, "--data-dir", data_dir, "--reason", "the first")
        await starting
        assert readiness(server.facts["http"]) == "ok\n"

        async with Agent(server, short_tmp, CART, "--output-dir", str(out)):
            assert is_under(out, first)
            assert trusts(out, first)
            meshca("authority", "csr", "--data-dir", data_dir, "-o", request)
            second.sign(request, chain, with_root=True)
            said = meshca("authority", "import", chain, "--data-dir", data_dir)
            assert "under prepared root" in said
            await until(lambda: is_under(out, second), "a certificate under the second root")
            assert is_under(out, second)
            await until(lambda: trusts(out, second), "the end of the first root", 90)
            assert roots(server) == ["active"]
            steps = {entry["step"] for entry in status(server)["journal"]}
            assert {"import issuer", "finish rotation"} <= steps
    finally:
        starting.cancel()
        server.kill()


async def test_a_plugged_in_directory_that_is_swapped_to_a_new_root_goes_through_the_gates(short_tmp: Path) -> None:
    first, second = Authority(short_tmp, "first"), Authority(short_tmp, "second")
    data_dir, out, mounted = short_tmp / "ca", short_tmp / "certs", short_tmp / "cacerts"
    mounted.mkdir()
    first.cacerts(mounted / "..one")
    (mounted / "..data").symlink_to("..one")
    meshca("init", "--data-dir", data_dir, "--trust-domain", TRUST_DOMAIN, "--ca-dir", mounted)

    def swap(to: str) -> None:
        (mounted / "..data_tmp").symlink_to(to)
        os.replace(mounted / "..data_tmp", mounted / "..data")

    def problem() -> str:
        return " ".join(alarm["message"] for alarm in status(server)["alarms"] if alarm["subject"] == "ca_dir")

    async with Server(short_tmp, CONFIG, options=("--ca-dir", str(mounted))) as server:  # noqa: SIM117  # it needs it
        async with Agent(server, short_tmp, CART, "--output-dir", str(out)):
            assert is_under(out, first)
            half = second.cacerts(mounted / "..half")
            (half / "ca-key.pem").unlink()
            swap("..half")
            await until(problem, "the alarm")
            assert "ca-key.pem is missing beside ca-cert.pem, cert-chain.pem, root-cert.pem" in problem()
            assert roots(server) == ["active"]
            second.cacerts(mounted / "..two")
            swap("..two")
            await until(lambda: is_under(out, second), "a certificate under the second root")
            assert not problem()
            await until(lambda: trusts(out, second), "the end of the first root", 90)
            actors = {entry["actor"] for entry in status(server)["journal"]}
            assert {"ca_dir", "schedule"} <= actors
