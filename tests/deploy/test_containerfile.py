"""The Containerfile: no builder runs here, so this reads it as one would."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """Instruction and argument, continuation lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / "deploy" / "Containerfile").read_text())
    lines = (line.strip() for line in text.splitlines())
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines if line and not line.startswith("#")]


def final_stage() -> list[tuple[str, str]]:
    found = instructions()
    starts = [index for index, (name, _) in enumerate(found) if name == "FROM"]
    return found[starts[-1] :]


def of(name: str, found: list[tuple[str, str]]) -> list[str]:
    return [argument for instruction, argument in found if instruction == name]


def test_what_it_copies_is_there() -> None:
    copied = [argument.split() for argument in of("COPY", instructions()) if not argument.startswith("--from")]
    sources = [source for words in copied for source in words[:-1]]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_everything_that_is_fetched_is_pinned_by_hash() -> None:
    installs = re.findall(r"pip install [^&]*", " ".join(of("RUN", instructions())))
    assert len(installs) == 3
    for install in installs:
        assert "--no-deps" in install
        assert "--require-hashes" in install or "--no-index" in install
    assert "--no-build-isolation" in " ".join(of("RUN", instructions()))


def test_the_process_is_not_root_and_cannot_change_its_code() -> None:
    assert of("USER", final_stage()) == ["65532:65532"]
    assert "--chown" not in " ".join(of("COPY", final_stage()))


def test_it_carries_no_build_tools() -> None:
    assert of("COPY", final_stage()) == ["--from=build /opt/meshca /opt/meshca"]


def test_it_is_healthy_when_it_is_ready() -> None:
    check = of("HEALTHCHECK", final_stage())[0]
    command = json.loads(check.partition("CMD ")[2])
    assert "http://127.0.0.1:15014/readyz" in command[-1]
    compile(command[-1], "healthcheck", "exec")


def test_it_starts_the_server() -> None:
    assert json.loads(of("ENTRYPOINT", final_stage())[0]) == ["meshca"]
    assert json.loads(of("CMD", final_stage())[0])[0] == "server"
