"""A rotation of the root from start to end, as simulated for a whole mesh: its own heap of events, its own time.

What decides is the code that decides in the server and in agents: the ring, the book of evidence, the plan, the pacing,
and when an agent renews. What is made up: how long pushes and proxies take, and that doors sign in the order of asking.
Agents hold a stream, and trust what came on it once the last of their proxies has it; foreign clients (`foreign`, a
share of all) get their roots with each certificate, and renew when half of its life is over.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from meshca.agent.authority import DEADLINE
from meshca.agent.directive import Directive, directed_time
from meshca.agent.renewal import Lifetime, renewal_time
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
from meshca.authority.evidence import BundleFact, CertificateFact, Channel, Evidence, EvidenceBook, Fact
from meshca.authority.plan import Fleet, RotationPlan, plan_rotation, renewal_order
from meshca.authority.progress import Phase, progress_of
from meshca.authority.ring import (
    Advanced,
    Authority,
    AuthorityKind,
    AuthorityRing,
    AuthorityState,
    Prepared,
    RenewalOrder,
    RingEvent,
    RootRotation,
    RotationBegun,
    RotationFinished,
    Step,
    apply,
    apply_all,
)
from meshca.authority.schedule import decide, sequences_in_question
from meshca.spiffe.ids import TrustDomain
from scripts.bench.plot import Line, Panel, write_png

ZERO = datetime(2026, 1, 1, tzinfo=UTC)  # when time begins
ROOT, ISSUER = AuthorityKind.ROOT, AuthorityKind.ISSUER
LEAD = 600.0  # seconds of everyday life before the rotation begins
BIN = 10  # seconds, over which rates are taken
AFTERWARDS = 60.0  # seconds until the push of the last bundle is over
LONGEST = 24 * 3600.0
# what of the plan is over when that phase is
PHASES = {
    "distribute": Phase.DISTRIBUTING,
    "activate": Phase.SOAKING,
    "renew": Phase.RENEWING,
    "retire": Phase.RETIRING,
}
STEPS = {Activate: Step.ACTIVATE, Revoke: Step.REVOKE, Prune: Step.PRUNE}


@dataclass(frozen=True)
class Scenario:
    """A mesh. `capacity` is certificates per second, of all `doors` together; each door pushes to `push_rate` streams a
    second, and the last proxy behind an agent takes an exponential time of `acknowledge` seconds on average. The server
    looks for what is due every `tick` seconds.

    `paced`: agents spread renewals as the server directs; otherwise they all renew when they hear of it. `gated`: the
    server waits for evidence; otherwise not, and somebody has to suffer.
    """

    workloads: int = 100_000
    foreign: float = 0.1
    leaf_ttl: int = 3600
    capacity: float = 1000.0
    doors: int = 2
    push_rate: float = 4000.0
    acknowledge: float = 1.0
    soak: int = 30
    propagation: int = 60
    tick: int = 1
    paced: bool = True
    gated: bool = True
    seed: int = 1

    @property
    def fleet(self) -> Fleet:
        """As the server sees it."""
        return Fleet(self.capacity, timedelta(seconds=self.leaf_ttl))

    @property
    def policy(self) -> RotationPolicy:
        """The server's defaults, but for what is told."""
        leaf, propagation = timedelta(seconds=self.leaf_ttl), timedelta(seconds=self.propagation)
        issuer = IssuerPolicy(timedelta(days=30), 1 / 2, 5 / 6, leaf, propagation=propagation)
        soak = timedelta(seconds=self.soak)
        return RotationPolicy(issuer, RootPolicy(timedelta(days=3650), soak, leaf, propagation=propagation))


@dataclass(slots=True)
class Workload:
    """One that holds a certificate: `sequence` is the bundle that it uses, `due` when it asks for its next one.

    Times are in seconds since the beginning; `due` is 0 while it waits for an answer.
    """

    name: str
    stream: bool
    door: int
    sequence: int = 0
    serial: str = ""
    issuer_id: str = ""
    received: float = 0.0
    ends: int = 0
    due: float = 0.0
    order: RenewalOrder | None = None
    directed: float = 0.0  # the moment that it drew for that order


