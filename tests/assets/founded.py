"""A founded trust domain: real services over stores and keys in memory, and a clock that the test moves."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from meshca.authority.actions import IssuerPolicy, RootPolicy, RotationPolicy
from meshca.authority.evidence import BundleFact, Channel
from meshca.authority.plan import Fleet
from meshca.authority.ring import AuthorityKind, AuthorityRing
from meshca.errors import MeshcaError
from meshca.pki.keys import KeyAlgorithm
from meshca.pki.profiles import IssuanceProfile
from meshca.ports import AuthorityStore
from meshca.services.authorities import AuthorityMaker, found
from meshca.services.control import AuthorityControl
from meshca.services.evidence import RelyingParties
from meshca.services.imports import AuthorityImports
from meshca.services.issuance import Issuance, IssuedChain, SigningRequest
from meshca.services.revocation import Revocations
from meshca.services.revocation_lists import RevocationLists, crl_validity
from meshca.services.ring import RingKeeper
from meshca.services.rotation import AuthorityPlan, Rotation
from meshca.services.signing import Signing
from meshca.services.trials import Trials
from meshca.spiffe.ids import SpiffeId
from meshca.spiffe.peers import AuthenticationMethod, Caller
from meshca.stores.memory import (
    MemoryAuthorityStore,
    MemoryEvidenceStore,
    MemoryJoinTokenStore,
    MemoryLedger,
    MemoryRevocationStore,
)
from tests.assets.authorities import FOUNDED, MESH
from tests.fakes.clock import SetClock, Stopwatch
from tests.fakes.failing import CrashingAuthorityStore, JournalledKeyManager, JournalledLedger
from tests.fakes.key_manager import MemoryKeyManager

T = TypeVar("T")
PROPAGATION = timedelta(seconds=20)
POLICY = IssuerPolicy(timedelta(days=30), 1 / 2, 5 / 6, timedelta(hours=24), propagation=PROPAGATION)
SOAK = timedelta(seconds=30)
WORKLOAD = Caller(SpiffeId.parse("spiffe://example.org/ns/a/sa/b"), AuthenticationMethod.JOIN_TOKEN, "0123456789abcdef")


@dataclass
class FoundedCa:
    """Everything of one server that has no socket. `restart` gives a second server on the same state."""

    clock: SetClock
    memory_keys: MemoryKeyManager
    keys: JournalledKeyManager
    ledger: JournalledLedger
    store: CrashingAuthorityStore
    policy: IssuerPolicy = POLICY
    profile: IssuanceProfile = field(default_factory=IssuanceProfile)
    join_tokens: MemoryJoinTokenStore = field(default_factory=MemoryJoinTokenStore)
    bans: MemoryRevocationStore = field(default_factory=MemoryRevocationStore)
    evidence: MemoryEvidenceStore = field(default_factory=MemoryEvidenceStore)
    watch: Stopwatch = field(default_factory=Stopwatch)  # stands still, whatever the clock does
    root: RootPolicy | None = None

    def __post_init__(self) -> None:
        self.restart()

    @property
    def plan(self) -> AuthorityPlan:
        """How this server makes authorities."""
        leaf_ttl = self.policy.max_leaf_ttl
        root = self.root or RootPolicy(timedelta(days=3650), SOAK, leaf_ttl, automatic=False, propagation=PROPAGATION)
        policy = RotationPolicy(self.policy, root)
        return AuthorityPlan(policy, KeyAlgorithm.P256, KeyAlgorithm.P256, Fleet(1000.0, timedelta(hours=1)))

    def restart(self) -> None:
        """New services, as after a crash: only what is durable is left."""
        self.signing = Signing(self.watch)
        self.maker = AuthorityMaker(self.keys, self.ledger, self.clock)
        self.keeper = RingKeeper(self.store, self.bans, self.keys, self.signing, self.passed)
        self.relying = RelyingParties(
            self.ledger,
            self.evidence,
            self.store,
            self.clock,
            self.passed,
            self.policy.max_leaf_ttl,
            lambda: self.keeper.bans,
        )
        self.rotation = Rotation(self.keeper, self.maker, self.relying.evidence, self.clock, self.plan)
        self.control = AuthorityControl(
            self.keeper, self.store, self.maker, self.relying.evidence, self.clock, self.plan, timedelta(hours=1)
        )
        validity = crl_validity(self.policy.max_leaf_ttl)
        self.lists = RevocationLists(self.keeper, self.keys, self.ledger, self.clock, validity)
        self.revocations = Revocations(self.keeper, self.bans, self.ledger, self.lists, self.clock)
        self.trials = Trials(self.ledger, self.clock)
        self.imports = AuthorityImports(
            self.keeper, self.keys, self.trials, self.clock, KeyAlgorithm.P256, self.policy.max_leaf_ttl
        )
        self.issuance = Issuance(self.signing, self.ledger, self.join_tokens, self.clock, self.profile)

    def passed(self) -> float:
        """Real time is what the clock shows: tests of what a clock does that leaps have a stopwatch of their own."""
        return self.clock.now().timestamp()

    def issue(self, caller: Caller, request: SigningRequest) -> IssuedChain:
        """`Issuance.issue`, for tests that have no loop and callers that have no join token."""
        return _given(self.issuance.issue(caller, request))

    def issue_batch(self, caller: Caller, requests: Sequence[SigningRequest]) -> list[IssuedChain | MeshcaError]:
        """`Issuance.issue_batch`, for the same."""
        return _given(self.issuance.issue_batch(caller, requests))

    def second_keeper(self, signing: Signing, store: AuthorityStore | None = None) -> RingKeeper:
        """Another server's keeper of the same ring, or on its own way (`store`) to it."""
        return RingKeeper(store or self.store, self.bans, self.keys, signing, self.passed)

    def second_rotation(self, signing: Signing) -> Rotation:
        """Another server's rotation on the same stores."""
        keeper = self.second_keeper(signing)
        return Rotation(keeper, self.maker, self.relying.evidence, self.clock, self.plan)

    @property
    def ring(self) -> AuthorityRing:
        """The ring as stored."""
        return self.store.load().ring

    @property
    def journal(self) -> list[str]:
        """The names of what was asked of the ledger and of signers, in order."""
        return [name for name, _ in self.ledger.journal]

    def forget_journal(self) -> None:
        """Begins the journal anew."""
        self.ledger.journal.clear()

    def key_ids(self) -> set[str]:
        """The keys that the key manager holds."""
        return set(self.memory_keys._signers)

    def issuer_key_ids(self) -> set[str]:
        """The keys that the ring says its issuers have."""
        return {a.key_id for a in self.ring.of(AuthorityKind.ISSUER)}


