"""What the server counts, for Prometheus: Istio's names, so that its dashboards and alerts work, and our own.

Istio's counters have no `_total`, which prometheus_client would append; they are collected under their exact names with
the type `untyped`, the one type that this library's text format leaves alone. Rates and sums do not ask for the type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from threading import Lock
from typing import Generic, Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from meshca.authority.ring import Authority, AuthorityKind, AuthorityRing

# citadel_server_csr_sign_err_count{error}: Istio has no others.
SIGNING_ERRORS = ("CA_NOT_READY", "CSR_ERROR", "TTL_ERROR", "CERT_GEN_ERROR", "UNKNOWN")

# A label's values may come from what peers send; past so many, the rest is counted as "other".
MAX_SERIES = 200

_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RPC_LABELS = ("grpc_service", "grpc_method", "grpc_code", "grpc_type")

M = TypeVar("M", bound=MetricWrapperBase)


class LedgerFigures(Protocol):
    """What the ledger's writer tells of itself."""

    @property
    def flushes(self) -> int:
        """Durable writes so far."""
        ...

    @property
    def queue_depth(self) -> int:
        """Certificates that wait to be written."""
        ...


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Metrics:
    """The counters of one process, in a registry of its own. Every method may be called from any thread.

    `ring` gives the ring that is in use; expiry is computed from it, and from `now`, when somebody scrapes. So are the
    ledger's figures, where there is a `ledger`.
    """

    def __init__(
        self,
        ring: Callable[[], AuthorityRing],
        *,
        ledger: LedgerFigures | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        # a second series for each counter, which nobody reads
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._csrs = self._istio("csr_count", "CSRs received.")
        self._unauthenticated = self._istio(
            "authentication_failure_count", "Callers that could not prove who they are."
        )
        self._sign_errors = _Children(self._istio("csr_sign_err_count", "CSRs refused or failed.", "error"))
        self._successes = self._istio("success_cert_issuance_count", "Workload certificates issued.")
        issued = self._counter("meshca_certificates_issued_total", "Certificates issued, by kind.", "kind")
        self._issued = _Children(issued)
        self._refused = _Children(
            self._counter("meshca_signing_refused_total", "Requests refused, by reason.", "reason")
        )
        self._handled = _Children(self._counter("grpc_server_handled_total", "RPCs completed, by code.", *_RPC_LABELS))
        self._seconds = _Children(self._rpc_seconds())
        self._ticks = _Children(self._last_ticks())
        self._streams = Gauge("meshca_streams_open", "Open discovery streams.", registry=self.registry)
        self._pushes = self._counter("meshca_pushes_total", "Responses sent on discovery streams.")
        self._acks = self._counter("meshca_push_acks_total", "Responses that a peer acknowledged.")
        self._nacks = self._counter("meshca_push_nacks_total", "Responses that a peer refused.")
        self._standing = _Standing()
        self.registry.register(self._standing)
        self.registry.register(_Expiry(ring, now))
        if ledger is not None:
            self.registry.register(_Ledger(ledger))

    def csr_received(self, count: int = 1) -> None:
        """CSRs came in."""
        self._csrs.inc(count)

    def authentication_failed(self) -> None:
        """A caller could not prove who it is."""
        self._unauthenticated.inc()

    def sign_failed(self, error: str) -> None:
        """A CSR was refused or could not be signed; an `error` that is not Istio's counts as UNKNOWN."""
        self._sign_errors.of(error if error in SIGNING_ERRORS else "UNKNOWN").inc()

    def issued(self, kind: str) -> None:
        """A certificate was issued. Kind `leaf` is what Istio counts."""
        self._issued.of(kind).inc()
        if kind == "leaf":
            self._successes.inc()

    def refused(self, reason: str) -> None:
        """A request was refused."""
        self._refused.of(reason).inc()

    def call_handled(self, service: str, method: str, code: str, seconds: float, grpc_type: str = "unary") -> None:
        """An RPC ended. `code` is gRPC's upper-case name, such as INVALID_ARGUMENT; it is shown as Go spells it."""
        self._handled.of(service, method, _GO_CODES.get(code, "Unknown"), grpc_type).inc()
        self._seconds.of(service, method, grpc_type).observe(seconds)

    def streams_open(self, count: int) -> None:
        """So many discovery streams are open."""
        self._streams.set(count)

    def pushed(self) -> None:
        """A response was sent on a discovery stream."""
        self._pushes.inc()

    def acknowledged(self) -> None:
        """A peer accepted a response."""
        self._acks.inc()

    def push_refused(self) -> None:
        """A peer refused a response."""
        self._nacks.inc()

    def ticked(self, job: str, at: datetime) -> None:
        """A scheduled job ended well."""
        self._ticks.of(job).set(at.timestamp())

    def alarms_stand(self, counts: Mapping[tuple[str, str], int]) -> None:
        """So many alarms stand, by severity and kind; there are no others."""
        self._standing.alarms = dict(counts)

    def rotation_stands(self, holders: int, covered: int) -> None:
        """So many hold certificates, and so many of them are known to have the bundle that matters."""
        self._standing.coverage = (holders, covered)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self.registry)

    def _istio(self, name: str, documentation: str, *labels: str) -> Counter:
        counter = Counter(f"citadel_server_{name}", documentation, labels, registry=None)
        self.registry.register(_WithoutSuffix(f"citadel_server_{name}", documentation, counter))
        return counter

    def _rpc_seconds(self) -> Histogram:
        return Histogram(
            "grpc_server_handling_seconds",
            "How long RPCs took.",
            ("grpc_service", "grpc_method", "grpc_type"),
            registry=self.registry,
            buckets=_SECONDS_BUCKETS,
        )

    def _last_ticks(self) -> Gauge:
        name = "meshca_scheduler_last_tick_timestamp_seconds"
        return Gauge(name, "When a scheduled job last ended well.", ("job",), registry=self.registry)


