"""The Envoy examples in deploy/envoy and the commands in its README that print them.

`python -m tests.deploy.examples` writes them anew.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"
ENVOY = DEPLOY / "envoy"


def commands() -> dict[str, list[str]]:
    """The arguments of `meshca`, by the name of the file that the README sends its output to."""
    blocks = re.findall(r"```sh\nmeshca (.*?) > ([a-z]+\.json)\n```", (ENVOY / "README.md").read_text(), re.DOTALL)
    return {name: shlex.split(arguments.replace("\\\n", " ")) for arguments, name in blocks}


def printed(arguments: list[str]) -> str:
    """What `meshca` prints."""
    command = [sys.executable, "-m", "meshca.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


if __name__ == "__main__":
    for file, found in commands().items():
        (ENVOY / file).write_text(printed(found))