def rotated_root(ca: FoundedCa, csr: bytes) -> FoundedCa:
    """The same where the next root signs, cross-signed, and a certificate lives under the one from before."""
    ca.root = RootPolicy(timedelta(days=3650), SOAK, ca.policy.max_leaf_ttl, automatic=False, cross_sign=True)
    ca.restart()
    ca.keeper.refresh()
    prepared = ca.issue(WORKLOAD, SigningRequest(csr, 86400)).certificate.prepared
    ca.control.begin("yearly")
    ca.rotation.tick()
    now = ca.clock.now().replace(microsecond=0)
    ca.evidence.add([BundleFact(prepared.serial_hex, str(WORKLOAD.id), 2, Channel.STREAM, prepared.not_after, now)])
    for _ in range(3):
        ca.clock.move(SOAK)
        ca.rotation.tick()
    assert [a.state.value for a in ca.ring.of(AuthorityKind.ROOT)] == ["old", "active"]
    return ca


def _given(coroutine: Coroutine[object, None, T]) -> T:
    """What a coroutine gives that waits for nothing outside memory. Hypothesis runs it by the thousand: a loop for each
    would take minutes."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration as end:
            result: T = end.value
            return result


def found_ca(
    *,
    policy: IssuerPolicy = POLICY,
    profile: IssuanceProfile | None = None,
    root_ttl: timedelta = timedelta(days=3650),
    algorithm: KeyAlgorithm = KeyAlgorithm.P256,
) -> FoundedCa:
    """A server that has just begun, its ring loaded."""
    ca = unfounded_ca(policy=policy, profile=profile)
    found(ca.maker, ca.store, MESH, root=(algorithm, root_ttl), issuer=(algorithm, policy.ttl))
    ca.keeper.refresh()
    ca.forget_journal()
    return ca


def unfounded_ca(*, policy: IssuerPolicy = POLICY, profile: IssuanceProfile | None = None) -> FoundedCa:
    """A server whose stores are empty."""
    keys = MemoryKeyManager()
    ledger = JournalledLedger(MemoryLedger())
    return FoundedCa(
        SetClock(FOUNDED),
        keys,
        JournalledKeyManager(keys, ledger.journal),
        ledger,
        CrashingAuthorityStore(MemoryAuthorityStore()),
        policy,
        profile or IssuanceProfile(),
    )