@dataclass
class Load:
    """What the doors were asked for and what they signed, by intervals of BIN seconds since the beginning."""

    asked: Counter[int] = field(default_factory=Counter)
    signed: Counter[int] = field(default_factory=Counter)
    longest: dict[int, float] = field(default_factory=dict)  # seconds that somebody waited who asked in that interval
    too_long: int = 0  # how many waited for longer than an agent does

    def count(self, asked: float, signed: float) -> None:
        """One certificate."""
        place, waited = int(asked // BIN), signed - asked
        self.asked[place] += 1
        self.signed[int(signed // BIN)] += 1
        self.longest[place] = max(waited, self.longest.get(place, 0.0))
        self.too_long += waited > DEADLINE.total_seconds()


@dataclass
class Outcome:
    """What happened; `ended` by phase, in seconds since the beginning."""

    plan: RotationPlan
    began: float
    load: Load
    ended: dict[Phase, float] = field(default_factory=dict)
    lacked: set[str] = field(default_factory=set)  # who ever lacked a root of a certificate that lived

    @property
    def peak(self) -> float:
        """The most that doors were asked for from the beginning of the rotation on, certificates per second."""
        return max(count / BIN for place, count in self.load.asked.items() if place >= self.began // BIN)

    def planned(self, step: str) -> float:
        """When the plan says that the step of that name ends, in seconds after the rotation began."""
        return next(_seconds(each.ends) for each in self.plan.steps if each.name == step) - self.began

    def happened(self, step: str) -> float:
        """When it did."""
        return self.ended[PHASES[step]] - self.began


def _wall(seconds: float) -> datetime:
    return ZERO + timedelta(seconds=seconds)


def _seconds(moment: datetime) -> float:
    return (moment - ZERO).total_seconds()


class Simulation:
    """Runs one scenario. Every event is a function and its argument at a time."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.now = 0.0
        self._dice = random.Random(scenario.seed)  # noqa: S311  # simulated chance, the same each time
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._planned = 0
        self._made = self._serials = 0
        self._free = 0.0  # when the doors have signed all that they were asked for
        self._facts: list[Fact] = []
        self._book = EvidenceBook()
        self._evidence = Evidence()
        self._states: dict[tuple[str, AuthorityState], float] = {}
        self.ring = self._founded()
        self._doors = [self.ring] * scenario.doors
        self._roots = {self.ring.sequence: _trusted(self.ring)}  # by bundle
        self._using: Counter[int] = Counter()  # how many workloads use that bundle
        self._lives_until: dict[str, int] = {}  # by root: the end of the last certificate under it
        self._load = Load()
        self._outcome: Outcome | None = None
        self._workloads = [self._workload(n) for n in range(scenario.workloads)]

    def run(self) -> Outcome:
        """The rotation, to its end and until everybody has heard of that."""
        for door in range(self.scenario.doors):
            self._at(self._dice.random(), self._look, door)
        self._at(0.0, self._tick, None)
        self._at(LEAD, self._begin, None)
        while self._outcome is None or self.now < self._outcome.ended.get(Phase.RETIRING, LONGEST) + AFTERWARDS:
            self.now, _, act, subject = heapq.heappop(self._events)
            if self.now > LONGEST:
                raise SystemExit("the rotation did not end within a day")
            act(subject)
        return self._outcome

    def _at(self, when: float, act: Callable[[Any], None], subject: object) -> None:
        self._planned += 1
        heapq.heappush(self._events, (when, self._planned, act, subject))

    # the server

    def _founded(self) -> AuthorityRing:
        ring = AuthorityRing(TrustDomain("bench.test"))
        for kind in (ROOT, ISSUER):
            made = self._make(ring, kind)
            ring = apply_all(ring, made, Advanced(made.authority.id, Step.ACTIVATE, at=_wall(0)))
        return ring

    def _make(self, ring: AuthorityRing, kind: AuthorityKind) -> Prepared:
        self._made += 1
        name, root = f"{kind.value}{self._made}", ring.active(ROOT)
        ttl = self.scenario.policy.root.ttl if kind is ROOT else self.scenario.policy.issuer.ttl
        parent = name if kind is ROOT or root is None else root.id
        prepared, now = AuthorityState.PREPARED, _wall(int(self.now))
        return Prepared(Authority(name, kind, prepared, name.encode(), (), parent, name, now, now + ttl, since=now))

    def _begin(self, _: None) -> None:
        self._know()
        policy, now = self.scenario.policy, _wall(self.now)
        plan = plan_rotation(self.ring, policy, self._evidence, self.scenario.fleet, now)
        self.ring = apply(self.ring, RotationBegun(RootRotation("operator", "a simulation", now)))
        self._outcome = Outcome(plan, self.now, self._load)

    def _tick(self, _: None) -> None:
        """All that is due, one step at a time."""
        while True:
            self._know()
            due = decide(self.ring, self.scenario.policy, _wall(self.now), self._evidence)
            if not due:
                break
            self.ring = apply(self.ring, self._event(due[0]))
            self._roots.setdefault(self.ring.sequence, _trusted(self.ring))
        if self._outcome is not None:
            phase = progress_of(self.ring, self.scenario.policy, self._evidence).phase
            for earlier in list(Phase)[1 : list(Phase).index(phase) or None]:
                self._outcome.ended.setdefault(earlier, self.now)
        self._at(self.now + self.scenario.tick, self._tick, None)

    def _know(self) -> None:
        self._book.learn(self._facts, _wall(self.now))
        self._facts.clear()
        evidence = self._book.evidence(sequences_in_question(self.ring), _wall(self.now), self.now)
        if not self.scenario.gated:
            long_ago = _wall(self.now - LONGEST)
            coverage = {n: replace(c, complete_since=long_ago) for n, c in evidence.coverage.items()}
            evidence = replace(evidence, coverage=coverage)
        self._evidence = replace(evidence, seen=self._seen())

    def _seen(self) -> dict[str, timedelta]:
        """For how long each authority has been seen in the state that it is in."""
        states = {(a.id, a.state) for a in self.ring.authorities}
        self._states = {state: self._states.get(state, self.now) for state in states}
        return {name: timedelta(seconds=self.now - since) for (name, _), since in self._states.items()}

    def _event(self, action: Action) -> RingEvent:
        now = _wall(int(self.now))
        match action:
            case BeginRotation(reason):
                return RotationBegun(RootRotation("schedule", reason, now))
            case PrepareRoot():
                return self._make(self.ring, ROOT)
            case PrepareIssuer():
                return self._make(self.ring, ISSUER)
            case Activate(name):
                return Advanced(name, Step.ACTIVATE, now, renewal=self._renewal(name, now))
            case Revoke(name) | Prune(name):
                return Advanced(name, STEPS[type(action)], now)
            case FinishRotation():
                return RotationFinished()

    def _renewal(self, name: str, now: datetime) -> RenewalOrder | None:
        streams = self._evidence.channels.get(Channel.STREAM, 0)
        order = renewal_order(self.ring, name, streams, self.scenario.fleet, now)
        return order if order is None or self.scenario.paced else replace(order, seconds=0)

    def _look(self, door: int) -> None:
        """A door reads the ring, as each does every second, and pushes what is new to its streams, one by one."""
        before, self._doors[door] = self._doors[door], self.ring
        if before.sequence != self.ring.sequence or before.renewing != self.ring.renewing:
            self._push(door, bundle=before.sequence != self.ring.sequence)
        self._at(self.now + 1, self._look, door)

    def _push(self, door: int, *, bundle: bool) -> None:
        order, sequence = self.ring.renewing, self.ring.sequence
        streams = [workload for workload in self._workloads if workload.stream and workload.door == door]
        self._dice.shuffle(streams)
        for place, workload in enumerate(streams):
            comes = self.now + place / self.scenario.push_rate
            if order is not None:
                self._at(comes, self._directed, (workload, order))
            if bundle:
                proxies = self._dice.expovariate(1 / self.scenario.acknowledge)
                self._at(comes + proxies, self._acknowledge, (workload, sequence))

    def _sign(self, asked: tuple[Workload, float]) -> None:
        workload, since = asked
        ring = self._doors[workload.door]
        issuer = ring.active(ISSUER)
        if issuer is None:
            raise SystemExit("nothing signs")
        self._load.count(since, self.now)
        self._serials += 1
        self._give(workload, f"{self._serials:x}", issuer, self.now, ring.sequence)

    def _give(self, workload: Workload, serial: str, issuer: Authority, at: float, sequence: int) -> None:
        """A certificate, recorded and received."""
        ends = int(at) + self.scenario.leaf_ttl
        renews = workload.serial if workload.stream else ""
        proves = not workload.stream
        fact = CertificateFact(serial, renews, workload.name, issuer.id, _wall(ends), sequence, proves, _wall(int(at)))
        self._facts.append(fact)
        workload.serial, workload.issuer_id, workload.received, workload.ends = serial, issuer.id, at, ends
        known = self._lives_until.get(issuer.issuer_id, 0)
        self._lives_until[issuer.issuer_id] = max(known, ends)
        if proves:
            self._use(workload, sequence)
        if known <= self.now:
            self._check()
        if workload.stream and at == self.now:
            proxies = self._dice.expovariate(1 / self.scenario.acknowledge)
            self._at(self.now + proxies, self._shown, (workload, serial))
        self._plan_renewal(workload)

    # workloads

    def _workload(self, number: int) -> Workload:
        """One that has been there for long, somewhere in the life of its certificate."""
        scenario, dice = self.scenario, self._dice
        stream = number >= scenario.workloads * scenario.foreign
        workload = Workload(f"workload{number}", stream, number % scenario.doors)
        issuer = self.ring.active(ISSUER)
        assert issuer is not None
        used = scenario.leaf_ttl * dice.uniform(0.45, 0.55)  # of the life, until it renews
        age = used * dice.random()
        for at in (-age - scenario.leaf_ttl / 2, -age):
            self._serials += 1
            self._give(workload, f"{self._serials:x}", issuer, at, self.ring.sequence)
        self._ask_at(workload, used - age)
        if stream:
            self._acknowledge((workload, self.ring.sequence))
        return workload

    def _plan_renewal(self, workload: Workload) -> None:
        life = Lifetime(_wall(workload.received), _wall(workload.ends))
        if workload.stream:
            due = _seconds(renewal_time(life, self._dice.random()))
        else:
            # foreign clients: half of the life, give or take a hundredth
            due = workload.received + life.length.total_seconds() * self._dice.uniform(0.495, 0.505)
        self._ask_at(workload, due)
        self._follow(workload)

    def _ask_at(self, workload: Workload, due: float) -> None:
        workload.due = max(due, self.now)
        self._at(workload.due, self._ask, (workload, workload.due))

    def _ask(self, asking: tuple[Workload, float]) -> None:
        workload, due = asking
        if workload.due != due:
            return  # it was moved
        workload.due = 0.0
        self._free = max(self.now, self._free) + 1 / self.scenario.capacity
        self._at(self._free, self._sign, (workload, self.now))

    def _directed(self, told: tuple[Workload, RenewalOrder]) -> None:
        workload, order = told
        if order == workload.order:
            return
        directive = Directive(frozenset(order.issuer_ids), order.start, timedelta(seconds=order.seconds))
        workload.order = order
        workload.directed = _seconds(directed_time(directive, _wall(self.now), self._dice.random()))
        if workload.due:
            self._follow(workload)

    def _follow(self, workload: Workload) -> None:
        """An order concerns the certificates that were received before the moment that was drawn for it."""
        order, moment = workload.order, workload.directed
        if order is None or workload.issuer_id not in order.issuer_ids or workload.received >= moment:
            return
        if moment < workload.due:
            self._ask_at(workload, moment)

    def _acknowledge(self, told: tuple[Workload, int]) -> None:
        workload, sequence = told
        self._use(workload, sequence)
        now, until = _wall(self.now), _wall(workload.ends)
        self._facts.append(BundleFact(workload.serial, workload.name, sequence, Channel.STREAM, until, now))

    def _shown(self, told: tuple[Workload, str]) -> None:
        """Its proxies have taken the new certificate: it comes back with that, and says so by what it holds."""
        workload, serial = told
        if serial == workload.serial:
            self._acknowledge((workload, workload.sequence))

    # the truth

    def _use(self, workload: Workload, sequence: int) -> None:
        if sequence == workload.sequence:
            return
        self._using[workload.sequence] -= 1
        self._using[sequence] += 1
        workload.sequence = sequence
        if sequence and not self._covers(sequence):
            self._check()

    def _covers(self, sequence: int) -> bool:
        living = {root for root, end in self._lives_until.items() if end > self.now}
        return living <= self._roots[sequence]

    def _check(self) -> None:
        """Who lacks a root under which a certificate lives now."""
        lacking = {sequence for sequence, count in self._using.items() if count > 0 and not self._covers(sequence)}
        if lacking and self._outcome is not None:
            self._outcome.lacked.update(each.name for each in self._workloads if each.sequence in lacking)


def _trusted(ring: AuthorityRing) -> frozenset[str]:
    return frozenset(root.id for root in ring.trusted)


# --- the report


def scenarios(told: Scenario) -> dict[str, Scenario]:
    """What is compared; a tenth of the mesh is enough to show what the gate of evidence is for."""
    small = replace(told, workloads=told.workloads // 10, capacity=told.capacity / 10, gated=False)
    return {"paced": told, "not paced": replace(told, paced=False), "no gate, a tenth": small}


def figures(outcome: Outcome, scenario: Scenario) -> dict[str, Any]:
    """What there is to say of a run, for people and programs."""
    load, plan = outcome.load, outcome.plan
    signed = [count for place, count in load.signed.items() if place >= outcome.began // BIN]
    planned, took = outcome.planned("retire"), outcome.happened("retire")
    return {
        "scenario": asdict(scenario),
        "steps": {s: {"planned": outcome.planned(s), "happened": outcome.happened(s)} for s in PHASES},
        "estimate_error": abs(planned - took) / took,
        "window_seconds": plan.window.total_seconds(),
        "asked_peak": outcome.peak,
        "signed_peak": max(signed) / BIN,
        "signed_mean": sum(signed) / took,
        "longest_wait": max(load.longest.values()),
        "too_long": load.too_long,
        "lacked": len(outcome.lacked),
    }


def table(runs: dict[str, dict[str, Any]]) -> str:
    """The figures side by side."""
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        *((f"{step} is over, planned / happened", partial(_step_cell, step)) for step in PHASES),
        ("estimate of the whole is off by", lambda r: f"{r['estimate_error']:.1%}"),
        ("renewals spread over", lambda r: f"{r['window_seconds']:.0f} s"),
        ("peak asked for / signed", lambda r: f"{r['asked_peak']:.0f} / {r['signed_peak']:.0f} /s"),
        ("mean signed", lambda r: f"{r['signed_mean']:.1f} /s"),
        ("longest wait for a certificate", lambda r: f"{r['longest_wait']:.2f} s"),
        (f"waited longer than an agent does, {DEADLINE.total_seconds():.0f} s", lambda r: f"{r['too_long']}"),
        ("ever lacked a root that somebody presented", lambda r: f"{r['lacked']}"),
    ]
    lines = [f"{'':44}" + "".join(f"{name:>18}" for name in runs)]
    lines += [f"{name:44}" + "".join(f"{cell(run):>18}" for run in runs.values()) for name, cell in rows]
    return "\n".join(lines)


def _step_cell(step: str, run: dict[str, Any]) -> str:
    return f"{run['steps'][step]['planned']:.0f} / {run['steps'][step]['happened']:.0f} s"


def plot(path: Path, outcomes: dict[str, Outcome], capacity: float) -> None:
    """The rate of signing over the whole time and around the activation, and how long requests waited there."""
    first = next(iter(outcomes.values()))
    used = first.happened("activate")
    end = max(each.happened("retire") for each in outcomes.values())
    rates = [Line(name, _minutes(o, {n: c / BIN for n, c in o.load.signed.items()})) for name, o in outcomes.items()]
    waits = [Line(name, _minutes(o, o.load.longest)) for name, o in outcomes.items()]
    marks = [(first.happened(step) / 60, name) for step, name in (("distribute", "covered"), ("activate", "used"))]
    levels = [(capacity, "capacity")]
    near = (used / 60 - 2, used / 60 + 8)
    across = "minutes since the rotation began"
    write_png(
        path,
        [
            Panel("certificates signed per second", across, rates, -LEAD / 60, end / 60, levels, marks[1:]),
            Panel("the same, around the first use", across, rates, *near, levels, marks),
            Panel("longest wait, seconds", across, waits, *near, (), marks),
        ],
    )


def _minutes(outcome: Outcome, by_bin: Mapping[int, float]) -> list[tuple[float, float]]:
    last = int((outcome.began + outcome.happened("retire")) // BIN)
    return [((n * BIN - outcome.began) / 60, by_bin.get(n, 0.0)) for n in range(last)]


def simulate(scenario: Scenario) -> Outcome:
    """One run, in a process of its own."""
    gc.disable()  # millions of live tuples, and no cycles
    return Simulation(scenario).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", type=int, default=Scenario.workloads)
    parser.add_argument("--foreign", type=float, default=Scenario.foreign, help="share of clients that hold no stream")
    parser.add_argument("--capacity", type=float, default=Scenario.capacity, help="certificates per second")
    parser.add_argument("--leaf-ttl", type=int, default=Scenario.leaf_ttl, help="seconds")
    parser.add_argument("--tick", type=int, default=10, help="seconds between looks at what is due; a server takes 1")
    parser.add_argument("--seed", type=int, default=Scenario.seed)
    parser.add_argument("--plot", type=Path, help="where to write the picture (PNG)")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = vars(parser.parse_args())
    path, output = options.pop("plot"), options.pop("output")
    compared = scenarios(Scenario(**options))
    with ProcessPoolExecutor(min(len(compared), os.cpu_count() or 1)) as pool:
        outcomes = dict(zip(compared, pool.map(simulate, compared.values()), strict=True))
    runs = {name: figures(outcomes[name], scenario) for name, scenario in compared.items()}
    print(json.dumps(runs) if output == "json" else table(runs))
    if path is not None:
        plot(path, {name: outcomes[name] for name in ("not paced", "paced")}, options["capacity"])


if __name__ == "__main__":
    main()
