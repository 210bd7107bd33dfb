"""What a discovery stream answers, in both variants, and what it learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

from meshca.errors import ErrorKind, MeshcaError
from meshca.xds.snapshot import SECRET_TYPE, Resource, Snapshot
from meshca.xds.stream import (
    MAX_NAME_CHARACTERS,
    MAX_NAME_LENGTH,
    MAX_NAMES,
    MAX_NODE_ID_LENGTH,
    StreamMode,
    XdsStream,
    fetch,
)
from meshca.xds.subscription import MAX_IN_FLIGHT, MAX_PARKED
from tests.xds.envoys import (
    POLICY_TYPE,
    DeltaWire,
    SotwWire,
    Wire,
    acked,
    contents,
    nacked,
    new_ads_stream,
    new_stream,
    only_send,
    resource,
    secrets,
    sends,
)

V1 = secrets(leaf="leaf-1", root="root-1")
LEAF2 = secrets(leaf="leaf-2", root="root-1")
LEAF3 = secrets(leaf="leaf-3", root="root-1")
BOTH2 = secrets(leaf="leaf-2", root="root-2")
NOTHING = Snapshot()

in_both = pytest.mark.parametrize("new_wire", [SotwWire, DeltaWire])
NewWire = Callable[[], Wire]


def holding(wire: Wire, snapshot: Snapshot, *names: str) -> XdsStream:
    """A stream whose peer has subscribed and accepted `names`."""
    stream = new_stream(wire.mode)
    response = only_send(stream.receive(wire.subscribe(*names), snapshot))
    stream.receive(wire.ack(response), snapshot)
    assert set(stream.accepted(SECRET_TYPE)) == set(names)
    return stream


# --- subscribing


@in_both
def test_a_subscriber_gets_all_it_named_in_one_response(new_wire: NewWire) -> None:
    wire = new_wire()
    response = only_send(new_stream(wire.mode).receive(wire.subscribe("root", "leaf"), V1))
    assert contents(response) == {"leaf": "leaf-1", "root": "root-1"}
    assert response.type_url == SECRET_TYPE
    assert {getattr(item, "resource", item).type_url for item in response.resources} == {SECRET_TYPE}


@in_both
def test_only_subscribed_names_are_sent(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    assert contents(only_send(stream.receive(wire.subscribe("leaf"), V1))) == {"leaf": "leaf-1"}
    assert contents(only_send(stream.push(BOTH2))) == {"leaf": "leaf-2"}


@in_both
def test_nothing_is_pushed_before_anything_is_asked_for(new_wire: NewWire) -> None:
    assert new_stream(new_wire().mode).push(V1) == []


@in_both
def test_an_update_sends_only_what_changed(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = holding(wire, V1, "leaf", "root")
    assert contents(only_send(stream.push(LEAF2))) == {"leaf": "leaf-2"}


@in_both
def test_the_same_snapshot_again_sends_nothing(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    response = only_send(stream.receive(wire.subscribe("leaf"), V1))
    assert stream.push(V1) == []  # not even before the answer
    stream.receive(wire.ack(response), V1)
    assert stream.push(V1) == []


@in_both
def test_updates_of_a_pair_travel_apart_so_that_a_nack_names_its_culprit(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = holding(wire, V1, "leaf", "root")
    leaf, root = sends(stream.push(BOTH2))
    assert [contents(leaf), contents(root)] == [{"leaf": "leaf-2"}, {"root": "root-2"}]
    stream.receive(wire.nack(leaf), BOTH2)
    stream.receive(wire.ack(root), BOTH2)
    assert stream.parked(SECRET_TYPE) == {"leaf": frozenset({"leaf-2"})}
    assert stream.accepted(SECRET_TYPE) == {"leaf": "leaf-1", "root": "root-2"}


@in_both
def test_a_bundle_goes_out_before_the_certificate(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = holding(
        wire,
        Snapshot.of(SECRET_TYPE, [resource("default", "default-1"), resource("ROOTCA", "ROOTCA-1")]),
        "default",
        "ROOTCA",
    )
    update = Snapshot.of(SECRET_TYPE, [resource("default", "default-2"), resource("ROOTCA", "ROOTCA-2")])
    assert [list(contents(response)) for response in sends(stream.push(update))] == [["ROOTCA"], ["default"]]


@in_both
def test_pushes_do_not_wait_for_acks_so_that_a_sloppy_peer_is_still_renewed(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    stream.receive(wire.subscribe("leaf"), V1)
    assert contents(only_send(stream.push(LEAF2))) == {"leaf": "leaf-2"}
    assert contents(only_send(stream.push(LEAF3))) == {"leaf": "leaf-3"}


@in_both
def test_a_peer_that_never_answers_costs_bounded_memory(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    stream.receive(wire.subscribe("leaf"), V1)
    for number in range(3 * MAX_IN_FLIGHT):
        stream.push(secrets(leaf=f"leaf-{number + 10}"))
    assert len(stream._subscriptions[SECRET_TYPE]._flights) == MAX_IN_FLIGHT


@in_both
def test_every_response_has_a_nonce_of_its_own(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    responses = sends(stream.receive(wire.subscribe("leaf", "root"), V1))
    responses += sends(stream.push(BOTH2)) + sends(stream.push(V1))
    nonces = [response.nonce for response in responses]
    assert len(nonces) == len(set(nonces)) == 3
    assert "" not in nonces


@in_both
@pytest.mark.parametrize("nonces", [["same", "same"], [""]])
def test_a_broken_source_of_nonces_is_noticed(new_wire: NewWire, nonces: list[str]) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode, nonces=iter(nonces))
    with pytest.raises(MeshcaError, match="source of nonces") as refusal:
        [stream.receive(wire.subscribe("leaf"), V1), stream.push(LEAF2)]
    assert refusal.value.kind is ErrorKind.INTERNAL


# --- names that are not there


@in_both
def test_an_unknown_name_gets_no_answer_and_harms_nobody(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    assert stream.receive(wire.subscribe("unknown"), V1) == []
    assert contents(only_send(stream.receive(wire.subscribe("leaf"), V1))) == {"leaf": "leaf-1"}
    assert stream.subscribed(SECRET_TYPE) == {"unknown", "leaf"}


@in_both
def test_a_name_is_answered_when_its_resource_appears(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    assert stream.receive(wire.subscribe("leaf"), NOTHING) == []
    assert contents(only_send(stream.push(V1))) == {"leaf": "leaf-1"}


def test_sotw_says_nothing_of_a_resource_that_is_withdrawn() -> None:
    stream = holding(SotwWire(), V1, "leaf", "root")
    assert stream.push(secrets(root="root-1")) == []
    assert stream.push(V1) == []  # the peer still holds it


def test_delta_tells_once_of_a_resource_that_is_withdrawn_and_sends_it_when_it_is_back() -> None:
    wire = DeltaWire()
    stream = holding(wire, V1, "leaf", "root")
    removal = only_send(stream.push(secrets(root="root-1")))
    assert (list(removal.removed_resources), list(removal.resources)) == (["leaf"], [])
    assert stream.push(secrets(root="root-1")) == []
    assert stream.receive(wire.ack(removal), secrets(root="root-1")) == []
    assert stream.accepted(SECRET_TYPE) == {"root": "root-1"}
    assert contents(only_send(stream.push(V1))) == {"leaf": "leaf-1"}


def test_a_late_ack_does_not_bring_a_withdrawn_resource_back() -> None:
    wire = DeltaWire()
    stream = new_stream(wire.mode)
    response = only_send(stream.receive(wire.subscribe("leaf"), V1))
    only_send(stream.push(NOTHING))
    assert sends(stream.receive(wire.ack(response), NOTHING)) == []
    assert stream.accepted(SECRET_TYPE) == {}
    assert stream.push(NOTHING) == []


# --- what ends, and who asks for nothing


@in_both
def test_an_unsubscribed_name_is_sent_no_more(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = holding(wire, V1, "leaf", "root")
    assert stream.receive(wire.unsubscribe("leaf"), V1) == []
    assert stream.subscribed(SECRET_TYPE) == {"root"}
    assert stream.accepted(SECRET_TYPE) == {"root": "root-1"}
    assert contents(only_send(stream.push(BOTH2))) == {"root": "root-2"}


@in_both
def test_a_name_that_is_subscribed_again_is_sent_again(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = holding(wire, V1, "leaf", "root")
    stream.receive(wire.unsubscribe("leaf"), V1)
    assert contents(only_send(stream.receive(wire.subscribe("leaf"), V1))) == {"leaf": "leaf-1"}


@in_both
def test_a_verdict_on_an_unsubscribed_name_changes_nothing(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    response = only_send(stream.receive(wire.subscribe("leaf"), V1))
    stream.receive(wire.unsubscribe("leaf"), V1)
    assert sends(stream.receive(wire.nack(response), V1)) == []
    assert (stream.parked(SECRET_TYPE), stream.accepted(SECRET_TYPE)) == ({}, {})


def test_an_empty_sotw_list_unsubscribes_from_everything() -> None:
    wire = SotwWire()
    stream = holding(wire, V1, "leaf", "root")
    assert stream.receive(wire.unsubscribe("leaf", "root"), V1) == []
    assert stream.subscribed(SECRET_TYPE) == frozenset()
    assert stream.push(BOTH2) == []


@pytest.mark.parametrize(
    "request_",
    [
        DiscoveryRequest(type_url=SECRET_TYPE),
        DiscoveryRequest(type_url=SECRET_TYPE, resource_names=["*"]),
        DeltaDiscoveryRequest(type_url=SECRET_TYPE),
        DeltaDiscoveryRequest(type_url=SECRET_TYPE, resource_names_subscribe=["*"]),
    ],
)
def test_a_wildcard_subscribes_to_nothing(request_: Any) -> None:
    mode = StreamMode.SOTW if isinstance(request_, DiscoveryRequest) else StreamMode.DELTA
    stream = new_stream(mode)
    assert stream.receive(request_, V1) == []
    assert stream.subscribed(SECRET_TYPE) == frozenset()
    assert stream.push(LEAF2) == []


def test_delta_sends_again_what_is_asked_for_again() -> None:
    wire = DeltaWire()
    stream = holding(wire, V1, "leaf", "root")
    assert contents(only_send(stream.receive(wire.subscribe("leaf"), V1))) == {"leaf": "leaf-1"}


def test_delta_may_answer_and_subscribe_in_one_request() -> None:
    wire = DeltaWire()
    stream = new_stream(wire.mode)
    response = only_send(stream.receive(wire.subscribe("leaf"), V1))
    request = wire.request(response_nonce=response.nonce, resource_names_subscribe=["root"])
    effects = stream.receive(request, V1)
    assert [effect.versions for effect in acked(effects)] == [{"leaf": "leaf-1"}]
    assert contents(only_send(effects)) == {"root": "root-1"}


# --- ACK


@in_both
def test_an_ack_is_evidence_for_what_was_sent(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    response = only_send(stream.receive(wire.subscribe("leaf", "root"), V1))
    assert stream.accepted(SECRET_TYPE) == {}
    (effect,) = stream.receive(wire.ack(response), V1)
    assert acked([effect])[0].versions == {"leaf": "leaf-1", "root": "root-1"}
    assert stream.accepted(SECRET_TYPE) == {"leaf": "leaf-1", "root": "root-1"}


@in_both
def test_an_ack_counts_once(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    request = wire.ack(only_send(stream.receive(wire.subscribe("leaf"), V1)))
    assert len(stream.receive(request, V1)) == 1
    assert stream.receive(request, V1) == []


@in_both
def test_an_ack_of_a_partial_response_is_evidence_for_its_part(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = holding(wire, V1, "leaf", "root")
    update = only_send(stream.push(LEAF2))
    (effect,) = acked(stream.receive(wire.ack(update), LEAF2))
    assert effect.versions == {"leaf": "leaf-2"}
    assert stream.accepted(SECRET_TYPE) == {"leaf": "leaf-2", "root": "root-1"}


@in_both
@pytest.mark.parametrize("nonce", ["made-up", "nonce-99"])
def test_an_answer_to_a_response_that_never_was_is_no_evidence(new_wire: NewWire, nonce: str) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    response = only_send(stream.receive(wire.subscribe("leaf"), V1))
    request = wire.ack(response)
    request.response_nonce = nonce
    assert stream.receive(request, V1) == []
    assert stream.accepted(SECRET_TYPE) == {}


def test_sotw_takes_an_answer_without_the_version_for_a_refusal() -> None:
    wire = SotwWire()
    stream = new_stream(wire.mode)
    request = wire.ack(only_send(stream.receive(wire.subscribe("leaf"), V1)))
    request.version_info = "older"
    (effect,) = stream.receive(request, V1)
    assert nacked([effect])[0].reason == "the version was not taken, and no error was given"
    assert stream.accepted(SECRET_TYPE) == {}


def test_sotw_takes_an_error_for_a_refusal_even_beside_the_version_that_was_sent() -> None:
    wire = SotwWire()
    stream = new_stream(wire.mode)
    request = wire.ack(only_send(stream.receive(wire.subscribe("leaf"), V1)))
    request.error_detail.message = "refused"
    effects = stream.receive(request, V1)
    assert (len(nacked(effects)), acked(effects)) == (1, [])


# --- SotW requests that are out of date


def test_sotw_ignores_the_names_of_a_request_that_does_not_know_the_latest_response() -> None:
    wire = SotwWire()
    stream = holding(wire, V1, "leaf")
    stale = wire.subscribe("root")
    stream.push(LEAF2)
    assert stream.receive(stale, LEAF2) == []
    assert stream.subscribed(SECRET_TYPE) == {"leaf"}


def test_sotw_takes_the_names_from_the_next_answer_instead() -> None:
    wire = SotwWire()
    stream = holding(wire, V1, "leaf")
    stale = wire.subscribe("root")
    update = only_send(stream.push(LEAF2))
    stream.receive(stale, LEAF2)
    assert contents(only_send(stream.receive(wire.ack(update), LEAF2))) == {"root": "root-1"}


def test_a_name_that_was_dropped_and_wanted_again_in_requests_that_came_too_late_is_sent_again() -> None:
    wire = SotwWire()
    stream = holding(wire, V1, "leaf", "root")
    late = [wire.unsubscribe("leaf"), wire.subscribe("leaf")]
    update = only_send(stream.push(secrets(leaf="leaf-1", root="root-2")))
    for request in late:
        assert stream.receive(request, secrets(leaf="leaf-1", root="root-2")) == []
    answer = stream.receive(wire.ack(update), secrets(leaf="leaf-1", root="root-2"))
    assert contents(only_send(answer)) == {"leaf": "leaf-1"}


def test_names_that_accumulate_on_ads_before_the_first_answer_are_each_sent_and_proven_once() -> None:
    wire = SotwWire()
    stream = new_ads_stream(wire.mode)
    first = only_send(stream.receive(wire.subscribe("leaf"), V1))
    second = only_send(stream.receive(wire.subscribe("root"), V1))  # still without a nonce
    assert [contents(first), contents(second)] == [{"leaf": "leaf-1"}, {"root": "root-1"}]
    stale = acked(stream.receive(wire.ack(first), V1))
    assert [effect.versions for effect in stale] == [{"leaf": "leaf-1"}]
    final = stream.receive(wire.ack(second), V1)
    assert [effect.versions for effect in acked(final)] == [{"root": "root-1"}]
    assert sends(final) == []


def test_one_sotw_answer_to_several_responses_counts_for_all_of_them() -> None:
    wire = SotwWire()
    stream = new_stream(wire.mode)
    first = only_send(stream.receive(wire.subscribe("leaf"), V1))
    second = only_send(stream.receive(wire.subscribe("root"), V1))
    wire.note(first)
    effects = stream.receive(wire.ack(second), V1)
    assert [effect.versions for effect in acked(effects)] == [{"leaf": "leaf-1"}, {"root": "root-1"}]
    assert sends(effects) == []


def test_one_sotw_answer_that_took_the_first_and_refused_the_second() -> None:
    wire = SotwWire()
    stream = new_stream(wire.mode)
    first = only_send(stream.receive(wire.subscribe("leaf"), V1))
    second = only_send(stream.receive(wire.subscribe("root"), V1))
    wire.note(first)
    effects = stream.receive(wire.nack(second), V1)
    assert [effect.versions for effect in acked(effects)] == [{"leaf": "leaf-1"}]
    assert [effect.versions for effect in nacked(effects)] == [{"root": "root-1"}]
    assert stream.parked(SECRET_TYPE) == {"root": frozenset({"root-1"})}


def test_a_refusal_is_heard_even_when_newer_responses_overtook_it() -> None:
    wire = SotwWire()
    stream = new_stream(wire.mode)
    first = only_send(stream.receive(wire.subscribe("leaf"), V1))
    only_send(stream.push(LEAF2))
    effects = stream.receive(wire.nack(first), LEAF2)
    assert [effect.versions for effect in nacked(effects)] == [{"leaf": "leaf-1"}]
    assert sends(effects) == []  # leaf-2 is on its way


# --- NACK


@in_both
def test_a_refused_version_is_parked_and_never_comes_again_by_itself(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    response = only_send(stream.receive(wire.subscribe("leaf"), V1))
    (effect,) = stream.receive(wire.nack(response, "bad leaf"), V1)
    assert nacked([effect])[0].versions == {"leaf": "leaf-1"}
    assert nacked([effect])[0].reason == "bad leaf"
    assert stream.push(V1) == []
    assert stream.parked(SECRET_TYPE) == {"leaf": frozenset({"leaf-1"})}


@in_both
def test_a_newer_version_than_the_refused_one_is_sent(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    stream.receive(wire.nack(only_send(stream.receive(wire.subscribe("leaf"), V1))), V1)
    assert contents(only_send(stream.push(LEAF2))) == {"leaf": "leaf-2"}


@in_both
def test_after_a_refusal_the_last_good_pair_is_sent_again_once(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = holding(wire, V1, "leaf", "root")
    update = only_send(stream.push(LEAF2))
    repairs = sends(stream.receive(wire.nack(update), LEAF2))
    assert [contents(repair) for repair in repairs] == [{"leaf": "leaf-1"}, {"root": "root-1"}]
    for repair in repairs:
        assert sends(stream.receive(wire.ack(repair), LEAF2)) == []
    assert stream.push(LEAF2) == []
    assert stream.accepted(SECRET_TYPE) == {"leaf": "leaf-1", "root": "root-1"}


@in_both
def test_on_a_stream_of_one_name_the_last_good_version_is_sent_again_once(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = holding(wire, V1, "leaf")
    update = only_send(stream.push(LEAF2))
    repair = only_send(stream.receive(wire.nack(update), LEAF2))
    assert contents(repair) == {"leaf": "leaf-1"}
    assert sends(stream.receive(wire.ack(repair), LEAF2)) == []


@in_both
def test_refusing_the_repair_too_sends_nothing_more(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = holding(wire, V1, "leaf", "root")
    pending = sends(stream.push(LEAF2))
    exchanged = 0
    while pending:
        exchanged += 1
        assert exchanged <= 3, "a refusal must not go on for ever"
        pending += sends(stream.receive(wire.nack(pending.pop(0)), LEAF2))
    assert stream.parked(SECRET_TYPE) == {"leaf": frozenset({"leaf-2"})}  # what was accepted once is no culprit
    assert stream.accepted(SECRET_TYPE) == {"leaf": "leaf-1", "root": "root-1"}
    assert contents(only_send(stream.push(LEAF3))) == {"leaf": "leaf-3"}


@in_both
def test_a_repair_does_not_overtake_a_newer_version_on_its_way(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = holding(wire, V1, "leaf", "root")
    second = only_send(stream.push(LEAF2))
    third = only_send(stream.push(LEAF3))
    assert sends(stream.receive(wire.nack(second), LEAF3)) == []
    stream.receive(wire.ack(third), LEAF3)
    assert stream.accepted(SECRET_TYPE)["leaf"] == "leaf-3"


@in_both
def test_a_partner_on_its_way_is_not_sent_twice(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = holding(wire, V1, "leaf", "root")
    leaf = only_send(stream.push(LEAF2))
    only_send(stream.push(BOTH2))
    assert contents(only_send(stream.receive(wire.nack(leaf), BOTH2))) == {"leaf": "leaf-1"}


@in_both
def test_a_newer_version_takes_the_place_of_the_repair(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = holding(wire, V1, "leaf")
    update = only_send(stream.push(LEAF2))
    assert contents(only_send(stream.receive(wire.nack(update), LEAF3))) == {"leaf": "leaf-3"}


@in_both
def test_a_refusal_with_nothing_good_before_it_sends_nothing(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    response = only_send(stream.receive(wire.subscribe("leaf", "root"), V1))
    assert sends(stream.receive(wire.nack(response), V1)) == []


@in_both
def test_going_back_to_a_refused_version_sends_nothing(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = holding(wire, V1, "leaf")
    (repair,) = sends(stream.receive(wire.nack(only_send(stream.push(LEAF2))), LEAF2))
    stream.receive(wire.ack(repair), LEAF2)
    stream.receive(wire.ack(only_send(stream.push(LEAF3))), LEAF3)
    assert stream.push(LEAF2) == []
    assert stream.accepted(SECRET_TYPE) == {"leaf": "leaf-3"}


@in_both
def test_parked_versions_take_bounded_memory_and_the_current_one_stays_parked(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    stream.receive(wire.subscribe("leaf"), NOTHING)
    for number in range(MAX_PARKED + 10):
        snapshot = secrets(leaf=f"leaf-{number}")
        stream.receive(wire.nack(only_send(stream.push(snapshot))), snapshot)
        assert stream.push(snapshot) == []
    assert len(stream.parked(SECRET_TYPE)["leaf"]) == MAX_PARKED


def test_delta_does_not_send_a_parked_version_even_when_asked_for_it_again() -> None:
    wire = DeltaWire()
    stream = holding(wire, V1, "leaf")
    (repair,) = sends(stream.receive(wire.nack(only_send(stream.push(LEAF2))), LEAF2))
    stream.receive(wire.ack(repair), LEAF2)
    assert contents(only_send(stream.receive(wire.subscribe("leaf"), LEAF2))) == {"leaf": "leaf-1"}


def test_an_ack_of_what_was_refused_before_is_no_evidence() -> None:
    """Envoy keeps its bad half and takes it without a look when it comes again."""
    wire = DeltaWire()
    stream = new_stream(wire.mode)
    first = only_send(stream.receive(wire.subscribe("leaf"), V1))
    again = only_send(stream.receive(wire.subscribe("leaf"), V1))
    stream.receive(wire.nack(first), V1)
    stream.receive(wire.ack(again), V1)
    assert stream.accepted(SECRET_TYPE) == {}


def test_late_delta_verdicts_do_not_go_back_in_time() -> None:
    wire = DeltaWire()
    stream = new_stream(wire.mode)
    first = only_send(stream.receive(wire.subscribe("leaf"), V1))
    second = only_send(stream.push(LEAF2))
    stream.receive(wire.ack(second), LEAF2)
    stream.receive(wire.ack(first), LEAF2)
    assert stream.accepted(SECRET_TYPE) == {"leaf": "leaf-2"}


@in_both
def test_a_reason_is_redacted_before_anybody_sees_it(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    response = only_send(stream.receive(wire.subscribe("leaf"), V1))
    echo = 'inline_bytes: "-----BEGIN PRIVATE KEY-----": Proto constraint validation failed (SecretValidationError)'
    (effect,) = stream.receive(wire.nack(response, echo), V1)
    assert nacked([effect])[0].reason == "Proto constraint validation failed (SecretValidationError)"


@in_both
def test_a_refusal_without_code_or_text_is_still_one(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    request = wire.nack(only_send(stream.receive(wire.subscribe("leaf"), V1)))
    request.error_detail.Clear()
    request.error_detail.SetInParent()
    (effect,) = nacked(stream.receive(request, V1))
    assert effect.reason == "no reason given (code 0)"


# --- coming back


@in_both
def test_a_peer_that_comes_back_with_what_is_current_is_sent_nothing_and_counts_as_evidence(new_wire: NewWire) -> None:
    wire = new_wire()
    holding(wire, V1, "leaf", "root")
    stream = new_stream(wire.mode)
    (effect,) = stream.receive(wire.reconnect(), V1)
    assert acked([effect])[0].versions == {"leaf": "leaf-1", "root": "root-1"}
    assert stream.accepted(SECRET_TYPE) == {"leaf": "leaf-1", "root": "root-1"}
    assert contents(only_send(stream.push(LEAF2))) == {"leaf": "leaf-2"}


@in_both
def test_a_peer_that_comes_back_with_something_older_is_sent_what_is_current(new_wire: NewWire) -> None:
    wire = new_wire()
    holding(wire, V1, "leaf")
    effects = new_stream(wire.mode).receive(wire.reconnect(), LEAF2)
    assert contents(only_send(effects)) == {"leaf": "leaf-2"}
    assert acked(effects) == []


def test_delta_sends_only_what_changed_meanwhile() -> None:
    wire = DeltaWire()
    holding(wire, V1, "leaf", "root")
    effects = new_stream(wire.mode).receive(wire.reconnect(), LEAF2)
    assert contents(only_send(effects)) == {"leaf": "leaf-2"}
    assert [effect.versions for effect in acked(effects)] == [{"root": "root-1"}]


def test_delta_tells_a_peer_that_comes_back_what_is_no_more() -> None:
    wire = DeltaWire()
    holding(wire, V1, "leaf", "root")
    removal = only_send(new_stream(wire.mode).receive(wire.reconnect(), secrets(root="root-1")))
    assert list(removal.removed_resources) == ["leaf"]


def test_delta_tells_of_a_withdrawn_resource_whose_update_was_refused_at_the_same_time() -> None:
    wire = DeltaWire()
    stream = holding(wire, V1, "leaf")
    update = only_send(stream.push(LEAF2))
    removal = only_send(stream.receive(wire.nack(update), NOTHING))
    assert list(removal.removed_resources) == ["leaf"]


def test_delta_believes_initial_versions_on_the_first_request_only() -> None:
    wire = DeltaWire()
    stream = new_stream(wire.mode)
    stream.receive(wire.subscribe("root"), V1)
    late = wire.request(resource_names_subscribe=["leaf"], initial_resource_versions={"leaf": "leaf-1"})
    assert contents(only_send(stream.receive(late, V1))) == {"leaf": "leaf-1"}


def test_sotw_takes_a_nonce_of_an_earlier_stream_for_a_new_subscription() -> None:
    request = DiscoveryRequest(type_url=SECRET_TYPE, resource_names=["leaf"], response_nonce="of another time")
    assert contents(only_send(new_stream(StreamMode.SOTW).receive(request, V1))) == {"leaf": "leaf-1"}


def test_sotw_starts_anew_with_a_peer_that_lost_its_nonce() -> None:
    wire = SotwWire()
    stream = holding(wire, V1, "leaf")
    wire.version = ""
    assert contents(only_send(stream.receive(wire.reconnect(), V1))) == {"leaf": "leaf-1"}


def test_sotw_believes_a_version_on_the_first_request_only() -> None:
    wire = SotwWire()
    stream = holding(wire, V1, "leaf")
    assert contents(only_send(stream.receive(wire.reconnect(), V1))) == {"leaf": "leaf-1"}


def test_sotw_on_ads_sends_again_what_envoy_may_have_dropped_meanwhile() -> None:
    """Envoy keeps a type's version on ADS although it dropped the resource and subscribed to it anew."""
    wire = SotwWire()
    holding(wire, V1, "leaf")
    stream = new_ads_stream(wire.mode)
    effects = stream.receive(wire.reconnect(), V1)
    assert contents(only_send(effects)) == {"leaf": "leaf-1"}
    assert acked(effects) == []


