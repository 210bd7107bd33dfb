"""The demonstration's figures: right only if every one of them is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshca.demo.story import Outcome

RIGHT = Outcome(
    serials={"spiffe://demo.test/a": ("a1", "a2", "a3"), "spiffe://demo.test/b": ("b1", "b2", "b3")},
    renewals_wanted=2,
    handshakes=101,
    sent=100,
    failed=0,
    failures={},
    member_admitted=True,
    anonymous_refused=True,
    foreigner_refused=True,
    recorded=frozenset({"a1", "a2", "a3", "b1", "b2", "b3", "older"}),
    seconds=9.0,
)


def test_all_is_well_where_every_figure_is_right() -> None:
    assert RIGHT.problems() == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"renewals_wanted": 3}, "spiffe://demo.test/a: 2 renewals were seen, not 3"),
        ({"serials": {"spiffe://demo.test/a": ()}}, "spiffe://demo.test/a: 0 renewals were seen, not 2"),
        ({"sent": 0, "handshakes": 0}, "no request was sent"),
        ({"failed": 3, "failures": {"HTTP 503": 2, "TimeoutError": 1}}, "3 of 100 requests failed: 2 x HTTP 503, 1 x"),
        ({"handshakes": 99}, "only 99 handshakes for 100 requests"),
        ({"member_admitted": False}, "the client's own certificate was refused"),
        ({"anonymous_refused": False}, "a caller without a certificate was not refused"),
        ({"foreigner_refused": False}, "a caller with a certificate of a foreign CA was not refused"),
        ({"recorded": RIGHT.recorded - {"b2"}}, "certificates were served that are not in the ledger: b2"),
    ],
)
def test_each_figure_that_is_wrong_is_a_problem(changes: dict[str, object], problem: str) -> None:
    found = replace(RIGHT, **changes).problems()  # type: ignore[arg-type]  # a mapping of fields
    assert found[0].startswith(problem)
