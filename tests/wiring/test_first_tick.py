"""What a server does before it serves anybody."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from meshca.wiring.core import Core
from meshca.wiring.server import _first_tick
from tests.assets.founded import found_ca


def test_a_server_whose_ledger_takes_long_to_read_begins_all_the_same() -> None:
    """With a million certificates alive it took longer than what a process signs with is good for, and none began."""
    ca = found_ca()
    signed_with = []

    def read_long() -> None:
        ca.keeper.refresh()
        ca.watch.seconds += 18

    identity = SimpleNamespace(material=None, ensure=lambda: signed_with.append(ca.signing.current()))
    authorities = SimpleNamespace(
        lists=SimpleNamespace(tick=lambda: None), rotation=SimpleNamespace(tick=read_long), keeper=ca.keeper
    )
    _first_tick(cast("Core", SimpleNamespace(authorities=authorities, signing=ca.signing, identity=identity)))
    assert [state.ring for state in signed_with] == [ca.ring]
