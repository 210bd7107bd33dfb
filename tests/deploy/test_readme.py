"""The README's words are the program's: its commands and options exist, its configuration is the default one."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from meshca.settings.server import ServerSettings
from tests.programs import meshca

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
NOUNS = ("plugin", "token", "bundle", "ledger", "authority", "rotate", "revocations")


def commands() -> list[str]:
    """Every meshca command in the README's shell blocks, continuation lines joined."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
    return [found.strip() for found in re.findall(r"^(?:\(umask 077; )?(meshca [^>#)\n]+)", blocks, re.MULTILINE)]


@pytest.mark.parametrize("command", commands())
def test_every_command_and_option_exists(command: str) -> None:
    words = shlex.split(re.sub(r"[\[\]]", "", command))[1:]
    name = words[: 2 if words[0] in NOUNS else 1]
    options = re.findall(r"(?<![\w-])(--?[a-z][a-z0-9-]*)", meshca(*name, "--help", environment={"COLUMNS": "300"}))
    assert {word for word in words if word.startswith("-")} <= set(options)


def test_the_configuration_that_it_shows_is_the_default_one_but_for_names_and_issuers() -> None:
    found = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    assert found is not None
    shown = tomllib.loads(found[1])
    settings, default = ServerSettings(data_dir=Path("/d"), **shown), ServerSettings(data_dir=Path("/d"))
    assert settings.issuer.activate_at == pytest.approx(default.issuer.activate_at, abs=1e-3)
    for name in shown.keys() - {"advertise_mtls", "server_names", "issuer", "jwt_issuers"}:
        assert getattr(settings, name) == getattr(default, name), name
