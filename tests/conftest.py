"""What every test shares: readable failures, reproducible Hypothesis runs, short directories for Unix sockets."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# contract suites fail as readably as tests do; once for all rooms, before any of them imports one
pytest.register_assert_rewrite("tests.contracts")

# `ci` gives the same examples each time; `explore` looks for new ones: HYPOTHESIS_PROFILE=explore scripts/test …
settings.register_profile("ci", derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile(
    "explore", max_examples=2000, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
_FLOWS = Path(__file__).with_name("flows")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first, so that no process waits for another one's last flow."""
    items.sort(key=lambda item: not item.path.is_relative_to(_FLOWS))


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A private directory with a path of about 20 bytes: a Unix socket's path may have 107, and tmp_path is longer."""
    directory = Path(tempfile.mkdtemp(prefix="meshca-", dir="/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
