"""`meshca revoke`, `unban` and `revocations list`: what is asked before, what the server is told, what is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from meshca.proto.meshca.v1 import admin_pb2 as pb
from tests.fakes.admin_service import CART, NOW, OLD_ISSUER, FakeAdmin
from tests.programs import meshca

SERIAL = "5e" * 20


@pytest.fixture
def admin(short_tmp: Path) -> Iterator[FakeAdmin]:
    with FakeAdmin(short_tmp / "admin.sock") as running:
        running.ban = pb.Ban(
            kind="identity", subject=CART, spiffe_id=CART, reason="st\x1b[olen", actor="operator", at=NOW
        )
        yield running


def run(admin: FakeAdmin, *words: object, status: int = 0) -> str:
    return meshca(*words, "--admin", admin.socket, status=status)


def test_an_identity_is_revoked_and_taken_back(admin: FakeAdmin) -> None:
    said = run(admin, "revoke", "--spiffe-id", CART, "--reason", "stolen", "--yes")
    assert said == f"{CART} is revoked\n"
    assert admin.asked(pb.RevokeRequest) == [pb.RevokeRequest(spiffe_id=CART, reason="stolen")]
    assert run(admin, "unban", "--spiffe-id", CART) == f"{CART} is no longer revoked\n"
    assert admin.asked(pb.UnbanRequest) == [pb.UnbanRequest(spiffe_id=CART)]


def test_for_scripts_a_ban_is_one_object(admin: FakeAdmin) -> None:
    (listed,) = json.loads(run(admin, "revocations", "list", "-o", "json"))
    revoked = run(admin, "revoke", "--spiffe-id", CART, "--reason", "stolen", "--yes", "-o", "json")
    assert json.loads(revoked) == listed
    admin.ban.lifted_at = NOW + 60
    lifted = json.loads(run(admin, "unban", "--spiffe-id", CART, "-o", "json"))
    assert lifted == {**listed, "lifted_at": "2027-01-15T08:01:00Z"}


def test_a_certificate_is_revoked_and_taken_back(admin: FakeAdmin) -> None:
    admin.ban = pb.Ban(kind="serial", subject=SERIAL, spiffe_id=CART, at=NOW, issuer_id=OLD_ISSUER, until=NOW + 60)
    said = run(admin, "revoke", "--serial", SERIAL[:6], "--reason", "exposed", "--yes")
    assert said == f"certificate {SERIAL} of {CART} is revoked\n"
    assert admin.asked(pb.RevokeRequest) == [pb.RevokeRequest(serial=SERIAL[:6], reason="exposed")]
    said = run(admin, "unban", "--serial", SERIAL[:6])
    assert said == f"certificate {SERIAL} of {CART} is no longer revoked\n"


@pytest.mark.parametrize("output", ["table", "json"])
def test_nothing_is_revoked_unconfirmed(admin: FakeAdmin, output: str) -> None:
    said = run(admin, "revoke", "--spiffe-id", CART, "--reason", "stolen", "-o", output, status=3)
    assert "add --yes" in said
    assert admin.asked(pb.RevokeRequest) == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("revoke", "--reason", "x", "--yes"), "exactly one of"),
        (("revoke", "--spiffe-id", CART, "--serial", SERIAL, "--reason", "x", "--yes"), "exactly one of"),
        (("revoke", "--spiffe-id", CART, "--reason", " ", "--yes"), "--reason is empty"),
        (("unban",), "exactly one of"),
    ],
)
def test_words_that_do_not_fit_are_refused_before_the_server_is_asked(
    admin: FakeAdmin, words: tuple[str, ...], problem: str
) -> None:
    assert problem in run(admin, *words, status=3)
    assert admin.requests == []


def test_what_the_server_refuses_is_told(admin: FakeAdmin) -> None:
    admin.refusals["Revoke"] = (grpc.StatusCode.ABORTED, "it is revoked already")
    said = run(admin, "revoke", "--spiffe-id", CART, "--reason", "stolen", "--yes", status=5)
    assert said == "meshca: it is revoked already\n"


def test_the_list_is_a_table_or_json(admin: FakeAdmin) -> None:
    lines = run(admin, "revocations", "list").splitlines()
    assert lines[0].split() == ["AT", "KIND", "SUBJECT", "REASON"]
    assert lines[1].split() == ["2027-01-15T08:00:00Z", "identity", CART, "st?[olen"]
    assert "LIFTED_AT" in run(admin, "revocations", "list", "--all")
    (row,) = json.loads(run(admin, "revocations", "list", "-o", "json", "--limit", "7"))
    assert row == {
        "kind": "identity",
        "subject": CART,
        "spiffe_id": CART,
        "reason": "st\x1b[olen",
        "actor": "operator",
        "at": "2027-01-15T08:00:00Z",
        "lifted_at": "",
        "issuer_id": "",
        "until": "",
    }
    asked = admin.asked(pb.ListRevocationsRequest)
    assert [(request.limit, request.lifted) for request in asked] == [(100, False), (100, True), (7, False)]
