"""`meshca rotate`: the plan, the question, the watching, and how each of them ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from meshca.proto.meshca.v1 import admin_pb2 as pb
from tests.fakes.admin_service import (
    CART,
    DAY,
    DB,
    NEW_ROOT,
    NOW,
    OLD_ROOT,
    FakeAdmin,
    at_rest,
    distributing,
    laggard,
    switched,
)
from tests.programs import MESHCA, meshca

PLAN = pb.PlanRotationResponse(
    steps=[
        pb.PlanStep(name="prepare", what="a new root is made; bundle 2 has both", needs="nothing", ends=NOW),
        pb.PlanStep(name="distribute", what="2 holders get it", needs="a holder that is away", ends=NOW + 3),
        pb.PlanStep(name="retire", what="the old root leaves the bundle", needs="no certificate", ends=NOW + 3700),
    ],
    holders=3,
    streams=2,
    window_seconds=5,
    renewals_per_second=0.4,
)
PLAN_TEXT = """\
Rotation of the root of example.org
3 holders, 2 of them reached on their streams; renewals: 0.4 a second over 5s

1. prepare     over by 2027-01-15T08:00:00Z (now) if all goes well
   what        a new root is made; bundle 2 has both
   needs       nothing
2. distribute  over by 2027-01-15T08:00:03Z (in 3s) if all goes well
   what        2 holders get it
   needs       a holder that is away
3. retire      over by 2027-01-15T09:01:40Z (in 1h 1m) if all goes well
   what        the old root leaves the bundle
   needs       no certificate

