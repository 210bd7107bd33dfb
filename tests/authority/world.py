"""A mesh in miniature: replicas of a server that share a ring, relying parties of every sort, a clock that may err.

Time is in seconds since the beginning. What is true (who holds which roots, whose certificate still lives) is kept
apart from what the server may know: only facts reach its book.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from meshca.authority.actions import (
    Action,
    Activate,
    BeginRotation,
    FinishRotation,
    IssuerPolicy,
    PrepareIssuer,
    PrepareRoot,
    Prune,
    Revoke,
    RootPolicy,
    RotationPolicy,
)
from meshca.authority.evidence import BundleFact, CertificateFact, Channel, EvidenceBook, Fact
from meshca.authority.ring import (
    Advanced,
    AuthorityKind,
    AuthorityRing,
    Prepared,
    RingEvent,
    RootRotation,
    RotationAborted,
    RotationBegun,
    RotationFinished,
    Step,
    apply,
    apply_all,
)
from meshca.authority.schedule import decide, sequences_in_question
from meshca.authority.steady import SteadyTime
from meshca.errors import MeshcaError
from tests.assets.authorities import FOUNDED, MESH
from tests.assets.rings import authority

LEAF_TTL = 3600
CONFIRMED_FOR = 10
PROPAGATION = 2 * CONFIRMED_FOR
SOAK = 30
POLICY = RotationPolicy(
    IssuerPolicy(
        timedelta(days=30), 0.5, 5 / 6, timedelta(seconds=LEAF_TTL), propagation=timedelta(seconds=PROPAGATION)
    ),
    RootPolicy(
        timedelta(days=3650),
        timedelta(seconds=SOAK),
        timedelta(seconds=LEAF_TTL),
        propagation=timedelta(seconds=PROPAGATION),
    ),
)
ROOT, ISSUER = AuthorityKind.ROOT, AuthorityKind.ISSUER


@dataclass
class Party:
    """A relying party: what it trusts, and the certificate that it presents, as they really are.

    One with a `stream` (an agent) takes bundles from it and acknowledges them; all get them with certificates.
    """

    name: str
    stream: bool
    roots: frozenset[str] = frozenset()
    sequence: int = 0
    serial: str = ""
    root: str = ""  # of its certificate
    ends: float = -1.0  # when verifiers, whose clocks are right, refuse it


@dataclass
class Replica:
    """A server process: the ring as it last saw it, and when it last looked."""

    ring: AuthorityRing
    seen: float


@dataclass
class World:
    """Everything. Rules call its methods; `check` holds the truth against the laws."""

    gate: bool = True  # False: the negative control, which does not wait for evidence
    now: float = 0.0
    skew: float = 0.0
    wrong_until: float = 0.0
    made: int = 0
    serials: int = 0
    forced: bool = False
    parties: dict[str, Party] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)
    book: EvidenceBook = field(default_factory=EvidenceBook)
    steady: SteadyTime = field(default_factory=lambda: SteadyTime(timedelta(seconds=LEAF_TTL)))

    def __post_init__(self) -> None:
        ring = apply_all(AuthorityRing(MESH), self._make(ROOT, ""))
        ring = apply(ring, Advanced(ring.authorities[0].id, Step.ACTIVATE, at=self.wall))
        ring = apply(ring, self._make(ISSUER, ring.authorities[0].id))
        self.ring = apply(ring, Advanced(ring.authorities[1].id, Step.ACTIVATE, at=self.wall))
        self.replicas = [Replica(self.ring, 0.0) for _ in range(3)]

    @property
    def wall(self) -> datetime:
        """What the servers' clock shows."""
        return FOUNDED + timedelta(seconds=int(self.now + self.skew))

    def _make(self, kind: AuthorityKind, issuer_id: str) -> Prepared:
        self.made += 1
        policy = POLICY.root.ttl if kind is ROOT else POLICY.issuer.ttl
        made = authority(self.made, kind, not_before=self.wall, ttl=policy, issuer_id=issuer_id, since=self.wall)
        return Prepared(replace(made, issuer_id=issuer_id or made.id, certificate=b"%d" % self.made))

    # what servers do

    def look(self, replica: int) -> None:
        """A replica reads the ring, as each does every second while it can."""
        self.replicas[replica] = Replica(self.ring, self.now)

    def tick(self, replica: int, *, crash: bool = False) -> Action | None:
        """One step of a tick, from the reading of the ring to the saving; a crash comes before the saving."""
        self.look(replica)
        self.book.learn(self.facts, self.safe_now())
        self.facts.clear()
        evidence = self.book.evidence(sequences_in_question(self.ring), self.safe_now(), self.now)
        if not self.gate:
            evidence = replace(
                evidence,
                coverage={
                    n: replace(c, complete_since=evidence.at - timedelta(days=1)) if evidence.at else c
                    for n, c in evidence.coverage.items()
                },
            )
        due = decide(self.ring, POLICY, self.wall, evidence)
        if not due or crash:
            return None
        self.ring = apply(self.ring, self._event(due[0]))
        self.look(replica)
        return due[0]

    def wait(self, seconds: float) -> None:
        """Time passes; a clock that is wrong is set right within the longest life of a leaf."""
        then = self.now + seconds
        if self.skew and self.wrong_until <= then:
            self.now = max(self.now, self.wrong_until)
            self.set_clock(0.0)
        self.now = then

    def set_clock(self, skew: float) -> None:
        """The clock of the servers is set, and they notice at the next tick, which is at once."""
        self.safe_now()
        if not self.skew:
            self.wrong_until = self.now + LEAF_TTL - 1
        self.skew = skew
        self.safe_now()

    def safe_now(self) -> datetime:
        """The time that decisions that end something go by."""
        return self.steady.now(self.wall, self.now)

    def _event(self, action: Action) -> RingEvent:
        steps = {Activate: Step.ACTIVATE, Revoke: Step.REVOKE, Prune: Step.PRUNE}
        match action:
            case BeginRotation(reason):
                return RotationBegun(RootRotation("schedule", reason, self.wall))
            case PrepareRoot():
                return self._make(ROOT, "")
            case PrepareIssuer():
                root = self.ring.active(ROOT)
                assert root is not None
                return self._make(ISSUER, root.id)
            case Activate(name) | Revoke(name) | Prune(name):
                return Advanced(name, steps[type(action)], self.wall)
            case FinishRotation():
                return RotationFinished()

    # what operators do

    def begin(self) -> bool:
        return self._command(RotationBegun(RootRotation("operator", "because", self.wall)))

    def abort(self) -> bool:
        return self._command(RotationAborted(self.wall))

    def taint(self, root: str) -> bool:
        return self._command(Advanced(root, Step.TAINT, self.wall))

    def force(self, root: str, step: Step) -> bool:
        """A step without evidence: from here on the world may break, and the operator was told so."""
        self.forced = self._command(Advanced(root, step, self.wall)) or self.forced
        return self.forced

    def _command(self, event: RingEvent) -> bool:
        try:
            self.ring = apply(self.ring, event)
        except MeshcaError:
            return False
        return True

    # what relying parties do

    def renew(self, party: Party, replica: int, *, lost: bool = False) -> bool:
        """Asks a replica for a certificate; the answer may be lost on its way."""
        door = self.replicas[replica]
        issuer = door.ring.active(ISSUER)
        if self.now - door.seen > CONFIRMED_FOR or issuer is None:
            return False
        self.serials += 1
        serial = f"{self.serials:x}"
        ends = self.wall + timedelta(seconds=LEAF_TTL)
        renews = party.serial if self.is_live(party) else ""
        self.facts.append(
            CertificateFact(
                serial, renews, party.name, issuer.id, ends, door.ring.sequence, not party.stream, self.wall
            )
        )
        if not lost:
            party.serial, party.root = serial, issuer.issuer_id
            party.ends = (ends - FOUNDED).total_seconds()
            if (
                door.ring.sequence >= party.sequence
            ):  # agents get it in the answer, too; that is no proof of their proxies
                self._take(party, door.ring)
        return True

    def receive(self, party: Party, replica: int) -> bool:
        """An agent's stream brings it the bundle as a replica knows it; nothing is said yet of having it."""
        ring = self.replicas[replica].ring
        if ring.sequence < party.sequence or not self.is_live(party):
            return False
        self._take(party, ring)
        return True

    def acknowledge(self, party: Party) -> None:
        """The agent, and all proxies behind it, have what they were sent."""
        self.facts.append(self._fact(party, ""))

    def refuse(self, party: Party) -> None:
        self.facts.append(self._fact(party, "no"))

    def _fact(self, party: Party, refusal: str) -> BundleFact:
        until = FOUNDED + timedelta(seconds=party.ends)
        return BundleFact(party.serial, party.name, party.sequence, Channel.STREAM, until, self.wall, refusal)

    def _take(self, party: Party, ring: AuthorityRing) -> None:
        party.roots = frozenset(root.id for root in ring.trusted)
        party.sequence = ring.sequence

    def is_live(self, party: Party) -> bool:
        return party.ends > self.now

    # the laws

    def check(self) -> None:
        """Holds what is true against what must be."""
        for kind in (ROOT, ISSUER):
            assert len([a for a in self.ring.of(kind) if a.state.value == "active"]) <= 1
        assert self.ring.trusted, "the bundle is empty"
        assert self.ring.of(ISSUER), "no issuing CA is left: doors take that for lost state"
        if self.forced:
            return
        presented = {party.root for party in self.parties.values() if self.is_live(party)}
        for verifier in self.parties.values():
            if self.is_live(verifier) and verifier.roots:
                missing = presented - verifier.roots
                assert not missing, f"{verifier.name} lacks {missing}, whose certificates live"

    def check_evidence(self) -> None:
        """What the book claims of a holder was never more than the holder had."""
        for party in self.parties.values():
            holder = self.book._by_serial.get(party.serial)
            if holder is not None:
                assert holder.sequence <= party.sequence
