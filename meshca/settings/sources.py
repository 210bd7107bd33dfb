"""Where settings come from: flags before environment (`MESHCA_…`) before the TOML file; unknown keys are errors."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from meshca.errors import MeshcaError, invalid

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
# pydantic's words for these are about its own types
_PROBLEMS = {
    "extra_forbidden": "unknown key",
    "missing": "is required",
    "tuple_type": 'write it as a list, such as ["a", "b"]',
    "frozen_set_type": 'write it as a list, such as ["a", "b"]',
    "model_type": "write it as a table",
    "model_attributes_type": "write it as a table",
}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> object:
    """`90s`, `10m`, `1h30m`, `30d` or a number of seconds as a timedelta.

    ISO 8601 (`PT1H`, how settings travel to worker processes) and other types are left to the validator. Raises
    ValueError for any other text.
    """
    if isinstance(value, bool):
        raise ValueError(f"{value} is not a duration: write it like 90s, 10m, 1h30m or 30d")  # noqa: TRY004  # pydantic's
    if not isinstance(value, str | int | float):
        return value
    if isinstance(value, str) and value.startswith("P"):
        return value
    if isinstance(value, int | float):
        return _seconds(value)
    parts = _DURATION.findall(value.strip())
    if not parts or "".join(number + unit for number, unit in parts) != value.strip():
        raise ValueError(f"{value!r} is not a duration: write it like 90s, 10m, 1h30m or 30d")
    return _seconds(sum(float(number) * _UNITS[unit] for number, unit in parts))


def _seconds(value: float) -> timedelta:
    try:
        return timedelta(seconds=value)
    except OverflowError as error:
        raise ValueError("the duration is too long: at most 999999999d can be told") from error


def read_duration(flag: str, value: str) -> timedelta:
    """The duration that a flag was given; raises INVALID that names the flag."""
    try:
        parsed = parse_duration(value)
    except ValueError as error:
        raise invalid(f"{flag}: {error}") from error
    if not isinstance(parsed, timedelta):
        raise invalid(f"{flag}: {value!r} is not a duration: write it like 90s, 10m, 1h30m or 30d")
    return parsed


Duration = Annotated[timedelta, BeforeValidator(parse_duration), Field(ge=timedelta(0))]


class Section(BaseModel):
    """A table of the configuration file: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Settings(BaseSettings):
    """The root of a program's configuration. Read it with `load_settings`."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="MESHCA_", env_nested_delimiter="__")


S = TypeVar("S", bound=Settings)


def load_settings(model: type[S], flags: Mapping[str, object], config: Path | None) -> S:
    """The settings of `model`; `flags` that are None were not given.

    Raises INVALID that names every problem, one a line.
    """
    from_file = {} if config is None else read_toml(config)

    class Loaded(model):  # type: ignore[misc, valid-type]  # the sources of one call; the base is a parameter
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],  # noqa: ARG003
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic names the parameters
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[Any, ...]:
            return (init_settings, env_settings, lambda: from_file)

    try:
        loaded: S = Loaded(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise _problems(error) from error
    except SettingsError as error:  # a list or table in the environment that is no JSON
        raise invalid(f"configuration: {_unparsable(model, error)} in the environment: write it as JSON") from error
    return loaded


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; raises INVALID where it cannot be read or parsed."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise invalid(f"--config {path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise invalid(f"--config {path}: is not TOML: {error}") from error


def _problems(error: ValidationError) -> MeshcaError:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in problem["loc"])
        what = _PROBLEMS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
        lines.append(f"{where}: {what}" if where else what)
    return invalid("configuration: " + "\n".join(lines))


def _unparsable(model: type[Settings], error: SettingsError) -> str:
    """The variable that the error is about, if it tells."""
    named = re.search(r'field "(\w+)"', str(error))
    prefix = model.model_config.get("env_prefix", "")
    return f"{prefix}{named[1].upper()}" if named else "a variable"
