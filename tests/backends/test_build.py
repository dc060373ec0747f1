# SPDX-License-Identifier: Apache-2.0
"""
The cache holds a whole executable or none, and whoever cannot build is told what to do, in one line.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.children import child

from . import go as toolchain
from .build import BackendMissing, cache_folder
from .go import find_go
from .jaeger import install
from .query import wait_for

GO_VERSION = 'if [ "$1" = version ]; then echo go version go1.26.5 linux/amd64; exit; fi'
# `go build -C DIR -v -trimpath -ldflags=… -o FILE` then has the file as its eighth argument.
GO_DOWNLOAD = 'if [ "$1" = mod ]; then echo \'{"Dir": "/"}\'; exit; fi'


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    Where to write a fake `go`: the only one to be found.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(toolchain, "GO_FOLDERS", ())
    return folder / "go"


def script(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)


def left_in(cache: Path) -> list[str]:
    return sorted(entry.name for entry in cache.iterdir())


def test_absent_go_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names what is missing and what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain, "GO_FOLDERS", ())
    with pytest.raises(BackendMissing, match=r"needs Go.*: install Go 1\.24\.6 or newer") as missing:
        install(tmp_path / "cache", print)
    assert "\n" not in str(missing.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("version", "accepted"),
    [("go1.19.8", False), ("go1.24.5", False), ("go1.24.6", True), ("go1.26", True), ("devel +1a2b3c", True)],
)
def test_go_must_be_new_enough(go: Path, version: str, accepted: bool) -> None:
    """The distribution's Go is refused before anything is fetched."""
    script(go, f"echo go version {version} linux/amd64")
    if accepted:
        assert find_go("Jaeger") == str(go)
    else:
        with pytest.raises(BackendMissing, match=rf"too old .*\({version}\): install Go"):
            find_go("Jaeger")


def test_a_failed_build_leaves_nothing_and_says_why(go: Path, tmp_path: Path) -> None:
    """The reason is go's last word."""
    script(go, GO_VERSION, GO_DOWNLOAD, "echo go: downloading x >&2", "echo some/file.go: bad >&2", "exit 1")
    with pytest.raises(BackendMissing, match=r"could not be built: some/file\.go: bad$"):
        install(tmp_path / "cache", print)
    assert left_in(tmp_path / "cache") == []


def test_a_version_that_is_not_served_is_told(go: Path, tmp_path: Path) -> None:
    """`go mod download -json` has its error in its answer."""
    script(go, GO_VERSION, f"echo '{json.dumps({'Error': 'not to be had'})}'; exit 1")
    with pytest.raises(BackendMissing, match=r"could not be built: not to be had$"):
        install(tmp_path / "cache", print)


def test_progress_is_told_and_the_second_time_needs_no_go(
    go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it takes long there is a line now and then with counts; what is cached is returned at once."""
    monkeypatch.setattr(toolchain, "PROGRESS_S", 0.1)
    work = "echo go: downloading a/b v1 >&2; echo a/b >&2; echo a/b/c >&2; sleep 0.5"
    script(go, GO_VERSION, GO_DOWNLOAD, work, 'cp "$0" "$8"')
    said: list[str] = []
    built = install(tmp_path / "cache", said.append)
    assert any(line.endswith("1 modules fetched, 2 packages compiled") for line in said)
    assert left_in(tmp_path / "cache") == [built.name]
    assert os.access(built, os.X_OK)
    go.unlink()
    assert install(tmp_path / "cache", said.append) == built


def has_ended(pid: str) -> bool:
    """Whether a process is no more, or waits only for process 1 to take notice of its end."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


def test_a_build_broken_off_leaves_no_half_result_and_no_process(go: Path, tmp_path: Path) -> None:
    """Ctrl-C ends go with all that it started, and what was built so far goes."""
    script(go, GO_VERSION, GO_DOWNLOAD, 'echo half > "$8"; sleep 1000 & echo $! > "$8.pid"; wait')
    cache = tmp_path / "cache"
    command = [sys.executable, "-m", "tests.backends", "jaeger"]
    environment = {**os.environ, "OTEL_QEMU_CACHE": str(cache)}
    with child(command, env=environment, stdout=subprocess.DEVNULL) as process:
        # The file is there a moment before the number is in it.
        (pid,) = wait_for(
            lambda: "".join(p.read_text() for p in cache.glob(".building-*/*.pid")).split(), 60, "the build"
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    assert left_in(cache) == []
    wait_for(lambda: has_ended(pid), 60, "its compiler to end")


def test_cache_folder_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_QEMU_CACHE wins over the system's cache."""
    monkeypatch.setenv("OTEL_QEMU_CACHE", "/elsewhere")
    assert cache_folder() == Path("/elsewhere")
    monkeypatch.delenv("OTEL_QEMU_CACHE")
    assert cache_folder() == Path("/var/cache/otel-qemu")
