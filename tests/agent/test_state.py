"""The saved identity: believed only if nobody else could touch it and it fits the configuration."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from meshca.agent.addresses import ServerAddress
from meshca.agent.identity import verified_identity
from meshca.agent.state import AgentState, _document, state_binding
from meshca.errors import ErrorKind, MeshcaError
from tests.agent.identities import identity
from tests.assets.crls import a_list, with_lists
from tests.fakes.certificate_authority import fresh_root

SERVER = ServerAddress("ca.example.org", 15012)
BINDING = state_binding(b"roots", SERVER)
ROOT = fresh_root()
HELD = identity(ROOT, mtls=ServerAddress("::1", 15013))


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def state(tmp_path: Path) -> AgentState:
    saved = AgentState(tmp_path / "state", BINDING)
    saved.save(HELD)
    return saved


def ignored(state: AgentState, at: datetime | None = None) -> str:
    """Why the saved identity is left out of account; no key in it."""
    with capture_logs() as logs:
        assert state.load(at or now()) is None
    (event,) = logs
    assert (event["event"], event["log_level"]) == ("state_ignored", "warning")
    assert "PRIVATE KEY" not in str(event)
    return str(event["reason"])


def test_what_was_saved_is_there_after_a_restart(state: AgentState) -> None:
    loaded = state.load(now())
    assert loaded is not None
    assert (loaded.svid, loaded.bundle, loaded.mtls, loaded.life) == (HELD.svid, HELD.bundle, HELD.mtls, HELD.life)


def test_revocation_lists_are_there_after_a_restart_and_an_older_document_has_none(tmp_path: Path) -> None:
    bundle = with_lists(HELD.bundle, a_list(ROOT.intermediate("issuer"), now(), 5))
    held = verified_identity(HELD.svid, bundle, HELD.mtls, received_at=now(), now=now())
    state = AgentState(tmp_path / "state", BINDING)
    state.save(held)
    loaded = state.load(now())
    assert loaded is not None
    assert loaded.bundle == bundle
    document = json.loads(state.path.read_text())
    del document["bundle"]["revocation_lists"]
    state.path.write_text(json.dumps(document))
    older = state.load(now())
    assert older is not None
    assert older.bundle == HELD.bundle


def test_the_key_is_for_the_owner_only(state: AgentState) -> None:
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.path.parent.stat().st_mode) == 0o700
    assert os.listdir(state.path.parent) == ["identity.json"]


def test_without_a_file_there_is_nothing_to_say(tmp_path: Path) -> None:
    with capture_logs() as logs:
        assert AgentState(tmp_path / "none", BINDING).load(now()) is None
    assert logs == []


@pytest.mark.parametrize(
    "binding",
    [state_binding(b"other roots", SERVER), state_binding(b"roots", ServerAddress("other.example.org", 15012))],
)
def test_the_state_of_another_server_or_bundle_is_ignored(state: AgentState, binding: str) -> None:
    assert "another --trust-bundle or --server" in ignored(AgentState(state.path.parent, binding))


def test_an_expired_identity_is_ignored(state: AgentState) -> None:
    assert "expired" in ignored(state, now() + timedelta(hours=2))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_could_read_or_write_is_ignored(state: AgentState, mode: int) -> None:
    state.path.chmod(mode)
    assert "open to others" in ignored(state)


def test_a_directory_that_others_could_enter_is_ignored_and_not_written_to(state: AgentState) -> None:
    state.path.parent.chmod(0o755)
    assert "open to others" in ignored(state)
    with pytest.raises(MeshcaError, match="open to others") as failure:
        state.save(HELD)
    assert failure.value.kind is ErrorKind.INTERNAL


def test_a_link_is_not_followed(state: AgentState, tmp_path: Path) -> None:
    state.path.rename(tmp_path / "elsewhere")
    state.path.symlink_to(tmp_path / "elsewhere")
    assert "cannot be read" in ignored(state)


def test_a_pipe_in_its_place_does_not_block_the_start(state: AgentState) -> None:
    state.path.unlink()
    os.mkfifo(state.path, 0o600)
    assert "no regular file" in ignored(state)


def test_a_swapped_key_is_noticed(state: AgentState) -> None:
    document = json.loads(state.path.read_text())
    document["private_key"] = identity(ROOT).svid.private_key_pem.decode()
    state.path.write_text(json.dumps(document))
    assert "private key is not that of its certificate" in ignored(state)


def place(factory: pytest.TempPathFactory, content: bytes) -> AgentState:
    """A state file that fits but for its content, without waiting for the disk."""
    state = AgentState(factory.getbasetemp() / "damaged", BINDING)
    state.path.parent.mkdir(mode=0o700, exist_ok=True)
    state.path.write_bytes(content)
    state.path.chmod(0o600)
    return state


@given(st.data())
def test_no_damage_crashes_the_agent(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    raw = bytearray(json.dumps(_document(HELD, BINDING)).encode())
    start = data.draw(st.integers(0, len(raw) - 1))
    raw[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=8))
    state = place(tmp_path_factory, bytes(raw))
    loaded = state.load(now())
    assert loaded is None or loaded.spiffe_id == HELD.spiffe_id


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
)


@given(
    st.sampled_from(
        ["format", "chain", "private_key", "bundle", "mtls_address", "received_at", "spiffe_id", "binding"]
    ),
    JSON,
)
def test_no_field_of_a_strange_type_crashes_the_agent(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: object
) -> None:
    document = _document(HELD, BINDING) | {field: value}
    loaded = place(tmp_path_factory, json.dumps(document).encode()).load(now())
    assert loaded is None or loaded.svid == HELD.svid


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "7", "[" * 100_000, '"' + "x" * 2_000_000 + '"'])
def test_what_is_no_document_is_ignored(state: AgentState, text: str) -> None:
    state.path.write_text(text)
    assert ignored(state)


def test_a_failed_save_keeps_the_old_file(state: AgentState) -> None:
    (state.path.parent / ".identity.json.tmp").mkdir()
    with pytest.raises(MeshcaError, match="cannot save"):
        state.save(identity(ROOT))
    loaded = state.load(now())
    assert loaded is not None
    assert loaded.serial == HELD.serial
