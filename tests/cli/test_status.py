"""`meshca status`: one screen, and an exit code for monitoring."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshca.proto.meshca.v1 import admin_pb2 as pb
from tests.fakes.admin_service import (
    CART,
    NEW_ROOT,
    OLD_ISSUER,
    OLD_ROOT,
    FakeAdmin,
    at_rest,
    distributing,
    laggard,
)
from tests.programs import MESHCA


@pytest.fixture
def admin(short_tmp: Path) -> Iterator[FakeAdmin]:
    with FakeAdmin(short_tmp / "admin.sock") as running:
        yield running


def shown(socket: Path, *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [*MESHCA, "status", "--admin", str(socket), *words], capture_output=True, text=True, check=False, timeout=30
    )
    return done.returncode, done.stdout, done.stderr


def now(offset: int = 0) -> int:
    return int(time.time()) + offset


@pytest.mark.parametrize(
    ("severities", "code", "health"),
    [
        ([], 0, "ok"),
        (["info"], 2, "info"),
        (["info", "warning"], 3, "warning"),
        (["info", "critical", "warning"], 4, "critical"),
        (["catastrophic"], 4, "critical"),  # of a newer server
    ],
)
def test_the_worst_alarm_decides(admin: FakeAdmin, severities: list[str], code: int, health: str) -> None:
    status = at_rest(now())
    status.alarms.extend(pb.Alarm(severity=severity, subject="root", message="is odd") for severity in severities)
    admin.statuses = [status]
    ended, out, _ = shown(admin.socket)
    assert (ended, out.splitlines()[0]) == (code, f"example.org: {health}")


def test_everything_is_in_one_screen(admin: FakeAdmin) -> None:
    status = distributing(now(), laggard(), covered=1)
    status.alarms.add(severity="warning", subject="rotation", message="it waits")
    status.journal.extend(
        pb.JournalEntry(at=1_800_000_000 - number, actor="operator", step=f"step {number}") for number in range(9)
    )
    admin.statuses = [status]
    code, out, _ = shown(admin.socket)
    assert code == 3
    assert re.search(r"^rotation   under way since 2027-01-15T08:00:00Z, begun by operator: yearly$", out, re.MULTILINE)
    assert "\ncoverage   1/2 have bundle 2\n" in out
    assert re.search(r"^clock      \S+Z, (the same as|\ds behind) ours$", out, re.MULTILINE)
    assert f"\nBEHIND\n{CART} (bundle 1 by stream since 2027-01-15T07:00:00Z)\n" in out
    assert "\nALARMS\nwarning   rotation: it waits\n" in out
    assert re.search(rf"^root    active    {OLD_ROOT}  2027-04-15T08:00:00Z  in \d+d", out, re.MULTILINE)
    assert out.endswith(
        "\nLAST STEPS\n"
        + "".join(
            f"2027-01-15T0{t}Z  operator  step {n}\n"
            for n, t in enumerate(("8:00:00", "7:59:59", "7:59:58", "7:59:57", "7:59:56"))
        )
    )


def test_for_scripts_it_is_one_object(admin: FakeAdmin) -> None:
    status = at_rest(now())
    status.alarms.add(severity="info", subject="rotation", message="rests")
    status.alarms.add(severity="warning", subject="root", message="is old")
    status.journal.add(at=1_800_000_000, actor="schedule", step="activate", authority_id=OLD_ROOT, bundle_sequence=1)
    admin.statuses = [status]
    code, out, _ = shown(admin.socket, "-o", "json")
    document = json.loads(out)
    assert code == 3
    assert list(document) == [
        "health",
        "trust_domain",
        "now",
        "clock_ahead_seconds",
        "readiness",
        "rotation_tick",
        "alarms",
        "rotation",
        "authorities",
        "journal",
    ]
    assert (document["health"], document["clock_ahead_seconds"], document["rotation"]["phase"]) == (
        "warning",
        0,
        "idle",
    )
    assert document["alarms"] == [
        {"severity": "warning", "subject": "root", "message": "is old"},
        {"severity": "info", "subject": "rotation", "message": "rests"},
    ]
    assert [a["id"] for a in document["authorities"]] == [OLD_ROOT, OLD_ISSUER]
    assert document["journal"] == [
        {
            "at": "2027-01-15T08:00:00Z",
            "actor": "schedule",
            "step": "activate",
            "authority_id": OLD_ROOT,
            "reason": "",
            "forced": False,
            "bundle_sequence": 1,
        }
    ]


def test_it_tells_whether_the_server_is_ready_and_when_it_ticked(admin: FakeAdmin) -> None:
    status = at_rest(now())
    status.readiness.ready = True
    status.rotation_tick.well_at = status.now
    admin.statuses = [status]
    _, out, _ = shown(admin.socket)
    assert "\nready      yes\n" in out
    assert re.search(r"^last tick  ended well at \S+Z \(now\)$", out, re.MULTILINE)
    document = json.loads(shown(admin.socket, "-o", "json")[1])
    assert document["readiness"] == {"ready": True, "reasons": []}
    assert document["rotation_tick"] == {"well_at": document["now"], "failure": ""}


def test_it_tells_why_the_server_is_not_ready_and_why_it_does_not_tick(admin: FakeAdmin) -> None:
    status = at_rest(now())
    status.readiness.reasons.add(check="ledger", problem="it is\nfull")
    status.readiness.reasons.add(check="listeners", problem="not open")
    status.rotation_tick.failure = "the store\x1b is out"
    admin.statuses = [status]
    _, out, _ = shown(admin.socket)
    assert "\nready      no: ledger: it is full; listeners: not open\n" in out
    failed = "none has ended well since the start; it has failed since: the store? is out"
    assert f"\nlast tick  {failed}\n" in out
    document = json.loads(shown(admin.socket, "-o", "json")[1])
    assert document["readiness"]["reasons"][0] == {"check": "ledger", "problem": "it is\nfull"}
    assert document["rotation_tick"] == {"well_at": "", "failure": "the store\x1b is out"}


def test_what_an_older_server_does_not_tell_is_left_out(admin: FakeAdmin) -> None:
    admin.statuses = [at_rest(now())]
    _, out, _ = shown(admin.socket)
    assert "\nready" not in out
    assert "\nlast tick" not in out
    document = json.loads(shown(admin.socket, "-o", "json")[1])
    assert (document["readiness"], document["rotation_tick"]) == (None, None)


@pytest.mark.parametrize(("offset", "words"), [(100, "ahead of ours"), (-100, "behind ours")])
def test_clocks_that_differ_are_a_warning(admin: FakeAdmin, offset: int, words: str) -> None:
    admin.statuses = [at_rest(now(offset))]
    code, out, _ = shown(admin.socket)
    assert code == 3
    found = re.search(r"^warning   clock: the server's clock is 1m \d+s (.*): certificates may be", out, re.MULTILINE)
    assert found is not None
    assert found[1] == words


def test_clocks_that_differ_little_are_no_alarm(admin: FakeAdmin) -> None:
    admin.statuses = [at_rest(now(20), NEW_ROOT)]
    code, out, _ = shown(admin.socket)
    assert code == 0
    assert re.search(r"^clock      \S+Z, \d+s ahead of ours$", out, re.MULTILINE)


def test_a_server_that_does_not_answer_is_critical(short_tmp: Path) -> None:
    socket = short_tmp / "admin.sock"
    assert shown(socket) == (4, "", f"meshca: no server is running there: {socket} does not exist\n")


def test_a_server_that_cannot_be_looked_for_is_critical(admin: FakeAdmin) -> None:
    code, out, said = shown(Path("/" + "x" * 120))
    assert (code, out) == (4, "")
    assert "at most 107 can be" in said
