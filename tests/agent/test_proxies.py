"""The registry of proxies is bounded and forgets those first that are gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from meshca.agent.proxies import ProxyRegistry

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_longest_gone_are_forgotten_and_no_connected_one() -> None:
    registry = ProxyRegistry(limit=3)
    registry.opened("stays", NOW)
    for n in range(10):
        registry.opened(f"gone-{n}", NOW)
        registry.closed(f"gone-{n}", NOW)
    assert {proxy.node_id for proxy in registry.all()} == {"stays", "gone-8", "gone-9"}


def test_streams_are_counted_and_since_tells_of_the_first() -> None:
    registry = ProxyRegistry()
    later = NOW + timedelta(seconds=1)
    registry.opened("a", NOW)
    registry.opened("a", later)
    status = registry.get("a")
    assert status is not None
    assert (status.streams, status.since) == (2, NOW)
    registry.closed("a", later)
    registry.closed("a", later)
    status = registry.get("a")
    assert status is not None
    assert (status.streams, status.since) == (0, later)


def test_a_refusal_lasts_until_a_newer_version_is_accepted() -> None:
    registry = ProxyRegistry()
    registry.opened("a", NOW)
    registry.accepted("a", {"default": "v1"})
    registry.refused("a", [("default", "v2")], "no", NOW)
    registry.accepted("a", {"default": "v1"})  # the old one, sent again
    registry.accepted("a", {"ROOTCA": "r1"})
    status = registry.get("a")
    assert status is not None
    assert (status.refusals["default"].version, status.refusals["default"].kept) == ("v2", "v1")
    registry.accepted("a", {"default": "v3"})
    status = registry.get("a")
    assert status is not None
    assert status.refusals == {}
