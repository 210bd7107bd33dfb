"""Join tokens: an operator asks for one, an agent redeems it once."""

from __future__ import annotations

import secrets
from datetime import timedelta

from meshca.errors import invalid
from meshca.ports import Clock, JoinTokenStore
from meshca.spiffe.ids import SpiffeId, TrustDomain, parse_workload_id
from meshca.tokens.join import ENTROPY_BYTES, JoinToken, format_join_token, hash_join_token

DEFAULT_TTL = timedelta(minutes=10)
MAX_TTL = timedelta(days=7)
RESERVED = "/meshca/"


class Enrolment:
    """Makes join tokens and forgets those that expired."""

    def __init__(self, store: JoinTokenStore, clock: Clock, trust_domain: TrustDomain) -> None:
        self._store = store
        self._clock = clock
        self._trust_domain = trust_domain

    def create(self, spiffe_id: str, ttl_seconds: int) -> tuple[str, JoinToken]:
        """A new token's text, which is nowhere stored, and what is. `ttl_seconds` 0 means ten minutes.

        Raises INVALID for an id that is not a workload's of this trust domain, or a TTL out of bounds.
        """
        identity = check_assignable(parse_workload_id(spiffe_id), self._trust_domain)
        if not 0 <= ttl_seconds <= MAX_TTL.total_seconds():
            raise invalid(f"ttl is {ttl_seconds}s: a join token lives between 1s and {MAX_TTL.days}d")
        ttl = timedelta(seconds=ttl_seconds) if ttl_seconds else DEFAULT_TTL
        now = self._clock.now().replace(microsecond=0)
        text = format_join_token(secrets.token_bytes(ENTROPY_BYTES))
        token = JoinToken(hash_join_token(text), identity, now, now + ttl)
        self._store.add(token)
        return text, token

    def prune(self) -> int:
        """Forgets expired tokens; how many."""
        return self._store.prune(self._clock.now())


def check_assignable(identity: SpiffeId, trust_domain: TrustDomain) -> SpiffeId:
    """The id, if a workload of `trust_domain` may have it; raises INVALID otherwise."""
    if identity.trust_domain != trust_domain:
        raise invalid(f"spiffe_id {identity} is not of this trust domain: it must start with {trust_domain.id}/")
    if f"{identity.path}/".startswith(RESERVED):
        raise invalid(f"spiffe_id {identity} is reserved: paths below {RESERVED} are meshca's own")
    return identity
