"""`meshca authority`: what is shown, what is asked before, and what the server is told."""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from meshca.proto.meshca.v1 import admin_pb2 as pb
from tests.fakes.admin_service import (
    NEW_ROOT,
    NOW,
    OLD_ISSUER,
    OLD_ROOT,
    FakeAdmin,
    at_rest,
    distributing,
    issuer,
    root,
    switched,
)
from tests.programs import MESHCA, meshca


@pytest.fixture
def admin(short_tmp: Path) -> Iterator[FakeAdmin]:
    with FakeAdmin(short_tmp / "admin.sock") as running:
        running.statuses = [at_rest()]
        running.authority = root(OLD_ROOT, "active")
        yield running


def authority(admin: FakeAdmin, *words: object, status: int = 0) -> str:
    return meshca("authority", *words, "--admin", admin.socket, status=status)


def run(admin: FakeAdmin, *words: object) -> tuple[int, str, str]:
    """How it ended, and what is on standard output and on standard error."""
    command = [*MESHCA, "authority", *map(str, words), "--admin", str(admin.socket)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stdout, done.stderr


def step(name: str, authority_id: str, **fields: Any) -> pb.StepAuthorityRequest:
    return pb.StepAuthorityRequest(step=name, authority_id=authority_id, **fields)


def test_the_list_tells_since_when(admin: FakeAdmin) -> None:
    lines = [line.split() for line in authority(admin, "list").splitlines()]
    assert lines[0] == ["ID", "KIND", "STATE", "SINCE", "NOT_BEFORE", "NOT_AFTER"]
    assert lines[1][:4] == [OLD_ROOT, "root", "active", "2027-01-05T08:00:00Z"]
    shown = json.loads(authority(admin, "list", "-o", "json"))
    assert (shown["trust_domain"], shown["bundle_sequence"]) == ("example.org", 1)
    assert shown["authorities"][0] == {
        "id": OLD_ROOT,
        "kind": "root",
        "state": "active",
        "since": "2027-01-05T08:00:00Z",
        "issuer_id": OLD_ROOT,
        "not_before": "2027-01-05T08:00:00Z",
        "not_after": "2027-04-15T08:00:00Z",
        "bundle_sequence": 1,
        "distrust_at": "",
        "external": False,
        "cross_signed_by": "",
    }


def test_one_is_shown_with_its_certificate_and_its_last_steps(admin: FakeAdmin) -> None:
    status = at_rest()
    status.authorities[0].certificate = b"der"
    status.authorities[0].cross_signed_by = NEW_ROOT
    status.journal.add(at=NOW, actor="operator", step="activate", authority_id=OLD_ROOT, reason="now", forced=True)
    status.journal.add(at=NOW, actor="schedule", step="activate", authority_id=OLD_ISSUER)
    admin.statuses = [status]
    pem = ssl.DER_cert_to_PEM_cert(b"der")
    said = authority(admin, "show", OLD_ROOT[:4].upper(), "--pem")
    assert said.startswith(f"id               {OLD_ROOT}\nkind             root\nstate            active\n")
    assert f"\ncross_signed_by  {NEW_ROOT}\n" in said
    assert f"\nsha256           {hashlib.sha256(b'der').hexdigest()}\n" in said
    assert said.endswith(f"\nLAST STEPS\n2027-01-15T08:00:00Z  operator  activate  {OLD_ROOT}  (forced): now\n\n{pem}")
    shown = json.loads(authority(admin, "show", OLD_ROOT, "--pem", "-o", "json"))
    assert shown["certificate"] == pem
    assert [(entry["actor"], entry["forced"]) for entry in shown["journal"]] == [("operator", True)]
    assert "certificate" not in json.loads(authority(admin, "show", OLD_ROOT, "-o", "json"))


def test_a_prepared_authority_is_named(admin: FakeAdmin) -> None:
    admin.authority = root(NEW_ROOT, "prepared")
    said = authority(admin, "prepare", "root", "--reason", "spare")
    assert said == f"root {NEW_ROOT} is prepared, until 2027-04-15T08:00:00Z\n"
    assert json.loads(authority(admin, "prepare", "issuer", "--reason", "x", "-o", "json"))["id"] == NEW_ROOT
    assert admin.asked(pb.PrepareAuthorityRequest) == [
        pb.PrepareAuthorityRequest(kind="root", reason="spare"),
        pb.PrepareAuthorityRequest(kind="issuer", reason="x"),
    ]


def test_steps_say_what_was_and_what_is(admin: FakeAdmin) -> None:
    status = switched(NOW)
    admin.statuses = [status]
    for name, state, now in (("activate", "old", "active"), ("revoke", "tainted", "revoked"), ("prune", "old", "gone")):
        admin.authority = root(OLD_ROOT, state)
        yes = [] if name == "activate" else ["--yes"]
        said = authority(admin, name, OLD_ROOT[:6], "--force", "--reason", "must", *yes)
        assert said == f"root {OLD_ROOT}: was {state}, is {now}\n"
    assert admin.asked(pb.StepAuthorityRequest) == [
        step("activate", OLD_ROOT[:6], reason="must", force=True),  # the server resolves it
        step("revoke", OLD_ROOT, reason="must", force=True),
        step("prune", OLD_ROOT, reason="must", force=True),
    ]


@pytest.mark.parametrize(
    ("name", "was", "now", "words"),
    [
        ("activate", "old", "active", []),
        ("taint", "active", "tainted", ["--reason", "leaked", "--yes"]),
        ("revoke", "tainted", "revoked", ["--yes"]),
        ("prune", "old", "gone", ["--yes"]),
    ],
)
def test_for_scripts_a_step_is_one_object_of_what_was_done(
    admin: FakeAdmin, name: str, was: str, now: str, words: list[str]
) -> None:
    admin.authority = root(OLD_ROOT, was)
    code, out, _ = run(admin, name, OLD_ROOT, *words, "-o", "json")
    assert code == 0
    assert json.loads(out) == {
        "step": name,
        "id": OLD_ROOT,
        "kind": "root",
        "was": was,
        "state": now,
        "issuer_id": OLD_ROOT,
        "not_before": "2027-01-05T08:00:00Z",
        "not_after": "2027-04-15T08:00:00Z",
        "bundle_sequence": 1,
    }


def test_for_scripts_what_a_taint_would_break_is_told_beside_the_object(admin: FakeAdmin) -> None:
    _, out, beside = run(admin, "taint", OLD_ROOT, "--reason", "leaked", "--yes", "-o", "json")
    assert beside.startswith(f"root {OLD_ROOT} is active, until 2027-04-15T08:00:00Z\n  signs now    yes")
    assert out.startswith("{")


@pytest.mark.parametrize("words", [["taint", "--reason", "leaked"], ["revoke"], ["prune"]])
def test_scripts_that_cannot_be_asked_must_say_yes_beforehand(admin: FakeAdmin, words: list[str]) -> None:
    code, out, beside = run(admin, words[0], OLD_ROOT, *words[1:], "-o", "json")
    assert (code, out) == (3, "")
    assert beside.endswith("meshca: there is no terminal to ask for confirmation: add --yes to go on without\n")
    assert admin.asked(pb.StepAuthorityRequest) == []


def test_what_tainting_the_active_root_would_break_is_told_before(admin: FakeAdmin) -> None:
    said = authority(admin, "taint", "a1a1", "--reason", "leaked", "--distrust-after", "2h", "--yes")
    assert said == (
        f"root {OLD_ROOT} is active, until 2027-04-15T08:00:00Z\n"
        "  signs now    yes: nothing is signed any more until another one may take its place\n"
        f"  under it     issuer {OLD_ISSUER} (active): tainted with it\n"
        "  holders      2 of 2 use certificates from under it\n"
        "  then         a rotation begins: a new root signs once every holder trusts it,"
        " and everything is issued again under it\n"
        "  clients      those without a stream learn of a new root only with their next certificate, and none is signed"
        " until the new root is used: it waits for them until theirs have ended\n"
        "  distrust     at the latest in 2h: who has no certificate under another root by then is refused by everybody,"
        " and who trusts no other root refuses everybody\n"
        f"root {OLD_ROOT}: was active, is tainted\n"
    )
    assert admin.asked(pb.StepAuthorityRequest) == [
        step("taint", OLD_ROOT, reason="leaked", distrust_after_seconds=7200)
    ]


@pytest.mark.parametrize(
    ("status", "which", "words"),
    [
        (distributing(), OLD_ROOT, "the rotation under way goes on: its new root signs once every holder trusts it"),
        (distributing(), NEW_ROOT, "the rotation under way makes another root in its place"),
        (distributing(), NEW_ROOT, "none: it has signed nothing for them"),
        (switched(NOW, renewed=0), OLD_ROOT, "at most 2 of 2 use certificates from under it"),
        (switched(NOW, renewed=1), NEW_ROOT, "at least 1 of 2 use certificates from under it"),
        (switched(NOW), OLD_ROOT, "holders that depend on it renew under the active root"),
        (at_rest(), OLD_ROOT, "it leaves the bundle when no holder depends on it, however long that takes"),
        (at_rest(), OLD_ISSUER, "another issuing CA takes its place at the next tick"),
        (at_rest(), OLD_ISSUER, "at most 2 of 2 use certificates from under it"),
        (switched(NOW), OLD_ISSUER, "then         holders replace what it signed when they renew"),
    ],
)
def test_what_a_taint_means_depends_on_where_things_stand(
    admin: FakeAdmin, status: pb.GetStatusResponse, which: str, words: str
) -> None:
    admin.statuses = [status]
    assert words in authority(admin, "taint", which, "--reason", "leaked", "--yes")


def test_what_the_server_refuses_is_told_in_its_words(admin: FakeAdmin) -> None:
    admin.refusals["StepAuthority"] = (grpc.StatusCode.ABORTED, "cannot activate root b2b2 yet: 1 of 2 holders …")
    said = authority(admin, "activate", "b2b2", status=5)
    assert said == "meshca: cannot activate root b2b2 yet: 1 of 2 holders …\n"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["show", "a1"], 3, "meshca: authority 'a1' is too short: give at least 4 digits of its id\n"),
        (["show", "ffff"], 4, "meshca: there is no authority ffff: `meshca authority list` shows them\n"),
        (["show", "e5e5"], 3, "meshca: authority e5e5 fits 2 ids: give more digits\n"),
        (["taint", "a1a1", "--reason", "x"], 3, "there is no terminal to ask for confirmation: add --yes"),
        (["revoke", "a1a1"], 3, "there is no terminal to ask for confirmation: add --yes"),
        (["prune", "a1a1"], 3, "there is no terminal to ask for confirmation: add --yes"),
        (["taint", "a1a1", "--reason", " ", "--yes"], 3, "meshca: --reason is empty: say why, it is recorded\n"),
        (["prepare", "root", "--reason", ""], 3, "meshca: --reason is empty: say why, it is recorded\n"),
        (["taint", "a1a1", "--yes"], 2, "Missing option '--reason'"),
        (["prepare", "jwt", "--reason", "x"], 2, "'jwt' is not one of"),
        (["activate", "a1a1", "--force"], 3, "meshca: --force needs --reason: it is recorded why evidence was passed"),
        (["revoke", "a1a1", "--force", "--yes"], 3, "meshca: --force needs --reason: it is recorded why evidence was"),
        (["prune", "a1a1", "--force", "--yes"], 3, "meshca: --force needs --reason: it is recorded why evidence was"),
        (
            ["taint", "a1a1", "--reason", "x", "--distrust-after", "0s", "--yes"],
            3,
            "meshca: --distrust-after: '0s' is too short: at least 1s\n",
        ),
        (
            ["taint", "a1a1", "--reason", "x", "--distrust-after", "soon", "--yes"],
            3,
            "meshca: --distrust-after: 'soon' is not a duration",
        ),
    ],
)
def test_authority_refuses_bad_input(admin: FakeAdmin, arguments: list[str], status: int, words: str) -> None:
    twins = at_rest()
    twins.authorities.extend(issuer(f"e5e5{digit * 36}", "old", OLD_ROOT) for digit in "12")
    admin.statuses = [twins]
    assert words in authority(admin, *arguments, status=status)
    assert not admin.asked(pb.StepAuthorityRequest)
    assert not admin.asked(pb.PrepareAuthorityRequest)