def test_delta_on_ads_sends_only_what_changed_meanwhile() -> None:
    wire = DeltaWire()
    holding(wire, V1, "leaf", "root")
    assert contents(only_send(new_ads_stream(wire.mode).receive(wire.reconnect(), LEAF2))) == {"leaf": "leaf-2"}


def test_sotw_does_not_believe_a_peer_to_hold_what_it_refused_in_between() -> None:
    """The version of a later response must not vouch for an earlier one whose verdict was still open."""
    wire = SotwWire()
    stream = new_stream(wire.mode)
    bad = only_send(stream.receive(wire.subscribe("leaf"), V1))
    good = only_send(stream.receive(wire.subscribe("root"), V1))
    stream.receive(wire.nack(bad), V1)
    stream.receive(wire.ack(good), V1)
    effects = new_stream(wire.mode).receive(wire.reconnect(), V1)
    assert acked(effects) == []
    assert contents(only_send(effects)) == {"leaf": "leaf-1", "root": "root-1"}


def test_sotw_does_not_believe_a_peer_to_hold_what_was_replaced_while_its_response_was_made() -> None:
    """The second of two updates must not vouch for the version that the first one replaces."""
    wire = SotwWire()
    stream = holding(wire, V1, "leaf", "root")
    for update in sends(stream.push(BOTH2)):
        stream.receive(wire.ack(update), BOTH2)
    back = secrets(leaf="leaf-1", root="root-2")
    effects = new_stream(wire.mode).receive(wire.reconnect(), back)
    assert contents(only_send(effects)) == {"leaf": "leaf-1", "root": "root-2"}


