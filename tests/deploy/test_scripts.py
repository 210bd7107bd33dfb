"""The scripts that a newcomer runs first: what they install, what they leave alone, and how they fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_INDEX = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with everything that installing looks at, and no environment."""
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def quickstart(project: Path, *arguments: str, env: Mapping[str, str] = NO_INDEX) -> subprocess.CompletedProcess[str]:
    command = [str(project / "scripts" / "quickstart"), *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": str(project), **env}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)


def pretend_installed(project: Path, kind: str) -> None:
    """An environment with the stamp of a finished installation, whose meshca tells how it was called."""
    programs = project / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (programs / "meshca").write_text('#!/bin/sh\necho "meshca $*"\n')
    (programs / "meshca").chmod(0o755)
    stamp = subprocess.run(
        ["bash", "-c", f'. scripts/lib.sh; wanted {kind} > "$stamp"'], cwd=project, check=True, capture_output=True
    )
    assert not stamp.stderr


@pytest.mark.parametrize("kind", ["runtime", "dev"])
def test_quickstart_runs_the_demo_at_once_where_the_environment_is_up_to_date(project: Path, kind: str) -> None:
    pretend_installed(project, kind)
    started = quickstart(project, "--once")
    assert (started.returncode, started.stdout, started.stderr) == (0, "meshca demo --once\n", "")


def test_an_environment_for_development_is_renewed_as_one_and_never_reduced(project: Path) -> None:
    pretend_installed(project, "dev")
    (project / "requirements" / "dev.lock").write_text("changed")
    refused = quickstart(project)
    assert "installing into .venv from requirements/dev.lock" in refused.stderr


def test_an_environment_that_was_moved_is_made_anew(project: Path) -> None:
    pretend_installed(project, "runtime")
    stamp = project / ".venv" / ".meshca-installed"
    stamp.write_text(stamp.read_text().replace(str(project), "/somewhere/else"))
    assert "making .venv with Python 3" in quickstart(project).stderr


def test_without_a_package_index_it_says_so_and_counts_nothing_as_installed(project: Path) -> None:
    refused = quickstart(project)
    assert refused.returncode == 1
    assert "quickstart: installing failed" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (project / ".venv" / ".meshca-installed").exists()


def test_a_python_that_is_too_old_is_named(project: Path) -> None:
    old = project / "python2.7"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    refused = quickstart(project, env={"PYTHON": str(old)})
    assert refused.returncode == 1
    assert f"PYTHON={old} is not a Python 3.11 or newer" in refused.stderr
    assert not (project / ".venv").exists()


@pytest.mark.parametrize(
    "script", ["scripts/test", "scripts/quickstart", "scripts/gen-proto", "scripts/rotate-root", ".ci/run"]
)
def test_scripts_are_executable_and_parse(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(ROOT / script)], check=False).returncode == 0


def rotate_root(project: Path, *arguments: str, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess[str]:
    command = [str(project / "scripts" / "rotate-root"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": path}, timeout=30, check=False)


def test_rotate_root_watches_with_the_projects_own_program(project: Path) -> None:
    pretend_installed(project, "runtime")
    done = rotate_root(project, "--data-dir", "a b", "--yes")
    assert (done.returncode, done.stdout) == (0, "meshca rotate root --wait --data-dir a b --yes\n")


def test_rotate_root_takes_the_program_of_the_path_where_the_project_has_none(project: Path) -> None:
    program = project / "bin" / "meshca"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "of the path: $*"; exit 5\n')
    program.chmod(0o755)
    done = rotate_root(project, path=f"{program.parent}:/usr/bin:/bin")
    assert (done.returncode, done.stdout) == (5, "of the path: rotate root --wait\n")


def test_rotate_root_without_any_program_says_so_and_tells_its_usage(project: Path) -> None:
    refused = rotate_root(project)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("rotate-root: there is no meshca in .venv or the PATH")
    usage = rotate_root(project, "--help")
    assert usage.returncode == 0
    assert usage.stdout.startswith("usage: scripts/rotate-root --data-dir DIR")
