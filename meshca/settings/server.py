"""The server's configuration."""

from __future__ import annotations

import ipaddress
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from meshca.errors import MeshcaError
from meshca.pki.keys import CA_ALGORITHMS, DEFAULT_FAMILIES, KeyAlgorithm, KeyFamily
from meshca.pki.prepare import CA_BACKDATE
from meshca.pki.profiles import is_dns_name
from meshca.services.signing import CONFIRMED_FOR
from meshca.settings.sources import Duration, Section, Settings
from meshca.spiffe.ids import parse_workload_id

MAX_CRL_URL = 200
_CRL_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*", re.ASCII)
MAX_TTL_CEILING = timedelta(days=90)


class JwtIssuerSettings(Section):
    """A token issuer that is believed, and how its claims become an identity."""

    issuer: str = Field(min_length=1)
    audiences: tuple[str, ...] = Field(min_length=1)
    jwks_file: Path | None = None
    jwks_url: str | None = None
    jwks_ca_file: Path | None = None  # roots for jwks_url; default: the system's
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    # "kubernetes" maps `system:serviceaccount:<ns>:<sa>`; otherwise a path template such as /repo/{repository_owner}
    identity: str = "kubernetes"
    leeway: Duration = timedelta(seconds=30)
    max_lifetime: Duration | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.jwks_file is None) == (self.jwks_url is None):
            raise ValueError("give exactly one of jwks_file and jwks_url")
        if self.jwks_url is not None and not self.jwks_url.startswith("https://"):
            raise ValueError("jwks_url must start with https://")
        if self.jwks_ca_file is not None and self.jwks_url is None:
            raise ValueError("jwks_ca_file goes with jwks_url")
        return self


class LeafSettings(Section):
    """What workload certificates look like."""

    default_ttl: Duration = timedelta(hours=1)
    max_ttl: Duration = timedelta(hours=24)
    backdate: Duration = timedelta(seconds=60)
    key_types: frozenset[KeyFamily] = DEFAULT_FAMILIES
    organization: Annotated[str, Field(max_length=64)] = ""  # in the subject; default: an empty subject

    @model_validator(mode="after")
    def _ttls(self) -> Self:
        if self.max_ttl > MAX_TTL_CEILING:
            raise ValueError(f"max_ttl is {self.max_ttl}: at most 90d are allowed")
        if not timedelta(seconds=1) <= self.default_ttl <= self.max_ttl:
            raise ValueError(f"default_ttl is {self.default_ttl}: it must lie between 1s and max_ttl ({self.max_ttl})")
        if not self.key_types:
            raise ValueError("key_types must not be empty")
        return self


class IssuerSettings(Section):
    """Issuing CAs: how long they live, and when the next is prepared and put to use (fractions of the lifetime)."""

    ttl: Duration = timedelta(days=30)
    key_type: KeyAlgorithm = KeyAlgorithm.P256
    prepare_at: Annotated[float, Field(gt=0, lt=1)] = 1 / 2
    activate_at: Annotated[float, Field(gt=0, lt=1)] = 5 / 6

    @model_validator(mode="after")
    def _order(self) -> Self:
        if not self.prepare_at < self.activate_at:
            raise ValueError("prepare_at must lie before activate_at")
        if self.key_type not in CA_ALGORITHMS:
            names = ", ".join(algorithm.value for algorithm in CA_ALGORITHMS)
            raise ValueError(f"key_type {self.key_type.value} cannot be an authority's: use one of {names}")
        if self.ttl * self.activate_at <= CA_BACKDATE * (1 - self.activate_at):
            raise ValueError(
                f"ttl is {self.ttl}: each issuing CA would be due for replacement when it is made; raise it"
            )
        return self


class RootSettings(Section):
    """Roots: how long they live, and when (as a fraction of that) their rotation begins by itself."""

    ttl: Duration = timedelta(days=3650)
    key_type: KeyAlgorithm = KeyAlgorithm.P256
    automatic: bool = True
    rotate_at: Annotated[float, Field(gt=0, lt=1)] = 4 / 5
    # near the active root's own end, use the next one though somebody is not known to trust it; default: alarm, and
    # sign ever shorter certificates
    force_at_expiry: bool = False
    # the active root signs a certificate of its successor, which goes into chains while both are in use
    cross_sign: bool = False

    @model_validator(mode="after")
    def _key(self) -> Self:
        if self.key_type not in CA_ALGORITHMS:
            names = ", ".join(algorithm.value for algorithm in CA_ALGORITHMS)
            raise ValueError(f"key_type {self.key_type.value} cannot be an authority's: use one of {names}")
        return self


