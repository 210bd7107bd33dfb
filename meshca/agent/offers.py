"""The server's offers of a trust bundle that wait for the verdict of everybody behind the agent. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meshca.agent.relying import Debt

UNNAMED = "(unnamed)"
_MAX_NAME = 120  # characters of a node id that are repeated
_MAX_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class Offer:
    """A bundle that the server sent and the agent took; `since` is in seconds of the loop's time."""

    nonce: str
    version: str
    sequence: int
    since: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to tell the server about one response; `refusal` is empty where it is accepted."""

    nonce: str
    refusal: str = ""


class Offers:
    """Offers in the order in which they came. What proxies are served is always the newest."""

    def __init__(self) -> None:
        self._open: list[Offer] = []
        self._newest: Offer | None = None
        self._accepted: Offer | None = None
        self._refused = False

    @property
    def newest(self) -> Offer | None:
        """The newest, with or without a verdict."""
        return self._newest

    @property
    def is_settled(self) -> bool:
        """Whether the newest (if any) was accepted."""
        return not self._open and not self._refused

    def was_accepted(self, version: str, sequence: int) -> bool:
        """Whether that is what was accepted last: a server sends it again beside a version that was refused."""
        last = self._accepted
        return last is not None and (last.version, last.sequence) == (version, sequence)

    def claim(self, sequence: int, *, covered: bool) -> str | None:
        """A stream begins, and no verdict on an earlier one can be given any more.

        Gives the version that may be named as held by all: None where it is not (`covered`), or where the agent holds
        another `sequence` meanwhile.
        """
        self._open.clear()
        self._accepted, self._refused = None, False
        if self._newest is None or not covered or self._newest.sequence != sequence:
            return None
        self._accepted = self._newest
        return self._newest.version

    def add(self, offer: Offer) -> None:
        """The server offers it, and the agent holds it (or a newer one)."""
        self._open.append(offer)
        self._newest, self._refused = offer, False

    def accept(self) -> list[Verdict]:
        """Everybody holds the newest: the verdicts to give, in order. After a refusal there is none to give."""
        verdicts = [Verdict(offer.nonce) for offer in self._open]
        self._accepted, self._refused = self._newest, False
        self._open.clear()
        return verdicts

    def refuse(self, debts: Sequence[Debt]) -> list[Verdict]:
        """Somebody refused the newest: the verdicts to give, in order, once for each offer."""
        message = refusal_message(debts)
        verdicts = [Verdict(offer.nonce, message) for offer in self._open]
        self._refused = self._refused or bool(self._open)
        self._open.clear()
        return verdicts


def refusal_message(debts: Sequence[Debt]) -> str:
    """Which proxies refused, and why the first of them did, in at most 500 characters."""
    refusers = [debt for debt in debts if debt.refusal]
    others = f" (and {len(refusers) - 1} more)" if len(refusers) > 1 else ""
    message = f"proxy {shown(refusers[0].node_id)}{others} refused it: {refusers[0].refusal}"
    return message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 1] + "…"


def shown(node_id: str) -> str:
    """A node id for people."""
    name = node_id or UNNAMED
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"
