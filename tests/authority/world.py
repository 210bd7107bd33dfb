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
from meshca.authority.evidence import (
    BundleFact,
    CertificateFact,
    Channel,
    Evidence,
    EvidenceBook,
    Fact,
    proves_bundle,
)
from meshca.authority.ring import (
    Advanced,
    AuthorityKind,
    AuthorityRing,
    AuthorityState,
    CrlsPublished,
    IssuedCrl,
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
from meshca.pki.records import ISTIO
from meshca.spiffe.bans import NO_BANS, Ban, BanKind, BanList
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


@dataclass(frozen=True)
class Held:
    """A certificate as it really is: `ends` is when verifiers, whose clocks are right, refuse it."""

    serial: str
    root: str
    issuer: str
    ends: float


@dataclass(frozen=True)
class Bundle:
    """A trust bundle as somebody has it: its roots, and the issuing CAs of which it has revocation lists."""

    sequence: int = 0
    roots: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()


@dataclass
class Party:
    """A relying party: what it trusts, and the certificates that it presents, as they really are.

    One with a `stream` is an agent with a proxy behind it: `offered` is the bundle that the agent has, `trust` the one
    that the proxy has; `held` is the agent's newest certificate, `shown` the one that the proxy presents. With all
    others, both come at the same time, and without revocation lists. A certificate that begins a lineage, as those that
    renew it, is not served to a proxy that lacks the bundle of sequence `owes`, which came along. One that was banned
    is `astray` until it has what everybody was to have meanwhile.
    """

    name: str
    stream: bool
    trust: Bundle = Bundle()
    offered: Bundle = Bundle()
    held: Held | None = None
    shown: Held | None = None
    astray: bool = False
    owes: int = 0

    @property
    def spiffe_id(self) -> str:
        return f"spiffe://mesh.test/{self.name}"


@dataclass
class Replica:
    """A server: the ring as its door last saw it, and when it last looked; and what its process knows.

    Its clock is `behind` by so many seconds; `states` tells since when it has seen each authority in its state.
    """

    ring: AuthorityRing
    bans: BanList = NO_BANS
    seen: float = 0.0
    behind: int = 0
    book: EvidenceBook = field(default_factory=EvidenceBook)
    steady: SteadyTime = field(default_factory=lambda: SteadyTime(timedelta(seconds=LEAF_TTL)))
    read: int = 0
    states: dict[tuple[str, AuthorityState, datetime | None], float] = field(default_factory=dict)

    def look(self, ring: AuthorityRing, bans: BanList, now: float) -> None:
        """It reads the ring and the bans."""
        self.ring, self.bans, self.seen = ring, bans, now
        states = ((a.id, a.state, a.since) for a in ring.authorities)
        self.states = {state: self.states.get(state, now) for state in states}


@dataclass
class World:
    """Everything. Rules call its methods; `check` holds the truth against the laws."""

    gate: bool = True  # False: the negative control, which does not wait for evidence
    list_gate: bool = True  # False: another one, which does not wait for who checks revocation lists
    now: float = 0.0
    skew: float = 0.0
    wrong_until: float = 0.0
    made: int = 0
    serials: int = 0
    forced: bool = False
    parties: dict[str, Party] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)  # all that is durable, in its order
    newest: datetime = FOUNDED  # the time of the last thing that was made durable
    bans: BanList = NO_BANS

    def __post_init__(self) -> None:
        ring = apply_all(AuthorityRing(MESH), self._make(ROOT, "", self.wall))
        ring = apply(ring, Advanced(ring.authorities[0].id, Step.ACTIVATE, at=self.wall))
        ring = apply(ring, self._make(ISSUER, ring.authorities[0].id, self.wall))
        self.ring = apply(ring, Advanced(ring.authorities[1].id, Step.ACTIVATE, at=self.wall))
        self.replicas = [Replica(self.ring, behind=behind) for behind in (0, 600, 0)]
        for replica in range(3):
            self.look(replica)
            self.safe_now(self.replicas[replica])

    @property
    def wall(self) -> datetime:
        """What the servers' clock shows."""
        return FOUNDED + timedelta(seconds=int(self.now + self.skew))

    def shows(self, replica: Replica) -> datetime:
        """What the clock of that one shows."""
        return self.wall - timedelta(seconds=replica.behind)

    def _make(self, kind: AuthorityKind, issuer_id: str, at: datetime) -> Prepared:
        self.made += 1
        policy = POLICY.root.ttl if kind is ROOT else POLICY.issuer.ttl
        made = authority(self.made, kind, not_before=at, ttl=policy, issuer_id=issuer_id, since=at)
        return Prepared(replace(made, issuer_id=issuer_id or made.id, certificate=b"%d" % self.made))

    # what servers do

    def look(self, replica: int) -> None:
        """A replica reads the ring, as each does every second while it can."""
        self.replicas[replica].look(self.ring, self.bans, self.now)

    def tick(self, replica: int, *, crash: bool = False) -> Action | None:
        """One step of a tick, from the reading of the ring to the saving; a crash comes before the saving."""
        self.look(replica)
        server = self.replicas[replica]
        due = decide(self.ring, POLICY, self.shows(server), self.known_to(server))
        if not due or crash:
            return None
        self.ring = apply(self.ring, self._event(due[0], self.shows(server)))
        self.newest = self.shows(server)
        self.look(replica)
        return due[0]

    def publish_lists(self, replica: int) -> bool:
        """A replica publishes what revocation lists are due, as each looks for every second; whether any were."""
        self.look(replica)
        bans, issuers = self.bans, self.ring.leaf_issuers
        due = {(each.id, bans.revision) for each in issuers} if bans.bans else set()
        if due == {(crl.issuer_id, crl.revision) for crl in self.ring.crls}:
            return False
        now = self.shows(self.replicas[replica])
        made = (IssuedCrl(name, b"", 1, now, now, revision) for name, revision in sorted(due))
        self.ring = apply(self.ring, CrlsPublished(tuple(made), now))
        self.newest = now
        self.look(replica)
        return True

    def known_to(self, server: Replica) -> Evidence:
        """What that process knows now."""
        then = self.safe_now(server)
        server.book.heed(server.bans)
        server.book.learn(self.facts[server.read :], then)
        server.read = len(self.facts)
        evidence = server.book.evidence(sequences_in_question(self.ring), then, self.now)
        seen = {name: timedelta(seconds=self.now - since) for (name, *_), since in server.states.items()}
        evidence = replace(evidence, seen=seen)
        if not self.list_gate:
            return replace(evidence, least_checking=None)
        if self.gate:
            return evidence
        long_ago = then - timedelta(days=1)
        coverage = {n: replace(c, complete_since=long_ago) for n, c in evidence.coverage.items()}
        return replace(evidence, coverage=coverage)

    def wait(self, seconds: float) -> None:
        """Time passes; a clock that is wrong is set right within the longest life of a leaf."""
        then = self.now + seconds
        if self.skew and self.wrong_until <= then:
            self.now = max(self.now, self.wrong_until)
            self.set_clock(0.0)
        self.now = then

    def set_clock(self, skew: float) -> None:
        """The clock of the servers is set, and they notice at the next tick, which is at once."""
        for replica in self.replicas:
            self.safe_now(replica)
        if not self.skew:
            self.wrong_until = self.now + LEAF_TTL - 1
        self.skew = skew
        for replica in self.replicas:
            self.safe_now(replica)

    def restart(self, replica: int) -> None:
        """A process ends, and another one begins with what is durable."""
        steady = SteadyTime(timedelta(seconds=LEAF_TTL), self.newest)
        behind = self.replicas[replica].behind
        self.replicas[replica] = Replica(self.ring, self.bans, self.now, behind, steady=steady)
        self.look(replica)
        self.safe_now(self.replicas[replica])

    def reboot_with_a_clock_that_is_ahead(self, skew: float) -> None:
        """All at once: nobody was there to see the leap."""
        self.skew, self.wrong_until = skew, self.now + LEAF_TTL - 1
        for replica in range(3):
            self.restart(replica)

    def restore(self) -> None:
        """The ledger is restored from a backup that lacks its last line; processes begin anew."""
        certificates = [fact for fact in self.facts if isinstance(fact, CertificateFact)]
        if certificates:
            self.facts.remove(certificates[-1])
        for replica in range(3):
            self.restart(replica)

    def safe_now(self, replica: Replica) -> datetime:
        """The time that decisions that end something go by."""
        return replica.steady.now(self.shows(replica), self.now)

    def _event(self, action: Action, at: datetime) -> RingEvent:
        steps = {Activate: Step.ACTIVATE, Revoke: Step.REVOKE, Prune: Step.PRUNE}
        match action:
            case BeginRotation(reason):
                return RotationBegun(RootRotation("schedule", reason, at))
            case PrepareRoot():
                return self._make(ROOT, "", at)
            case PrepareIssuer():
                root = self.ring.active(ROOT)
                assert root is not None
                return self._make(ISSUER, root.id, at)
            case Activate(name) | Revoke(name) | Prune(name):
                return Advanced(name, steps[type(action)], at)
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

    def ban(self, party: Party) -> bool:
        """Cuts it off; whether it was not before."""
        if self.is_banned(party):
            return False
        new = Ban(BanKind.IDENTITY, party.spiffe_id, party.spiffe_id, "x", "operator", self.wall)
        self.bans = BanList(self.bans.revision + 1, (*self.bans.bans, new))
        party.astray = True
        return True

    def unban(self, party: Party) -> bool:
        """Takes that back."""
        if not self.is_banned(party):
            return False
        others = tuple(ban for ban in self.bans.bans if ban.subject != party.spiffe_id)
        self.bans = BanList(self.bans.revision + 1, others)
        return True

    def is_banned(self, party: Party) -> bool:
        return _is_in(self.bans, party)

    def _command(self, event: RingEvent) -> bool:
        try:
            self.ring = apply(self.ring, event)
        except MeshcaError:
            return False
        self.newest = self.wall
        return True

    # what relying parties do

    def renew(self, party: Party, replica: int, *, lost: bool = False, token: bool = False) -> bool:
        """Asks a replica for a certificate; the answer may be lost on its way. `token`: not with the one it has."""
        door = self.replicas[replica]
        issuer = door.ring.active(ISSUER)
        if self.now - door.seen > CONFIRMED_FOR or issuer is None or _is_in(door.bans, party):
            return False
        self.serials += 1
        ends = self.shows(door) + timedelta(seconds=LEAF_TTL)
        renews = party.held.serial if party.held is not None and self.is_live(party.held) and not token else ""
        held = Held(
            f"{self.serials:x}",
            issuer.issuer_id,
            issuer.id,
            (ends - FOUNDED).total_seconds(),
        )
        self._record(
            CertificateFact(
                held.serial,
                renews,
                party.spiffe_id,
                issuer.id,
                ends,
                door.ring.sequence,
                proves_bundle(ISTIO if not party.stream else "meshca", renews),
                self.shows(door),
                with_lists=party.stream,
            )
        )
        if not lost:
            self._obtain(party, held, door.ring, first=not renews)
        return True

    def _obtain(self, party: Party, held: Held, ring: AuthorityRing, *, first: bool) -> None:
        """It has the certificate, and the bundle that came along. An agent's proxy has neither yet."""
        if ring.sequence < party.offered.sequence:
            return  # agents refuse what goes back; the others' next certificate is as good
        party.held = held
        party.owes = ring.sequence if first else party.owes
        party.offered = _bundle(ring, with_lists=party.stream)
        if not party.stream:
            self.take_trust(party)
            party.shown = held

    def receive(self, party: Party, replica: int) -> bool:
        """An agent's stream brings it the bundle as a replica knows it; nothing is said yet of having it."""
        server = self.replicas[replica]
        if server.ring.sequence < party.offered.sequence or not self.is_live(party.held) or _is_in(server.bans, party):
            return False
        party.offered = _bundle(server.ring, with_lists=True)
        return True

    def take_trust(self, party: Party) -> None:
        """The proxy accepts the trust half of what its agent serves."""
        party.trust = party.offered
        if party.astray and not self.is_banned(party) and party.trust.sequence == self.ring.sequence:
            party.astray = False

    def take_identity(self, party: Party) -> None:
        """The proxy accepts the identity half, if it is served that."""
        if party.held is not None and party.trust.sequence >= party.owes:
            party.shown = party.held

    def acknowledge(self, party: Party) -> None:
        """The proxy has the bundle; its agent says so by the newest certificate that no proxy has yet to take."""
        if party.trust.sequence == party.offered.sequence:
            self._tell(party, "")

    def refuse(self, party: Party) -> None:
        self._tell(party, "no")

    def _tell(self, party: Party, refusal: str) -> None:
        by = party.shown if self.is_live(party.shown) else party.held
        if by is None or not self.is_live(by):
            return
        until = FOUNDED + timedelta(seconds=by.ends)
        sequence = party.offered.sequence
        self._record(BundleFact(by.serial, party.spiffe_id, sequence, Channel.STREAM, until, self.wall, refusal))

    def _record(self, fact: Fact) -> None:
        self.facts.append(fact)
        self.newest = fact.at

    def is_live(self, held: Held | None) -> bool:
        return held is not None and held.ends > self.now

    # the laws

    def check(self) -> None:
        """Holds what is true against what must be."""
        for kind in (ROOT, ISSUER):
            assert len([a for a in self.ring.of(kind) if a.state.value == "active"]) <= 1
        assert self.ring.trusted, "the bundle is empty"
        assert self.ring.of(ISSUER), "no issuing CA is left: doors take that for lost state"
        live = [party for party in self.parties.values() if self.is_live(party.shown)]
        issuers = {party.shown.issuer for party in live if party.shown is not None}
        verifiers = [party for party in live if not party.astray]
        for verifier in verifiers:
            unlisted = issuers - verifier.trust.lists if verifier.trust.lists else None
            assert not unlisted, f"{verifier.name} lacks the lists of {unlisted}, and refuses all that they signed"
        if self.forced:
            return
        presented = {party.shown.root for party in live if party.shown is not None}
        for verifier in verifiers:
            missing = presented - verifier.trust.roots
            assert not missing, f"{verifier.name} lacks {missing}, whose certificates live"

    def check_evidence(self) -> None:
        """What a process claims of a holder was never more than the holder had."""
        for party in self.parties.values():
            for replica in self.replicas:
                holder = replica.book._by_serial.get(party.shown.serial) if party.shown is not None else None
                if holder is not None:
                    assert holder.sequence <= party.trust.sequence


def _is_in(bans: BanList, party: Party) -> bool:
    return any(ban.subject == party.spiffe_id for ban in bans.bans)


def _bundle(ring: AuthorityRing, *, with_lists: bool) -> Bundle:
    lists = frozenset(crl.issuer_id for crl in ring.crls) if with_lists else frozenset()
    return Bundle(ring.sequence, frozenset(root.id for root in ring.trusted), lists)
