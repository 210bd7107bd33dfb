"""The upstream authority that is configured, or given on a command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from cryptography import x509

from meshca.authority.ring import root_digest
from meshca.errors import invalid
from meshca.pki.imports import der_of, name_of
from meshca.pki.keys import KeyAlgorithm, generate_private_key
from meshca.plugins.loader import load_upstream
from meshca.plugins.local_signer import LocalSigner
from meshca.plugins.upstream_grpc import GrpcUpstream, TlsFiles
from meshca.ports import UpstreamAuthority
from meshca.services.conformance import Conformance
from meshca.services.upstream import PatientCalls, read_certificates
from meshca.settings.server import ServerSettings, UpstreamSettings
from meshca.settings.sources import load_settings
from meshca.spiffe.ids import TrustDomain
from meshca.wiring.clock import SystemClock


def open_upstream(settings: UpstreamSettings) -> UpstreamAuthority:
    """The plug-in; nothing is asked of it yet.

    Raises NOT_FOUND where no such plug-in is installed, INVALID for what cannot be used.
    """
    if settings.plugin is not None:
        return load_upstream(settings.plugin, settings.options)
    assert settings.address is not None
    return GrpcUpstream(settings.address, tls=_tls(settings), deadline=settings.deadline)


def read_upstream(config: Path | None, given: Mapping[str, object]) -> UpstreamSettings:
    """The upstream authority that `given` names (what is None was not given), or `config`, a server's TOML file.

    Raises INVALID where neither does, or both do.
    """
    flags = {name: value for name, value in given.items() if value is not None}
    if (config is None) == ("address" not in flags):
        raise invalid("give ADDRESS, or --config with a file that has [upstream]")
    # the data directory is not looked at
    settings = load_settings(ServerSettings, {"data_dir": Path("."), "upstream": flags or None}, config)
    if settings.upstream is None:
        raise invalid(f"--config {config} has no [upstream]")
    return settings.upstream


def pinned_root(config: Path, pin: str | None) -> x509.Certificate:
    """The root that the upstream authority of `config` signs under, if it is the one whose SHA-256 is `pin` (hex).

    Raises INVALID where it is another, or without a pin: then the error says what to compare.
    """
    settings = read_upstream(config, {})
    authority = open_upstream(settings)
    try:
        told = PatientCalls(settings.patience).run("its roots", authority.roots)
    finally:
        authority.close()
    first = read_certificates(told, "the list of roots")[0]
    digest = root_digest(der_of(first))
    if pin is None:
        raise invalid(
            f"{settings.name} signs under root {name_of(first)}, SHA-256 {digest}: compare that with what its keepers"
            f" tell you, then give --root-sha256 {digest}"
        )
    if pin.replace(":", "").lower() != digest:
        raise invalid(f"{settings.name} signs under root {name_of(first)}, SHA-256 {digest}, not {pin[:100]}")
    return first


@contextmanager
def build_conformance(settings: UpstreamSettings, trust_domain: TrustDomain, ttl: timedelta) -> Iterator[Conformance]:
    """A conformance run against that upstream authority."""
    authority = open_upstream(settings)
    try:
        yield Conformance(authority, trust_domain, _new_signer, SystemClock(), ttl, settings.patience)
    finally:
        authority.close()


def _new_signer() -> LocalSigner:
    return LocalSigner(generate_private_key(KeyAlgorithm.P256))


def _tls(settings: UpstreamSettings) -> TlsFiles | None:
    ca, certificate, key = settings.ca_file, settings.cert_file, settings.key_file
    if ca is None or certificate is None or key is None:
        return None
    return TlsFiles(ca, certificate, key, settings.server_name)
