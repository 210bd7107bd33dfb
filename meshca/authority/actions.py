"""What may be due on a ring, and the policies that say when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class IssuerPolicy:
    """Thresholds as fractions of an issuer's lifetime; `max_leaf_ttl` bounds what it signs, `slack` how late a decision
    may be carried out, `propagation` for how long a door that has not heard of a step may act as before.

    A leaf is never cut short by its issuer's end as long as `max_leaf_ttl <= ttl * (1 - activate_at)` and
    `slack <= ttl * (activate_at - prepare_at)`.
    """

    ttl: timedelta
    prepare_at: float
    activate_at: float
    max_leaf_ttl: timedelta
    slack: timedelta = timedelta(0)
    propagation: timedelta = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class RootPolicy:
    """When roots are replaced.

    With `automatic`, a rotation begins at that fraction (`rotate_at`) of the active root's lifetime. Its successor is
    used once every holder has had it for `soak`, which is never taken as less than `propagation`. With
    `force_at_expiry` it is used without that where the active root could otherwise sign no leaf of full length. With
    `cross_sign` the active root signs a certificate of its successor, which opens no gate.
    """

    ttl: timedelta
    soak: timedelta
    max_leaf_ttl: timedelta
    rotate_at: float = 0.8
    automatic: bool = True
    force_at_expiry: bool = False
    propagation: timedelta = timedelta(seconds=10)
    cross_sign: bool = False


@dataclass(frozen=True, slots=True)
class RotationPolicy:
    """Both tiers."""

    issuer: IssuerPolicy
    root: RootPolicy


@dataclass(frozen=True, slots=True)
class BeginRotation:
    """Begin to replace the active root; by the root `successor`, if that waits already."""

    reason: str
    successor: str = ""


@dataclass(frozen=True, slots=True)
class PrepareRoot:
    """Make the next root: from then on it is in the trust bundle."""


@dataclass(frozen=True, slots=True)
class PrepareIssuer:
    """Make the next issuing CA, under the active root."""


@dataclass(frozen=True, slots=True)
class Activate:
    """Let an authority sign from now on. `forced` says why evidence is passed over ("" where it is not)."""

    authority_id: str
    forced: str = ""


@dataclass(frozen=True, slots=True)
class Revoke:
    """Take a tainted root out of the trust bundle."""

    authority_id: str


@dataclass(frozen=True, slots=True)
class Prune:
    """Forget an authority, and destroy its key: nothing alive depends on it."""

    authority_id: str


@dataclass(frozen=True, slots=True)
class FinishRotation:
    """The successor is the only root left, or the only one but those that an upstream authority still tells of."""


Action = BeginRotation | PrepareRoot | PrepareIssuer | Activate | Revoke | Prune | FinishRotation