def test_sotw_gives_a_resource_alone_its_own_version() -> None:
    wire = SotwWire()
    assert only_send(new_stream(wire.mode).receive(wire.subscribe("leaf"), V1)).version_info == "leaf-1"


# --- types


@in_both
def test_on_a_stream_of_one_type_the_type_need_not_be_named(new_wire: NewWire) -> None:
    wire = new_wire()
    wire.type_url = ""
    stream = new_stream(wire.mode)
    response = only_send(stream.receive(wire.subscribe("leaf"), V1))
    assert response.type_url == SECRET_TYPE
    assert acked(stream.receive(wire.ack(response), V1))[0].type_url == SECRET_TYPE


@in_both
@pytest.mark.parametrize("type_url", ["", "x" * 100_000, SECRET_TYPE + " ", "Secret"])
def test_a_type_that_is_not_served_ends_the_stream(new_wire: NewWire, type_url: str) -> None:
    wire = new_wire()
    wire.type_url = type_url
    stream = new_ads_stream(wire.mode)
    with pytest.raises(MeshcaError, match="is not served on this stream: ask for type") as refusal:
        stream.receive(wire.subscribe("leaf"), V1)
    assert refusal.value.kind is ErrorKind.INVALID
    assert len(refusal.value.message) < 1000


@in_both
def test_on_ads_the_type_must_be_named_even_if_there_is_only_one(new_wire: NewWire) -> None:
    wire = new_wire()
    wire.type_url = ""
    with pytest.raises(MeshcaError, match="type_url '' is not served"):
        new_stream(wire.mode, aggregated=True).receive(wire.subscribe("leaf"), V1)