class _Children(Generic[M]):
    """The labelled children of a metric, found again by one dictionary look-up; bounded in number."""

    def __init__(self, parent: M) -> None:
        self._parent = parent
        self._known: dict[tuple[str, ...], M] = {}
        self._lock = Lock()

    def of(self, *labels: str) -> M:
        """The child with these label values."""
        found = self._known.get(labels)
        return found if found is not None else self._add(labels)

    def _add(self, labels: tuple[str, ...]) -> M:
        with self._lock:
            if labels not in self._known:
                if len(self._known) >= MAX_SERIES:
                    return self._parent.labels(*("other" for _ in labels))
                self._known[labels] = self._parent.labels(*labels)
            return self._known[labels]


class _WithoutSuffix(Collector):
    """A counter under a name that does not end in `_total`."""

    def __init__(self, name: str, documentation: str, counter: Counter) -> None:
        self._name = name
        self._documentation = documentation
        self._counter = counter

    def collect(self) -> Iterator[Metric]:
        shown = Metric(self._name, self._documentation, "unknown")
        for metric in self._counter.collect():
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    shown.add_sample(self._name, sample.labels, sample.value)
        yield shown


class _Standing(Collector):
    """What was last told of alarms and rotation; nothing before, as in signing workers, where nobody tells."""

    def __init__(self) -> None:
        self.alarms: dict[tuple[str, str], int] = {}
        self.coverage: tuple[int, int] | None = None

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("meshca_alarms", "Alarms that stand.", labels=("severity", "kind"))
        for labels, count in self.alarms.items():
            family.add_metric(labels, count)
        yield family
        if self.coverage is None:
            return
        holders, covered = self.coverage
        yield GaugeMetricFamily("meshca_rotation_holders", "Holders of certificates that rotation waits for.", holders)
        known = "Holders that are known to have the trust bundle that matters."
        yield GaugeMetricFamily("meshca_rotation_covered", known, covered)


class _Ledger(Collector):
    """What the ledger's writer says at the scrape."""

    def __init__(self, figures: LedgerFigures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily("meshca_ledger_flushes", "Durable writes of the ledger.", self._figures.flushes)
        waiting = "Certificates that wait for the ledger."
        yield GaugeMetricFamily("meshca_ledger_queue", waiting, self._figures.queue_depth)


class _Expiry(Collector):
    """What the ring says at the scrape: when authorities expire, and the bundle's sequence."""

    def __init__(self, ring: Callable[[], AuthorityRing], now: Callable[[], datetime]) -> None:
        self._ring = ring
        self._now = now

    def collect(self) -> Iterator[Metric]:
        ring = self._ring()
        yield from self._istio("root_cert_expiry", ring.active(AuthorityKind.ROOT))
        yield from self._istio("cert_chain_expiry", ring.active(AuthorityKind.ISSUER))
        yield _authorities(ring)
        yield GaugeMetricFamily("meshca_bundle_sequence", "Sequence number of the trust bundle.", ring.sequence)

    def _istio(self, name: str, authority: Authority | None) -> Iterator[Metric]:
        """Both of Istio's gauges for the authority that signs; none where none does."""
        if authority is None:
            return
        at = authority.not_after.timestamp()
        left = at - self._now().timestamp()
        yield GaugeMetricFamily(f"citadel_server_{name}_timestamp", "When it expires, in Unix seconds.", at)
        yield GaugeMetricFamily(f"citadel_server_{name}_seconds", "How long until it expires.", left)


def _authorities(ring: AuthorityRing) -> Metric:
    name = "meshca_authority_expiry_timestamp_seconds"
    family = GaugeMetricFamily(name, "When an authority expires.", labels=("kind", "state", "id"))
    for authority in ring.authorities:
        labels = (authority.kind.value, authority.state.value, authority.id)
        family.add_metric(labels, authority.not_after.timestamp())
    return family


# grpc-go's names, which grpc_code has carried since go-grpc-prometheus; not all follow from ours
_GO_CODES = {
    "OK": "OK",
    "CANCELLED": "Canceled",
    "UNKNOWN": "Unknown",
    "INVALID_ARGUMENT": "InvalidArgument",
    "DEADLINE_EXCEEDED": "DeadlineExceeded",
    "NOT_FOUND": "NotFound",
    "ALREADY_EXISTS": "AlreadyExists",
    "PERMISSION_DENIED": "PermissionDenied",
    "RESOURCE_EXHAUSTED": "ResourceExhausted",
    "FAILED_PRECONDITION": "FailedPrecondition",
    "ABORTED": "Aborted",
    "OUT_OF_RANGE": "OutOfRange",
    "UNIMPLEMENTED": "Unimplemented",
    "INTERNAL": "Internal",
    "UNAVAILABLE": "Unavailable",
    "DATA_LOSS": "DataLoss",
    "UNAUTHENTICATED": "Unauthenticated",
}
