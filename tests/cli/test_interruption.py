"""Ctrl-C at a bad moment."""

from __future__ import annotations

import signal
from contextlib import suppress

import pytest

from meshca.cli.interruption import Interruption


def test_an_interruption_that_a_library_swallows_is_heard_at_the_next_check() -> None:
    with Interruption() as interruption:
        interruption.check()
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interruption.check()


def test_afterwards_it_is_as_it_was_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruption():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
