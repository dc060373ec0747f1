# SPDX-License-Identifier: Apache-2.0
"""deploy/prepare.sh gives the demo and the tests their environment in either order, and makes none twice."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# In place of venv and pip, which would ask PyPI: each call is written down, and the environment has a python.
RECORDED = """
set -euo pipefail
. ./prepare.sh
make_environment() { echo made >>calls; rm -rf .venv; mkdir -p .venv/bin; ln -s /usr/bin/python3 .venv/bin/python; }
pip_install() { echo "$*" >>calls; }
"""
DEMO, TESTS = "need_environment", "need_environment '[dev]'"
MADE, PACKAGE, DEV = "made", "--editable .", "--editable .[dev]"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what prepare.sh needs of a checkout."""
    shutil.copy(ROOT / "deploy/prepare.sh", tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    return tmp_path


def prepare(checkout: Path, *commands: str, env: dict[str, str] | None = None) -> list[str]:
    """Run each command in a shell of its own; gives what was made and installed."""
    calls = checkout / "calls"
    calls.write_text("")
    for command in commands:
        line = ["bash", "-c", f"{RECORDED}\n{command}"]
        subprocess.run(line, cwd=checkout, env=env, check=True, capture_output=True, timeout=60)
    return calls.read_text().splitlines()


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([DEMO, TESTS], [MADE, PACKAGE, DEV]),
        ([TESTS, DEMO], [MADE, DEV]),
        ([DEMO, TESTS, DEMO, TESTS], [MADE, PACKAGE, DEV]),
        ([TESTS, TESTS], [MADE, DEV]),
    ],
    ids=["demo-tests", "tests-demo", "twice", "tests-tests"],
)
def test_either_order_installs_what_is_missing_and_no_more(
    checkout: Path, order: list[str], expected: list[str]
) -> None:
    """The tests' extra is added to the demo's environment, and the demo takes the tests' one as it is."""
    assert prepare(checkout, *order) == expected


def test_a_changed_pyproject_makes_it_anew_with_all_that_it_had(checkout: Path) -> None:
    """So the demo after a change leaves the tests' extra in place."""
    prepare(checkout, TESTS)
    (checkout / "pyproject.toml").write_text("[project]\nname = 'changed'\n")
    assert prepare(checkout, DEMO, TESTS) == [MADE, PACKAGE, DEV]


def test_one_that_was_broken_off_is_made_anew(checkout: Path) -> None:
    """An environment whose first installation failed has no stamp."""
    broken = "pip_install() { false; }; need_environment || true"
    with pytest.raises(subprocess.CalledProcessError) as failed:
        prepare(checkout, broken)
    assert failed.value.returncode == 4
    assert prepare(checkout, DEMO) == [MADE, PACKAGE]


def test_neither_home_nor_path_is_needed(checkout: Path) -> None:
    """As under cron: a home is found for Go's caches, dpkg's folders are in PATH, and no escape codes are printed."""
    line = ["/bin/bash", "-c", f"{RECORDED}\nsay hello; echo $HOME:$PATH"]
    done = subprocess.run(line, cwd=checkout, env={}, check=True, capture_output=True, text=True, timeout=60)
    home, path = done.stdout.split(":", 1)
    assert home == pwd.getpwuid(os.getuid()).pw_dir
    assert "/usr/sbin" in path.split(":")
    assert "\x1b" not in done.stderr
