"""`meshca bundle`: the trust bundle."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import typer

from meshca.cli.admin_options import ADMIN, DATA_DIR


class BundleFormat(StrEnum):
    """`--format`."""

    PEM = "pem"
    SPIFFE = "spiffe"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    nouns = typer.Typer(no_args_is_help=True, help="The trust bundle: the roots that relying parties need.")
    nouns.command("show")(show)
    app.add_typer(nouns, name="bundle")


def show(
    data_dir: Path | None = DATA_DIR,
    admin: str | None = ADMIN,
    form: BundleFormat = typer.Option(BundleFormat.PEM, "--format", help="pem, or spiffe (a JWK set)."),
) -> None:
    """Print the trust bundle of the running server."""
    from meshca.cli.admin_client import admin_client, call
    from meshca.proto.meshca.v1 import admin_pb2 as pb
    from meshca.spiffe.bundles import TrustBundle
    from meshca.spiffe.documents import bundle_document
    from meshca.spiffe.ids import TrustDomain

    with admin_client(data_dir, admin) as stub:
        reply = call(stub.GetTrustBundle, pb.GetTrustBundleRequest()).bundle
    bundle = TrustBundle(
        TrustDomain(reply.trust_domain), tuple(reply.x509_authorities), reply.sequence, reply.refresh_hint_seconds
    )
    print(bundle.pem if form is BundleFormat.PEM else bundle_document(bundle), end="")
