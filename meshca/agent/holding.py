"""What an agent holds, and the one place where that changes: it is saved, written to files and served, whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog

from meshca.agent.files import CertificateFiles
from meshca.agent.hub import SecretHub
from meshca.agent.identity import AgentIdentity, with_bundle, with_newest_bundle
from meshca.agent.ready import ReadyFile
from meshca.agent.sds import SdsServer
from meshca.agent.state import AgentState
from meshca.errors import MeshcaError, internal
from meshca.ports import Clock
from meshca.spiffe.bundles import TrustBundle, crl_pem

_STATE = "state_not_saved"
_FILES = "files_not_written"
_READY = "ready_file_not_written"

_log = structlog.get_logger("meshca.agent")


@dataclass(frozen=True, slots=True)
class AgentOutputs:
    """Where an identity goes beside the socket; None: not wanted."""

    files: CertificateFiles | None = None
    ready: ReadyFile | None = None


class Holding:
    """The identity in use. A new certificate and a new bundle may come at the same time; they are taken in turn."""

    def __init__(
        self, *, hub: SecretHub, sds: SdsServer, state: AgentState, outputs: AgentOutputs, clock: Clock
    ) -> None:
        self._hub = hub
        self._sds = sds
        self._state = state
        self._outputs = outputs
        self._clock = clock
        self._turn = asyncio.Lock()
        self._change = asyncio.Event()
        self._identity: AgentIdentity | None = None
        self._owed: dict[str, Callable[[], None]] = {}  # what failed and is to be tried again, by the event logged

    @property
    def identity(self) -> AgentIdentity | None:
        """What the agent holds now."""
        return self._identity

    @property
    def is_durable(self) -> bool:
        """Whether all of it is where restarts and programs that read files find it."""
        return not self._owed.keys() & {_STATE, _FILES}

    async def changed(self, seconds: float) -> None:
        """Returns when something else is held, or after that time. For one caller."""
        self._change.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._change.wait()

    async def restore(self) -> AgentIdentity | None:
        """Goes on with what was saved, if there is such."""
        saved = await asyncio.to_thread(self._state.load, self._clock.now())
        if saved is not None:
            _log.info("identity_restored", **_facts(saved))
            async with self._turn:
                await self._serve(saved, restored=True)
        return saved

    async def adopt(self, obtained: AgentIdentity) -> None:
        """Makes it the agent's identity. It is saved first: the token may be spent by now.

        Raises INVALID or UNAUTHENTICATED where it does not fit a bundle that came while it was asked for.
        """
        async with self._turn:
            identity = with_newest_bundle(obtained, self._identity, self._clock.now())
            _log.info("identity_obtained", **_facts(identity))
            await self._save(identity)
            await self._serve(identity)

    async def take(self, bundle: TrustBundle) -> None:
        """Makes it the agent's bundle, if it is newer. Raises INVALID or UNAUTHENTICATED where it must not be."""
        async with self._turn:
            if self._identity is None:
                raise internal("a bundle came before there is an identity")
            identity = with_bundle(self._identity, bundle, self._clock.now())
            if identity is self._identity:
                return
            _log.info("bundle_received", sequence=bundle.sequence, **_contents(bundle))
            await self._save(identity)
            await self._serve(identity)

    async def expire(self) -> None:
        """The certificate ended. Envoys keep what they have; whoever connects now gets the trust bundle alone."""
        if self._identity is not None:
            _log.error("identity_expired", **_facts(self._identity))
            await self._sds.set_serving(False)

    async def mend(self) -> None:
        """Listens anew where the socket is gone, and tries again what could not be written."""
        async with self._turn:
            if await self._listened_anew() and self._identity is not None:
                # whoever removed the socket may have removed more
                await self._save(self._identity)
                await self._write(self._identity)
                return
            for event, step in tuple(self._owed.items()):
                await self._try(event, step)

    async def prepare_files(self) -> None:
        """Raises INVALID where certificate files are wanted and cannot be."""
        if self._outputs.files is not None:
            await asyncio.to_thread(self._outputs.files.prepare)

    def clear_ready_file(self) -> None:
        """Removes that of an earlier agent. Raises INVALID where that fails."""
        if self._outputs.ready is not None:
            self._outputs.ready.remove()

    async def remove_ready_file(self) -> None:
        """The agent ends."""
        if self._outputs.ready is not None:
            await self._try("ready_file_not_removed", self._outputs.ready.remove)

    async def _serve(self, identity: AgentIdentity, *, restored: bool = False) -> None:
        await self._hub.publish(identity.publication, trust_first=identity.first, restored=restored)
        self._identity = identity
        self._change.set()
        await self._sds.set_serving(True)
        await self._write(identity)

    async def _save(self, identity: AgentIdentity) -> None:
        await self._try(_STATE, partial(self._state.save, identity))

    async def _write(self, identity: AgentIdentity) -> None:
        if self._outputs.files is not None:
            await self._try(_FILES, partial(write_files, self._outputs.files, identity))
        if self._outputs.ready is not None:
            await self._try(_READY, partial(self._outputs.ready.write, identity.spiffe_id))

    async def _listened_anew(self) -> bool:
        try:
            return await self._sds.keep_listening()
        except MeshcaError as error:
            _log.error("socket_lost", reason=error.message)
            return False

    async def _try(self, event: str, step: Callable[[], None]) -> None:
        """Does a step that may fail without harm to what is served; it is then tried again later."""
        self._owed[event] = step
        try:
            await asyncio.to_thread(step)
        except MeshcaError as error:
            _log.error(event, reason=error.message)
        else:
            del self._owed[event]


def write_files(files: CertificateFiles, identity: AgentIdentity) -> None:
    """Writes an identity's set. Raises as `CertificateFiles.write` does."""
    files.write(
        private_key_pem=identity.svid.private_key_pem,
        chain_pem=identity.svid.chain_pem.encode("ascii"),
        roots_pem=identity.bundle.pem.encode("ascii"),
        crl_pem=crl_pem(identity.bundle.revocation_lists).encode("ascii"),
    )


def _contents(bundle: TrustBundle) -> dict[str, int]:
    return {"roots": len(bundle.x509_authorities), "revocation_lists": len(bundle.revocation_lists)}


def _facts(identity: AgentIdentity) -> dict[str, str | int]:
    return {
        "spiffe_id": str(identity.spiffe_id),
        "serial": identity.serial,
        "expires": f"{identity.life.not_after:%Y-%m-%dT%H:%M:%SZ}",
        "bundle_sequence": identity.bundle.sequence,
    }
