"""The watched CA directory: what somebody else keeps there becomes part of the ring, by the usual rules."""

from __future__ import annotations

import structlog

from meshca.authority.progress import Alarm, Severity
from meshca.authority.ring import AuthorityRing
from meshca.errors import ErrorKind, MeshcaError, conflict
from meshca.pki.imports import der_of
from meshca.pki.plugged_in import PluggedInCa, parse_plugged_in
from meshca.ports import CaSource
from meshca.services.imports import AuthorityImports
from meshca.services.ring import RingKeeper

_log = structlog.get_logger("meshca.ca_directory")


class CaDirectory:
    """Follows a directory, `name`, a look at a time. What was taken in once is not taken in again, whatever became of
    it: only what is new there."""

    def __init__(self, name: str, source: CaSource, keeper: RingKeeper, imports: AuthorityImports) -> None:
        self._name = name
        self._source = source
        self._keeper = keeper
        self._imports = imports
        self._problem = ""
        self._ignores_crl = False

    def look(self) -> None:
        """Takes in what is new. A set that is not whole, or broken, changes nothing: it is told by `alarms`.

        Raises INTERNAL where our own state cannot be used.
        """
        try:
            ca = parse_plugged_in(self._source.read())
            self._ignores_crl = ca.ignores_crl
            self._take(ca)
        except MeshcaError as error:
            self._tell(error.message)
            if error.kind is ErrorKind.INTERNAL:
                raise
        else:
            self._tell("")

    def alarms(self) -> tuple[Alarm, ...]:
        """What is wrong with the directory."""
        found = []
        if self._problem:
            problem = f"{self._name}: {self._problem}; nothing was changed"
            found.append(Alarm(Severity.WARNING, "ca_dir", problem))
        if self._ignores_crl:
            problem = f"{self._name}: ca-crl.pem is ignored: CRLs of other CAs are not given out"
            found.append(Alarm(Severity.INFO, "ca_dir", problem))
        return tuple(found)

    def _take(self, ca: PluggedInCa) -> None:
        ring = self._keeper.refresh().ring
        foreign = _has_new_root(ca, ring)
        wanted = ring.rotation is not None and ring.successor is None and foreign
        if ca.digest == ring.directory and not wanted:
            return
        if foreign and ring.held_since is not None:
            raise conflict("it has a new root, but a rotation was aborted: `meshca rotate root` begins another")
        self._imports.take(ca, f"from {self._name}")

    def _tell(self, problem: str) -> None:
        if problem and problem != self._problem:
            _log.warning("ca_dir_not_taken", directory=self._name, reason=problem)
        self._problem = problem


def _has_new_root(ca: PluggedInCa, ring: AuthorityRing) -> bool:
    known = {authority.certificate for authority in ring.authorities}
    return any(der_of(root) not in known for root in ca.roots)
