"""What `meshca init` reads where the CA was made elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509

    from meshca.pki.plugged_in import PluggedInCa


def founded_on(
    root_cert: Path | None, ca_dir: Path | None, config: Path | None, root_sha256: str | None
) -> tuple[x509.Certificate | None, PluggedInCa | None]:
    """The root in `root_cert`, or of the upstream authority in `config`, or the CA in `ca_dir`; neither where nothing
    was given.

    Raises INVALID where more was, and for what cannot be used; UNAVAILABLE where the directory cannot be read, or the
    upstream authority does not answer.
    """
    from meshca.errors import invalid

    if sum(given is not None for given in (root_cert, ca_dir, config)) > 1:
        raise invalid("give one of --root-cert, --ca-dir and --config: each says which is the root")
    if config is not None:
        from meshca.wiring.upstream import pinned_root

        return pinned_root(config, root_sha256), None
    if root_sha256 is not None:
        raise invalid("--root-sha256 goes with --config: it is about the upstream authority's root")
    return (
        None if root_cert is None else _read_root(root_cert),
        None if ca_dir is None else _read_directory(ca_dir),
    )


def _read_root(file: Path) -> x509.Certificate:
    from meshca.errors import invalid
    from meshca.pki.imports import parse_certificates

    try:
        pem = file.read_bytes()
    except OSError as error:
        raise invalid(f"--root-cert {file} cannot be read: {error.strerror}") from error
    certificates = parse_certificates(pem, f"--root-cert {file}")
    if len(certificates) != 1:
        raise invalid(f"--root-cert {file} holds {len(certificates)} certificates: give the root alone")
    return certificates[0]


def _read_directory(directory: Path) -> PluggedInCa:
    from meshca.errors import MeshcaError
    from meshca.pki.plugged_in import CRL, parse_plugged_in
    from meshca.plugins.ca_directory import CaDirectoryFiles

    try:
        found = parse_plugged_in(CaDirectoryFiles(directory).read())
    except MeshcaError as error:
        raise MeshcaError(error.kind, f"--ca-dir {directory}: {error.message}") from error
    if found.ignores_crl:
        print(f"meshca: warning: {directory / CRL} is ignored: CRLs of other CAs are not given out", file=sys.stderr)
    return found
