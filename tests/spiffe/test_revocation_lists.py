"""No revocation list is served that would make Envoy refuse everybody, or that nobody vouches for."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509

from meshca.errors import ErrorKind, MeshcaError
from meshca.spiffe.bundles import RevocationList, TrustBundle, crl_pem
from meshca.spiffe.revocation_lists import MAX_LIST_BYTES, check_revocation_lists
from tests.assets.crls import a_list, with_lists
from tests.svids import NOW, bundle_of, new_root

ROOT, STRANGER = new_root("root"), new_root("stranger")
ISSUER, SECOND = ROOT.intermediate("one"), ROOT.intermediate("two")
NESTED = ISSUER.intermediate("nested")
BUNDLE = bundle_of("example.org", ROOT)
GOOD = a_list(ISSUER, NOW, 5, 6)
MINUTE = timedelta(minutes=1)


def check(*lists: RevocationList, bundle: TrustBundle = BUNDLE) -> None:
    check_revocation_lists(with_lists(bundle, *lists), NOW)


def refusal(*lists: RevocationList) -> str:
    with pytest.raises(MeshcaError) as caught:
        check(*lists)
    assert caught.value.kind is ErrorKind.INVALID
    return caught.value.message


def test_lists_that_are_good_pass_and_so_do_none() -> None:
    check()
    check(GOOD, a_list(SECOND, NOW))
    check(replace(a_list(NESTED, NOW), issuers=(NESTED.der, ISSUER.der)))
    check(GOOD, bundle=bundle_of("example.org", STRANGER, ROOT))


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (replace(GOOD, crl=b""), "cannot be read"),
        (replace(GOOD, crl=GOOD.crl[:-1]), "cannot be read"),
        (replace(GOOD, issuers=(b"junk",)), "cannot be read"),
        (replace(GOOD, issuers=()), "0 certificates"),
        (replace(GOOD, issuers=(ISSUER.der,) * 9), "9 certificates"),
        (a_list(NESTED, NOW), "no root of it vouches for"),
        (a_list(STRANGER.intermediate("one"), NOW), "no root of it vouches for"),
        (a_list(ISSUER, NOW, signer=SECOND), "does not verify"),
        (a_list(ISSUER, NOW, certificate=SECOND), "not of the issuer"),
        (a_list(ROOT.intermediate("no crls", usages=("key_cert_sign",)), NOW), "may not sign"),
        (a_list(ROOT.intermediate("no ca", ca=False), NOW), "may not sign"),
        (a_list(ISSUER, NOW, this_update=NOW + MINUTE), "not valid before"),
        (a_list(ISSUER, NOW, this_update=NOW - 2 * MINUTE, next_update=NOW - MINUTE), "ended at"),
        (a_list(ISSUER, NOW, next_update=NOW), "ended at"),
        (a_list(ISSUER, NOW, extra=[(x509.DeltaCRLIndicator(3), True)]), "not understood"),
    ],
)
def test_a_list_that_must_not_be_served_is_refused_also_beside_a_good_one(broken: RevocationList, problem: str) -> None:
    assert problem in refusal(broken)
    message = refusal(a_list(SECOND, NOW), broken)
    assert problem in message
    assert "revocation list 1 " in message


def test_two_lists_of_one_issuer_are_refused() -> None:
    assert "two revocation lists of one issuer" in refusal(GOOD, a_list(ISSUER, NOW))


def test_lists_are_bounded_in_number_and_size() -> None:
    assert "too much" in refusal(*[GOOD] * 51)
    assert "too much" in refusal(replace(GOOD, crl=b"x" * (MAX_LIST_BYTES + 1)))


def test_as_pem_they_are_read_back_in_order() -> None:
    second = a_list(SECOND, NOW, 7)
    pem = crl_pem([GOOD, second])
    blocks = [block + "-----END X509 CRL-----\n" for block in pem.split("-----END X509 CRL-----\n")[:-1]]
    assert [x509.load_pem_x509_crl(block.encode()) for block in blocks] == [
        x509.load_der_x509_crl(each.crl) for each in (GOOD, second)
    ]
    assert crl_pem([]) == ""
