"""A plug-in signs our issuing CAs: it misbehaves in every way that is documented, under traffic, and nobody notices but
`meshca status`; then it behaves, and changes its root."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.application import DRIP
from tests.flows.meshes import mesh
from tests.flows.plugin_process import MINTS, REPOSITORY, ROOTS, SILENT, PluginProcess
from tests.flows.rotations import Reply, roots, serve_under, standing, trust_only, until
from tests.flows.test_external_ca import readiness
from tests.load import Load, LongLived
from tests.programs import TRUST_DOMAIN, Server, meshca

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.timeout(300)]

# An issuing CA is backdated by a minute, so that the next one is due as soon as there is one; after that, the plug-in
# rests for 15 s. It signs until two thirds of its life are over: longer than all of this lasts.
CONFIG = """\
tick = "1s"
[leaf]
default_ttl = "6s"
max_ttl = "60s"
backdate = "1s"
[issuer]
ttl = "5m"
prepare_at = 0.05
activate_at = 0.7
[rotation]
soak = "1s"
confirm_within = "2s"
[upstream]
address = "{address}"
deadline = "500ms"
poll = "100ms"
"""

MINT_PROBLEMS = {
    "hangs": "no answer came in time",
    "dies": "UNAVAILABLE",
    "garbage": "the chain holds a certificate that does not parse",
    "another key": "is not for the pending key",
    "a foreign root": "which is not the one that was announced first",
    "no CA": "is no CA certificate",
    "may not sign": "may not sign certificates",
    "path length": "its path length 0 is too small",
    "expired": "expired at",
    "too long": "but was to live for 0:05:00 at most",
    "nothing": "the chain holds 0 certificates",
    "too large": "RESOURCE_EXHAUSTED",
    "another trust domain": "has the URI SAN 'spiffe://other.test'",
}
ROOT_PROBLEMS = {
    "no roots": "the list of roots holds 0 certificates",
    "garbled roots": "the list of roots holds a certificate that does not parse",
    "too many bytes of roots": "RESOURCE_EXHAUSTED",
    "an expired root": "expired at",
    SILENT: "the stream of roots said nothing within 0.5s",
}


def founded(directory: Path, plugin: PluginProcess, config: str = CONFIG) -> str:
    """A data directory on the root of the plug-in; the server's configuration."""
    text = config.format(address=plugin.address)
    (directory / "founding.toml").write_text(text)
    root = x509.load_pem_x509_certificate((plugin.directory / "first.pem").read_bytes())
    pin = hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()
    where = ("--data-dir", directory / "ca", "--trust-domain", TRUST_DOMAIN)
    meshca("init", *where, "--config", directory / "founding.toml", "--root-sha256", pin)
    return text


def told(reply: Reply) -> str:
    return " ".join(alarm.message for alarm in reply.alarms if alarm.subject == "upstream")


async def until_told(server: Server, problem: str) -> None:
    await until(server, lambda reply: problem in told(reply), f"status to tell: {problem}", 30)


def ids(reply: Reply) -> set[str]:
    return {authority.id for authority in reply.authorities}


def waiting(reply: Reply) -> list[str]:
    return [a.id for a in reply.authorities if a.kind == "issuer" and a.state == "prepared"]


