"""The verdicts on the bundles that a server offers: each once, in order, and none that is not true."""

from __future__ import annotations

from meshca.agent.offers import Offer, Offers, Verdict, refusal_message
from meshca.agent.relying import Debt


def offer(sequence: int) -> Offer:
    return Offer(f"n{sequence}", f"v{sequence}", sequence, 0.0)


def offers(*sequences: int) -> Offers:
    made = Offers()
    for sequence in sequences:
        made.add(offer(sequence))
    return made


REFUSED = (Debt("bad", away=False, refusal="no"), Debt("slow", away=False))


def test_all_that_is_covered_is_accepted_in_order_and_once() -> None:
    made = offers(2, 3)
    before, verdicts, after = made.is_settled, made.accept(), made.is_settled
    assert (before, verdicts, after) == (False, [Verdict("n2"), Verdict("n3")], True)
    assert made.accept() == []


def test_a_refusal_is_told_once_and_is_not_settled() -> None:
    made = offers(2)
    assert made.refuse(REFUSED) == [Verdict("n2", "proxy bad refused it: no")]
    assert made.refuse(REFUSED) == []
    before, verdicts, after = made.is_settled, made.accept(), made.is_settled
    assert (before, after) == (False, True)
    assert verdicts == [], "there is none left to give: that takes a new stream"


def test_a_new_stream_names_the_newest_only_where_everybody_has_it_and_the_agent_still_holds_it() -> None:
    assert offers().claim(2, covered=True) is None
    assert offers(2).claim(2, covered=False) is None
    assert offers(2).claim(3, covered=True) is None
    assert offers(2).claim(2, covered=True) == "v2"


def test_verdicts_on_an_earlier_stream_are_not_given_on_a_new_one() -> None:
    made = offers(2)
    made.claim(2, covered=False)
    assert made.accept() == []


def test_only_what_was_accepted_last_on_this_stream_is_known_again() -> None:
    made = offers(2)
    assert not made.was_accepted("v2", 2)
    made.accept()
    made.add(offer(3))
    assert made.was_accepted("v2", 2)
    assert not made.was_accepted("v2", 3)
    assert not made.was_accepted("v3", 3)
    made.claim(3, covered=False)
    assert not made.was_accepted("v2", 2)


def test_the_message_names_one_proxy_counts_the_others_and_is_bounded() -> None:
    debts = (Debt("a", away=False, refusal="no"), Debt("b", away=False, refusal="nor I"), Debt("c", away=True))
    assert refusal_message(debts) == "proxy a (and 1 more) refused it: no"
    assert refusal_message((Debt("", away=False, refusal="no"),)) == "proxy (unnamed) refused it: no"
    long = refusal_message((Debt("n" * 1024, away=False, refusal="x" * 512),))
    assert len(long) == 500
    assert "refused it: xxx" in long