@pytest.mark.parametrize("types", [(), (SECRET_TYPE, POLICY_TYPE)])
def test_a_stream_that_is_not_aggregated_serves_exactly_one_type(types: tuple[str, ...]) -> None:
    with pytest.raises(MeshcaError, match="serves one type") as refusal:
        new_stream(StreamMode.SOTW, types=types)
    assert refusal.value.kind is ErrorKind.INTERNAL


@in_both
def test_types_on_one_stream_do_not_mix(new_wire: NewWire) -> None:
    wire, other = new_wire(), new_wire()
    other.type_url = POLICY_TYPE
    snapshot = Snapshot(
        {SECRET_TYPE: {"leaf": resource("leaf", "leaf-1")}, POLICY_TYPE: {"leaf": resource("leaf", "leaf-9")}}
    )
    stream = new_ads_stream(wire.mode)
    secret = only_send(stream.receive(wire.subscribe("leaf"), snapshot))
    policy = only_send(stream.receive(other.subscribe("leaf"), snapshot))
    assert (secret.type_url, contents(secret)) == (SECRET_TYPE, {"leaf": "leaf-1"})
    assert (policy.type_url, contents(policy)) == (POLICY_TYPE, {"leaf": "leaf-9"})
    stream.receive(other.nack(policy), snapshot)
    stream.receive(wire.ack(secret), snapshot)
    assert (stream.accepted(SECRET_TYPE), stream.accepted(POLICY_TYPE)) == ({"leaf": "leaf-1"}, {})
    assert (stream.parked(SECRET_TYPE), stream.parked(POLICY_TYPE)) == ({}, {"leaf": frozenset({"leaf-9"})})


