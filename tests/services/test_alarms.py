"""Alarms over time: in the log once when they begin and once when they end, in the metrics while they stand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from meshca.authority.ring import AuthorityKind
from meshca.errors import MeshcaError, unavailable
from meshca.services.alarms import AlarmWatch
from meshca.services.control import Standing
from meshca.services.health import Health, LastTick, Problem
from meshca.services.issuance import SigningRequest
from tests.assets.csrs import good_pem, key_of
from tests.assets.founded import WORKLOAD, FoundedCa, found_ca

SECOND = timedelta(seconds=1)
BEGUN = {"event": "alarm_began", "log_level": "error", "severity": "critical"}
ENDED = {"event": "alarm_ended", "log_level": "info", "severity": "critical"}


class Rig:
    """A watch on a real CA, whose server is as the test says."""

    def __init__(self) -> None:
        self.ca: FoundedCa = found_ca()
        self.problems: tuple[Problem, ...] = ()
        self.is_readable = True
        self.alarms: dict[tuple[str, str], int] = {}
        self.rotation = (0, 0)
        self.watch = AlarmWatch(self._standing, lambda: Health(self.problems, LastTick(SECOND, SECOND)), self)

    def look(self) -> list[dict[str, str]]:
        """What was logged."""
        with capture_logs() as logs:
            self.watch.look()
        return [dict(log) for log in logs if log["event"].startswith("alarm_")]

    def _standing(self) -> Standing:
        if not self.is_readable:
            raise unavailable("the store is out")
        return self.ca.control.standing()

    def alarms_stand(self, counts: Mapping[tuple[str, str], int]) -> None:
        self.alarms = dict(counts)

    def rotation_stands(self, holders: int, covered: int) -> None:
        self.rotation = (holders, covered)


def test_nothing_is_told_while_all_is_well() -> None:
    rig = Rig()
    assert (rig.look(), rig.alarms, rig.rotation) == ([], {}, (0, 0))


def test_an_alarm_is_told_once_when_it_begins_and_once_when_it_ends_though_its_words_change() -> None:
    rig = Rig()
    rig.problems = (Problem("ledger", "full for 6s"),)
    assert rig.look() == [{**BEGUN, "kind": "ledger", "reason": "the server is not ready: full for 6s"}]
    assert rig.alarms == {("critical", "ledger"): 1}
    rig.problems = (Problem("ledger", "full for 7s"),)
    assert (rig.look(), rig.alarms) == ([], {("critical", "ledger"): 1})
    rig.problems = ()
    assert (rig.look(), rig.alarms) == ([{**ENDED, "kind": "ledger"}], {})
    rig.problems = (Problem("ledger", "full again"),)
    assert [log["event"] for log in rig.look()] == ["alarm_began"]


def test_alarms_of_one_kind_are_counted() -> None:
    rig = Rig()
    rig.problems = (Problem("ledger", "full"), Problem("ledger", "slow"))
    (begun,) = rig.look()
    assert begun["reason"] == "the server is not ready: full; the server is not ready: slow"
    assert rig.alarms == {("critical", "ledger"): 2}


def test_a_rotation_is_told_with_its_coverage() -> None:
    rig = Rig()
    rig.ca.issue(WORKLOAD, SigningRequest(good_pem(key_of(rig.ca.plan.root_algorithm)), 3600))
    rig.look()
    assert rig.rotation == (1, 1)
    rig.ca.control.begin("yearly")
    rig.ca.rotation.tick()
    (begun,) = rig.look()
    assert (begun["event"], begun["log_level"], begun["severity"]) == ("alarm_began", "info", "info")
    assert begun["kind"] == "rotation"
    assert (rig.alarms, rig.rotation) == ({("info", "rotation"): 1}, (1, 0))
    rig.ca.control.abort("not today")
    assert (rig.look(), rig.alarms) == ([], {("info", "rotation"): 1}), "it rests now"


def test_alarms_stand_while_the_authorities_cannot_be_read_and_those_of_the_server_are_told() -> None:
    rig = Rig()
    rig.ca.control.prepare(AuthorityKind.ROOT, "spare")
    rig.ca.control.begin("yearly")
    assert rig.look()
    rig.is_readable, rig.problems = False, (Problem("signing", "nothing is known"),)
    with capture_logs() as logs, pytest.raises(MeshcaError, match="the store is out"):
        rig.watch.look()
    assert [(log["event"], log["kind"]) for log in logs] == [("alarm_began", "signing")]
    assert rig.alarms == {("info", "rotation"): 1, ("critical", "signing"): 1}
