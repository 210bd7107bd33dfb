"""What every `KeyManager` does. Subclasses give the fixture `keys`: an empty one."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.keys import KeyAlgorithm, generate_private_key, key_family, spki_der
from meshca.ports import KeyManager, Signer
from tests.contracts.crowd import all_at_once

HASHES = {
    KeyAlgorithm.P256: hashes.SHA256(),
    KeyAlgorithm.P384: hashes.SHA384(),
    KeyAlgorithm.P521: hashes.SHA512(),
}
# RSA 3072 and 4096 take the same path as 2048 and seconds to make
ALGORITHMS = [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.P521, KeyAlgorithm.RSA2048, KeyAlgorithm.ED25519]


def verify(signer: Signer, signature: bytes, data: bytes) -> None:
    """Raises InvalidSignature unless `signature` is the signer's, by the hash that belongs to its algorithm."""
    key = load_der_public_key(signer.public_key_der)
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, data, ec.ECDSA(HASHES[signer.algorithm]))
    elif isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
    else:
        assert isinstance(key, ed25519.Ed25519PublicKey)
        key.verify(signature, data)


class KeyManagerContract:
    @pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.value)
    def test_a_new_key_signs_by_its_algorithm(self, keys: KeyManager, algorithm: KeyAlgorithm) -> None:
        signer = keys.generate("root-1", algorithm)
        assert signer.algorithm is algorithm
        assert key_family(load_der_public_key(signer.public_key_der)).value in algorithm.value
        verify(signer, signer.sign(b"to be signed"), b"to be signed")
        with pytest.raises(InvalidSignature):
            verify(signer, signer.sign(b"something else"), b"to be signed")

    def test_the_signer_of_an_id_is_the_key_that_was_made(self, keys: KeyManager) -> None:
        made, other = keys.generate("one", KeyAlgorithm.P256), keys.generate("two", KeyAlgorithm.P256)
        assert keys.signer("one").public_key_der == made.public_key_der != other.public_key_der
        verify(made, keys.signer("one").sign(b"data"), b"data")

    @pytest.mark.parametrize("algorithm", [KeyAlgorithm.RSA2048])
    def test_a_key_that_computes_for_long_says_that_it_blocks(self, keys: KeyManager, algorithm: KeyAlgorithm) -> None:
        assert keys.generate("one", algorithm).blocks
        assert keys.signer("one").blocks

    def test_an_id_that_is_taken_is_a_conflict_and_keeps_its_key(self, keys: KeyManager) -> None:
        made = keys.generate("one", KeyAlgorithm.P256)
        with pytest.raises(MeshcaError) as caught:
            keys.generate("one", KeyAlgorithm.P384)
        assert caught.value.kind is ErrorKind.CONFLICT
        assert keys.signer("one").public_key_der == made.public_key_der

    def test_of_many_makers_of_one_id_exactly_one_wins(self, keys: KeyManager) -> None:
        outcomes = all_at_once(4, lambda _: keys.generate("one", KeyAlgorithm.P256))
        (won,) = [o for o in outcomes if not isinstance(o, MeshcaError)]
        assert {o.kind for o in outcomes if isinstance(o, MeshcaError)} == {ErrorKind.CONFLICT}
        assert keys.signer("one").public_key_der == won.public_key_der

    def test_a_key_that_was_made_elsewhere_signs_like_any_other(self, keys: KeyManager) -> None:
        key = generate_private_key(KeyAlgorithm.P384)
        adopted = keys.adopt("one", key)
        assert adopted.public_key_der == keys.signer("one").public_key_der == spki_der(key.public_key())
        verify(keys.signer("one"), keys.signer("one").sign(b"data"), b"data")

    def test_a_key_is_not_adopted_in_the_place_of_another(self, keys: KeyManager) -> None:
        made = keys.generate("one", KeyAlgorithm.P256)
        with pytest.raises(MeshcaError) as caught:
            keys.adopt("one", generate_private_key(KeyAlgorithm.P256))
        assert caught.value.kind is ErrorKind.CONFLICT
        assert keys.signer("one").public_key_der == made.public_key_der

    def test_a_key_of_a_size_that_nothing_here_makes_is_not_adopted(self, keys: KeyManager) -> None:
        with pytest.raises(MeshcaError) as caught:
            keys.adopt("one", rsa.generate_private_key(65537, 2560))
        assert caught.value.kind is ErrorKind.INVALID
        with pytest.raises(MeshcaError):
            keys.signer("one")

    def test_a_key_that_is_not_there_is_not_found(self, keys: KeyManager) -> None:
        with pytest.raises(MeshcaError) as caught:
            keys.signer("nobody")
        assert caught.value.kind is ErrorKind.NOT_FOUND

    def test_a_deleted_key_is_gone_and_its_id_is_free(self, keys: KeyManager) -> None:
        first = keys.generate("one", KeyAlgorithm.P256)
        keys.delete("one")
        with pytest.raises(MeshcaError) as caught:
            keys.signer("one")
        assert caught.value.kind is ErrorKind.NOT_FOUND
        assert keys.generate("one", KeyAlgorithm.P256).public_key_der != first.public_key_der

    def test_deleting_what_is_not_there_is_no_error(self, keys: KeyManager) -> None:
        keys.generate("one", KeyAlgorithm.P256)
        keys.delete("two")
        assert keys.signer("one").algorithm is KeyAlgorithm.P256

    @pytest.mark.parametrize("key_id", ["", "../root", "a/b", "A", "a.pem", "a\n", "é", "a" * 65, "a\0b"])
    def test_an_id_outside_the_alphabet_is_invalid_everywhere(self, keys: KeyManager, key_id: str) -> None:
        with pytest.raises(MeshcaError) as generated:
            keys.generate(key_id, KeyAlgorithm.P256)
        with pytest.raises(MeshcaError) as asked:
            keys.signer(key_id)
        with pytest.raises(MeshcaError) as deleted:
            keys.delete(key_id)
        assert {caught.value.kind for caught in (generated, asked, deleted)} == {ErrorKind.INVALID}

    def test_the_longest_id_is_usable(self, keys: KeyManager) -> None:
        longest = "a-9" + "z" * 61
        made = keys.generate(longest, KeyAlgorithm.P256)
        assert keys.signer(longest).public_key_der == made.public_key_der
