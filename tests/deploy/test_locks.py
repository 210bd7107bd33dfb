"""The lock files: complete, hashed, and of one mind."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ["build", "runtime", "dev"]


def lock(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.lock").read_text()


def pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9_.-]+)==([^ ;\\]+)", lock(name), re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_with_its_hashes(name: str) -> None:
    entries = re.split(r"^(?=[a-z0-9])", lock(name), flags=re.MULTILINE)[1:]
    assert entries
    assert [entry.split("\n")[0] for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("name", LOCKS)
def test_no_lock_names_a_place_to_fetch_from(name: str) -> None:
    assert re.findall(r"https?://|--(?:extra-)?index-url|--find-links", lock(name)) == []


def test_development_runs_on_what_is_shipped() -> None:
    shipped, developed = pins("runtime"), pins("dev")
    assert {name: version for name, version in shipped.items() if developed.get(name) != version} == {}


def test_every_dependency_of_the_project_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["demo"]]
    missing = {_name(each) for each in asked} - pins("runtime").keys()
    missing |= {_name(each) for each in project["dependency-groups"]["dev"]} - pins("dev").keys()
    assert missing == set(), "run `make lock`"


def test_the_build_is_locked_as_pyproject_asks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = (ROOT / "requirements" / "build.in").read_text().splitlines()
    assert set(project["build-system"]["requires"]) <= set(asked)


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower().replace("_", "-")
