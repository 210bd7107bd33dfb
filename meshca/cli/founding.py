"""What `meshca init` reads where the CA was made elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509

    from meshca.pki.plugged_in import PluggedInCa


def founded_on(root_cert: Path | None, ca_dir: Path | None) -> tuple[x509.Certificate | None, PluggedInCa | None]:
    """The root in `root_cert`, or the CA in `ca_dir`; neither where neither was given.

    Raises INVALID where both were, and for what cannot be used; UNAVAILABLE where the directory cannot be read.
    """
    from meshca.errors import invalid

    if root_cert is not None and ca_dir is not None:
        raise invalid("give --root-cert or --ca-dir, not both: a directory has its own root")
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