async def test_a_plug_in_that_misbehaves_is_named_and_fails_no_request(short_tmp: Path) -> None:
    assert set(MINT_PROBLEMS) == set(MINTS)
    assert set(ROOT_PROBLEMS) == {*ROOTS, SILENT}
    async with PluginProcess(short_tmp / "plugin", "first", "next") as plugin:
        plugin.order("honest", "first")
        config = founded(short_tmp, plugin)
        async with mesh(short_tmp, ttl_seconds=6, server_config=config) as running:
            server = running.server
            (first,) = roots(await standing(server))
            before = ids(await standing(server))
            async with LongLived(running.outbound, DRIP) as lasting, Load(running.outbound) as load:
                for mode, problem in MINT_PROBLEMS.items():
                    plugin.order(mode)
                    await until_told(server, problem)
                    if mode == "dies":
                        assert not plugin.is_running
                        plugin.order("nothing")
                        await plugin.start()
                    assert await asyncio.to_thread(readiness, server.facts["http"]) == "ok\n"
                assert ids(await standing(server)) == before
                await load.reach(20)
                plugin.order("honest")
                reply = await until(server, lambda reply: bool(waiting(reply)), "the next issuing CA", 30)
                assert ids(reply) == {*before, *waiting(reply)}

                for mode, problem in ROOT_PROBLEMS.items():
                    plugin.order(mode)
                    await until_told(server, problem)
                    assert await asyncio.to_thread(readiness, server.facts["http"]) == "ok\n"
                assert ids(await standing(server)) == ids(reply)
                plugin.order("honest")
                await until(server, lambda reply: not told(reply), "no alarm to be left", 30)

                plugin.order("honest", "first", "next")
                reply = await until(server, lambda reply: len(roots(reply)) == 2, "the next root to be trusted", 30)
                (following,) = roots(reply, "prepared")
                plugin.order("honest", "next", "first")
                await until(server, lambda reply: roots(reply, "active") == [following], "the next root's turn", 60)
                await serve_under(server, running.envoys.values(), following, 60)
                assert set(roots(await standing(server))) == {first, following}, "while it is told of, it stays"
                plugin.order("honest", "next")
                await trust_only(server, running.envoys.values(), following, 60)
                await load.reach(20)
                await lasting.reach(5)
            assert load.failed == []
            assert lasting.failed == []
            assert load.sent > 200
            for envoy in running.envoys.values():
                assert {name: n for name, n in envoy.stats("update_rejected").items() if n} == {}


async def test_a_server_begins_to_serve_when_its_upstream_comes_up(short_tmp: Path) -> None:
    plugin = PluginProcess(short_tmp / "plugin", "first")
    async with plugin:
        config = founded(short_tmp, plugin)
    server = Server(short_tmp, config)
    starting = asyncio.create_task(server.start())
    try:
        while not (server.data_dir / "admin.sock").exists():
            await asyncio.sleep(0.02)
        await until_told(server, "UNAVAILABLE")
        assert not starting.done()
        async with plugin:
            await starting
            assert await asyncio.to_thread(readiness, server.facts["http"]) == "ok\n"
    finally:
        starting.cancel()
        server.kill()


async def test_a_server_whose_upstream_hangs_still_ends_at_once_and_well(short_tmp: Path) -> None:
    async with PluginProcess(short_tmp / "plugin", "first") as plugin:
        plugin.order("hangs")
        config = founded(short_tmp, plugin).replace("500ms", "60s")
        server = Server(short_tmp, config)
        starting = asyncio.create_task(server.start())
        try:
            while not (server.data_dir / "admin.sock").exists():
                await asyncio.sleep(0.02)
            await until(server, lambda reply: bool(reply.journal), "the roots to be heard", 30)
            began = asyncio.get_running_loop().time()
            starting.cancel()
            assert await asyncio.to_thread(server.stop) == 0
            assert asyncio.get_running_loop().time() - began < 8
        finally:
            server.kill()


async def test_a_plug_in_in_process_signs_and_what_it_raises_is_told(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = short_tmp / "packages"
    (packages / "corp_ca-1.dist-info").mkdir(parents=True)
    (packages / "corp_ca-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: corp-ca\nVersion: 1\n")
    (packages / "corp_ca-1.dist-info" / "entry_points.txt").write_text(
        "[meshca.upstream_authorities]\ncorp = tests.flows.plugin_process:in_process\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}:{packages}")
    plugin = PluginProcess(short_tmp / "plugin", "first")  # its files; the program does not run
    config = CONFIG.replace(
        'address = "{address}"', f'plugin = "corp"\noptions = {{{{ files = "{plugin.directory}" }}}}'
    )
    plugin.order("raises")
    async with Server(short_tmp, founded(short_tmp, plugin, config)) as server:
        await until_told(server, "plug-in corp: it raised ZeroDivisionError")
        plugin.order("honest")
        await until(server, lambda reply: bool(waiting(reply)), "the next issuing CA", 60)
        conforms = ("plugin", "test", "--config", short_tmp / "founding.toml", "--trust-domain", TRUST_DOMAIN)
        assert "plug-in corp: every check passed" in await asyncio.to_thread(meshca, *conforms)
