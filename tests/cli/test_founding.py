"""`meshca init` on a CA that was made elsewhere: what is taken over, and what is refused with nothing left behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.assets.foreign import DAY, ForeignCa, foreign_ca, subject
from tests.programs import meshca

ROOT = subject("Corp Root")


def made(above: ForeignCa | None = None, **options: Any) -> ForeignCa:
    """A CA that is valid now."""
    now = datetime.now(UTC).replace(microsecond=0)
    life = {"since": now - timedelta(hours=1), "until": now + 90 * DAY}
    return foreign_ca(ROOT if above is None else subject("Mesh"), above, **{**life, **options})


def cacerts(directory: Path, root: ForeignCa, issuer: ForeignCa) -> Path:
    directory.mkdir()
    for name, data in {
        "ca-cert.pem": issuer.pem,
        "ca-key.pem": issuer.key_pem,
        "cert-chain.pem": issuer.pem + root.pem,
        "root-cert.pem": root.pem,
    }.items():
        (directory / name).write_bytes(data)
    return directory


def init(directory: Path, *options: object, status: int = 0) -> str:
    said = meshca("init", "--data-dir", directory / "ca", "--trust-domain", "example.org", *options, status=status)
    assert (directory / "ca").exists() == (status == 0)
    return said


def test_a_plugged_in_ca_is_taken_over_and_its_key_is_encrypted(tmp_path: Path) -> None:
    root = made()
    issuer = made(root)
    files = cacerts(tmp_path / "cacerts", root, issuer)
    (files / "ca-crl.pem").write_text("whatever")
    said = init(tmp_path, "--ca-dir", files)
    assert said.count(", until 20") == 2
    (key,) = (tmp_path / "ca" / "keys").iterdir()
    assert "ENCRYPTED PRIVATE KEY" in key.read_text()


def test_a_root_whose_key_is_elsewhere_leaves_a_request_pending(tmp_path: Path) -> None:
    (tmp_path / "root.pem").write_bytes(made().pem)
    said = init(tmp_path, "--root-cert", tmp_path / "root.pem")
    assert "issuing CA    none yet: with the server running, `meshca authority csr --data-dir " in said
    assert len(list((tmp_path / "ca" / "keys").iterdir())) == 1


@pytest.mark.parametrize(
    ("root", "words"),
    [
        (made(until=datetime.now(UTC) + timedelta(hours=1)), "but leaves may live for 1 day, 0:00:00"),
        (made(path_length=0), "use a CA with a path length of at least 1, or none"),
        (made(uris=["spiffe://other.example"]), "only spiffe://example.org may stand there, or no URI at all"),
        (made(made()), "root 'CN=Mesh' is not self-signed: give the root, which is at the top of the chain"),
    ],
    ids=["short", "path length", "another trust domain", "no root"],
)
def test_a_root_that_cannot_be_one_is_refused(tmp_path: Path, root: ForeignCa, words: str) -> None:
    (tmp_path / "root.pem").write_bytes(root.pem)
    assert words in init(tmp_path, "--root-cert", tmp_path / "root.pem", status=3)


def test_more_than_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root.pem").write_bytes(made().pem + made().pem)
    refused = init(tmp_path, "--root-cert", tmp_path / "root.pem", status=3)
    assert refused == f"meshca: --root-cert {tmp_path}/root.pem holds 2 certificates: give the root alone\n"


def test_a_partial_directory_is_refused_by_what_is_missing(tmp_path: Path) -> None:
    root = made()
    files = cacerts(tmp_path / "cacerts", root, made(root))
    (files / "root-cert.pem").unlink()
    refused = init(tmp_path, "--ca-dir", files, status=3)
    missing = "root-cert.pem is missing beside ca-cert.pem, ca-key.pem, cert-chain.pem"
    assert refused == f"meshca: --ca-dir {files}: {missing}\n"


def test_a_directory_whose_ca_may_not_sign_is_refused(tmp_path: Path) -> None:
    root = made()
    files = cacerts(tmp_path / "cacerts", root, made(root, ca=False))
    assert "issuing CA 'CN=Mesh' is no CA certificate" in init(tmp_path, "--ca-dir", files, status=3)


def test_a_root_and_a_directory_are_one_too_many(tmp_path: Path) -> None:
    refused = init(tmp_path, "--root-cert", tmp_path / "r.pem", "--ca-dir", tmp_path, status=3)
    assert refused == "meshca: give one of --root-cert, --ca-dir and --config: each says which is the root\n"
