"""The services around the authority ring, built from settings."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from meshca.authority.actions import IssuerPolicy, RootPolicy, RotationPolicy
from meshca.authority.plan import Fleet
from meshca.plugins.ca_directory import CaDirectoryFiles
from meshca.ports import Clock, KeyManager
from meshca.services.authorities import AuthorityMaker
from meshca.services.ca_directory import CaDirectory
from meshca.services.control import AuthorityControl
from meshca.services.downstream import Downstream, DownstreamPolicy
from meshca.services.evidence import RelyingParties
from meshca.services.imports import AuthorityImports
from meshca.services.revocation import Revocations
from meshca.services.revocation_lists import RevocationLists, crl_validity
from meshca.services.ring import RingKeeper
from meshca.services.rotation import AuthorityPlan, Rotation
from meshca.services.signing import Signing
from meshca.services.trials import Trials
from meshca.services.upstream import Upstream, UpstreamPolicy
from meshca.settings.server import ServerSettings
from meshca.spiffe.ids import SpiffeId
from meshca.stores.sql import SqlStores
from meshca.wiring.upstream import open_upstream

# Certificates per second that one core signs, door and ledger included, until something measures it.
_PER_CORE = 1000.0


@dataclass(frozen=True, slots=True)
class Authorities:
    """What moves the ring on, what knows who relies on it, and what cuts somebody off."""

    keeper: RingKeeper
    rotation: Rotation
    relying: RelyingParties
    control: AuthorityControl
    revocations: Revocations
    lists: RevocationLists
    imports: AuthorityImports
    directory: CaDirectory | None  # None: no `authority.ca_dir` is configured
    upstream: Upstream | None  # None: no `upstream` is configured
    downstream: Downstream | None  # None: `downstream.allow` names nobody


def build_authorities(
    settings: ServerSettings,
    stores: SqlStores,
    keys: KeyManager,
    signing: Signing,
    clock: Clock,
    monotonic: Callable[[], float],
) -> Authorities:
    """The services; nothing is read or changed yet."""
    maker = AuthorityMaker(keys, stores.ledger, clock)
    keeper = RingKeeper(stores.authorities, stores.revocations, keys, signing, monotonic)
    lists = RevocationLists(keeper, keys, stores.ledger, clock, crl_validity(settings.leaf.max_ttl))
    # whatever was signed here and is relied on may live for so long
    longest = max(settings.leaf.max_ttl, settings.downstream.max_ttl if settings.downstream.allow else timedelta(0))
    relying = RelyingParties(
        stores.ledger, stores.evidence, stores.authorities, clock, monotonic, longest, lambda: keeper.bans
    )
    fleet = Fleet(_PER_CORE * min(settings.workers, os.cpu_count() or 1), settings.leaf.default_ttl)
    plan = AuthorityPlan(_policy(settings), settings.root.key_type, settings.issuer.key_type, fleet)
    imports = AuthorityImports(
        keeper, keys, Trials(stores.ledger, clock), clock, settings.issuer.key_type, settings.leaf.max_ttl
    )
    ca_dir = settings.authority.ca_dir
    directory = None if ca_dir is None else CaDirectory(str(ca_dir), CaDirectoryFiles(ca_dir), keeper, imports)
    downstream = _downstream(settings, stores, signing, maker, clock)
    upstream = _upstream(settings, keeper, imports, relying, clock, plan.policy.issuer, monotonic)
    return Authorities(
        keeper=keeper,
        rotation=Rotation(keeper, maker, relying.evidence, clock, plan),
        relying=relying,
        control=AuthorityControl(
            keeper,
            stores.authorities,
            maker,
            relying.evidence,
            clock,
            plan,
            settings.rotation.deadline,
            lambda: [
                alarm for each in (directory, upstream, downstream) if each is not None for alarm in each.alarms()
            ],
        ),
        revocations=Revocations(keeper, stores.revocations, stores.ledger, lists, clock),
        lists=lists,
        imports=imports,
        directory=directory,
        upstream=upstream,
        downstream=downstream,
    )


def _downstream(
    settings: ServerSettings, stores: SqlStores, signing: Signing, maker: AuthorityMaker, clock: Clock
) -> Downstream | None:
    below = settings.downstream
    if not below.allow:
        return None
    policy = DownstreamPolicy(frozenset(map(SpiffeId.parse, below.allow)), below.max_ttl)
    return Downstream(signing, maker, stores.ledger, stores.evidence, clock, policy)


def _upstream(
    settings: ServerSettings,
    keeper: RingKeeper,
    imports: AuthorityImports,
    relying: RelyingParties,
    clock: Clock,
    issuer: IssuerPolicy,
    monotonic: Callable[[], float],
) -> Upstream | None:
    found = settings.upstream
    if found is None:
        return None
    policy = UpstreamPolicy(found.patience, found.poll, issuer)
    authority = open_upstream(found)
    return Upstream(found.name, authority, keeper, imports, relying.evidence, clock, policy, monotonic, random.random)


def _policy(settings: ServerSettings) -> RotationPolicy:
    leaf, issuer, root, rotation = settings.leaf, settings.issuer, settings.root, settings.rotation
    return RotationPolicy(
        IssuerPolicy(
            issuer.ttl,
            issuer.prepare_at,
            issuer.activate_at,
            leaf.max_ttl,
            slack=settings.tick,
            propagation=rotation.propagation,
        ),
        RootPolicy(
            root.ttl,
            rotation.soak,
            leaf.max_ttl,
            rotate_at=root.rotate_at,
            automatic=root.automatic,
            force_at_expiry=root.force_at_expiry,
            propagation=rotation.propagation,
            cross_sign=root.cross_sign,
        ),
    )
