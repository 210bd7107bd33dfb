"""`meshca authority csr` and `meshca authority import`: issuing CAs under roots whose keys are elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from meshca.cli.admin_options import ADMIN, DATA_DIR, OUTPUT
from meshca.cli.output import OutputFormat, iso, print_json

_STDIN = "-"


def register(nouns: typer.Typer) -> None:
    """Adds the commands to `meshca authority`."""
    nouns.command("csr")(csr)
    nouns.command("import")(import_chain)


def csr(
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    out: Path | None = typer.Option(None, "-o", "--out", metavar="FILE", help="Default: standard output."),
    new: bool = typer.Option(False, "--new", help="A new key; what was signed for the last request is of no use then."),
) -> None:
    """Write the request (PKCS #10) for the next issuing CA, to be signed by a root whose key is elsewhere.

    The key is made here and stays here. Called again, it writes the same request,
    until what was signed for it is imported.
    """
    from meshca.cli.admin_client import admin_client, call
    from meshca.pki.requests import request_pem
    from meshca.proto.meshca.v1 import admin_pb2 as pb

    with admin_client(data_dir, admin) as stub:
        reply = call(stub.RequestIssuer, pb.RequestIssuerRequest(renew=new))
    pem = request_pem(reply.request)
    if out is None:
        print(pem, end="")
        return
    _write(out, pem)
    print(f"{out}: the request of {iso(reply.since)}; have it signed, then: meshca authority import FILE")


def import_chain(
    file: Path = typer.Argument(metavar="FILE", help="PEM, the issuing CA first; - for standard input."),
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    reason: str = typer.Option("", "--reason", metavar="TEXT", help="Why; it is recorded."),
    output: OutputFormat = OUTPUT,
) -> None:
    """Take in the signed issuing CA: its certificate, then the intermediates above it, then the root if it is new.

    Everything is checked first. A new root joins the trust bundle and is used
    only once every holder of a certificate is known to trust it.
    """
    from meshca.cli.admin_client import admin_client, call
    from meshca.cli.admin_views import authority_fields
    from meshca.proto.meshca.v1 import admin_pb2 as pb

    request = pb.ImportAuthorityRequest(chain=_read(file), reason=reason)
    with admin_client(data_dir, admin) as stub:
        reply = call(stub.ImportAuthority, request)
    issuer, root = reply.issuer, reply.root
    if output is OutputFormat.JSON:
        fields = {"issuer": authority_fields(issuer), "root": authority_fields(root), "new_root": reply.new_root}
        print_json(fields)
        return
    print(f"issuer {issuer.id} is prepared, until {iso(issuer.not_after)}, under {root.state} root {root.id}")
    if reply.new_root:
        print("the root is new: a rotation brings it in once everybody trusts it; `meshca rotate status` tells more")


def _read(file: Path) -> bytes:
    from meshca.errors import invalid

    if str(file) == _STDIN:
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise invalid(f"{file} cannot be read: {error.strerror}") from error


def _write(file: Path, text: str) -> None:
    from meshca.errors import invalid

    try:
        file.write_text(text, "ascii")
    except OSError as error:
        raise invalid(f"{file} cannot be written: {error.strerror}") from error
