"""A server below another: both issue for one mesh, and the root of the upper one is replaced under traffic."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.compile.envoy_addresses import PipeAddress
from tests.application import DRIP, application
from tests.envoys import Envoy, running
from tests.flows.meshes import CLIENT, SERVICE, sidecars
from tests.flows.rotations import (
    Reply,
    laggards,
    paused,
    roots,
    rotation,
    rotation_status,
    serve_under,
    standing,
    trust_only,
    until,
)
from tests.load import Load, LongLived
from tests.programs import TRUST_DOMAIN, Agent, Server, meshca

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.timeout(400)]

EAST = f"spiffe://{TRUST_DOMAIN}/ca/east"
WEST = f"spiffe://{TRUST_DOMAIN}/ca/west"
# An issuing CA of the lower server lives for less than two minutes: for so long the old root stays.
COMMON = """\
tick = "1s"
[leaf]
default_ttl = "6s"
max_ttl = "15s"
backdate = "1s"
[issuer]
ttl = "100s"
[rotation]
soak = "1s"
confirm_within = "2s"
"""
PARENT = f'{COMMON}[downstream]\nallow = ["{EAST}"]\n'
CHILD = (
    COMMON
    + """\
[upstream]
address = "{address}"
ca_file = "{files}/root-cert.pem"
cert_file = "{files}/cert-chain.pem"
key_file = "{files}/key.pem"
poll = "200ms"
deadline = "2s"
"""
)


@dataclass
class Nested:
    """An upper and a lower server, and an Envoy under each: the upper one's calls the lower one's."""

    parent: Server
    child: Server
    envoys: dict[str, Envoy]
    outbound: PipeAddress
    below: Agent


Lives = Callable[[str], str]


def briefly(config: str) -> str:
    """Certificates live for seconds, and issuing CAs of the lower server for less than two minutes."""
    return config


def longer(config: str) -> str:
    """Certificates outlive a pause of who renews them."""
    for before, after in (('"6s"', '"60s"'), ('"15s"', '"60s"'), ('"100s"', '"6m"')):
        config = config.replace(before, after)
    return config


def settings(directory: Path, parent: Server) -> str:
    return CHILD.format(address=parent.facts["mtls"], files=directory / "east")


def found(directory: Path, parent: Server, lives: Lives) -> Server:
    """The lower server, founded on the root of the upper one."""
    own = directory / "child"
    own.mkdir()
    config = lives(settings(directory, parent))
    (own / "founding.toml").write_text(config)
    root = x509.load_pem_x509_certificate(parent.bundle().encode())
    pin = hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()
    where = ("--data-dir", own / "ca", "--trust-domain", TRUST_DOMAIN, "--config", own / "founding.toml")
    meshca("init", *where, "--root-sha256", pin)
    return Server(own, config)


@asynccontextmanager
async def nested(directory: Path, lives: Lives = briefly) -> AsyncIterator[Nested]:
    async with AsyncExitStack() as stack:
        (directory / "parent").mkdir()
        parent = await stack.enter_async_context(Server(directory / "parent", lives(PARENT)))
        await stack.enter_async_context(Agent(parent, directory, EAST, "--output-dir", str(directory / "east")))
        child = await stack.enter_async_context(found(directory, parent, lives))
        await stack.enter_async_context(Agent(parent, directory, str(CLIENT)))
        below = await stack.enter_async_context(Agent(child, directory, str(SERVICE)))
        await stack.enter_async_context(application(directory / "app.sock"))
        envoys = {
            name: await stack.enter_async_context(running(bootstrap.as_dict(), directory, name=name))
            for name, bootstrap in sidecars(directory).items()
        }
        for envoy in envoys.values():
            await envoy.live()
        yield Nested(parent, child, envoys, PipeAddress(str(directory / "out.sock")), below)


async def test_the_root_of_an_upper_server_is_replaced_and_no_request_to_the_lower_one_fails(short_tmp: Path) -> None:
    async with nested(short_tmp) as both:
        parent, child = both.parent, both.child
        (old,) = roots(await standing(parent))
        assert roots(await standing(child)) == [old]
        made = [record for record in parent.ledger() if record["kind"] == "downstream"]
        assert {(record["caller_id"], record["issuer_id"]) for record in made} == {(EAST, old)}
        async with LongLived(both.outbound, DRIP) as lasting, Load(both.outbound) as load:
            await load.reach(50)
            async with rotation(parent):
                reply = await until(parent, lambda reply: roots(reply, "active") != [old], "the next root", 60)
                (new,) = roots(reply, "active")
                await until(child, lambda reply: roots(reply, "active") == [new], "it to be used below", 60)
                await serve_under(child, [both.envoys["service"]], new, 60)
                await serve_under(parent, [both.envoys["client"]], new, 60)
                assert set(roots(await standing(child))) == {old, new}, "who is above may still use the old one"
                await trust_only(parent, [both.envoys["client"]], new, 200)
                await trust_only(child, [both.envoys["service"]], new, 60)
            await load.reach(50)
            await lasting.reach(5)
        assert load.failed == []
        assert lasting.failed == []
        assert load.sent > 500
        assert not (await standing(child)).alarms


async def test_a_root_is_not_used_while_somebody_below_is_not_known_to_trust_it(short_tmp: Path) -> None:
    async with nested(short_tmp, longer) as both:
        parent = both.parent
        (old,) = roots(await standing(parent))

        def waits(reply: Reply) -> bool:
            return laggards(reply) == {EAST} and reply.now - reply.rotation.since > 8

        async with Load(both.outbound) as load, rotation(parent):
            with paused(both.below):
                await until(parent, waits, "the lower server to be named, and it alone", 60)
                assert laggards(await standing(both.child)) == {str(SERVICE)}
                assert roots(await standing(parent), "active") == [old]
            await until(parent, lambda reply: roots(reply, "active") != [old], "the next root", 60)
            status = await rotation_status(parent)
            assert EAST not in {each["spiffe_id"] for each in status["coverage"]["laggards"]}
            await load.reach(20)
        assert load.failed == []


async def test_who_is_not_named_has_no_issuing_ca(short_tmp: Path) -> None:
    (short_tmp / "parent").mkdir()
    async with (
        Server(short_tmp / "parent", PARENT) as parent,
        Agent(parent, short_tmp, WEST, "--output-dir", str(short_tmp / "west")),
    ):
        files = short_tmp / "west"
        tls = ("--ca-file", files / "root-cert.pem", "--cert-file", files / "cert-chain.pem")
        where = ("plugin", "test", parent.facts["mtls"], *tls, "--key-file", files / "key.pem", "-o", "json")
        meshca(*where, "--trust-domain", TRUST_DOMAIN, status=3)
        assert [record for record in parent.ledger() if record["kind"] == "downstream"] == []
        reasons = {event["reason"] for event in parent.events("downstream_refused")}
        assert reasons == {f"{WEST} may have no issuing CA here: `downstream.allow` does not name it"}


@pytest.mark.parametrize("workers", [1, 2])
async def test_an_upper_server_passes_the_conformance_run(short_tmp: Path, workers: int) -> None:
    (short_tmp / "parent").mkdir()
    async with (
        Server(short_tmp / "parent", f"workers = {workers}\n{PARENT}") as parent,
        Agent(parent, short_tmp, EAST, "--output-dir", str(short_tmp / "east")),
    ):
        files = short_tmp / "east"
        tls = ("--ca-file", files / "root-cert.pem", "--cert-file", files / "cert-chain.pem")
        where = ("plugin", "test", parent.facts["mtls"], *tls, "--key-file", files / "key.pem")
        said = meshca(*where, "--trust-domain", TRUST_DOMAIN)
        assert said.endswith(": every check passed\n")
