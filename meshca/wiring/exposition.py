"""Metrics of several processes as one: what workers counted, added up at the scrape."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Literal

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from pydantic import TypeAdapter

# metric name, type, help, and its samples: name, labels, value
Sample = tuple[str, dict[str, str], float]
Family = tuple[str, str, str, list[Sample]]

_ADDED = ("counter", "histogram", "unknown")
_SUMMED = ("meshca_streams_open",)  # gauges of which each process has its part
_REPORT = TypeAdapter(list[tuple[str, Literal["counter", "histogram", "unknown", "gauge"], str, list[Sample]]])


def read_samples(registry: CollectorRegistry) -> list[Family]:
    """Everything in `registry` that can be added up over processes."""
    return [
        (metric.name, metric.type, metric.documentation, [(s.name, dict(s.labels), s.value) for s in metric.samples])
        for metric in registry.collect()
        if metric.type in _ADDED or metric.name in _SUMMED
    ]


def write_report(registry: CollectorRegistry) -> str:
    """Everything in `registry` that can be added up, as one line."""
    return json.dumps(read_samples(registry)) + "\n"


def parse_report(line: bytes) -> list[Family]:
    """What `write_report` wrote. Raises ValueError for anything else."""
    return [(name, kind, words, samples) for name, kind, words, samples in _REPORT.validate_json(line)]


class WorkerTotals(Collector):
    """What all workers counted, those that have ended included: a counter never goes back."""

    def __init__(self, own: CollectorRegistry) -> None:
        self._own = own
        self._latest: dict[int, list[Family]] = {}
        self._ended: list[list[Family]] = []

    def report(self, worker: int, families: Iterable[Family]) -> None:
        """The newest report of a worker."""
        self._latest[worker] = list(families)

    def ended(self, worker: int) -> None:
        """The worker is gone; what it counted stays."""
        families = self._latest.pop(worker, None)
        if families is not None:
            counted = [family for family in families if family[0] not in _SUMMED]
            self._ended = [_flatten([*self._ended, counted])]

    def collect(self) -> Iterator[Metric]:
        """Our own gauges as they are, and the sum of everything that is counted."""
        for metric in self._own.collect():
            if metric.type not in _ADDED and metric.name not in _SUMMED:
                yield metric
        reports = [read_samples(self._own), *self._ended, *self._latest.values()]
        for name, kind, documentation, samples in _flatten(reports):
            metric = Metric(name, documentation, kind)
            for sample, labels, value in samples:
                metric.add_sample(sample, labels, value)
            yield metric


def _flatten(reports: Iterable[Iterable[Family]]) -> list[Family]:
    heads: dict[str, tuple[str, str]] = {}
    sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = defaultdict(lambda: defaultdict(float))
    for report in reports:
        for name, kind, documentation, samples in report:
            heads[name] = (kind, documentation)
            for sample, labels, value in samples:
                if not sample.endswith("_created"):
                    sums[name][sample, tuple(labels.items())] += value
    return [
        (name, kind, documentation, [(sample, dict(labels), value) for (sample, labels), value in sums[name].items()])
        for name, (kind, documentation) in heads.items()
    ]
