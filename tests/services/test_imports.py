"""Roots whose key is elsewhere: what is asked of them, what comes back, and that the gates stand for it as for ours."""

from __future__ import annotations

import ipaddress
from datetime import timedelta

import pytest
from cryptography import x509

from meshca.authority.import_alarms import import_alarms
from meshca.authority.progress import Alarm, Severity
from meshca.authority.ring import AuthorityKind, AuthorityState, Step
from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.certificates import der_to_pem
from meshca.pki.imports import ImportRules
from meshca.pki.keys import KeyAlgorithm
from meshca.pki.plugged_in import parse_plugged_in
from meshca.services.ca_directory import CaDirectory
from meshca.services.control import Order
from meshca.services.imports import found_on_root, found_plugged_in
from meshca.services.issuance import SigningRequest
from meshca.services.signing import open_state
from meshca.spiffe.revocation_lists import check_revocation_lists
from tests.assets.authorities import FOUNDED, MESH
from tests.assets.csrs import good_der, key_of
from tests.assets.foreign import DAY, ForeignCa, foreign_ca, subject
from tests.assets.founded import PROPAGATION, SOAK, WORKLOAD, FoundedCa, found_ca, unfounded_ca

ROOT, ISSUER = AuthorityKind.ROOT, AuthorityKind.ISSUER
PREPARED, ACTIVE, OLD, TAINTED = (
    AuthorityState.PREPARED,
    AuthorityState.ACTIVE,
    AuthorityState.OLD,
    AuthorityState.TAINTED,
)
CORP, NEXT = foreign_ca(subject("Corp Root"), until=FOUNDED + 3650 * DAY), foreign_ca(subject("Next Root"))
WISH = SigningRequest(good_der(key_of(KeyAlgorithm.P256)), 3600)


@pytest.fixture
def ca() -> FoundedCa:
    """A server on an external root, which has signed nothing yet."""
    made = unfounded_ca()
    found_on_root(made.store, made.keys, MESH, CORP.certificate, KeyAlgorithm.P256, FOUNDED)
    made.keeper.refresh()
    return made


def signed(ca: FoundedCa, by: ForeignCa = CORP, days: int = 90, *, name: str = "") -> ForeignCa:
    """What an external CA makes of the pending request."""
    request = x509.load_der_x509_csr(ca.imports.request().request)
    wanted = request.subject if not name else subject(name)
    now = ca.clock.now()
    return foreign_ca(wanted, by, public_key=request.public_key(), since=now, until=now + days * DAY, path_length=0)


def accept(ca: FoundedCa, *chain: ForeignCa) -> None:
    ca.imports.accept(b"".join(each.pem for each in chain), "as agreed")


def standing(ca: FoundedCa) -> list[tuple[str, str]]:
    return [(a.kind.value, a.state.value) for a in ca.ring.authorities]


def refusal(attempt: object) -> MeshcaError:
    with pytest.raises(MeshcaError) as refused:
        attempt()  # type: ignore[operator]
    return refused.value


# --- a root whose key is elsewhere -----------------------------------------------------------------------------------


def test_a_trust_domain_on_an_external_root_has_a_bundle_and_signs_nothing(ca: FoundedCa) -> None:
    state = ca.signing.current()
    assert state.bundle.x509_authorities == (CORP.der,)
    refused = refusal(lambda: ca.issue(WORKLOAD, WISH))
    assert (refused.kind, refused.reason) == (ErrorKind.UNAVAILABLE, "CA_NOT_READY")
    assert refused.message == (
        f"there is no issuing CA under root {ca.ring.active(ROOT).id}, whose key is not here: have one signed:"  # type: ignore[union-attr]
        " `meshca authority csr`, then `meshca authority import`"
    )


def test_nothing_is_made_under_an_external_root_by_itself(ca: FoundedCa) -> None:
    assert ca.rotation.tick() == 0
    ca.clock.move(3000 * DAY)
    assert ca.rotation.tick() == 0
    assert standing(ca) == [("root", "active")]


@pytest.mark.parametrize("kind", [ISSUER])
def test_an_operator_who_has_an_issuing_ca_prepared_is_told_what_to_do(ca: FoundedCa, kind: AuthorityKind) -> None:
    refused = refusal(lambda: ca.control.prepare(kind, "now"))
    assert refused.kind is ErrorKind.CONFLICT
    assert refused.message.endswith(
        "so no issuing CA can be made: have one signed: `meshca authority csr`, then `meshca authority import`"
    )