class RotationSettings(Section):
    """How authorities are replaced.

    `soak`: for how long everybody must have had a new root before it is used. `deadline`: after how long a rotation
    that waits for somebody is a warning. `confirm_within`: how long a process signs with what it last saw in the store.
    """

    soak: Duration = timedelta(seconds=30)
    deadline: Duration = timedelta(hours=1)
    confirm_within: Annotated[Duration, Field(ge=timedelta(seconds=2), le=timedelta(minutes=5))] = CONFIRMED_FOR

    @property
    def propagation(self) -> timedelta:
        """For how long a process that has not heard of a step may act as before: until its last look at the store is
        too old, and as much again for what it then began, or for the step itself, to become durable."""
        return 2 * self.confirm_within


class RevocationSettings(Section):
    """How relying parties learn of revocations beside the trust bundle. `crl_url`: where the list of an issuing CA is
    found, under its id; it goes into leaves. Default: they name no place."""

    crl_url: str = ""

    @field_validator("crl_url")
    @classmethod
    def _address(cls, value: str) -> str:
        if value:
            check_crl_url(value)
        return value


class AuthoritySettings(Section):
    """Where authorities come from that others make. `ca_dir`: a directory in Istio's layout, looked at every `poll`."""

    ca_dir: Path | None = None
    poll: Annotated[Duration, Field(ge=timedelta(milliseconds=100), le=timedelta(hours=1))] = timedelta(seconds=5)


class UpstreamSettings(Section):
    """An upstream authority, which has the root's key and signs our issuing CAs: a plug-in.

    Out of process at `address` (`unix:/PATH`, or `HOST:PORT` with the three files of mutual TLS), or in process by the
    name of its entry point, with `options`. `deadline`: for how long one answer is waited for; `poll`: how often its
    roots are looked at, and whether it is needed.
    """

    address: str | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None  # in the plug-in's certificate; default: the host of its address
    plugin: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    deadline: Annotated[Duration, Field(ge=timedelta(milliseconds=100), le=timedelta(minutes=5))] = timedelta(
        seconds=10
    )
    poll: Annotated[Duration, Field(ge=timedelta(milliseconds=100), le=timedelta(hours=1))] = timedelta(seconds=5)

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.address or f"plug-in {self.plugin}"

    @property
    def patience(self) -> timedelta:
        """After how long a call is given up, whatever it does. At an address the deadline is its own, and comes first:
        that tells more."""
        return self.deadline if self.address is None else self.deadline + timedelta(seconds=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.address is None) == (self.plugin is None):
            raise ValueError("give exactly one of address and plugin")
        files = [file for file in (self.ca_file, self.cert_file, self.key_file) if file is not None]
        if self.address is not None and self.options:
            raise ValueError("options are for a plug-in in process: one at an address has its own configuration")
        if self.plugin is not None and (files or self.server_name):
            raise ValueError("ca_file, cert_file, key_file and server_name go with an address")
        if len(files) not in (0, 3):
            raise ValueError("give all of ca_file, cert_file and key_file, or none of them")
        return self