@in_both
def test_an_answer_under_the_wrong_type_is_no_answer(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_ads_stream(wire.mode)
    response = only_send(stream.receive(wire.subscribe("leaf"), V1))
    wire.type_url = POLICY_TYPE
    stream.receive(wire.ack(response), V1)
    assert stream.accepted(SECRET_TYPE) == {}


# --- who it is, and bounds


@in_both
def test_the_node_id_is_that_of_the_first_request(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    assert stream.node_id == ""
    request = wire.subscribe("leaf")
    request.node.id = "sidecar-1"
    response = only_send(stream.receive(request, V1))
    answer = wire.ack(response)
    assert stream.receive(answer, V1)
    assert stream.node_id == "sidecar-1"
    other = wire.subscribe("root")
    other.node.id = "sidecar-2"
    stream.receive(other, V1)
    assert stream.node_id == "sidecar-1"


@in_both
@pytest.mark.parametrize(
    ("node_id", "text"), [("n" * (MAX_NODE_ID_LENGTH + 1), "at most 1024 are allowed"), ("a\nb", "cannot be printed")]
)
def test_a_node_id_out_of_bounds_ends_the_stream(new_wire: NewWire, node_id: str, text: str) -> None:
    request = new_wire().subscribe("leaf")
    request.node.id = node_id
    with pytest.raises(MeshcaError, match=text) as refusal:
        new_stream(new_wire().mode).receive(request, V1)
    assert refusal.value.kind is ErrorKind.INVALID


@in_both
@pytest.mark.parametrize(
    ("name", "text"),
    [("", "has 0 characters"), ("n" * (MAX_NAME_LENGTH + 1), "1 to 2048 are allowed"), ("a\x1bb", "cannot be printed")],
)
def test_a_name_out_of_bounds_ends_the_stream(new_wire: NewWire, name: str, text: str) -> None:
    wire = new_wire()
    with pytest.raises(MeshcaError, match=text) as refusal:
        new_stream(wire.mode).receive(wire.subscribe(name), V1)
    assert refusal.value.kind is ErrorKind.INVALID


@in_both
def test_as_many_names_as_allowed_are_fine_and_one_more_ends_the_stream(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    names = [f"name-{n}" for n in range(MAX_NAMES)]
    assert stream.receive(wire.subscribe(*names), V1) == []
    assert len(stream.subscribed(SECRET_TYPE)) == MAX_NAMES
    with pytest.raises(MeshcaError, match=r"at most 100 are allowed|more than 100 names") as refusal:
        stream.receive(wire.subscribe("leaf"), V1)
    assert refusal.value.kind is ErrorKind.EXHAUSTED


@in_both
def test_names_of_all_types_count_together(new_wire: NewWire) -> None:
    wire, other = new_wire(), new_wire()
    other.type_url = POLICY_TYPE
    stream = new_ads_stream(wire.mode)
    stream.receive(wire.subscribe(*(f"name-{n}" for n in range(MAX_NAMES))), V1)
    with pytest.raises(MeshcaError, match="101 resource names on one stream"):
        stream.receive(other.subscribe("leaf"), V1)


@in_both
def test_the_names_of_all_types_are_bounded_in_length_too(new_wire: NewWire) -> None:
    wire, other = new_wire(), new_wire()
    other.type_url = POLICY_TYPE
    stream = new_ads_stream(wire.mode)
    long = MAX_NAME_CHARACTERS // MAX_NAME_LENGTH
    stream.receive(wire.subscribe(*(f"{n}".ljust(MAX_NAME_LENGTH, "x") for n in range(long))), V1)
    with pytest.raises(MeshcaError, match="have 16385 characters together: at most 16384 are allowed") as refusal:
        stream.receive(other.subscribe("x"), V1)
    assert refusal.value.kind is ErrorKind.EXHAUSTED


@in_both
def test_a_flood_of_names_in_one_request_is_not_read_to_its_end(new_wire: NewWire) -> None:
    wire = new_wire()
    with pytest.raises(MeshcaError, match="has more than 100 names") as refusal:
        new_stream(wire.mode).receive(wire.subscribe(*(f"n{i}" for i in range(MAX_NAMES + 1))), V1)
    assert refusal.value.kind is ErrorKind.EXHAUSTED


@in_both
def test_effects_do_not_show_secrets(new_wire: NewWire) -> None:
    wire = new_wire()
    snapshot = Snapshot.of(SECRET_TYPE, [Resource("leaf", "1", b"-----BEGIN PRIVATE KEY-----")])
    (send,) = new_stream(wire.mode).receive(wire.subscribe("leaf"), snapshot)
    assert b"PRIVATE KEY" in sends([send])[0].SerializeToString()
    assert "PRIVATE KEY" not in repr(send)


# --- the unary variant


def test_a_fetch_gives_all_named_resources_that_exist() -> None:
    request = DiscoveryRequest(type_url=SECRET_TYPE, resource_names=["root", "unknown", "leaf", "leaf"])
    response = fetch(request, SECRET_TYPE, V1)
    assert contents(response) == {"leaf": "leaf-1", "root": "root-1"}
    assert len(response.resources) == 2
    assert response.version_info == V1.version(SECRET_TYPE)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"type_url": POLICY_TYPE, "resource_names": ["leaf"]}, ErrorKind.INVALID),
        ({"resource_names": ["unknown"]}, ErrorKind.NOT_FOUND),
        ({"resource_names": []}, ErrorKind.NOT_FOUND),
        ({"resource_names": ["*"]}, ErrorKind.NOT_FOUND),
        ({"resource_names": ["x"] * (MAX_NAMES + 1)}, ErrorKind.EXHAUSTED),
        ({"resource_names": ["x" * (MAX_NAME_LENGTH + 1)]}, ErrorKind.INVALID),
    ],
)
def test_a_fetch_that_cannot_be_answered_is_refused(fields: dict[str, Any], kind: ErrorKind) -> None:
    with pytest.raises(MeshcaError) as refusal:
        fetch(DiscoveryRequest(**fields), SECRET_TYPE, V1)
    assert refusal.value.kind is kind


