"""The metrics, as Prometheus reads them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from meshca.authority.ring import (
    Advanced,
    Authority,
    AuthorityKind,
    AuthorityRing,
    AuthorityState,
    Prepared,
    Step,
    apply,
)
from meshca.http.metrics import MAX_SERIES, Metrics
from meshca.spiffe.ids import TrustDomain

NOW = datetime(2027, 1, 1, tzinfo=UTC)
EMPTY = AuthorityRing(TrustDomain("td.test"))


def authority(name: str, kind: AuthorityKind, days: int) -> Authority:
    return Authority(
        id=name,
        kind=kind,
        state=AuthorityState.PREPARED,
        certificate=name.encode(),
        chain=(),
        issuer_id="r1",
        key_id=name,
        not_before=NOW,
        not_after=NOW + timedelta(days=days),
    )


def ring() -> AuthorityRing:
    """A root, an issuer that signs, and the next issuer."""
    root, first, second = (
        authority("r1", AuthorityKind.ROOT, 3650),
        authority("i1", AuthorityKind.ISSUER, 30),
        authority("i2", AuthorityKind.ISSUER, 45),
    )
    made = EMPTY
    for each in (root, first, second):
        made = apply(made, Prepared(each))
    for name in ("r1", "i1"):
        made = apply(made, Advanced(name, Step.ACTIVATE))
    return made


@dataclass(frozen=True)
class Ledger:
    flushes: int = 7
    queue_depth: int = 3


def metrics(of: AuthorityRing = EMPTY, ledger: Ledger | None = None) -> Metrics:
    return Metrics(lambda: of, ledger=ledger, now=lambda: NOW)


def scrape(of: Metrics) -> dict[str, float]:
    """Every sample: `name{label="value"}` in sorted order of labels."""
    text = generate_latest(of.registry).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {_spell(sample.name, sample.labels): sample.value for sample in samples}


def _spell(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{inner}}}" if inner else name


def test_istios_counters_have_exactly_istios_names_and_start_at_zero() -> None:
    found = scrape(metrics())
    for name in ("csr_count", "authentication_failure_count", "success_cert_issuance_count"):
        assert found[f"citadel_server_{name}"] == 0
    assert not [name for name in found if name.startswith("citadel_") and "_total" in name]
    assert not [name for name in found if name.endswith("_created")]


def test_requests_are_counted_where_istio_counts_them() -> None:
    of = metrics()
    of.csr_received()
    of.csr_received(3)
    of.authentication_failed()
    of.issued("leaf")
    of.issued("server")
    of.sign_failed("TTL_ERROR")
    of.sign_failed("something the caller made up")
    found = scrape(of)
    assert found["citadel_server_csr_count"] == 4
    assert found["citadel_server_authentication_failure_count"] == 1
    assert found["citadel_server_success_cert_issuance_count"] == 1
    assert found['citadel_server_csr_sign_err_count{error="TTL_ERROR"}'] == 1
    assert found['citadel_server_csr_sign_err_count{error="UNKNOWN"}'] == 1
    assert found['meshca_certificates_issued_total{kind="leaf"}'] == 1
    assert found['meshca_certificates_issued_total{kind="server"}'] == 1


def test_streams_are_counted_open_and_what_goes_and_comes_on_them() -> None:
    of = metrics()
    of.streams_open(3)
    of.streams_open(2)
    for _ in range(4):
        of.pushed()
    for _ in range(3):
        of.acknowledged()
    of.push_refused()
    found = scrape(of)
    assert found["meshca_streams_open"] == 2
    assert [found[f"meshca_{name}_total"] for name in ("pushes", "push_acks", "push_nacks")] == [4, 3, 1]


def test_calls_carry_gos_spelling_of_the_code() -> None:
    of = metrics()
    of.call_handled("istio.v1.auth.IstioCertificateService", "CreateCertificate", "INVALID_ARGUMENT", 0.003)
    of.call_handled("s", "m", "CANCELLED", 0.1, "server_stream")
    of.call_handled("s", "m", "no such code", 0.1)
    found = scrape(of)
    rest = 'grpc_method="CreateCertificate",grpc_service="istio.v1.auth.IstioCertificateService",grpc_type="unary"'
    assert found[f'grpc_server_handled_total{{grpc_code="InvalidArgument",{rest}}}'] == 1
    rest = 'grpc_method="m",grpc_service="s"'
    assert found[f'grpc_server_handled_total{{grpc_code="Canceled",{rest},grpc_type="server_stream"}}'] == 1
    assert found[f'grpc_server_handled_total{{grpc_code="Unknown",{rest},grpc_type="unary"}}'] == 1


def test_latency_is_a_histogram() -> None:
    of = metrics()
    of.call_handled("s", "m", "OK", 0.003)
    of.call_handled("s", "m", "OK", 0.3)
    found = scrape(of)
    rest = 'grpc_method="m",grpc_service="s",grpc_type="unary"'
    assert found[f'grpc_server_handling_seconds_bucket{{{rest},le="0.005"}}'] == 1
    assert found[f"grpc_server_handling_seconds_count{{{rest}}}"] == 2
    assert found[f"grpc_server_handling_seconds_sum{{{rest}}}"] == pytest.approx(0.303)


def test_peers_cannot_make_series_without_end() -> None:
    of = metrics()
    for number in range(MAX_SERIES + 50):
        of.refused(f"reason {number}")
    found = {name: value for name, value in scrape(of).items() if name.startswith("meshca_signing_refused_total")}
    assert len(found) == MAX_SERIES + 1
    assert found['meshca_signing_refused_total{reason="other"}'] == 50


def test_expiry_is_told_for_the_authorities_that_sign() -> None:
    found = scrape(metrics(ring()))
    day = timedelta(days=1).total_seconds()
    assert found["citadel_server_root_cert_expiry_timestamp"] == NOW.timestamp() + 3650 * day
    assert found["citadel_server_root_cert_expiry_seconds"] == 3650 * day
    assert found["citadel_server_cert_chain_expiry_timestamp"] == NOW.timestamp() + 30 * day
    assert found["citadel_server_cert_chain_expiry_seconds"] == 30 * day
    expiry = "meshca_authority_expiry_timestamp_seconds"
    assert found[f'{expiry}{{id="r1",kind="root",state="active"}}'] == NOW.timestamp() + 3650 * day
    assert found[f'{expiry}{{id="i2",kind="issuer",state="prepared"}}'] == NOW.timestamp() + 45 * day
    assert found["meshca_bundle_sequence"] == 1


def test_no_expiry_is_told_where_nothing_signs() -> None:
    assert not [name for name in scrape(metrics()) if "expiry" in name]


def test_the_ring_is_read_at_each_scrape() -> None:
    rings = [EMPTY, ring()]
    of = Metrics(lambda: rings.pop(0), now=lambda: NOW)
    assert scrape(of)["meshca_bundle_sequence"] == 0
    assert scrape(of)["meshca_bundle_sequence"] == 1


def test_the_ledgers_figures_are_read_at_the_scrape() -> None:
    found = scrape(metrics(ledger=Ledger()))
    assert found["meshca_ledger_flushes_total"] == 7
    assert found["meshca_ledger_queue"] == 3


def test_the_last_tick_of_a_job_is_told() -> None:
    of = metrics()
    of.ticked("rotation", NOW)
    assert scrape(of)['meshca_scheduler_last_tick_timestamp_seconds{job="rotation"}'] == NOW.timestamp()


def test_alarms_are_there_while_they_stand() -> None:
    of = metrics()
    of.alarms_stand({("critical", "ledger"): 1, ("warning", "root"): 2})
    found = scrape(of)
    assert found['meshca_alarms{kind="ledger",severity="critical"}'] == 1
    assert found['meshca_alarms{kind="root",severity="warning"}'] == 2
    of.alarms_stand({})
    assert not [name for name in scrape(of) if name.startswith("meshca_alarms")]


def test_the_coverage_of_a_rotation_is_there_once_it_is_known() -> None:
    of = metrics()
    assert not [name for name in scrape(of) if name.startswith("meshca_rotation")]
    of.rotation_stands(5, 3)
    found = scrape(of)
    assert (found["meshca_rotation_holders"], found["meshca_rotation_covered"]) == (5, 3)


def test_no_count_is_lost_between_threads() -> None:
    of = metrics()

    def work() -> None:
        for number in range(500):
            of.csr_received()
            of.refused(f"reason {number % 5}")
            of.call_handled("s", f"m{number % 5}", "OK", 0.001)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = scrape(of)
    assert found["citadel_server_csr_count"] == 4000
    assert sum(value for name, value in found.items() if name.startswith("meshca_signing_refused_total")) == 4000
    assert sum(value for name, value in found.items() if name.startswith("grpc_server_handled_total")) == 4000