class DownstreamSettings(Section):
    """Nested servers: those named in `allow` (SPIFFE ids) have their issuing CAs signed with our root, for `max_ttl` at
    most. Each has an identity of its own."""

    allow: tuple[str, ...] = ()
    max_ttl: Annotated[Duration, Field(ge=timedelta(minutes=1), le=timedelta(days=3650))] = timedelta(days=30)

    @field_validator("allow")
    @classmethod
    def _ids(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            try:
                parse_workload_id(each)
            except MeshcaError as error:
                raise ValueError(error.message) from error
        return value


class LimitSettings(Section):
    """Bounds on what peers may do. Rates are per peer: its address on the token listener, its identity on the other."""

    requests_per_second: Annotated[float, Field(gt=0)] = 200.0
    burst: Annotated[int, Field(ge=1)] = 400
    # of each process, for what its event loop must not wait for: tokens, RSA signatures, ticks
    threads: Annotated[int, Field(ge=1, le=256)] = 32
    max_concurrent_calls: Annotated[int, Field(ge=1)] = 4096  # of each listener; a call without its request is none yet
    max_connections: Annotated[int, Field(ge=1)] = 20_000  # of each listener; fewer where fewer files may be open
    max_connection_age: Duration = timedelta(minutes=30)
    max_streams: Annotated[int, Field(ge=1)] = 20_000  # discovery streams of each process
    max_streams_per_identity: Annotated[int, Field(ge=1)] = 1000


class ServerSettings(Settings):
    """`meshca server`: flags, `MESHCA_…` and the TOML file."""

    data_dir: Path
    token_listen: str = "0.0.0.0:15012"  # noqa: S105  # an address, no token
    mtls_listen: str = "0.0.0.0:15013"
    http_listen: str = "127.0.0.1:15014"
    # what agents are told of the mTLS listener; default: the host they called and our mTLS port
    advertise_mtls: str | None = None
    admin_socket: Path | None = None  # default: admin.sock in the data directory
    ready_file: Path | None = None
    tick: Annotated[Duration, Field(gt=timedelta(0))] = timedelta(seconds=10)
    server_certificate_ttl: Annotated[Duration, Field(ge=timedelta(seconds=1))] = timedelta(hours=24)
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    # DNS names and addresses in the server's own certificate, beside those it listens on, the host's name (where it
    # listens on every address) and the one that Istio's clients expect
    server_names: tuple[str, ...] = ()
    passphrase_file: Path | None = None
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    shutdown_grace: Duration = timedelta(seconds=10)
    leaf: LeafSettings = LeafSettings()
    root: RootSettings = RootSettings()
    issuer: IssuerSettings = IssuerSettings()
    rotation: RotationSettings = RotationSettings()
    authority: AuthoritySettings = AuthoritySettings()
    upstream: UpstreamSettings | None = None
    downstream: DownstreamSettings = DownstreamSettings()
    revocation: RevocationSettings = RevocationSettings()
    limits: LimitSettings = LimitSettings()
    jwt_issuers: tuple[JwtIssuerSettings, ...] = ()

    @field_validator("token_listen", "mtls_listen", "http_listen")
    @classmethod
    def _address(cls, value: str) -> str:
        parse_listen_address(value)
        return value

    @model_validator(mode="after")
    def _one_source_of_authorities(self) -> Self:
        if self.upstream is not None and self.authority.ca_dir is not None:
            raise ValueError("give authority.ca_dir or upstream, not both: each says which root is the next")
        return self

    @model_validator(mode="after")
    def _rotation_keeps_promises(self) -> Self:
        """A leaf must never outlive its issuer: past activate_at only this much of an issuer's life is left."""
        promised = self.issuer.ttl * (1 - self.issuer.activate_at)
        if self.leaf.max_ttl > promised:
            raise ValueError(
                f"leaf.max_ttl is {self.leaf.max_ttl}, but rotation guarantees only {promised}"
                f" (issuer.ttl {self.issuer.ttl} x (1 - activate_at {self.issuer.activate_at:.3f})):"
                " lower leaf.max_ttl or raise issuer.ttl"
            )
        longest = self.issuer.ttl * (self.issuer.activate_at - self.issuer.prepare_at)
        if self.tick > longest:
            raise ValueError(f"tick is {self.tick}: issuing CAs of {self.issuer.ttl} need one at least every {longest}")
        return self


def check_crl_url(value: str) -> None:
    """Raises ValueError where it cannot stand in a certificate before `/<issuer id>`: RFC 5280 section 4.2.1.13 wants
    HTTP, and section 8 no HTTPS, for its certificate would have to be checked in turn."""
    parts = urlsplit(value)
    host, path = parts.hostname or "", parts.path
    is_plain = value == f"http://{parts.netloc}{path}" and "@" not in parts.netloc and _CRL_PATH.fullmatch(path)
    if not is_plain or not _is_host(host) or len(value) > MAX_CRL_URL or parts.port == 0:
        raise ValueError(
            f"{value!r:.80} is not http://host[:port][/path], such as http://ca.example.org:15014/crl: no https, which"
            f" RFC 5280 discourages there, no slash at its end, at most {MAX_CRL_URL} characters"
        )


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return is_dns_name(host) and not host.startswith("*")
    return True


def parse_listen_address(value: str) -> tuple[str, int]:
    """`host:port` or `[ipv6]:port`; the host is an IP address or `localhost`. Raises ValueError for anything else."""
    host, colon, port = value.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{value!r} is not host:port, such as 127.0.0.1:15012")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if host == "localhost":
        return host, int(port)
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        raise ValueError(f"{value!r}: listen on an IP address or localhost, not on {bare!r}") from None
    if bracketed != (address.version == 6):
        raise ValueError(f"{value!r}: brackets are for IPv6 addresses, and those need them: [::1]:15012")
    return bare, int(port)
