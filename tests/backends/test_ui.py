# SPDX-License-Identifier: Apache-2.0
"""Jaeger's page is the one that we know, or it is left out and a sentence says why."""

import urllib.request
from pathlib import Path

import pytest

from . import ui
from .build import cache_folder
from .jaeger import Jaeger
from .test_build import left_in, script
from .ui import UiMissing, fetch_ui, install_ui


@pytest.fixture
def cargo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where to write a fake `cargo`: the only one to be found, since a home has none."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder / "cargo"


def test_without_cargo_jaeger_starts_all_the_same(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said in one sentence, and traces can be read through the query API."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    said: list[str] = []
    page = install_ui(tmp_path / "cache", said.append)
    assert page is None
    assert said == ["Jaeger is started without its page: cargo is not installed, and 1.82 or newer fetches it"]
    with Jaeger.start(binary, tmp_path, page) as jaeger:
        assert jaeger.services() == []


def test_a_cargo_that_is_too_old_is_named(cargo: Path, tmp_path: Path) -> None:
    """With what it said itself; nothing is left in the cache."""
    script(cargo, "echo 'error: no such command: info' >&2; exit 101")
    with pytest.raises(UiMissing, match=r"needs cargo 1\.82 or newer \(error: no such command: info\)"):
        fetch_ui(tmp_path / "cache")
    assert left_in(tmp_path / "cache") == []


def test_another_archive_is_refused(cargo: Path, tmp_path: Path) -> None:
    """Whatever is served under this name must have the known SHA-256."""
    crate = f"{ui.CRATE}-{ui.CRATE_VERSION}.crate"
    script(cargo, f'mkdir -p "$CARGO_HOME/registry/cache/x"; echo other > "$CARGO_HOME/registry/cache/x/{crate}"')
    with pytest.raises(UiMissing, match="another SHA-256"):
        fetch_ui(tmp_path / "cache")
    assert left_in(tmp_path / "cache") == []


def test_the_page_is_jaegers_own(binary: Path, tmp_path: Path) -> None:
    """What is served at the address is the page, not the placeholder of a build without one."""
    try:
        page = fetch_ui(cache_folder())
    except UiMissing as missing:
        pytest.skip(str(missing))
    with Jaeger.start(binary, tmp_path, page) as jaeger, urllib.request.urlopen(jaeger.query, timeout=60) as answer:
        assert "<title>Jaeger UI</title>" in answer.read().decode()
