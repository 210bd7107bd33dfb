"""What a door signs with is good only while the store confirms it: law 4's clock bounds what nobody heard of."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from meshca.authority.ring import Authority, AuthorityKind, AuthorityState
from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.keys import KeyAlgorithm
from meshca.services.issuance import Issuance, SigningRequest
from meshca.services.server_identity import ServerIdentity, ServerNames
from meshca.services.signing import CONFIRMED_FOR, Signing
from tests.assets.authorities import FOUNDED, MESH
from tests.assets.csrs import good_pem, key_of
from tests.assets.founded import POLICY, PROPAGATION, WORKLOAD, FoundedCa, found_ca
from tests.fakes.failing import CrashingAuthorityStore

ISSUER = AuthorityKind.ISSUER
CSR = good_pem(key_of(KeyAlgorithm.P256))
LIMIT = CONFIRMED_FOR.total_seconds()
LONGEST = int(POLICY.max_leaf_ttl.total_seconds())


def refusal(ca: FoundedCa) -> MeshcaError:
    with pytest.raises(MeshcaError) as refused:
        ca.issue(WORKLOAD, SigningRequest(CSR))
    return refused.value


def test_nothing_is_signed_with_authorities_that_could_not_be_read_for_too_long() -> None:
    ca = found_ca()
    ca.watch.seconds += LIMIT
    ca.issue(WORKLOAD, SigningRequest(CSR))
    ca.forget_journal()
    ca.watch.seconds += 1
    refused = refusal(ca)
    assert (refused.kind, refused.reason, refused.retry_after) == (ErrorKind.UNAVAILABLE, "CA_NOT_READY", 1.0)
    assert refused.message == (
        "the authorities in the store could not be read for 11s: nothing is signed until they can"
    )
    assert ca.journal == []
    with pytest.raises(MeshcaError, match="nothing is signed"):
        ca.issue_batch(WORKLOAD, [SigningRequest(CSR)])


@pytest.mark.parametrize("look", ["refresh", "tick"])
def test_a_look_that_finds_the_same_authorities_confirms_them(look: str) -> None:
    ca = found_ca()
    for _ in range(3):
        ca.watch.seconds += LIMIT
        {"refresh": ca.keeper.refresh, "tick": ca.rotation.tick}[look]()
    ca.watch.seconds += LIMIT
    ca.issue(WORKLOAD, SigningRequest(CSR))


def test_a_step_of_ones_own_confirms_what_it_made() -> None:
    ca = found_ca()
    for day in (15, 25):
        ca.clock.moment = FOUNDED + timedelta(days=day)
        ca.watch.seconds += LIMIT + 1
        ca.rotation.tick()
        ca.issue(WORKLOAD, SigningRequest(CSR))


def test_a_look_that_fails_confirms_nothing_and_the_next_that_succeeds_does() -> None:
    ca = found_ca()
    ca.store.out = True
    ca.watch.seconds += LIMIT + 1
    for look in (ca.keeper.refresh, ca.rotation.tick):
        with pytest.raises(MeshcaError, match="cannot be read"):
            look()
    assert refusal(ca).kind is ErrorKind.UNAVAILABLE
    ca.store.out = False
    ca.keeper.refresh()
    ca.issue(WORKLOAD, SigningRequest(CSR))


def test_a_ring_that_was_read_but_cannot_be_signed_with_confirms_nothing() -> None:
    ca = found_ca()
    signing = Signing(ca.watch)
    other = ca.second_keeper(signing)
    other.refresh()
    for day in (15, 25):
        ca.clock.moment = FOUNDED + timedelta(days=day)
        ca.rotation.tick()
    active = ca.ring.active(ISSUER)
    assert active is not None
    ca.memory_keys.delete(active.key_id)
    ca.watch.seconds += LIMIT + 1
    with pytest.raises(MeshcaError) as refused:
        other.refresh()
    assert refused.value.kind is ErrorKind.NOT_FOUND
    assert signing.doubt() is not None


def test_the_age_counts_from_before_the_store_was_asked() -> None:
    """A store that answers late says what was true when it was asked, perhaps, and not what is."""
    ca = found_ca()

    def slowly(_: object) -> None:
        ca.watch.seconds += LIMIT + 1

    ca.store.loaded = slowly
    ca.keeper.refresh()
    assert refusal(ca).kind is ErrorKind.UNAVAILABLE


def test_what_is_only_shown_is_there_however_old_it_is() -> None:
    ca = found_ca()
    identity = ServerIdentity(ca.issuance, ca.signing, ca.clock, MESH, ServerNames((), ()), timedelta(hours=24))
    material = identity.ensure()
    fresh = ca.signing.latest()
    ca.watch.seconds += 1e6
    assert ca.signing.latest() == fresh
    assert ca.issuance.bundle() == fresh.bundle
    assert identity.ensure() == material, "what the listeners trust"
    assert ca.signing.is_ready
    ca.clock.move(timedelta(hours=13))
    with pytest.raises(MeshcaError, match="nothing is signed"):
        identity.ensure()  # due, and that takes a signature
    assert identity.material == material


def after_an_activation(saving: int, late: int) -> tuple[Issuance, Authority]:
    """A door that can read nothing from just before an activation became durable, which took `saving` seconds, until
    `late` seconds after; and the old issuer."""
    ca = found_ca()
    ca.clock.moment = FOUNDED + timedelta(days=15)
    ca.rotation.tick()
    signing, store = Signing(ca.watch), CrashingAuthorityStore(ca.store.inner)
    keeper = ca.second_keeper(signing, store)

    def just_before_it_is_durable() -> None:
        ca.clock.move(timedelta(seconds=saving))
        keeper.refresh()
        store.out = True

    ca.clock.moment = FOUNDED + timedelta(days=25)
    ca.store.overtake = just_before_it_is_durable
    ca.rotation.tick()
    ca.clock.move(timedelta(seconds=late))
    ca.watch.seconds += late
    deaf = Issuance(signing, ca.ledger, ca.join_tokens, ca.clock, ca.profile)
    return deaf, ca.ring.of(ISSUER, AuthorityState.OLD)[0]


@pytest.mark.parametrize("saving", [0, 1, 10])
@pytest.mark.parametrize("late", [0, 1, 9, 10])
def test_what_is_issued_unaware_of_an_activation_comes_before_anybody_counts_on_its_end(saving: int, late: int) -> None:
    deaf, old = after_an_activation(saving, late)
    issued = asyncio.run(deaf.issue(WORKLOAD, SigningRequest(CSR, LONGEST)))
    assert issued.certificate.prepared.issuer_id == old.id
    assert old.since is not None
    assert timedelta(seconds=saving + late) <= PROPAGATION


@pytest.mark.parametrize("late", [11, 60, 3600])
def test_who_does_not_hear_of_an_activation_in_time_issues_nothing(late: int) -> None:
    deaf, _ = after_an_activation(0, late)
    with pytest.raises(MeshcaError) as refused:
        asyncio.run(deaf.issue(WORKLOAD, SigningRequest(CSR, LONGEST)))
    assert refused.value.kind is ErrorKind.UNAVAILABLE
