"""Where settings come from, which one wins, and how a mistake is named."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import ErrorKind, MeshcaError
from meshca.settings.sources import Duration, Section, Settings, load_settings, parse_duration, read_duration


class Inner(Section):
    pause: Duration = timedelta(seconds=1)
    names: tuple[str, ...] = ()


class Sample(Settings):
    """A configuration of each kind of value."""

    place: Path
    count: int = 1
    pause: Duration = timedelta(seconds=1)
    names: tuple[str, ...] = ()
    inner: Inner = Inner()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MESHCA_")]:
        monkeypatch.delenv(name)


def load(flags: dict[str, object] | None = None, toml: str | None = None, directory: Path | None = None) -> Sample:
    config = None
    if toml is not None:
        assert directory is not None
        config = directory / "meshca.toml"
        config.write_text(toml, "utf-8")
    return load_settings(Sample, {"place": "/p", **(flags or {})}, config)


def refusal(flags: dict[str, object] | None = None, toml: str | None = None, directory: Path | None = None) -> str:
    with pytest.raises(MeshcaError) as refused:
        load(flags, toml, directory)
    assert refused.value.kind is ErrorKind.INVALID
    return refused.value.message


def test_defaults_hold_where_nothing_is_said() -> None:
    sample = load()
    assert (sample.place, sample.count, sample.inner) == (Path("/p"), 1, Inner())


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml = 'count = 2\npause = "2s"\nnames = ["file"]\n[inner]\npause = "3s"\nnames = ["file"]\n'
    assert load(toml=toml, directory=tmp_path).model_dump() == {
        "place": Path("/p"),
        "count": 2,
        "pause": timedelta(seconds=2),
        "names": ("file",),
        "inner": {"pause": timedelta(seconds=3), "names": ("file",)},
    }
    monkeypatch.setenv("MESHCA_COUNT", "3")
    monkeypatch.setenv("MESHCA_NAMES", '["environment"]')
    monkeypatch.setenv("MESHCA_INNER__PAUSE", "4s")
    sample = load({"count": 4}, toml, tmp_path)
    assert (sample.count, sample.names, sample.pause) == (4, ("environment",), timedelta(seconds=2))
    assert sample.inner == Inner(pause=timedelta(seconds=4), names=("file",))


def test_a_flag_that_was_not_given_hides_nothing(tmp_path: Path) -> None:
    assert load({"count": None}, "count = 2", tmp_path).count == 2


def test_settings_do_not_change() -> None:
    sample = load()
    for section in (sample, sample.inner):
        with pytest.raises(ValueError, match="frozen"):
            section.pause = timedelta(0)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("cuont = 1", "configuration: cuont: unknown key"),
        ("[inner]\npuase = 1", "configuration: inner.puase: unknown key"),
        ("[iner]\npause = 1", "configuration: iner: unknown key"),
        ("cuont = 1\n[inner]\npuase = 1", "configuration: inner.puase: unknown key\ncuont: unknown key"),
        ('count = "x"', "configuration: count: Input should be a valid integer, unable to parse string as an integer"),
        ("inner = 3", "configuration: inner: write it as a table"),
        ('pause = "soon"', "configuration: pause: 'soon' is not a duration: write it like 90s, 10m, 1h30m or 30d"),
        ("pause = true", "configuration: pause: True is not a duration: write it like 90s, 10m, 1h30m or 30d"),
        ("pause = inf", "configuration: pause: the duration is too long: at most 999999999d can be told"),
        ("pause = nan", "configuration: pause: cannot convert float NaN to integer"),
        ("pause = -1", "configuration: pause: Input should be greater than or equal to datetime.timedelta(0)"),
        ('[inner]\npause = "9999999999d"', "configuration: inner.pause: the duration is too long"),
    ],
)
def test_names_what_is_wrong_in_the_file(toml: str, message: str, tmp_path: Path) -> None:
    assert refusal(toml=toml, directory=tmp_path).startswith(message)


def test_names_a_flag_that_nobody_knows() -> None:
    assert refusal({"speed": 3}) == "configuration: speed: unknown key"


def test_names_what_is_wrong_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHCA_INNER__SPEED", "3")
    assert refusal() == "configuration: inner.speed: unknown key"


def test_says_how_a_list_in_the_environment_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHCA_NAMES", "secret-a,secret-b")
    message = refusal()
    assert message.startswith("configuration: MESHCA_NAMES in the environment")
    assert message.endswith(": write it as JSON")
    assert "secret" not in message


def test_names_what_is_missing() -> None:
    with pytest.raises(MeshcaError) as refused:
        load_settings(Sample, {}, None)
    assert refused.value.message == "configuration: place: is required"


def test_a_file_that_cannot_be_read_or_is_no_toml_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "nothing.toml"
    with pytest.raises(MeshcaError) as refused:
        load_settings(Sample, {"place": "/p"}, missing)
    assert refused.value.message == f"--config {missing}: cannot be read: No such file or directory"
    assert refusal(toml="a =", directory=tmp_path).startswith(f"--config {tmp_path}/meshca.toml: is not TOML: ")
    (tmp_path / "meshca.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(MeshcaError, match="is not TOML"):
        load_settings(Sample, {"place": "/p"}, tmp_path / "meshca.toml")


def test_a_key_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    assert "is not TOML" in refusal(toml="count = 1\ncount = 2", directory=tmp_path)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("30d", 30 * 86400),
        ("1d2h3m4s5ms", 93784.005),
        ("0.5s", 0.5),
        ("250ms", 0.25),
        (" 5s ", 5),
        ("0s", 0),
        (5, 5),
        (0.5, 0.5),
    ],
)
def test_reads_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", "1h 30m", "-5s", "5S", "5w", "5s,", "1.s", ".5s", "\uff15s", "1e3s", "P"]
)
def test_refuses_what_is_no_duration(text: str) -> None:
    with pytest.raises(MeshcaError) as refused:
        read_duration("--ttl", text)
    assert refused.value.kind is ErrorKind.INVALID
    assert refused.value.message == f"--ttl: {text!r} is not a duration: write it like 90s, 10m, 1h30m or 30d"


def test_refuses_a_duration_beyond_all_bounds() -> None:
    with pytest.raises(MeshcaError) as refused:
        read_duration("--ttl", "99999999999999999999d")
    assert refused.value.message == "--ttl: the duration is too long: at most 999999999d can be told"


@given(st.text(max_size=12) | st.from_regex(r"([0-9]{1,30}(ms|s|m|h|d)){1,4}", fullmatch=True))
def test_a_flag_is_a_duration_or_an_error_that_names_it(text: str) -> None:
    outcome = read(text)
    if isinstance(outcome, MeshcaError):
        assert outcome.message.startswith("--ttl: ")
    else:
        assert outcome >= timedelta(0)


def read(text: str) -> timedelta | MeshcaError:
    try:
        return read_duration("--ttl", text)
    except MeshcaError as error:
        return error


@given(st.dictionaries(st.sampled_from(["days", "hours", "minutes", "seconds"]), st.integers(0, 999), min_size=1))
def test_durations_add_up(parts: dict[str, int]) -> None:
    text = "".join(f"{number}{unit[0]}" for unit, number in parts.items())
    assert parse_duration(text) == timedelta(**parts)


def test_durations_survive_the_way_to_another_process() -> None:
    sample = load({"pause": "1h30m"})
    assert Sample.model_validate_json(sample.model_dump_json()).model_dump() == sample.model_dump()
