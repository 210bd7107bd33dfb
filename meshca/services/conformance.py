"""Whether an upstream authority does what it must: one check a sentence, and what is wrong in another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from cryptography import x509

from meshca.errors import ErrorKind, MeshcaError, invalid
from meshca.pki.imports import (
    CaChain,
    ImportRules,
    check_chain,
    check_root,
    check_signs_lists,
    der_of,
    name_of,
)
from meshca.pki.requests import request_issuer
from meshca.ports import Clock, Signer, UpstreamAuthority
from meshca.services.imports import SKEW
from meshca.services.upstream import PatientCalls, read_certificates
from meshca.spiffe.ids import TrustDomain

_GARBAGE = b"this is no PKCS #10 request"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `problem` is what is wrong, "" where nothing is; `skipped` where it could not be made."""

    check: str
    problem: str = ""
    skipped: bool = False


class Conformance:
    """A run against one plug-in. `new_signer` makes a key that is thrown away; `ttl` is what is asked for, `deadline`
    how long an answer may take."""

    def __init__(
        self,
        authority: UpstreamAuthority,
        trust_domain: TrustDomain,
        new_signer: Callable[[], Signer],
        clock: Clock,
        ttl: timedelta,
        deadline: timedelta,
    ) -> None:
        self._authority = authority
        self._trust_domain = trust_domain
        self._new_signer = new_signer
        self._clock = clock
        self._ttl = ttl
        self._deadline = deadline
        self._roots: tuple[x509.Certificate, ...] = ()
        self._chains: list[CaChain] = []
        self._signer = new_signer()

    def run(self) -> Iterator[Finding]:
        """Each check, when it was made. A certificate is issued a few times, to keys that nobody keeps."""
        yield self._check("the roots are told at once, within the deadline", self._hear)
        yield self._check("each root is a self-signed CA certificate that may sign issuing CAs", self._check_roots)
        yield self._check("Mint answers within the deadline, with a chain that passes every check", self._mint)
        minted: tuple[tuple[str, Callable[[CaChain], None]], ...] = (
            ("the chain leads to the first of the roots", self._leads_to_the_first),
            ("the lifetime is not longer than what was asked for", self._lives_no_longer),
            ("the path length is 0, as requested", _check_path_length),
            ("it may sign revocation lists, as requested", lambda chain: check_signs_lists(chain.issuer)),
            ("its subject and its URI are those of the request", self._says_what_was_asked),
        )
        for what, check in minted:
            yield self._check(what, lambda check=check: self._of_minted(check))  # type: ignore[misc]  # a default
        yield self._check("the same key again gives a certificate with a serial number of its own", self._mint_again)
        yield self._check("a shorter lifetime is kept to", self._mint_shorter)
        for what, csr in (("an empty", b""), ("a garbled", _GARBAGE), ("a forged", self._forged())):
            yield self._check(f"{what} request is refused as INVALID_ARGUMENT", lambda csr=csr: self._refuse(csr))  # type: ignore[misc]
        yield self._check("a lifetime of 0 is refused as INVALID_ARGUMENT", self._refuse_no_time)
        yield self._check("what is trusted is heard, or UNIMPLEMENTED", self._acknowledge)
        yield self._check("the stream of roots is still open, and says the same", self._hear_again)

    def _check(self, what: str, check: Callable[[], None]) -> Finding:
        try:
            check()
        except _Skipped:
            return Finding(what, skipped=True)
        except MeshcaError as error:
            return Finding(what, error.message)
        return Finding(what)

    def _ask(self, what: str, call: Callable[[], object]) -> object:
        return PatientCalls(self._deadline).run(what, call)

    def _hear(self) -> None:
        self._roots = read_certificates(self._ask("WatchRoots", self._authority.roots), "the list of roots")

    def _check_roots(self) -> None:
        if not self._roots:
            raise _Skipped
        rules = ImportRules(self._trust_domain, self._clock.now(), timedelta(0))
        for root in self._roots:
            check_root(root, rules)

    def _mint(self) -> None:
        self._chains.append(self._minted(self._ttl))

    def _minted(self, ttl: timedelta) -> CaChain:
        told = self._ask("Mint", lambda: self._authority.mint(self._request(), ttl))
        certificates = read_certificates(told, "the chain")
        if any(root in certificates for root in self._roots):
            raise invalid("the root is in the chain: leave it out")
        rules = ImportRules(self._trust_domain, self._clock.now(), timedelta(0))
        return check_chain(certificates, self._signer.public_key_der, self._roots, rules)

    def _of_minted(self, check: Callable[[CaChain], None]) -> None:
        if not self._chains:
            raise _Skipped
        check(self._chains[0])

    def _leads_to_the_first(self, chain: CaChain) -> None:
        if chain.root != self._roots[0]:
            raise invalid(f"it leads to {name_of(chain.root)}, while the first is {name_of(self._roots[0])}")

    def _lives_no_longer(self, chain: CaChain, ttl: timedelta | None = None) -> None:
        wanted = self._ttl if ttl is None else ttl
        lives = chain.issuer.not_valid_after_utc - self._clock.now()
        if lives > wanted + SKEW:
            raise invalid(f"it lives for {_whole(lives)}, asked for was {_whole(wanted)}")

    def _says_what_was_asked(self, chain: CaChain) -> None:
        request, issuer = x509.load_der_x509_csr(self._request()), chain.issuer
        if request.subject != issuer.subject:
            raise invalid(f"the subject is {name_of(issuer)}, requested was {request.subject.rfc4514_string()!r}")
        wanted = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [each.value for each in issuer.extensions if isinstance(each.value, x509.SubjectAlternativeName)]
        if found != [wanted]:
            raise invalid(
                f"{'another' if found else 'no'} subject alternative name is there, not {self._trust_domain.id}"
            )

    def _mint_again(self) -> None:
        if not self._chains:
            raise _Skipped
        again = self._minted(self._ttl)
        if again.issuer.serial_number == self._chains[0].issuer.serial_number:
            raise invalid(f"both have the serial number {again.issuer.serial_number:x}")

    def _mint_shorter(self) -> None:
        if not self._chains:
            raise _Skipped
        shorter = self._ttl / 2
        self._lives_no_longer(self._minted(shorter), shorter)

    def _refuse(self, csr: bytes) -> None:
        self._refused(lambda: self._authority.mint(csr, self._ttl))

    def _refuse_no_time(self) -> None:
        self._refused(lambda: self._authority.mint(self._request(), timedelta(0)))

    def _refused(self, call: Callable[[], Sequence[bytes]]) -> None:
        try:
            self._ask("Mint", call)
        except MeshcaError as error:
            if error.kind is ErrorKind.INVALID:
                return
            raise invalid(f"it is answered with {error.kind.name}: {error.message}") from error
        raise invalid("it is signed")

    def _acknowledge(self) -> None:
        digests, issuing = [bytes(32)], der_of(self._chains[0].issuer) if self._chains else b""
        self._ask("AcknowledgeRoots", lambda: self._authority.acknowledge(digests, issuing))

    def _hear_again(self) -> None:
        if not self._roots:
            raise _Skipped
        told = read_certificates(self._ask("WatchRoots", self._authority.roots), "the list of roots")
        if told != self._roots:
            raise invalid("the roots are others than a moment ago")

    def _request(self) -> bytes:
        signer = self._signer
        return request_issuer(signer.public_key_der, signer.algorithm, self._trust_domain, signer)

    def _forged(self) -> bytes:
        """A request for our key that another key signed."""
        signer, other = self._signer, self._new_signer()
        return request_issuer(signer.public_key_der, signer.algorithm, self._trust_domain, other)


class _Skipped(Exception):
    """What the check looks at never came."""


def _check_path_length(chain: CaChain) -> None:
    found = chain.issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    if found != 0:
        raise invalid(f"it is {'absent' if found is None else found}")


def _whole(time: timedelta) -> timedelta:
    return timedelta(seconds=round(time.total_seconds()))
