# SPDX-License-Identifier: Apache-2.0
"""deploy/otel-qemu.service as systemd reads it: every directive is known, and few rights are open."""

import re
import subprocess
from pathlib import Path

import pytest

from otel_qemu import cli
from otel_qemu.errors import BadInput
from tests.kernel.unit_file import UNIT, capabilities, directive
from tests.support.effective_settings import read_settings

ROOT = Path(__file__).parents[2]
EXPOSED = 26
"""The most that ``systemd-analyze security`` may say, in tenths."""


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["systemd-analyze", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with an existing program in place of ours, because systemd checks that it exists."""
    text = UNIT.read_text()
    assert text.count("/opt/otel-qemu/bin/otel-qemu ") == 1
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("/opt/otel-qemu/bin/otel-qemu ", "/bin/true "))
    return copy


def test_systemd_finds_nothing_to_say(unit: Path) -> None:
    """systemd-analyze finds no unknown directive and no value that it does not understand."""
    done = analyze("verify", str(unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_what_is_misspelt_would_be_said(unit: Path) -> None:
    """The test above fails for a unit with a mistake."""
    unit.write_text(unit.read_text().replace("WatchdogSec=60", "WatchdogSec=often\nProtectHoem=yes"))
    said = analyze("verify", str(unit)).stderr
    assert "Failed to parse sec value" in said
    assert "ProtectHoem" in said


def test_little_is_open(unit: Path) -> None:
    """systemd's own exposure is low, and higher without one of the protections."""
    security = ("security", "--offline=true", "--no-pager", f"--threshold={EXPOSED}")
    assert analyze(*security, str(unit)).returncode == 0
    unit.write_text(unit.read_text().replace("ProtectSystem=strict\n", "").replace("NoNewPrivileges=yes\n", ""))
    assert analyze(*security, str(unit)).returncode != 0


def test_no_capability_beyond_those_that_it_runs_with() -> None:
    """The bounding set equals the ambient set."""
    assert capabilities("CapabilityBoundingSet") == capabilities("AmbientCapabilities")


def test_it_is_alive_more_often_than_it_is_asked() -> None:
    """With any settings the loop reports at least four times within the watchdog's time."""
    (watchdog_s,) = map(int, directive("WatchdogSec"))
    with pytest.raises(BadInput, match="--drain-interval"):
        read_settings({"drain-interval": f"{watchdog_s // 4}s"}, {})


def test_the_command_is_one_that_there_is() -> None:
    """The command of the unit exists, with its options."""
    _, command, *options = directive("ExecStart")
    assert cli.cli.commands[command].make_context(command, options).params["wait"] is True


def test_the_user_of_the_unit_is_made() -> None:
    """systemd-sysusers creates it from the file beside the unit."""
    (line,) = re.findall(r"^u (\S+) ", (ROOT / "deploy/otel-qemu.sysusers").read_text(), re.M)
    assert directive("User") == directive("Group") == [line]
    command = ["systemd-sysusers", "--dry-run", str(ROOT / "deploy/otel-qemu.sysusers")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_files_that_come_with_it_are_read(tmp_path: Path) -> None:
    """Settings are settings, also those that are commented out; variables are OpenTelemetry's."""
    text = (ROOT / "deploy/otel-qemu.toml").read_text()
    everything = tmp_path / "everything.toml"
    everything.write_text(re.sub(r"^# (?=[a-z-]+ = )", "", text, flags=re.M))
    read = [read_settings({}, {}, file) for file in (ROOT / "deploy/otel-qemu.toml", everything)]
    given = [[name for name, origin in each.origins.items() if origin != "default"] for each in read]
    assert given[0] == ["one-in", "slow", "guest-rate"]
    assert given[1] == ["one-in", "slow", "slow-operation", "guest-rate"]
    variables = re.findall(r"^#?(\w+)=", (ROOT / "deploy/otel-qemu.default").read_text(), re.M)
    assert all(name.startswith("OTEL_") for name in variables)
