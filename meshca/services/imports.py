"""Authorities that others signed: what an external root is asked for, and what comes back, through the same gates."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from cryptography import x509

from meshca.authority.journal import JournalEntry
from meshca.authority.ring import (
    Advanced,
    Authority,
    AuthorityKind,
    AuthorityRing,
    AuthorityState,
    DirectoryTaken,
    IssuerRequested,
    PendingIssuer,
    Prepared,
    RingEvent,
    RootRotation,
    RootsAnnounced,
    RotationBegun,
    Step,
    apply_all,
    root_digest,
)
from meshca.authority.upstream import withdrawn
from meshca.errors import ErrorKind, MeshcaError, conflict, invalid
from meshca.pki.imports import (
    CaChain,
    ImportRules,
    authority_id_of,
    check_chain,
    check_root,
    check_signs_lists,
    der_of,
    name_of,
    parse_certificates,
    spki_of,
)
from meshca.pki.keys import KeyAlgorithm
from meshca.pki.plugged_in import PluggedInCa
from meshca.pki.requests import request_issuer
from meshca.ports import AuthorityStore, Clock, KeyManager, StoredRing
from meshca.services.ring import RingKeeper
from meshca.services.trials import Trials
from meshca.spiffe.ids import TrustDomain

_log = structlog.get_logger("meshca.imports")

OPERATOR, CA_DIR, UPSTREAM = "operator", "ca_dir", "upstream"
MAX_TRUSTED = 16  # roots in the bundle, past which no announced one joins it
SKEW = timedelta(minutes=5)  # by which another CA's clock may be ahead
_ROOT, _ISSUER = AuthorityKind.ROOT, AuthorityKind.ISSUER
_STANDING = (AuthorityState.PREPARED, AuthorityState.ACTIVE)


@dataclass(frozen=True, slots=True)
class Imported:
    """An issuing CA that came in, and its root; `new_root` where that came with it. Both as they came into the ring."""

    issuer: Authority
    root: Authority
    new_root: bool


class AuthorityImports:
    """Asks external roots for issuing CAs and takes them in. `min_life` is what an issuing CA must have left to live,
    `algorithm` that of the keys made for it. May be used on any thread."""

    def __init__(
        self,
        keeper: RingKeeper,
        keys: KeyManager,
        trials: Trials,
        clock: Clock,
        algorithm: KeyAlgorithm,
        min_life: timedelta,
    ) -> None:
        self._keeper = keeper
        self._keys = keys
        self._trials = trials
        self._clock = clock
        self._algorithm = algorithm
        self._min_life = min_life

    def request(self, *, new: bool = False) -> PendingIssuer:
        """The request that is pending; a new one, with a new key, where there is none or `new` is set.

        The key of a request that was replaced is destroyed: what is signed for it is refused. Raises CONFLICT where
        somebody else changed the ring meanwhile, and what the key manager raises.
        """
        stored = self._keeper.refresh()
        before = stored.ring.pending
        if before is not None and not new:
            self._keys.signer(before.key_id)  # a request whose key is lost would be signed in vain
            return before
        now = self._now()
        with _new_key(self._keys) as key_id:
            pending = make_request(self._keys, key_id, self._algorithm, stored.ring.trust_domain, now)
        entry = _entry(stored.ring, now, OPERATOR, "request issuer", "", "replaces the one before" if before else "")
        with _forgotten_unless_saved(self._keys, key_id):
            self._keeper.change(stored, (IssuerRequested(pending),), entry)
        if before is not None:
            self._keys.delete(before.key_id)
        return pending

    def accept(self, pem: bytes, reason: str) -> Imported:
        """Takes in the signed chain of the pending request: PEM, the issuing CA first.

        It waits as PREPARED, and so does its root where that is new, for which a rotation begins. Raises INVALID with
        the certificate named and what mends it; CONFLICT where nothing is pending, or it is in the ring already.
        """
        return self._accept(parse_certificates(pem, "the file"), OPERATOR, reason, lambda _, __: None)

    def accept_minted(
        self, certificates: Sequence[x509.Certificate], root: x509.Certificate, ttl: timedelta, reason: str
    ) -> Imported:
        """Takes in what an upstream authority made of the pending request, which was to live for `ttl`: by the same
        checks, and only under `root`, which is in the ring.

        Raises as `accept`, and INVALID where it leads to another root or lives for longer.
        """
        latest = self._now() + ttl + SKEW

        def fits(chain: CaChain, ring: AuthorityRing) -> None:
            if chain.root != root or _by_certificate(ring, root) is None:
                raise invalid(
                    f"issuing CA {name_of(chain.issuer)} leads to root {name_of(chain.root)}, which is not the one that"
                    f" was announced first, {name_of(root)}"
                )
            if chain.issuer.not_valid_after_utc > latest:
                end = f"{chain.issuer.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
                raise invalid(f"issuing CA {name_of(chain.issuer)} ends at {end}, but was to live for {ttl} at most")

        return self._accept(certificates, UPSTREAM, reason, fits)

    def announce(self, roots: Sequence[x509.Certificate], reason: str) -> None:
        """Takes in what an upstream authority says its roots are. New ones join the trust bundle, ahead of use.

        One that waits, and is told of no more, leaves it. One that left it while it was told of does not come back,
        but for a rotation that waits for a root. Raises INVALID for what cannot be a root or is too much, and CONFLICT
        where there is a new one after an operator has aborted a rotation; nothing is changed then.
        """
        stored, now = self._keeper.refresh(), self._now()
        ring, digests = stored.ring, tuple(root_digest(der_of(root)) for root in roots)
        new, gone = [root for root in roots if _is_news(ring, root)], withdrawn(ring, digests)
        if not new and not gone and digests == ring.announced:
            return
        if new and ring.held_since is not None:
            raise conflict("it has a new root, but a rotation was aborted: `meshca rotate root` begins another")
        if new and len(ring.trusted) - len(gone) + len(new) > MAX_TRUSTED:
            raise invalid(
                f"{len(new)} more roots are told of, and {len(ring.trusted)} are trusted: {MAX_TRUSTED} can be"
            )
        lasting, valid = self._rules(ring.trust_domain, now), ImportRules(ring.trust_domain, now, timedelta(0))
        for root in new:
            check_root(root, lasting if root == roots[0] else valid)
        events: list[RingEvent] = [Prepared(_root(ring, root)) for root in new]
        events += [Advanced(root.id, Step.PRUNE, now) for root in gone]
        step = "import root" if new else "drop root" if gone else "hear roots"
        subject = authority_id_of(new[0]) if new else gone[0].id if gone else ""
        entry = _entry(ring, now, UPSTREAM, step, subject, reason)
        self._keeper.change(stored, (*events, RootsAnnounced(digests)), entry)

    def _accept(
        self,
        certificates: Sequence[x509.Certificate],
        actor: str,
        reason: str,
        fits: Callable[[CaChain, AuthorityRing], None],
    ) -> Imported:
        stored, now = self._keeper.refresh(), self._now()
        ring = stored.ring
        known = _by_certificate(ring, certificates[0])
        if known is not None:
            raise conflict(f"{known.kind.value} {known.id} is in use already, as {known.state.value}")
        if ring.pending is None:
            raise conflict("no request is pending: `meshca authority csr` writes one; have that signed")
        signer = self._keys.signer(ring.pending.key_id)
        rules = self._rules(ring.trust_domain, now)
        others = [_parsed(authority) for authority in ring.authorities]
        chain = check_chain(certificates, signer.public_key_der, _roots(ring), rules, others)
        fits(chain, ring)
        if ring.crls:
            check_signs_lists(chain.issuer)
        found = _Finding(ring, rules).of(chain, ring.pending.key_id)
        self._trials.prove(chain, found.issuer.id, signer, ring.trust_domain)
        self._save(stored, found, (), actor, reason, now)
        return found

    def take(self, ca: PluggedInCa, reason: str) -> Imported | None:
        """Takes in what a CA directory holds; None where its issuing CA is in the ring already.

        Its roots all join the trust bundle; those that have left the directory stay until nothing depends on them.
        Raises INVALID as `accept` does; nothing is changed then.
        """
        stored, now = self._keeper.refresh(), self._now()
        ring, rules = stored.ring, self._rules(stored.ring.trust_domain, now)
        new = [check_root(root, rules) for root in ca.roots if _by_certificate(ring, root) is None]
        events: list[RingEvent] = [Prepared(_root(ring, root)) for root in new]
        if _by_certificate(ring, ca.certificates[0]) is not None:
            if not new and ring.directory == ca.digest:
                return None
            events.append(DirectoryTaken(ca.digest))
            entry = _entry(ring, now, CA_DIR, "import root" if new else "read ca_dir", "", reason)
            self._keeper.change(stored, events, entry)
            return None
        chain = check_chain(ca.certificates, spki_of(ca.certificates[0]), ca.roots, rules)
        if ring.crls:
            check_signs_lists(chain.issuer)
        with _new_key(self._keys) as key_id:
            signer = self._keys.adopt(key_id, ca.key)
            found = _Finding(ring, rules).of(chain, key_id)
            self._trials.prove(chain, found.issuer.id, signer, ring.trust_domain)
        others = [Prepared(_root(ring, root)) for root in new if root != chain.root]
        with _forgotten_unless_saved(self._keys, key_id):
            self._save(stored, found, (*others, DirectoryTaken(ca.digest)), CA_DIR, reason, now)
        return found

    def _save(
        self,
        stored: StoredRing,
        found: Imported,
        further: Sequence[RingEvent],
        actor: str,
        reason: str,
        now: datetime,
    ) -> None:
        ring, root = stored.ring, found.root
        events: list[RingEvent] = [Prepared(root)] if found.new_root else []
        if root.state is AuthorityState.PREPARED and ring.rotation is None:
            begun = RootRotation(actor, reason or f"root {root.id} was imported", now, successor=root.id)
            events.append(RotationBegun(begun))
        events.append(Prepared(found.issuer))
        why = f"{reason}{'; ' if reason else ''}under {'new ' if found.new_root else ''}root {root.id}"
        entry = _entry(ring, now, actor, "import issuer", found.issuer.id, why)
        self._keeper.change(stored, (*events, *further), entry)
        _log.info("authority_imported", issuer=found.issuer.id, root=root.id, new_root=found.new_root, origin=actor)

    def _rules(self, trust_domain: TrustDomain, now: datetime) -> ImportRules:
        return ImportRules(trust_domain, now, self._min_life)

    def _now(self) -> datetime:
        return self._clock.now().replace(microsecond=0)


def found_on_root(
    store: AuthorityStore,
    keys: KeyManager,
    trust_domain: TrustDomain,
    root: x509.Certificate,
    algorithm: KeyAlgorithm,
    now: datetime,
) -> StoredRing:
    """A trust domain's first ring, on a root whose key is elsewhere: an active root, a pending request, nothing that
    signs. Saved. `root` is checked already."""
    ring = _founded(trust_domain, root)
    with _new_key(keys) as key_id:
        pending = make_request(keys, key_id, algorithm, trust_domain, now)
        return store.save(apply_all(ring, IssuerRequested(pending)), expected_revision=0)


def found_plugged_in(
    store: AuthorityStore, keys: KeyManager, trials: Trials, ca: PluggedInCa, rules: ImportRules
) -> StoredRing:
    """A trust domain's first ring, of a CA that was made elsewhere: its root and its issuing CA, both active. Saved.

    Further roots of it are in the trust bundle. Raises INVALID as `AuthorityImports.accept` does.
    """
    for root in ca.roots:
        check_root(root, rules)
    chain = check_chain(ca.certificates, spki_of(ca.certificates[0]), ca.roots, rules)
    ring = _founded(rules.trust_domain, chain.root)
    with _new_key(keys) as key_id:
        signer = keys.adopt(key_id, ca.key)
        found = _Finding(ring, rules).of(chain, key_id)
        trials.prove(chain, found.issuer.id, signer, rules.trust_domain)
        for root in ca.roots:
            if root != chain.root:
                ring = apply_all(ring, Prepared(_root(ring, root)))
        issuer = found.issuer
        ring = apply_all(ring, Prepared(issuer), Advanced(issuer.id, Step.ACTIVATE), DirectoryTaken(ca.digest))
        return store.save(ring, expected_revision=0)


def make_request(
    keys: KeyManager, key_id: str, algorithm: KeyAlgorithm, trust_domain: TrustDomain, now: datetime
) -> PendingIssuer:
    """A new key under `key_id`, and the request for an issuing CA with it."""
    signer = keys.generate(key_id, algorithm)
    request = request_issuer(signer.public_key_der, algorithm, trust_domain, signer)
    return PendingIssuer(key_id, request, now.replace(microsecond=0))


class _Finding:
    """What a checked chain is in a ring."""

    def __init__(self, ring: AuthorityRing, rules: ImportRules) -> None:
        self._ring = ring
        self._rules = rules

    def of(self, chain: CaChain, key_id: str) -> Imported:
        """Raises INVALID where its root is in the ring but is not to be used any more."""
        root = _by_certificate(self._ring, chain.root)
        if root is not None and root.state not in _STANDING:
            raise invalid(
                f"issuing CA {name_of(chain.issuer)} leads to root {root.id}, which is {root.state.value}:"
                " have it signed under the active root, or a new one"
            )
        new_root = root is None
        root = root or _root(self._ring, check_root(chain.root, self._rules))
        return Imported(_authority(self._ring, _ISSUER, chain.issuer, root.id, key_id, chain.chain), root, new_root)


def _founded(trust_domain: TrustDomain, root: x509.Certificate) -> AuthorityRing:
    ring = AuthorityRing(trust_domain)
    authority = _root(ring, root)
    return apply_all(ring, Prepared(authority), Advanced(authority.id, Step.ACTIVATE))


def _root(ring: AuthorityRing, certificate: x509.Certificate) -> Authority:
    authority_id = _new_id(ring, certificate)
    return _authority(ring, _ROOT, certificate, authority_id, "", ())


def _authority(
    ring: AuthorityRing,
    kind: AuthorityKind,
    certificate: x509.Certificate,
    issuer_id: str,
    key_id: str,
    chain: tuple[bytes, ...],
) -> Authority:
    return Authority(
        id=_new_id(ring, certificate),
        kind=kind,
        state=AuthorityState.PREPARED,
        certificate=der_of(certificate),
        chain=chain,
        issuer_id=issuer_id,
        key_id=key_id,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _new_id(ring: AuthorityRing, certificate: x509.Certificate) -> str:
    """Its key identifier; where another certificate of the same key has that id, as after a renewal with the old key,
    as much of its hash."""
    identifier = authority_id_of(certificate)
    return identifier if ring.find(identifier) is None else hashlib.sha256(der_of(certificate)).hexdigest()[:40]


def _by_certificate(ring: AuthorityRing, certificate: x509.Certificate) -> Authority | None:
    der = der_of(certificate)
    return next((authority for authority in ring.authorities if authority.certificate == der), None)


def _is_news(ring: AuthorityRing, root: x509.Certificate) -> bool:
    """Whether an announced root is to be taken in: it is not here, and was not taken before, or one is waited for."""
    if _by_certificate(ring, root) is not None:
        return False
    is_waited_for = ring.rotation is not None and ring.successor is None
    return is_waited_for or root_digest(der_of(root)) not in ring.announced


def _roots(ring: AuthorityRing) -> list[x509.Certificate]:
    """The roots, those that may be used first."""
    roots = sorted(ring.of(_ROOT), key=lambda root: root.state not in _STANDING)
    return [_parsed(root) for root in roots]


def _parsed(authority: Authority) -> x509.Certificate:
    return x509.load_der_x509_certificate(authority.certificate)


def _entry(ring: AuthorityRing, now: datetime, actor: str, step: str, authority_id: str, reason: str) -> JournalEntry:
    return JournalEntry(now, actor, step, authority_id, reason, False, ring.sequence)


@contextmanager
def _new_key(keys: KeyManager) -> Iterator[str]:
    """An id for a key that is about to come, and is destroyed where it cannot be used."""
    key_id = f"issuer-{secrets.token_hex(8)}"
    try:
        yield key_id
    except BaseException:
        keys.delete(key_id)
        raise


@contextmanager
def _forgotten_unless_saved(keys: KeyManager, key_id: str) -> Iterator[None]:
    """Destroys the key where the ring with it was not saved; where nobody can tell, it stays."""
    try:
        yield
    except MeshcaError as error:
        if error.kind is not ErrorKind.UNAVAILABLE:
            keys.delete(key_id)
        raise