"""
WATCHED = "a rotation of the root is under way since 2027-01-15T08:00:00Z, begun by operator: yearly"


@pytest.fixture
def admin(short_tmp: Path) -> Iterator[FakeAdmin]:
    with FakeAdmin(short_tmp / "admin.sock") as running:
        running.statuses = [at_rest()]
        running.plan = PLAN
        yield running


def rotate(admin: FakeAdmin, *words: object, status: int = 0) -> str:
    return meshca("rotate", *words, "--data-dir", admin.socket.parent, status=status)


@contextmanager
def started(admin: FakeAdmin, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [*MESHCA, "rotate", *words, "--data-dir", str(admin.socket.parent)]
    silent, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, stdin=silent, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_dry_run_prints_the_plan_and_begins_nothing(admin: FakeAdmin) -> None:
    assert rotate(admin, "root", "--dry-run") == PLAN_TEXT
    assert not admin.asked(pb.BeginRotationRequest)


def test_a_dry_run_as_json_is_one_object(admin: FakeAdmin) -> None:
    shown = json.loads(rotate(admin, "root", "--dry-run", "-o", "json"))
    assert shown["begun"] is False
    assert shown["plan"]["steps"][1] == {
        "name": "distribute",
        "what": "2 holders get it",
        "needs": "a holder that is away",
        "ends": "2027-01-15T08:00:03Z",
    }
    assert {name: shown["plan"][name] for name in ("holders", "streams", "window_seconds", "renewals_per_second")} == {
        "holders": 3,
        "streams": 2,
        "window_seconds": 5,
        "renewals_per_second": 0.4,
    }


def test_without_a_terminal_and_without_yes_nothing_is_begun(admin: FakeAdmin) -> None:
    with started(admin, "root") as process:
        out, said = process.communicate(timeout=30)
    assert (process.returncode, out) == (3, PLAN_TEXT)
    assert said == "meshca: there is no terminal to ask for confirmation: add --yes to go on without\n"
    assert not admin.asked(pb.BeginRotationRequest)


def test_what_was_begun_is_followed_by_commands_for_the_same_server(admin: FakeAdmin) -> None:
    directory = admin.socket.parent
    assert rotate(admin, "root", "--yes", "--reason", "yearly") == (
        f"{PLAN_TEXT}begun; watch it with\n  meshca rotate root --wait --data-dir {directory}\n"
        f"look at it with\n  meshca rotate status --data-dir {directory}\n"
        f"and go back with\n  meshca rotate abort --data-dir {directory}\n"
    )
    assert admin.asked(pb.BeginRotationRequest) == [pb.BeginRotationRequest(reason="yearly")]


def test_begun_as_json_is_one_object(admin: FakeAdmin) -> None:
    assert json.loads(rotate(admin, "root", "--yes", "-o", "json"))["begun"] is True


def test_with_wait_each_change_is_a_line_until_the_old_root_is_gone(admin: FakeAdmin) -> None:
    admin.statuses = [
        at_rest(),
        distributing(NOW + 3, laggard(), laggard(DB, channel="none", bundle_sequence=0), covered=0),
        distributing(NOW + 4, laggard(refusal="unknown\x1b[2J key"), covered=1),
        distributing(NOW + 5, laggard(refusal="unknown\x1b[2J key"), covered=1),
        switched(NOW + 20, renewed=1),
        switched(NOW + 25),
        at_rest(NOW + 90, NEW_ROOT),
    ]
    assert rotate(admin, "root", "--wait", "--yes") == (
        f"{PLAN_TEXT}begun\n"
        "2027-01-15T08:00:03Z  +3s  distributing  coverage 0/2"
        "  waits for 2 of 2 holders to show that they have bundle 2"
        f"  behind: {CART} (bundle 1 by stream since 2027-01-15T07:00:00Z),"
        f" {DB} (nothing known since 2027-01-15T07:00:00Z)\n"
        "2027-01-15T08:00:04Z  +4s  distributing  coverage 1/2"
        "  waits for 1 of 2 holders to show that they have bundle 2"
        f"  behind: {CART} (bundle 1 by stream since 2027-01-15T07:00:00Z; refuses: unknown?[2J key)\n"
        "2027-01-15T08:00:20Z  +20s  renewing  coverage 2/2  renewed 1/2  waits for 1 holders to renew\n"
        "2027-01-15T08:00:25Z  +25s  retiring  coverage 2/2  renewed 2/2"
        "  waits for the last certificate under another root to end\n"
        "2027-01-15T08:01:30Z  +1m 30s  idle  coverage 2/2\n"
        f"the rotation is over after 1m 30s: every certificate that is in use is under root {NEW_ROOT},"
        " and the old root has left the bundle\n"
    )


@pytest.mark.parametrize(("linger", "old_ends"), [("2m", NOW + 3625), ("30s", NOW + 60), ("0s", NOW + 25)])
def test_old_certificates_that_live_for_long_are_not_waited_for(admin: FakeAdmin, linger: str, old_ends: int) -> None:
    admin.statuses = [at_rest(), switched(NOW + 25, old_ends=old_ends)]
    said = rotate(admin, "root", "--wait", "--yes", "--linger", linger).splitlines()[-1]
    assert said.startswith(
        f"done after 25s: every certificate that is in use is under root {NEW_ROOT};"
        " the old root leaves the bundle once the last certificate under it has ended at 2027-01-15T0"
    )
    assert said.endswith({"2m": "09:00:25Z (in 1h)", "30s": "08:01:00Z (in 35s)", "0s": "08:00:25Z (now)"}[linger])


def test_with_wait_as_json_each_change_is_an_object_and_words_are_on_stderr(admin: FakeAdmin) -> None:
    admin.statuses = [
        at_rest(),
        distributing(NOW + 3, laggard(), covered=1),
        distributing(NOW + 4, laggard(), covered=1),
        switched(NOW + 25, old_ends=NOW + DAY),
    ]
    lines = [json.loads(line) for line in rotate(admin, "root", "--wait", "--yes", "-o", "json").splitlines()]
    assert [(line["at"], line["elapsed_seconds"], line["phase"], line["outcome"]) for line in lines] == [
        ("2027-01-15T08:00:03Z", 3, "distributing", "under_way"),
        ("2027-01-15T08:00:25Z", 25, "retiring", "renewed"),
    ]
    assert lines[0]["coverage"]["laggards"][0]["spiffe_id"] == CART
    assert lines[1]["old_ends"] == "2027-01-16T08:00:00Z"


def test_a_rotation_under_way_is_watched_without_a_question(admin: FakeAdmin) -> None:
    admin.statuses = [switched(NOW + 20, renewed=1), switched(NOW + 25, old_ends=NOW + DAY)]
    said = rotate(admin, "root", "--wait").splitlines()
    assert said[0] == f"{WATCHED}; watching it"
    assert said[-1].startswith("done after 25s")
    assert not admin.asked(pb.BeginRotationRequest)


def test_a_rotation_that_somebody_else_begins_meanwhile_is_watched(admin: FakeAdmin) -> None:
    admin.refusals["BeginRotation"] = (grpc.StatusCode.ABORTED, "a rotation of the root is under way since today")
    admin.statuses = [at_rest(), distributing(), distributing(), switched(NOW + 25, old_ends=NOW + DAY)]
    said = rotate(admin, "root", "--wait", "--yes")
    assert f"{WATCHED}; watching it\n" in said
    assert f"under root {NEW_ROOT}" in said.splitlines()[-1]


def test_a_conflict_without_a_rotation_under_way_is_told(admin: FakeAdmin) -> None:
    admin.refusals["BeginRotation"] = (grpc.StatusCode.ABORTED, "somebody else changed the ring")
    assert rotate(admin, "root", "--wait", "--yes", status=5) == "meshca: somebody else changed the ring\n"


def test_a_refusal_to_begin_is_told_whatever_else_is_under_way(admin: FakeAdmin) -> None:
    refusal = "reason: at most 500 printable characters are recorded"
    admin.refusals["BeginRotation"] = (grpc.StatusCode.INVALID_ARGUMENT, refusal)
    admin.statuses = [at_rest(), distributing(), switched(NOW + 25, old_ends=NOW + DAY)]
    assert rotate(admin, "root", "--wait", "--yes", status=3) == f"meshca: {refusal}\n"


def test_without_wait_a_rotation_under_way_is_a_conflict(admin: FakeAdmin) -> None:
    admin.statuses = [distributing()]
    said = rotate(admin, "root", "--yes", status=5)
    assert said == f"meshca: {WATCHED}: --wait watches it, `meshca rotate abort` ends it\n"


def test_a_rotation_that_is_aborted_while_it_is_watched_is_a_conflict(admin: FakeAdmin) -> None:
    aborted = at_rest(NOW + 9, held_since=NOW + 8)
    aborted.journal.add(at=NOW + 8, actor="operator", step="abort rotation", reason="wrong day")
    admin.statuses = [distributing(), distributing(), aborted]
    assert rotate(admin, "root", "--wait", status=5) == (
        f"meshca: the rotation was aborted at 2027-01-15T08:00:08Z by operator: wrong day; root {OLD_ROOT} signs\n"
    )


def test_a_rotation_that_is_aborted_and_begun_anew_is_not_taken_for_the_one_that_was_watched(admin: FakeAdmin) -> None:
    another = distributing(NOW + 60)
    another.rotation.since = NOW + 30
    admin.statuses = [distributing(), distributing(), another]
    said = rotate(admin, "root", "--wait", status=5)
    assert said == f"meshca: the rotation was aborted; root {OLD_ROOT} signs\n"


def test_a_server_that_is_away_is_waited_for(admin: FakeAdmin) -> None:
    admin.statuses = [distributing()]
    with started(admin, "root", "--wait") as process:
        assert process.stdout is not None
        admin.wait_for_status_calls(3)
        admin.down()
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[-1].startswith("waiting for the server: ")
        assert str(admin.socket) in lines[-1]  # it ended between two calls, or in the middle of one
        admin.statuses = [switched(NOW + 25, old_ends=NOW + DAY)]
        admin.up()
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out.startswith("the server is back\n2027-01-15T08:00:25Z  +25s  retiring")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, "cancelling all calls"),
        (grpc.StatusCode.CANCELLED, "the server at {socket} ended in the middle of the call"),
    ],
)
def test_a_server_that_ends_in_the_middle_of_a_call_is_waited_for(
    admin: FakeAdmin, code: grpc.StatusCode, reason: str
) -> None:
    admin.statuses = [distributing()]
    with started(admin, "root", "--wait") as process:
        admin.wait_for_status_calls(2)
        admin.statuses = [switched(NOW + 25, old_ends=NOW + DAY)]
        admin.refusals["GetStatus"] = (code, "cancelling all calls")
        asked = len(admin.requests)
        wait_until(lambda: len(admin.requests) > asked + 1)
        del admin.refusals["GetStatus"]
        out, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")
    waited = f"waiting for the server: {reason.format(socket=admin.socket)}\nthe server is back\n"
    assert out.count(waited) == 1


def test_a_fault_of_the_server_ends_the_watching(admin: FakeAdmin) -> None:
    admin.statuses = [distributing()]
    with started(admin, "root", "--wait") as process:
        admin.wait_for_status_calls(2)
        admin.refusals["GetStatus"] = (grpc.StatusCode.INTERNAL, "the ring cannot be read")
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (1, "meshca: the ring cannot be read\n")


def test_an_interruption_ends_the_watching_and_not_the_rotation(admin: FakeAdmin) -> None:
    admin.statuses = [distributing()]
    with started(admin, "root", "--wait") as process:
        admin.wait_for_status_calls(3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == (
        "meshca: no longer watched; the rotation goes on:"
        f" `meshca rotate root --wait --data-dir {admin.socket.parent}` watches it again\n"
    )
    assert not admin.asked(pb.AbortRotationRequest)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["root", "--linger", "soon"], 3, "--linger: 'soon' is not a duration: write it like 90s, 10m, 1h30m or 30d\n"),
        (["abort", "--yes"], 5, "no rotation of the root is under way: there is nothing to abort\n"),
        (["root", "-o", "yaml"], 2, "'yaml' is not one of"),
        (["sideways"], 2, "No such command 'sideways'"),
    ],
)
def test_rotate_refuses_bad_input(admin: FakeAdmin, arguments: list[str], status: int, words: str) -> None:
    assert words in rotate(admin, *arguments, status=status)
    assert not admin.asked(pb.BeginRotationRequest)


def test_where_it_stands_for_scripts(admin: FakeAdmin) -> None:
    admin.statuses = [distributing(NOW + 3, laggard(refusal="no"), covered=1)]
    assert json.loads(rotate(admin, "status", "-o", "json")) == {
        "phase": "distributing",
        "waits_for": "1 of 2 holders to show that they have bundle 2",
        "coverage": {
            "left_out": 0,
            "bundle_sequence": 2,
            "holders": 2,
            "covered": 1,
            "complete_since": "",
            "laggards": [
                {
                    "spiffe_id": CART,
                    "serial": "5e",
                    "bundle_sequence": 1,
                    "channel": "stream",
                    "since": "2027-01-15T07:00:00Z",
                    "until": "2027-01-15T08:30:00Z",
                    "refusal": "no",
                }
            ],
        },
        "holders": 2,
        "renewed": 2,
        "soaks_until": "",
        "old_ends": "",
        "origin": "operator",
        "reason": "yearly",
        "since": "2027-01-15T08:00:00Z",
        "predecessor": OLD_ROOT,
        "successor": NEW_ROOT,
        "held_since": "",
        "bundle_sequence": 2,
    }


def test_how_many_are_left_out_is_told_where_any_are(admin: FakeAdmin) -> None:
    status = distributing(NOW + 3, laggard(), covered=1)
    status.rotation.coverage.left_out = 3
    admin.statuses = [status]
    assert "\ncoverage   1/2 have bundle 2; 3 more are revoked, and left out\n" in rotate(admin, "status")


def test_where_it_stands_for_people(admin: FakeAdmin) -> None:
    admin.statuses = [distributing(NOW + 3, laggard(), covered=1)]
    assert rotate(admin, "status") == (
        "rotation   under way since 2027-01-15T08:00:00Z, begun by operator: yearly\n"
        "phase      distributing\n"
        "waits for  1 of 2 holders to show that they have bundle 2\n"
        f"from       {OLD_ROOT}\n"
        f"to         {NEW_ROOT}\n"
        "coverage   1/2 have bundle 2\n"
        "renewed    2/2 have their newest certificate under the active root\n"
        "\n"
        "BEHIND\n"
        f"{CART} (bundle 1 by stream since 2027-01-15T07:00:00Z)\n"
    )


def test_laggards_that_the_server_does_not_list_are_counted(admin: FakeAdmin) -> None:
    admin.statuses = [distributing(NOW + 3, laggard(), covered=0)]
    assert rotate(admin, "status").splitlines()[-1] == "and 1 more"


def test_an_abort_is_told_with_the_root_that_signs(admin: FakeAdmin) -> None:
    admin.statuses = [distributing(), at_rest()]
    assert rotate(admin, "abort", "--yes", "--reason", "wrong day").endswith(f"\naborted: root {OLD_ROOT} signs\n")
    assert admin.asked(pb.AbortRotationRequest) == [pb.AbortRotationRequest(reason="wrong day")]


def test_an_abort_that_comes_too_late_is_the_servers_to_refuse(admin: FakeAdmin) -> None:
    admin.statuses = [switched(NOW)]
    admin.refusals["AbortRotation"] = (grpc.StatusCode.ABORTED, "there is no way back to it: rotate again")
    assert rotate(admin, "abort", "--yes", status=5) == "meshca: there is no way back to it: rotate again\n"


def on_a_terminal(admin: FakeAdmin, *words: str, answer: str) -> tuple[int, str]:
    """How a command ends, and everything that it writes to a terminal on which `answer` is typed when it asks."""
    terminal, its_end = pty.openpty()
    command = ["setsid", "--ctty", *MESHCA, "rotate", *words, "--admin", str(admin.socket)]
    with subprocess.Popen(command, stdin=its_end, stdout=its_end, stderr=its_end) as process:
        os.close(its_end)
        shown = _read_until(terminal, b"[y/N]")
        os.write(terminal, f"{answer}\n".encode())
        shown += _read_until(terminal, None)
        os.close(terminal)
        return process.wait(timeout=30), shown.decode()


def _read_until(terminal: int, words: bytes | None) -> bytes:
    """What is written up to those words, or to the end."""
    shown = b""
    while words is None or words not in shown:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # how the end of a terminal is told
            break
        if not piece:
            break
        shown += piece
    return shown


def test_on_a_terminal_the_answer_yes_begins_and_one_block_shows_the_progress(admin: FakeAdmin) -> None:
    admin.statuses = [
        at_rest(),
        distributing(NOW + 3, laggard(), covered=1),
        switched(NOW + 25, old_ends=NOW + DAY),
    ]
    code, shown = on_a_terminal(admin, "root", "--wait", answer="y")
    assert code == 0
    assert "Rotate the root of example.org? [y/N]" in shown
    assert f"behind      {CART} (bundle 1 by stream" in shown
    assert "\x1b[2K" in shown  # lines were written anew
    assert shown.index("phase       distributing") < shown.index("phase       retiring") < shown.index("done after 25s")
    assert admin.asked(pb.BeginRotationRequest)


@pytest.mark.parametrize("answer", ["n", "", "yes please", "\x04", "\x03"])
def test_on_a_terminal_any_answer_but_yes_changes_nothing(admin: FakeAdmin, answer: str) -> None:
    code, shown = on_a_terminal(admin, "root", answer=answer)
    assert code == 6
    assert "meshca: not confirmed: nothing was changed" in shown
    assert not admin.asked(pb.BeginRotationRequest)