def test_the_request_stays_the_same_until_another_is_wanted(ca: FoundedCa) -> None:
    first = ca.imports.request()
    ca.restart()
    assert ca.imports.request() == first
    second = ca.imports.request(new=True)
    assert second.request != first.request
    assert ca.imports.request() == second
    assert ca.key_ids() == {second.key_id}, "the key of the first is gone"


def test_a_request_is_for_a_ca_of_this_trust_domain_that_signs_leaves_only(ca: FoundedCa) -> None:
    request = x509.load_der_x509_csr(ca.imports.request().request)
    assert request.is_signature_valid
    wanted = {type(extension.value): (extension.critical, extension.value) for extension in request.extensions}
    assert wanted[x509.BasicConstraints] == (True, x509.BasicConstraints(ca=True, path_length=0))
    names = wanted[x509.SubjectAlternativeName][1]
    assert isinstance(names, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://example.org"]


def test_the_first_issuing_ca_that_comes_back_signs_at_once(ca: FoundedCa) -> None:
    pending = ca.imports.request()
    accept(ca, signed(ca))
    assert standing(ca) == [("root", "active"), ("issuer", "prepared")]
    assert ca.ring.pending is None
    ca.rotation.tick()
    assert standing(ca) == [("root", "active"), ("issuer", "active")]
    issued = ca.issue(WORKLOAD, WISH)
    assert issued.state.issuer.authority_id == issued.certificate.prepared.issuer_id
    assert ca.imports.request().key_id != pending.key_id


def test_an_issuing_ca_that_would_be_taken_signed_a_leaf_that_verifies_and_is_recorded(ca: FoundedCa) -> None:
    accept(ca, signed(ca))
    (record,) = [r for name, records in ca.ledger.journal if name == "record" for r in records]  # type: ignore[attr-defined]
    assert (record.kind, record.spiffe_id) == ("trial", "spiffe://example.org/meshca/trial")
    assert ca.relying.evidence(()).coverage == {}, "nobody relies on it"


def test_what_our_own_verifier_does_not_accept_is_refused_and_changes_nothing(ca: FoundedCa) -> None:
    everything = [x509.IPAddress(ipaddress.ip_network("0.0.0.0/0"))]
    request = x509.load_der_x509_csr(ca.imports.request().request)
    made = foreign_ca(
        request.subject,
        CORP,
        public_key=request.public_key(),
        further=[(x509.NameConstraints(None, everything), True)],
    )
    refused = refusal(lambda: accept(ca, made))
    assert refused.kind is ErrorKind.INVALID
    assert "a trial leaf that it signed does not verify: certificate: no valid path" in refused.message
    assert standing(ca) == [("root", "active")]
    assert ca.imports.request().request, "the request is still pending"


def test_nothing_is_signed_for_a_trial_that_cannot_be_recorded(ca: FoundedCa) -> None:
    made = signed(ca)
    ca.forget_journal()
    ca.ledger.out = True
    assert refusal(lambda: accept(ca, made)).kind is ErrorKind.UNAVAILABLE
    assert ca.journal == ["record"]


def test_the_chain_travels_with_what_is_signed(ca: FoundedCa) -> None:
    policy = foreign_ca(subject("Policy"), CORP)
    accept(ca, signed(ca, policy), policy)
    ca.rotation.tick()
    assert ca.signing.current().issuer.chain == (policy.der,)
    assert ca.signing.current().issuer.pem_chain[1] == der_to_pem(policy.der)


def test_what_is_not_pending_or_came_before_is_a_conflict(ca: FoundedCa) -> None:
    made = signed(ca)
    accept(ca, made)
    again = refusal(lambda: accept(ca, made))
    assert (again.kind, again.message) == (
        ErrorKind.CONFLICT,
        f"issuer {ca.ring.of(ISSUER)[0].id} is in use already, as prepared",
    )
    other = foreign_ca(subject("Other"), CORP)
    refused = refusal(lambda: accept(ca, other))
    assert refused.message == "no request is pending: `meshca authority csr` writes one; have that signed"


def test_an_issuing_ca_of_the_same_name_as_another_is_refused(ca: FoundedCa) -> None:
    accept(ca, signed(ca, name="Mesh CA"))
    refused = refusal(lambda: accept(ca, signed(ca, name="Mesh CA")))
    assert refused.message.endswith("have it signed with the subject of the request, which no other CA has")


def test_an_issuing_ca_under_a_tainted_root_is_refused(ca: FoundedCa) -> None:
    accept(ca, signed(ca))
    ca.rotation.tick()
    made = signed(ca)
    root = ca.ring.of(ROOT)[0]
    ca.control.carry_out(Order(Step.TAINT, root.id, "stolen"))
    refused = refusal(lambda: accept(ca, made))
    assert f"leads to root {root.id}, which is tainted: have it signed under the active root" in refused.message


def test_the_next_issuing_ca_waits_until_the_first_is_due_and_the_need_is_told_in_time(ca: FoundedCa) -> None:
    accept(ca, signed(ca))
    ca.rotation.tick()
    policy, first = ca.plan.policy, ca.ring.active(ISSUER)
    assert first is not None
    assert import_alarms(ca.ring, policy, ca.clock.now()) == ()
    now = ca.clock.move(46 * DAY)
    assert ca.rotation.tick() == 0
    assert import_alarms(ca.ring, policy, now) == (
        Alarm(
            Severity.WARNING,
            "issuer",
            f"{first.id} needs a successor before 2026-08-30T12:00:00Z, which cannot be made here, without the root's"
            " key: have one signed: `meshca authority csr`, then `meshca authority import`",
        ),
    )
    accept(ca, signed(ca))
    assert import_alarms(ca.ring, policy, now) == ()
    assert ca.rotation.tick() == 0
    ca.clock.move(30 * DAY)
    ca.rotation.tick()
    active = ca.ring.active(ISSUER)
    assert active is not None
    assert active.id != first.id


# --- a new root ------------------------------------------------------------------------------------------------------


def in_use(ca: FoundedCa) -> FoundedCa:
    """Somebody holds a certificate, and is not known to trust anything newer than what came with it."""
    accept(ca, signed(ca))
    ca.rotation.tick()
    ca.issue(WORKLOAD, WISH)
    return ca


def test_a_new_root_is_trusted_at_once_and_used_only_when_everybody_trusts_it(ca: FoundedCa) -> None:
    in_use(ca)
    accept(ca, signed(ca, NEXT), NEXT)
    ca.rotation.tick()
    assert standing(ca) == [("root", "active"), ("issuer", "active"), ("root", "prepared"), ("issuer", "prepared")]
    rotation = ca.ring.rotation
    assert rotation is not None
    assert (rotation.origin, rotation.successor) == ("operator", ca.ring.of(ROOT, PREPARED)[0].id)
    assert ca.signing.current().bundle.x509_authorities == (CORP.der, NEXT.der)
    ca.clock.move(timedelta(minutes=30))
    ca.rotation.tick()
    assert ca.ring.of(ROOT, PREPARED), "the holder is not known to trust it"
    ca.clock.move(timedelta(minutes=31))  # its certificate has ended, and it with it
    ca.rotation.tick()
    ca.clock.move(SOAK)
    ca.rotation.tick()
    assert [a.certificate for a in ca.ring.of(ROOT, ACTIVE)] == [NEXT.der]
    issuer = ca.ring.active(ISSUER)
    assert issuer is not None
    assert issuer.issuer_id == ca.ring.of(ROOT, ACTIVE)[0].id
    for _ in range(4):
        ca.clock.move(timedelta(hours=1))
        ca.rotation.tick()
    assert standing(ca) == [("root", "active"), ("issuer", "active")]
    assert ca.signing.current().bundle.x509_authorities == (NEXT.der,)


def test_an_abort_forgets_the_new_root_and_its_issuing_ca(ca: FoundedCa) -> None:
    in_use(ca)
    accept(ca, signed(ca, NEXT), NEXT)
    ca.control.abort("not now")
    ca.rotation.tick()
    assert standing(ca) == [("root", "active"), ("issuer", "active")]
    assert len(ca.key_ids()) == 1


def test_after_an_abort_late_in_a_rotation_the_issuing_ca_from_before_signs_again(ca: FoundedCa) -> None:
    in_use(ca)
    first = ca.ring.active(ISSUER)
    accept(ca, signed(ca, NEXT), NEXT)
    successor = ca.ring.of(ROOT, PREPARED)[0]
    ca.control.carry_out(Order(Step.ACTIVATE, successor.id, "no time", force=True))
    ca.rotation.tick()
    assert ca.ring.active(ISSUER) != first
    ca.control.abort("it does not work")
    ca.rotation.tick()
    active = ca.ring.active(ISSUER)
    assert first is not None
    assert active is not None
    assert active.id == first.id


def test_a_rotation_that_an_operator_begins_waits_for_a_root_to_be_imported(ca: FoundedCa) -> None:
    in_use(ca)
    ca.control.begin("planned")
    assert ca.rotation.tick() == 0
    assert standing(ca) == [("root", "active"), ("issuer", "active")], "no root is made here"
    needed = (
        "the next root must be imported: have an issuing CA signed under it (`meshca authority csr`), and import both"
    )
    assert [alarm.message.startswith(needed) for alarm in ca.control.standing().alarms].count(True) == 1
    accept(ca, signed(ca, NEXT), NEXT)
    assert ca.ring.successor is not None
    assert ca.ring.successor.certificate == NEXT.der


def test_a_root_at_the_end_of_its_life_or_tainted_asks_for_the_next_to_be_imported(ca: FoundedCa) -> None:
    in_use(ca)
    policy, now = ca.plan.policy, ca.clock.now()
    assert import_alarms(ca.ring, policy, now) == ()
    late = [alarm.subject for alarm in import_alarms(ca.ring, policy, now + 2930 * DAY)]
    assert late == ["issuer", "root"]
    ca.control.carry_out(Order(Step.TAINT, ca.ring.of(ROOT)[0].id, "stolen"))
    ca.rotation.tick()
    assert [alarm.subject for alarm in import_alarms(ca.ring, policy, now)] == ["root"]
    assert len(ca.ring.of(ROOT)) == 1, "no root is made here"
    accept(ca, signed(ca, NEXT), NEXT)
    for _ in range(3):
        ca.clock.move(timedelta(hours=1))
        ca.rotation.tick()
    assert [a.certificate for a in ca.ring.of(ROOT, ACTIVE)] == [NEXT.der]
    assert ca.ring.active(ISSUER) is not None


def test_a_root_that_comes_during_another_rotation_has_its_turn_after_it(ca: FoundedCa) -> None:
    accept(ca, signed(ca))
    ca.rotation.tick()
    accept(ca, signed(ca, NEXT), NEXT)
    third = foreign_ca(subject("Third Root"))
    accept(ca, signed(ca, third), third)
    for _ in range(30):
        ca.rotation.tick()
        ca.clock.move(timedelta(minutes=1))
    assert [a.certificate for a in ca.ring.of(ROOT)] == [third.der]


def test_a_new_root_is_not_used_once_nothing_is_left_to_sign_with_under_it(ca: FoundedCa) -> None:
    accept(ca, signed(ca))
    ca.rotation.tick()
    accept(ca, signed(ca, NEXT), NEXT)
    (waiting,) = ca.ring.of(ISSUER, PREPARED)
    ca.control.carry_out(Order(Step.PRUNE, waiting.id, "it was signed by mistake"))
    for _ in range(5):
        ca.clock.move(timedelta(minutes=1))
        ca.rotation.tick()
    assert standing(ca) == [("root", "active"), ("issuer", "active"), ("root", "prepared")]
    (alarm,) = import_alarms(ca.ring, ca.plan.policy, ca.clock.now())
    assert (alarm.severity, alarm.subject) == (Severity.INFO, "root")
    assert "waits for an issuing CA under it: have one signed" in alarm.message
    accept(ca, signed(ca, NEXT))
    ca.rotation.tick()
    assert [a.certificate for a in ca.ring.of(ROOT, ACTIVE)] == [NEXT.der]


def test_after_an_abort_no_other_root_that_waits_has_its_turn_until_an_operator_says_so(ca: FoundedCa) -> None:
    in_use(ca)
    accept(ca, signed(ca, NEXT), NEXT)
    third = foreign_ca(subject("Third Root"))
    accept(ca, signed(ca, third), third)
    ca.control.abort("not now")
    ca.rotation.tick()
    assert ca.ring.rotation is None
    assert [a.certificate for a in ca.ring.of(ROOT, PREPARED)] == [third.der]
    ca.control.begin("now")
    assert ca.ring.successor is not None
    assert ca.ring.successor.certificate == third.der


def test_a_root_of_ours_gives_way_to_an_external_one(ca: FoundedCa) -> None:
    ours = found_ca()
    accept(ours, signed(ours, NEXT), NEXT)
    for _ in range(10):
        ours.rotation.tick()
        ours.clock.move(timedelta(minutes=1))
    assert [a.certificate for a in ours.ring.of(ROOT)] == [NEXT.der]
    assert len(ours.key_ids()) == 1, "the key of the old root is destroyed"


def test_a_root_without_an_issuing_ca_is_not_activated_by_an_operator(ca: FoundedCa) -> None:
    directory = plugged(ca)
    directory.put(CORP, issuer_under(CORP), NEXT)
    root = next(a for a in ca.ring.of(ROOT) if a.certificate == NEXT.der)
    refused = refusal(lambda: ca.control.carry_out(Order(Step.ACTIVATE, root.id, "now")))
    assert "its key is not here, and there is no issuing CA under it" in refused.message


# --- revocation lists ------------------------------------------------------------------------------------------------

NO_LISTS = x509.KeyUsage(False, False, False, False, False, True, False, False, False)


def revoke(ca: FoundedCa) -> None:
    ca.revocations.revoke(str(WORKLOAD.id), "", "stolen")


def test_an_imported_issuing_ca_signs_its_own_revocation_list_and_waits_until_that_is_known(ca: FoundedCa) -> None:
    policy = foreign_ca(subject("Policy"), CORP)
    accept(in_use(ca), signed(ca, policy), policy)
    revoke(ca)
    accept(ca, signed(ca, NEXT), NEXT)
    first, *others = ca.ring.of(ISSUER)
    refused = refusal(lambda: ca.control.carry_out(Order(Step.ACTIVATE, others[0].id, "now")))
    assert refused.message.startswith(f"cannot activate issuer {others[0].id} yet: ")
    ca.lists.follow()
    check_revocation_lists(ca.ring.bundle(), ca.clock.now())
    listed = {crl.issuer_id for crl in ca.ring.crls}
    assert listed == {first.id, *(other.id for other in others)}
    assert len(ca.ring.bundle().revocation_lists) == 3


def test_without_an_issuing_ca_there_is_no_list_and_the_first_one_that_comes_has_its_own(ca: FoundedCa) -> None:
    revision = ca.store.load().revision
    revoke(ca)
    assert ca.store.load().revision == revision
    accept(ca, signed(ca))
    ca.lists.follow()
    ca.rotation.tick()
    assert ca.ring.active(ISSUER) is None, "not every door is known to have heard of the list"
    assert "waits to be used" in ca.signing.latest().idle
    ca.clock.move(PROPAGATION)
    ca.rotation.tick()
    active = ca.ring.active(ISSUER)
    assert active is not None
    assert [crl.issuer_id for crl in ca.ring.crls] == [active.id]


def test_an_issuing_ca_that_may_not_sign_lists_is_refused_while_lists_are_in_use(ca: FoundedCa) -> None:
    revoke(in_use(ca))
    before = standing(ca)
    request = x509.load_der_x509_csr(ca.imports.request().request)
    made = foreign_ca(request.subject, CORP, public_key=request.public_key(), key_usage=NO_LISTS)
    assert "have it signed with the key usage cRLSign" in refusal(lambda: accept(ca, made)).message
    directory = plugged(ca)
    directory.put(CORP, issuer_under(CORP, key_usage=NO_LISTS))
    assert "which are in use: have it signed with the key usage cRLSign" in directory.problems()[0]
    assert standing(ca) == before


def test_under_an_issuing_ca_that_may_not_sign_lists_who_is_revoked_gets_nothing_and_no_list_tells(
    ca: FoundedCa,
) -> None:
    request = x509.load_der_x509_csr(ca.imports.request().request)
    accept(ca, foreign_ca(request.subject, CORP, public_key=request.public_key(), key_usage=NO_LISTS))
    ca.rotation.tick()
    refused = refusal(lambda: revoke(ca))
    assert "relying parties cannot be told yet" in refused.message
    assert "without the key usage cRLSign: no list is published" in refused.message
    assert ca.ring.crls == ()
    assert refusal(lambda: ca.issue(WORKLOAD, WISH)).kind is ErrorKind.DENIED


# --- a directory that others keep ------------------------------------------------------------------------------------


class Directory:
    """A CA directory, and the service that looks into it."""

    def __init__(self, ca: FoundedCa) -> None:
        self.files: dict[str, bytes] = {}
        self.service = CaDirectory("cacerts", self, ca.keeper, ca.imports)

    def read(self) -> dict[str, bytes]:
        return self.files

    def put(self, root: ForeignCa, issuer: ForeignCa, *further: ForeignCa) -> None:
        """Swaps the files, and has a look."""
        self.files = files_of(root, issuer, *further)
        self.service.look()

    def problems(self) -> list[str]:
        return [alarm.message for alarm in self.service.alarms()]


def files_of(root: ForeignCa, issuer: ForeignCa, *further: ForeignCa) -> dict[str, bytes]:
    roots = b"".join(each.pem for each in (root, *further))
    return {
        "ca-cert.pem": issuer.pem,
        "ca-key.pem": issuer.key_pem,
        "cert-chain.pem": issuer.pem + root.pem,
        "root-cert.pem": roots,
    }


def issuer_under(root: ForeignCa, name: str = "Intermediate CA", **options: object) -> ForeignCa:
    return foreign_ca(subject(name), root, **options)  # type: ignore[arg-type]


def plugged(ca: FoundedCa) -> Directory:
    return Directory(ca)


@pytest.fixture
def first() -> ForeignCa:
    return issuer_under(CORP)


@pytest.fixture
def mesh(first: ForeignCa) -> tuple[FoundedCa, Directory]:
    """A server that was founded on a directory, and in use."""
    made = unfounded_ca()
    files = files_of(CORP, first)
    found_plugged_in(made.store, made.keys, made.trials, parse_plugged_in(files), ImportRules(MESH, FOUNDED, DAY))
    made.keeper.refresh()
    directory = plugged(made)
    directory.files = files
    made.issue(WORKLOAD, WISH)
    return made, directory


def test_a_trust_domain_on_a_plugged_in_ca_signs_with_it_at_once(mesh: tuple[FoundedCa, Directory]) -> None:
    ca, directory = mesh
    assert standing(ca) == [("root", "active"), ("issuer", "active")]
    revision = ca.store.load().revision
    directory.service.look()
    assert (ca.store.load().revision, directory.problems()) == (revision, [])


def test_a_renewed_issuing_ca_waits_and_is_used_when_its_time_comes(mesh: tuple[FoundedCa, Directory]) -> None:
    ca, directory = mesh
    directory.put(CORP, second := issuer_under(CORP))
    assert standing(ca) == [("root", "active"), ("issuer", "active"), ("issuer", "prepared")]
    ca.rotation.tick()
    assert len(ca.ring.of(ISSUER, PREPARED)) == 1, "the first is not due"
    ca.clock.move(306 * DAY)
    ca.rotation.tick()
    active = ca.ring.active(ISSUER)
    assert active is not None
    assert active.certificate == second.der


def test_an_issuing_ca_that_was_renewed_with_its_old_key_is_another_one(
    mesh: tuple[FoundedCa, Directory], first: ForeignCa
) -> None:
    ca, directory = mesh
    directory.put(CORP, issuer_under(CORP, key=first.key))
    one, two = ca.ring.of(ISSUER)
    assert (one.state, two.state) == (ACTIVE, PREPARED)
    assert one.key_id != two.key_id, "each has a copy of its own"
    assert ca.control.carry_out(Order(Step.ACTIVATE, two.id, "")).id == two.id
    ca.issue(WORKLOAD, WISH)
    ca.clock.move(timedelta(hours=2))
    ca.rotation.tick()
    assert standing(ca) == [("root", "active"), ("issuer", "active")]
    open_state(ca.ring, ca.keys)


def test_a_new_root_begins_a_rotation_behind_the_gates(mesh: tuple[FoundedCa, Directory]) -> None:
    ca, directory = mesh
    directory.put(NEXT, issuer_under(NEXT))
    ca.rotation.tick()
    assert standing(ca) == [("root", "active"), ("issuer", "active"), ("root", "prepared"), ("issuer", "prepared")]
    assert ca.ring.rotation is not None
    assert ca.ring.rotation.origin == "ca_dir"
    ca.clock.move(timedelta(hours=1))
    for _ in range(5):
        ca.rotation.tick()
        ca.clock.move(timedelta(minutes=1))
    assert [a.certificate for a in ca.ring.of(ROOT)] == [NEXT.der]
    assert directory.problems() == []


def test_istios_own_order_of_steps_works_too(mesh: tuple[FoundedCa, Directory], first: ForeignCa) -> None:
    ca, directory = mesh
    directory.put(CORP, first, NEXT)
    assert [(a.state, a.certificate) for a in ca.ring.of(ROOT)] == [(ACTIVE, CORP.der), (PREPARED, NEXT.der)]
    assert ca.ring.rotation is None, "there is nothing yet that would sign"
    directory.put(NEXT, issuer_under(NEXT), CORP)
    assert [ca.ring.successor] == list(ca.ring.of(ROOT, PREPARED))
    directory.put(NEXT, last := issuer_under(NEXT))
    assert len(ca.ring.of(ROOT)) == 2, "no root goes before its time"
    assert last.der in {a.certificate for a in ca.ring.of(ISSUER)}


def test_what_was_taken_once_is_not_taken_again_whatever_became_of_it(mesh: tuple[FoundedCa, Directory]) -> None:
    ca, directory = mesh
    directory.put(CORP, issuer_under(CORP))
    (second,) = ca.ring.of(ISSUER, PREPARED)
    ca.control.carry_out(Order(Step.TAINT, second.id, "its key was seen elsewhere"))
    ca.clock.move(PROPAGATION)
    ca.control.carry_out(Order(Step.PRUNE, second.id, "", force=False))
    ca.restart()
    ca.keeper.refresh()
    again = plugged(ca)
    again.files = directory.files
    again.service.look()
    assert standing(ca) == [("root", "active"), ("issuer", "active")]
    assert again.problems() == []


def test_after_an_abort_a_new_root_waits_until_an_operator_begins(mesh: tuple[FoundedCa, Directory]) -> None:
    ca, directory = mesh
    directory.put(NEXT, issuer_under(NEXT))
    ca.control.abort("not wanted")
    ca.rotation.tick()
    directory.put(NEXT, issuer_under(NEXT))
    assert directory.problems() == [
        (
            "cacerts: it has a new root, but a rotation was aborted: `meshca rotate root` begins another; nothing was"
            " changed"
        )
    ]
    ca.control.begin("now")
    directory.service.look()
    assert ca.ring.successor is not None
    assert directory.problems() == []


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"ca-key.pem": None}, "ca-key.pem is missing beside ca-cert.pem, cert-chain.pem, root-cert.pem"),
        (
            {"ca-key.pem": NEXT.key_pem},
            "ca-key.pem is not the key of ca-cert.pem ('CN=Intermediate CA'): give the two that belong together",
        ),
        (
            {"root-cert.pem": CORP.pem},
            "the chain holds the root 'CN=Next Root', which root-cert.pem does not: put it there, or leave it out",
        ),
        (
            {"root-cert.pem": CORP.pem, "cert-chain.pem": CORP.pem},
            (
                "issuing CA 'CN=Intermediate CA' is signed by 'CN=Next Root', which is neither in the file nor a root"
                " of this trust domain: append the intermediates, and the root if it is new"
            ),
        ),
    ],
    ids=["partial", "another key", "another root", "no chain"],
)
def test_a_partial_or_broken_set_changes_nothing_and_is_named(
    mesh: tuple[FoundedCa, Directory], broken: dict[str, bytes | None], words: str
) -> None:
    ca, directory = mesh
    before, keys = ca.store.load(), ca.key_ids()
    files = {**files_of(NEXT, issuer_under(NEXT)), **broken}
    directory.files = {name: data for name, data in files.items() if data is not None}
    directory.service.look()
    assert directory.service.alarms() == (Alarm(Severity.WARNING, "ca_dir", f"cacerts: {words}; nothing was changed"),)
    assert ca.store.load() == before
    assert ca.key_ids() == keys
    directory.put(NEXT, issuer_under(NEXT))
    assert directory.problems() == []


def test_a_crl_is_ignored_and_that_is_told(mesh: tuple[FoundedCa, Directory]) -> None:
    _, directory = mesh
    directory.files = {**directory.files, "ca-crl.pem": b"x"}
    directory.service.look()
    assert directory.service.alarms() == (
        Alarm(Severity.INFO, "ca_dir", "cacerts: ca-crl.pem is ignored: CRLs of other CAs are not given out"),
    )


def test_a_directory_that_cannot_be_recorded_leaves_no_key_behind(mesh: tuple[FoundedCa, Directory]) -> None:
    ca, directory = mesh
    keys = ca.key_ids()
    ca.ledger.out = True
    directory.put(CORP, issuer_under(CORP))
    assert ca.key_ids() == keys
    ca.ledger.out = False
    directory.service.look()
    assert len(ca.key_ids()) == len(keys) + 1