def test_a_request_is_written_as_pem_to_a_file_or_to_standard_output(admin: FakeAdmin, short_tmp: Path) -> None:
    pem = authority(admin, "csr")
    assert pem.splitlines() == [
        "-----BEGIN CERTIFICATE REQUEST-----",
        "YSByZXF1ZXN0",
        "-----END CERTIFICATE REQUEST-----",
    ]
    told = authority(admin, "csr", "--new", "-o", short_tmp / "request.pem")
    assert (short_tmp / "request.pem").read_text() == pem
    assert "the request of 2027-01-15T08:00:00Z; have it signed" in told
    assert [asked.renew for asked in admin.asked(pb.RequestIssuerRequest)] == [False, True]


def test_an_import_says_what_came_in_and_what_happens_next(admin: FakeAdmin, short_tmp: Path) -> None:
    chain = short_tmp / "chain.pem"
    chain.write_bytes(b"an old root's")
    told = authority(admin, "import", chain, "--reason", "as agreed")
    assert told.splitlines() == [
        f"issuer {'d4' * 20} is prepared, until 2027-01-18T08:00:00Z, under active root {OLD_ROOT}"
    ]
    chain.write_bytes(b"a new root's")
    told = authority(admin, "import", chain)
    assert told.splitlines()[1].startswith("the root is new: a rotation brings it in once everybody trusts it")
    document = json.loads(authority(admin, "import", chain, "-o", "json"))
    assert (document["new_root"], document["root"]["external"]) == (True, True)
    sent = [(asked.chain, asked.reason) for asked in admin.asked(pb.ImportAuthorityRequest)]
    assert sent == [(b"an old root's", "as agreed"), (b"a new root's", ""), (b"a new root's", "")]


def test_a_chain_that_cannot_be_read_is_not_sent(admin: FakeAdmin, short_tmp: Path) -> None:
    refused = authority(admin, "import", short_tmp / "nothing.pem", status=3)
    assert refused == f"meshca: {short_tmp / 'nothing.pem'} cannot be read: No such file or directory\n"
    assert admin.asked(pb.ImportAuthorityRequest) == []