# --- what a peer may hold


@in_both
def test_a_peer_may_hold_what_it_accepted_and_what_is_on_its_way(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = holding(wire, V1, "leaf", "root")
    assert stream.may_hold(SECRET_TYPE) == {"leaf": {"leaf-1"}, "root": {"root-1"}}
    update = only_send(stream.push(LEAF2))
    assert stream.may_hold(SECRET_TYPE) == {"leaf": {"leaf-1", "leaf-2"}, "root": {"root-1"}}
    stream.receive(wire.ack(update), LEAF2)
    assert stream.may_hold(SECRET_TYPE) == {"leaf": {"leaf-2"}, "root": {"root-1"}}


@in_both
def test_what_a_peer_holds_is_not_known_before_it_accepted_anything_or_where_it_answers_nothing(
    new_wire: NewWire,
) -> None:
    wire = new_wire()
    stream = new_stream(wire.mode)
    assert stream.may_hold(SECRET_TYPE) == {}
    stream.receive(wire.subscribe("leaf"), V1)
    assert stream.may_hold(SECRET_TYPE) == {"leaf": frozenset()}
    silent = holding(new_wire(), V1, "leaf")
    for n in range(MAX_IN_FLIGHT):
        silent.push(secrets(leaf=f"leaf-{n + 2}"))
    assert silent.may_hold(SECRET_TYPE) == {"leaf": frozenset()}


@in_both
def test_a_peer_that_refused_an_update_holds_the_last_good_one(new_wire: NewWire) -> None:
    wire = new_wire()
    stream = holding(wire, V1, "leaf")
    stream.receive(wire.nack(only_send(stream.push(LEAF2))), LEAF2)
    assert stream.may_hold(SECRET_TYPE) == {"leaf": {"leaf-1"}}
