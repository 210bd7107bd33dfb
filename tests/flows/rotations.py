"""Rotations of the root in flow tests: begun by the real command, watched, and judged by what Envoys serve after it."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from cryptography import x509

from meshca.cli.admin_client import fetch_status
from meshca.compile.envoy_addresses import PipeAddress
from meshca.errors import ErrorKind, MeshcaError
from meshca.proto.meshca.v1 import admin_pb2 as pb
from tests.envoys import Envoy
from tests.flows.meshes import config
from tests.programs import MESHCA, Program, Server, meshca

Reply = pb.GetStatusResponse

# Everybody must have had a new root for this long; the server's own doors need as long to hear of a step.
SOAK_SECONDS = 4


def rotating(ttl_seconds: int) -> str:
    """A server's configuration with short certificates and a short soak."""
    return f'{config(ttl_seconds)}[rotation]\nsoak = "1s"\nconfirm_within = "{SOAK_SECONDS // 2}s"\n'


async def standing(server: Server) -> Reply:
    """Where authorities and their rotation stand."""
    return await asyncio.to_thread(fetch_status, server.data_dir, None)


async def until(server: Server, condition: Callable[[Reply], bool], what: str, seconds: float = 60.0) -> Reply:
    """The first status that fulfils the condition; a server that is away is waited for."""
    reply = Reply()
    try:
        async with asyncio.timeout(seconds):
            while True:
                with _patience():
                    reply = await standing(server)
                    if condition(reply):
                        return reply
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"waited {seconds:.0f} s for {what}, and it is\n{reply.rotation}") from None


@contextmanager
def _patience() -> Iterator[None]:
    try:
        yield
    except MeshcaError as error:
        if error.kind is not ErrorKind.UNAVAILABLE:
            raise


async def until_phase(server: Server, *phases: str, seconds: float = 60.0) -> Reply:
    """The first status in one of these phases."""
    return await until(server, lambda reply: reply.rotation.phase in phases, " or ".join(phases), seconds)


async def until_named(server: Server, *spiffe_ids: str) -> Reply:
    """Waits until the laggards are these, and has the server wait for them for longer than a soak lasts."""
    return await until(
        server,
        lambda reply: laggards(reply) == set(spiffe_ids) and reply.now - reply.rotation.since > SOAK_SECONDS + 2,
        f"{', '.join(spiffe_ids)} to be named",
    )


def laggards(reply: Reply) -> set[str]:
    """The SPIFFE ids that the rotation waits for."""
    return {laggard.spiffe_id for laggard in reply.rotation.coverage.laggards}


def roots(reply: Reply, *states: str) -> list[str]:
    """The ids of the roots that are in one of these states, or of all."""
    return [a.id for a in reply.authorities if a.kind == "root" and (not states or a.state in states)]


def trusted(reply: Reply) -> list[str]:
    """The ids of the roots that the bundle holds."""
    return roots(reply, "prepared", "active", "old", "tainted")


def successor(reply: Reply) -> pb.Authority:
    """The root that the rotation under way brings in."""
    return next(a for a in reply.authorities if a.id == reply.rotation.successor)


async def command(server: Server, *words: str) -> str:
    """What an operator's command prints."""
    return await asyncio.to_thread(meshca, *words, "--data-dir", server.data_dir)


async def rotation_status(server: Server) -> dict[str, Any]:
    """What `meshca rotate status -o json` prints."""
    fields: dict[str, Any] = json.loads(await command(server, "rotate", "status", "-o", "json"))
    return fields


class Watched:
    """`meshca rotate root --wait`, which runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._process.returncode is not None

    async def ends(self, seconds: float = 60.0) -> str:
        """What it has printed, once it has ended well."""
        async with asyncio.timeout(seconds):
            out, _ = await self._process.communicate()
        assert self._process.returncode == 0, out.decode()
        return out.decode()


@asynccontextmanager
async def rotation(server: Server, *options: str) -> AsyncIterator[Watched]:
    """A rotation of the root, begun by `meshca rotate root --wait --yes`, which is ended with the block."""
    words = ("rotate", "root", "--data-dir", str(server.data_dir), "--wait", "--yes", *options)
    process = await asyncio.create_subprocess_exec(
        *MESHCA,
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Watched(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextmanager
def paused(*programs: Program) -> Iterator[None]:
    """Within the block, or until `resume`, they do nothing, and their connections stay open."""
    for program in programs:
        _signal(program, signal.SIGSTOP)
    try:
        yield
    finally:
        resume(*programs)


def resume(*programs: Program) -> None:
    """They go on."""
    for program in programs:
        _signal(program, signal.SIGCONT)


def _signal(program: Program, number: signal.Signals) -> None:
    assert program.process is not None
    program.process.send_signal(number)


async def serve_under(server: Server, envoys: Collection[Envoy], root_id: str, seconds: float = 60.0) -> None:
    """Waits until each Envoy serves certificates under that root alone, as the ledger knows them."""
    async with asyncio.timeout(seconds):
        while True:
            served = [envoy.leaf_serials() for envoy in envoys]
            under = await _issued_under(server, root_id)
            if all(serials and serials <= under for serials in served):
                return


async def _issued_under(server: Server, root_id: str) -> set[str]:
    """The serials of all certificates whose issuing CA is under that root."""
    issuers = {a.id for a in (await standing(server)).authorities if a.issuer_id == root_id and a.id != root_id}
    records = await asyncio.to_thread(server.ledger)
    return {record["serial"] for record in records if record["issuer_id"] in issuers}


async def trust_only(server: Server, envoys: Iterable[Envoy], root_id: str, seconds: float = 60.0) -> None:
    """Waits until that root is the whole bundle, for the server and in each Envoy."""
    reply = await until(server, lambda reply: trusted(reply) == [root_id], f"{root_id} to be alone", seconds)
    root = next(x509.load_der_x509_certificate(a.certificate) for a in reply.authorities if a.id == root_id)
    for envoy in envoys:
        await envoy.until(lambda e=envoy: _roots_of(e) == {root.serial_number}, "to trust that root alone", seconds)  # type: ignore[misc]
    bundle = (await asyncio.to_thread(server.bundle)).encode()
    assert [each.serial_number for each in x509.load_pem_x509_certificates(bundle)] == [root.serial_number]


def _roots_of(envoy: Envoy) -> set[int]:
    """Serial numbers of what it trusts; of a bundle, Envoy tells the first alone."""
    return {int(ca["serial_number"], 16) for entry in envoy.certificates() for ca in entry.get("ca_cert", [])}


async def shows_a_trusted_chain(address: PipeAddress, server: Server) -> None:
    """The chain that is shown to callers leads to the server's bundle. Raises SSLError otherwise."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=await asyncio.to_thread(server.bundle))
    async with asyncio.timeout(10):
        _, writer = await asyncio.open_unix_connection(address.path, ssl=context, server_hostname="")
        writer.close()
