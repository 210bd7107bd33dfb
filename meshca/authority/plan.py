"""What a rotation of the root will do, before it does it: the steps, who must have what, and how long that may take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from meshca.authority.actions import RotationPolicy
from meshca.authority.evidence import Channel, Evidence
from meshca.authority.ring import AuthorityRing
from meshca.authority.roots import soak_of

# Pushed renewals take this share of what the servers can sign; the rest is for everybody else.
SHARE_OF_CAPACITY = 0.5
MIN_WINDOW = timedelta(seconds=5)
# From a push to the acknowledgements of agents whose proxies are well.
PUSH = timedelta(seconds=3)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a plan needs to know of the mesh: certificates per second that the servers can sign, and how long a leaf
    lives unless its holder asks for something else."""

    capacity: float
    leaf_ttl: timedelta


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step: `what` happens, what it `needs` before it, and when it is over, if all goes well."""

    name: str
    what: str
    needs: str
    ends: datetime


@dataclass(frozen=True, slots=True)
class RotationPlan:
    """The steps in order. Of `holders`, `streams` are reached at once; the others renew when they find it due."""

    steps: tuple[PlanStep, ...]
    holders: int
    streams: int
    window: timedelta
    renewals_per_second: float


def renewal_window(streams: int, fleet: Fleet) -> timedelta:
    """Over how long pushed renewals are spread: whole seconds, by the number of holders and what can be signed; never
    more than half the life of a leaf, by when they would renew anyway."""
    seconds = math.ceil(streams / max(fleet.capacity * SHARE_OF_CAPACITY, 0.001))
    return max(MIN_WINDOW, min(timedelta(seconds=seconds), fleet.leaf_ttl / 2))


def plan_rotation(
    ring: AuthorityRing, policy: RotationPolicy, evidence: Evidence, fleet: Fleet, now: datetime
) -> RotationPlan:
    """The plan of a rotation that begins now."""
    coverage = evidence.coverage.get(ring.sequence)
    holders = 0 if coverage is None else coverage.holders
    streams = evidence.channels.get(Channel.STREAM, 0)
    window = renewal_window(streams, fleet)
    foreign = holders - streams
    covered = now + (PUSH if not foreign else max(PUSH, fleet.leaf_ttl / 2))
    used = covered + soak_of(ring, policy.root)
    renewed = used + (window if not foreign else max(window, fleet.leaf_ttl / 2))
    retired = max(used + fleet.leaf_ttl, renewed) + policy.root.propagation
    others = f"; {foreign} that get their roots with their certificates at their next renewal" if foreign else ""
    steps = (
        PlanStep("prepare", f"a new root is made; bundle {ring.sequence + 1} has both", "nothing", now),
        PlanStep(
            "distribute",
            f"{streams} holders get it on their streams{others}",
            "nothing; a holder that is away is waited for",
            covered,
        ),
        PlanStep("soak", "everybody goes on as before", f"all {holders} holders have shown that they have it", used),
        PlanStep("activate", "the new root signs an issuing CA, which signs from then on", "the soak is over", used),
        PlanStep("renew", f"certificates are replaced, pushed over {window.total_seconds():.0f}s", "nothing", renewed),
        PlanStep("retire", "the old root leaves the bundle", "no unexpired certificate chains to it", retired),
    )
    return RotationPlan(steps, holders, streams, window, streams / window.total_seconds())
