"""What every process of the server has: stores, keys, and the services on them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from meshca.errors import invalid
from meshca.pki.profiles import IssuanceProfile, is_dns_name
from meshca.plugins.jwks import FileJwksSource, HttpsJwksSource
from meshca.ports import Authenticator, JwksSource
from meshca.services.authentication import (
    Authentication,
    CachedJwks,
    JoinTokenAuthenticator,
    JwtAuthenticator,
    SvidAuthenticator,
)
from meshca.services.enrolment import Enrolment
from meshca.services.issuance import Issuance
from meshca.services.server_identity import ServerIdentity, server_names
from meshca.services.signing import Signing
from meshca.settings.server import JwtIssuerSettings, ServerSettings, parse_listen_address
from meshca.spiffe.ids import TrustDomain
from meshca.stores.sql import SqlStores
from meshca.tokens.identities import identity_mapping
from meshca.tokens.verification import TokenRule
from meshca.wiring.authorities import Authorities, build_authorities
from meshca.wiring.clock import SystemClock, uptime
from meshca.wiring.data_dir import DataDir, open_keys, open_stores, read_passphrase

# How often each process looks at the stored ring: what it signs with is good only while that succeeds.
REFRESH = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Core:
    """The services of one server process."""

    stores: SqlStores
    clock: SystemClock
    signing: Signing
    authorities: Authorities
    issuance: Issuance
    enrolment: Enrolment
    identity: ServerIdentity
    authentication: Authentication


def build_core(settings: ServerSettings, monotonic: Callable[[], float] = uptime) -> Core:
    """Opens existing state and builds the services on it. `monotonic` (seconds) tells the age of what it signs with.

    Creates nothing: raises NOT_FOUND, INVALID or INTERNAL, in one clear line, for state that is missing, foreign or
    cannot be decrypted (law 6).
    """
    data_dir = DataDir(settings.data_dir)
    stores = open_stores(data_dir)
    try:
        return _build(settings, data_dir, stores, monotonic)
    except BaseException:
        stores.close()
        raise


def _build(settings: ServerSettings, data_dir: DataDir, stores: SqlStores, monotonic: Callable[[], float]) -> Core:
    passphrase = read_passphrase(settings.passphrase_file, os.environ, data_dir)
    if passphrase is None:
        raise invalid("the private keys are encrypted: give --passphrase-file or MESHCA_PASSPHRASE")
    keys = open_keys(data_dir, passphrase)
    clock, signing, leaf = SystemClock(), Signing(monotonic, settings.rotation.confirm_within), settings.leaf
    authorities = build_authorities(settings, stores, keys, signing, clock, monotonic)
    trust_domain = authorities.keeper.refresh().ring.trust_domain
    profile = IssuanceProfile(
        leaf.default_ttl,
        leaf.max_ttl,
        leaf.backdate,
        leaf.key_types,
        leaf.organization,
        settings.revocation.crl_url,
    )
    issuance = Issuance(signing, stores.ledger, stores.join_tokens, clock, profile)
    hosts = [parse_listen_address(address)[0] for address in (settings.token_listen, settings.mtls_listen)]
    names = server_names((*settings.server_names, *_usual_names(hosts)), hosts)
    return Core(
        stores=stores,
        clock=clock,
        signing=signing,
        authorities=authorities,
        issuance=issuance,
        enrolment=Enrolment(stores.join_tokens, clock, trust_domain),
        identity=ServerIdentity(issuance, signing, clock, trust_domain, names, settings.server_certificate_ttl),
        authentication=Authentication(_authenticators(settings, trust_domain, signing, stores, clock)),
    )


def _usual_names(hosts: Sequence[str]) -> tuple[str, ...]:
    """What clients call the server without being told: its host's name, and istiod's where they were made for Istio."""
    host = socket.gethostname().lower()
    everywhere = any(address in ("0.0.0.0", "::") for address in hosts)  # noqa: S104  # compared, not bound
    return (*((host,) if everywhere and is_dns_name(host) else ()), "istiod.istio-system.svc")


def _authenticators(
    settings: ServerSettings, trust_domain: TrustDomain, signing: Signing, stores: SqlStores, clock: SystemClock
) -> tuple[Authenticator, ...]:
    return (
        SvidAuthenticator(lambda: {trust_domain: signing.latest().bundle}, trust_domain, lambda: signing.latest().bans),
        *(_jwt_authenticator(issuer, trust_domain, clock) for issuer in settings.jwt_issuers),
        JoinTokenAuthenticator(stores.join_tokens),
    )


def _jwt_authenticator(issuer: JwtIssuerSettings, trust_domain: TrustDomain, clock: SystemClock) -> JwtAuthenticator:
    rule = TokenRule(
        issuer=issuer.issuer,
        audiences=issuer.audiences,
        algorithms=issuer.algorithms,
        leeway=issuer.leeway,
        max_lifetime=issuer.max_lifetime,
    )
    return JwtAuthenticator(rule, identity_mapping(issuer.identity), CachedJwks(_source(issuer), clock), trust_domain)


def _source(issuer: JwtIssuerSettings) -> JwksSource:
    if issuer.jwks_file is not None:
        return FileJwksSource(issuer.jwks_file)
    assert issuer.jwks_url is not None
    return HttpsJwksSource(issuer.jwks_url, ca_file=issuer.jwks_ca_file)
