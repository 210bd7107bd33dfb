"""What every `UpstreamAuthority` does. Subclasses give the fixture `upstream`: an honest one of `example.org`."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509

from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.imports import ImportRules, check_chain, check_root, spki_of
from meshca.pki.keys import KeyAlgorithm
from meshca.pki.requests import request_issuer
from meshca.ports import UpstreamAuthority
from tests.assets.authorities import FOUNDED, MESH, signer_of

TTL = timedelta(days=30)
RULES = ImportRules(MESH, FOUNDED, timedelta(hours=1))


def request(number: int = 77) -> bytes:
    """A request of ours."""
    signer = signer_of(KeyAlgorithm.P256, number)
    return request_issuer(signer.public_key_der, KeyAlgorithm.P256, MESH, signer)


def parsed(ders: object) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(der) for der in ders]  # type: ignore[attr-defined]


class UpstreamAuthorityContract:
    def test_it_has_roots_that_can_be_trusted(self, upstream: UpstreamAuthority) -> None:
        roots = parsed(upstream.roots())
        assert roots
        assert [check_root(root, RULES) for root in roots] == roots
        assert parsed(upstream.roots()) == roots, "asked again it says the same"

    def test_what_it_mints_passes_our_checks_under_the_first_of_its_roots(self, upstream: UpstreamAuthority) -> None:
        roots, csr = parsed(upstream.roots()), request()
        key = spki_of(x509.load_der_x509_csr(csr))  # type: ignore[arg-type]  # a request has a public key, too
        chain = check_chain(parsed(upstream.mint(csr, TTL)), key, roots, RULES)
        assert chain.root == roots[0]
        assert chain.issuer.not_valid_after_utc <= FOUNDED + TTL + timedelta(minutes=5)

    def test_the_same_request_gives_another_certificate_each_time(self, upstream: UpstreamAuthority) -> None:
        first, second = (parsed(upstream.mint(request(), TTL))[0] for _ in range(2))
        assert first.serial_number != second.serial_number

    @pytest.mark.parametrize(
        "csr", [b"", b"no request", request()[:-1] + bytes([request()[-1] ^ 1])], ids=["empty", "garbage", "forged"]
    )
    def test_a_request_that_is_none_is_refused_as_invalid(self, upstream: UpstreamAuthority, csr: bytes) -> None:
        with pytest.raises(MeshcaError) as refused:
            upstream.mint(csr, TTL)
        assert refused.value.kind is ErrorKind.INVALID

    def test_a_lifetime_of_nothing_is_refused_as_invalid(self, upstream: UpstreamAuthority) -> None:
        with pytest.raises(MeshcaError) as refused:
            upstream.mint(request(), timedelta(0))
        assert refused.value.kind is ErrorKind.INVALID

    def test_it_hears_what_is_trusted_here(self, upstream: UpstreamAuthority) -> None:
        upstream.acknowledge([b"\x01" * 32], upstream.mint(request(), TTL)[0])

    def test_it_can_be_closed_more_than_once(self, upstream: UpstreamAuthority) -> None:
        assert upstream.roots()
        upstream.close()
        upstream.close()
