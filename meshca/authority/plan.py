"""What a rotation of the root will do, before it does it: the steps, who must have what, and how long that may take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from meshca.authority.actions import RootPolicy, RotationPolicy
from meshca.authority.evidence import Channel, Evidence
from meshca.authority.external import why_no_cross
from meshca.authority.ring import AuthorityKind, AuthorityRing, AuthorityState, RenewalOrder
from meshca.authority.roots import soak_of

# Pushed renewals take this share of what the servers can sign; the rest is for everybody else.
SHARE_OF_CAPACITY = 0.5
MIN_WINDOW = timedelta(seconds=5)
# From a push to the acknowledgements of that many agents whose proxies are well, and at the least.
PUSH = timedelta(seconds=3)
STREAMS_PER_PUSH = 10_000


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


def renewal_order(
    ring: AuthorityRing, authority_id: str, streams: int, fleet: Fleet, now: datetime
) -> RenewalOrder | None:
    """Whose certificates are to be replaced once that issuing CA signs: those of all that are tainted or under other
    roots. None for an authority that is no issuing CA, and where there are none of them."""
    activated = ring.find(authority_id)
    if activated is None or activated.kind is not AuthorityKind.ISSUER:
        return None
    others = tuple(
        a.id
        for a in ring.of(AuthorityKind.ISSUER)
        if a.issuer_id != activated.issuer_id or a.state is AuthorityState.TAINTED
    )
    window = renewal_window(streams, fleet)
    return RenewalOrder(others, now, int(window.total_seconds())) if others else None


@dataclass(frozen=True, slots=True)
class _Reach:
    """How long it takes to reach whom: agents on their streams; the others with their next certificate, and then they
    count as reached only when the one from before has ended (`others` is None where there are none)."""

    push: timedelta
    others: timedelta | None
    longest_life: timedelta

    @classmethod
    def of(cls, evidence: Evidence, streams: int, fleet: Fleet, now: datetime) -> _Reach:
        """As far as evidence tells: in a mesh at work, the youngest certificate has nearly all of its life ahead."""
        ends = [end for channel, end in evidence.until.items() if channel is not Channel.STREAM]
        last = max((end - now for end in evidence.signed_until.values()), default=timedelta(0))
        return cls(
            push=max(PUSH, PUSH * (streams / STREAMS_PER_PUSH)),
            others=max(ends) - now if ends else None,
            longest_life=max(last, fleet.leaf_ttl),
        )


def plan_rotation(
    ring: AuthorityRing, policy: RotationPolicy, evidence: Evidence, fleet: Fleet, now: datetime
) -> RotationPlan:
    """The plan of a rotation that begins now."""
    coverage = evidence.coverage.get(ring.sequence)
    holders = 0 if coverage is None else coverage.holders
    streams = evidence.channels.get(Channel.STREAM, 0)
    window, reach = renewal_window(streams, fleet), _Reach.of(evidence, streams, fleet, now)
    covered = now + max(reach.push, reach.others or timedelta(0))
    used = covered + soak_of(ring, policy.root)
    retired = used + max(reach.longest_life, policy.root.propagation)
    renewed = used + window if reach.others is None else retired
    steps = (
        PlanStep("prepare", _preparation(ring, policy.root, now), "nothing", now),
        PlanStep(
            "distribute",
            f"{streams} holders get it on their streams{_others(holders - streams, now, reach)}",
            "nothing; a holder that is away is waited for",
            covered,
        ),
        PlanStep("soak", "everybody goes on as before", f"all {holders} holders have shown that they have it", used),
        PlanStep("activate", "the new root signs an issuing CA, which signs from then on", "the soak is over", used),
        PlanStep("renew", f"certificates are replaced, pushed over {window.total_seconds():.0f}s", "nothing", renewed),
        PlanStep("retire", "the old root leaves the bundle", "no unexpired certificate chains to it", retired),
    )
    return RotationPlan(steps, holders, streams, window, streams / window.total_seconds())


def _preparation(ring: AuthorityRing, policy: RootPolicy, now: datetime) -> str:
    made = f"a new root is made; bundle {ring.sequence + 1} has both"
    if not policy.cross_sign:
        return made
    obstacle = why_no_cross(ring, now)
    if obstacle is None:
        return f"{made}; the old one signs it, too, for those who lack it"
    return f"{made}; cross_sign has no effect: {obstacle}"


def _others(count: int, now: datetime, reach: _Reach) -> str:
    if not count or reach.others is None:
        return ""
    last = f"{now + reach.others:%Y-%m-%dT%H:%M:%SZ}"
    return f"; {count} others get it with their next certificate, and the last one from before ends at {last}"
