# SPDX-License-Identifier: Apache-2.0
"""Stripped binaries and a debuginfod for tests of symbols; no test asks anybody else's servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stripped import FIXED, PIE, Debuginfod, Stripped, serving


@pytest.fixture(autouse=True)
def no_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody's servers or cache are used."""
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    monkeypatch.setenv("DEBUGINFOD_CACHE_PATH", str(tmp_path / "cache"))


@pytest.fixture(params=[PIE, FIXED], ids=["pie", "no-pie"])
def stripped(request: pytest.FixtureRequest, tmp_path: Path) -> Stripped:
    return Stripped(tmp_path, *request.param)


@pytest.fixture
def fixed(tmp_path: Path) -> Stripped:
    return Stripped(tmp_path, *FIXED)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Debuginfod]]:
    """A debuginfod that the user has set."""
    with serving() as url:
        monkeypatch.setenv("DEBUGINFOD_URLS", f"{url}/")
        yield Debuginfod
