"""Alarms over time: told once when they begin and once when they end, and counted for metrics in between."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import structlog

from meshca.authority.progress import Alarm, Severity
from meshca.errors import MeshcaError
from meshca.services.control import Standing
from meshca.services.health import Health

_log = structlog.get_logger("meshca.alarms")

# What is taken for the same alarm, though its words change from one look to the next: severity and subject.
AlarmKind = tuple[Severity, str]


class AlarmGauges(Protocol):
    """Where it is shown what stands."""

    def alarms_stand(self, counts: Mapping[tuple[str, str], int]) -> None:
        """So many alarms stand, by severity and kind; there are no others."""
        ...

    def rotation_stands(self, holders: int, covered: int) -> None:
        """So many hold certificates, and so many of them are known to have the bundle that matters."""
        ...


class AlarmWatch:
    """Compares what `meshca status` would show with what it would have shown before. For one thread at a time."""

    def __init__(self, standing: Callable[[], Standing], health: Callable[[], Health], gauges: AlarmGauges) -> None:
        self._standing = standing
        self._health = health
        self._gauges = gauges
        self._of_authorities: tuple[Alarm, ...] = ()
        self._stood: dict[AlarmKind, list[str]] = {}

    def look(self) -> None:
        """Tells what has begun or ended. Raises UNAVAILABLE where the authorities cannot be read: their alarms are
        taken to stand then, and the server's own are told all the same."""
        health = self._health()
        try:
            standing = self._standing()
        except MeshcaError:
            self._tell((*self._of_authorities, *health.alarms))
            raise
        self._of_authorities = standing.alarms
        self._tell((*standing.alarms, *health.alarms))
        coverage = standing.progress.coverage
        self._gauges.rotation_stands(coverage.holders, coverage.covered)

    def _tell(self, alarms: Iterable[Alarm]) -> None:
        stand: dict[AlarmKind, list[str]] = defaultdict(list)
        for alarm in alarms:
            stand[alarm.severity, alarm.subject].append(alarm.message)
        for kind in stand.keys() - self._stood.keys():
            _log_begin(kind, stand[kind])
        for severity, subject in self._stood.keys() - stand.keys():
            _log.info("alarm_ended", severity=_name(severity), kind=subject)
        self._stood = dict(stand)
        self._gauges.alarms_stand({(_name(severity), kind): len(stand[severity, kind]) for severity, kind in stand})


def _log_begin(kind: AlarmKind, messages: list[str]) -> None:
    severity, subject = kind
    log = {Severity.INFO: _log.info, Severity.WARNING: _log.warning, Severity.CRITICAL: _log.error}[severity]
    log("alarm_began", severity=_name(severity), kind=subject, reason="; ".join(messages))


def _name(severity: Severity) -> str:
    return severity.name.lower()
