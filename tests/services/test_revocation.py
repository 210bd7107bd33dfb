"""Who is revoked gets nothing more, by whatever it proves itself, until that is taken back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from meshca.authority.ring import AuthorityKind
from meshca.errors import ErrorKind, MeshcaError, unavailable
from meshca.pki.keys import KeyAlgorithm
from meshca.pki.records import LedgerQuery
from meshca.services.issuance import SigningRequest
from meshca.services.signing import CONFIRMED_FOR, Signing
from meshca.spiffe.bans import BanKind, BanList
from meshca.spiffe.ids import SpiffeId
from meshca.spiffe.peers import AuthenticationMethod, Caller
from meshca.stores.memory import MemoryRevocationStore
from tests.assets.authorities import FOUNDED
from tests.assets.csrs import good_pem, key_of
from tests.assets.founded import WORKLOAD, FoundedCa, found_ca

REQUEST = SigningRequest(good_pem(key_of(KeyAlgorithm.P256)))
IDENTITY = str(WORKLOAD.id)
OTHER = Caller(SpiffeId.parse("spiffe://example.org/ns/a/sa/other"), AuthenticationMethod.JWT, "issuer x")


def by(method: AuthenticationMethod, serial: str = "") -> Caller:
    return replace(WORKLOAD, method=method, serial=serial)


def issued_serial(ca: FoundedCa, caller: Caller = WORKLOAD) -> str:
    return ca.issue(caller, REQUEST).certificate.prepared.serial_hex


def refused(ca: FoundedCa, caller: Caller) -> MeshcaError:
    """Why nothing is issued; nothing was recorded or signed either."""
    ca.forget_journal()
    with pytest.raises(MeshcaError) as caught:
        ca.issue(caller, REQUEST)
    assert ca.journal == []
    return caught.value


class OutStore(MemoryRevocationStore):
    """A store that can be out."""

    out = False

    def standing(self, known: BanList) -> BanList:
        if self.out:
            raise unavailable("the bans cannot be read")
        return super().standing(known)


@pytest.mark.parametrize("method", AuthenticationMethod)
def test_a_revoked_identity_gets_nothing_however_it_proves_itself(method: AuthenticationMethod) -> None:
    ca = found_ca()
    ca.revocations.revoke(IDENTITY, "", "stolen")
    error = refused(ca, by(method))
    assert (error.kind, error.reason) == (ErrorKind.DENIED, "REVOKED")
    (answer,) = ca.issue_batch(by(method), [REQUEST])
    assert isinstance(answer, MeshcaError)
    assert answer.kind is ErrorKind.DENIED
    issued_serial(ca, OTHER)


def test_a_revoked_certificate_renews_nothing_but_its_identity_may_prove_itself_otherwise() -> None:
    ca = found_ca()
    serial = issued_serial(ca)
    ban = ca.revocations.revoke("", serial, "key exposed")
    assert (ban.kind, ban.subject, ban.spiffe_id) == (BanKind.SERIAL, serial, IDENTITY)
    assert ban.issuer_id == ca.signing.latest().issuer.authority_id
    assert refused(ca, by(AuthenticationMethod.X509_SVID, serial)).kind is ErrorKind.DENIED
    newer = issued_serial(ca)
    issued_serial(ca, by(AuthenticationMethod.X509_SVID, newer))


def test_unban_takes_it_back() -> None:
    ca = found_ca()
    serial = issued_serial(ca)
    ca.revocations.revoke(IDENTITY, "", "stolen")
    ca.revocations.revoke("", serial, "stolen")
    ca.revocations.unban("", serial[:8])
    refused(ca, WORKLOAD)
    lifted = ca.revocations.unban(IDENTITY, "")
    assert lifted.lifted_at == FOUNDED
    issued_serial(ca, by(AuthenticationMethod.X509_SVID, serial))
    assert ca.revocations.listing(10, lifted=False) == ()
    assert [ban.subject for ban in ca.revocations.listing(10, lifted=True)] == [serial, IDENTITY]


def test_the_list_is_of_what_stands_newest_first() -> None:
    ca = found_ca()
    for name in ("a", "b", "c"):
        ca.revocations.revoke(f"spiffe://example.org/{name}", "", f"  because \n of {name} ")
    ca.revocations.unban("spiffe://example.org/b", "")
    found = ca.revocations.listing(10, lifted=False)
    assert [(ban.subject[-1], ban.reason, ban.actor) for ban in found] == [
        ("c", "because of c", "operator"),
        ("a", "because of a", "operator"),
    ]
    assert ca.revocations.listing(1, lifted=False) == found[:1]


def test_another_process_knows_at_its_next_look() -> None:
    ca = found_ca()
    signing = Signing(ca.watch)
    other = ca.second_keeper(signing)
    other.refresh()
    ca.revocations.revoke(IDENTITY, "", "stolen")
    assert not signing.latest().bans.concerns(WORKLOAD)
    other.refresh()
    assert signing.latest().bans.concerns(WORKLOAD)
    ca.revocations.unban(IDENTITY, "")
    other.refresh()
    assert not signing.latest().bans.concerns(WORKLOAD)


def test_looks_that_find_nothing_new_publish_nothing() -> None:
    ca = found_ca()
    ca.revocations.revoke(IDENTITY, "", "stolen")
    heard: list[object] = []
    ca.signing.follow(heard.append)
    ca.keeper.refresh()
    assert len(heard) == 1


def test_a_step_of_the_ring_forgets_no_ban() -> None:
    ca = found_ca()
    ca.revocations.revoke(IDENTITY, "", "stolen")
    ca.control.prepare(AuthorityKind.ISSUER, "spare")
    assert ca.signing.latest().bans.concerns(WORKLOAD)


def test_where_the_bans_cannot_be_read_for_too_long_nothing_is_signed() -> None:
    ca = found_ca()
    ca.bans = OutStore()
    ca.restart()
    ca.keeper.refresh()
    ca.bans.out = True
    ca.watch.seconds += CONFIRMED_FOR.total_seconds() + 1
    with pytest.raises(MeshcaError, match="the bans cannot be read"):
        ca.keeper.refresh()
    error = refused(ca, WORKLOAD)
    assert (error.kind, error.reason) == (ErrorKind.UNAVAILABLE, "CA_NOT_READY")
    ca.bans.out = False
    ca.keeper.refresh()
    issued_serial(ca)


def test_a_revocation_that_stands_cannot_be_made_again() -> None:
    ca = found_ca()
    ca.revocations.revoke(IDENTITY, "", "stolen")
    with pytest.raises(MeshcaError, match="is revoked already") as caught:
        ca.revocations.revoke(IDENTITY, "", "again")
    assert caught.value.kind is ErrorKind.CONFLICT


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (("", "", "x"), ErrorKind.INVALID, "exactly one of"),
        ((IDENTITY, "abcd", "x"), ErrorKind.INVALID, "exactly one of"),
        ((IDENTITY, "", " \n"), ErrorKind.INVALID, "reason is empty"),
        ((IDENTITY, "", "x" * 501), ErrorKind.INVALID, "at most 500"),
        (("spiffe://other.org/a", "", "x"), ErrorKind.INVALID, "not of this trust domain"),
        (("spiffe://example.org", "", "x"), ErrorKind.INVALID, "names a trust domain"),
        (("spiffe://example.org/meshca/server", "", "x"), ErrorKind.INVALID, "reserved"),
        (("", "abc", "x"), ErrorKind.INVALID, "not 4 to 40 hex digits"),
        (("", "wxyz", "x"), ErrorKind.INVALID, "not 4 to 40 hex digits"),
        (("", "0123", "x"), ErrorKind.NOT_FOUND, "no such certificate"),
    ],
)
def test_what_cannot_be_revoked_is_refused(words: tuple[str, str, str], kind: ErrorKind, message: str) -> None:
    ca = found_ca()
    with pytest.raises(MeshcaError, match=message) as caught:
        ca.revocations.revoke(*words)
    assert caught.value.kind is kind
    assert ca.revocations.listing(10, lifted=True) == ()


def test_authorities_are_not_revoked_by_serial() -> None:
    ca = found_ca()
    for record in ca.ledger.find(LedgerQuery()).records:
        with pytest.raises(MeshcaError, match=f"is of kind {record.kind}") as caught:
            ca.revocations.revoke("", record.serial, "x")
        assert caught.value.kind is ErrorKind.INVALID


def test_a_certificate_that_has_ended_needs_no_revocation() -> None:
    ca = found_ca()
    serial = issued_serial(ca)
    ca.clock.moment = FOUNDED + timedelta(hours=2)
    with pytest.raises(MeshcaError, match="nothing to revoke") as caught:
        ca.revocations.revoke("", serial, "x")
    assert caught.value.kind is ErrorKind.INVALID


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("", ""), ErrorKind.INVALID),
        ((IDENTITY, ""), ErrorKind.NOT_FOUND),
        (("", "abcd"), ErrorKind.NOT_FOUND),
        (("", "xx"), ErrorKind.INVALID),
    ],
)
def test_what_is_not_revoked_cannot_be_taken_back(words: Any, kind: ErrorKind) -> None:
    ca = found_ca()
    with pytest.raises(MeshcaError) as caught:
        ca.revocations.unban(*words)
    assert caught.value.kind is kind
