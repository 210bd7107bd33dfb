"""How the server is, for those who ask in threads of their own: checks and ticks are the event loop's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from meshca.errors import unavailable
from meshca.services.health import Check, Health, problems_of
from meshca.wiring.ticks import Ticks

_PATIENCE_SECONDS = 5.0


def health_for_threads(
    checks: Mapping[str, Check], ticks: Ticks, patience: float = _PATIENCE_SECONDS
) -> Callable[[], Health]:
    """What tells the health, called in a thread. To be made on the event loop, which answers; `checks` is read each
    time. It raises UNAVAILABLE where the loop does not answer within `patience`, in seconds."""
    loop = asyncio.get_running_loop()

    async def look() -> Health:
        return Health(problems_of(checks), ticks.last("rotation"))

    def ask() -> Health:
        answer = asyncio.run_coroutine_threadsafe(look(), loop)
        try:
            return answer.result(patience)
        except TimeoutError as error:
            answer.cancel()
            raise unavailable(f"the server did not tell its health within {patience:g}s") from error

    return ask
