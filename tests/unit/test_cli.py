# SPDX-License-Identifier: Apache-2.0
"""Options of the command line that say what to keep: read as meant, or refused with one line."""

import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import click
import pytest

from otel_qemu import cli
from otel_qemu.errors import NothingToTrace
from otel_qemu.policy import EVERYTHING, KeepPolicy

USAGE = 2
RECORDING = str(Path(__file__).parents[1] / "replay/recordings/throttled.otq")


class _Asked(NothingToTrace):
    """Stops a command where it would begin to trace."""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[KeepPolicy]]:
    """What the commands ask to be kept; none of them traces."""
    monkeypatch.chdir(tmp_path)
    found: list[KeepPolicy] = []

    def service(_selection: object, _sinks: object, *, policy: KeepPolicy, **_others: object) -> None:
        found.append(policy)
        raise _Asked("nothing is traced here")

    with patch.object(cli, "Service", service):
        yield found


def record(*options: str) -> int:
    """Exit status of `record` with some options."""
    return cli.main(["record", "-o", "recording", *options])


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ((), EVERYTHING),
        (("--one-in", "0"), KeepPolicy(0)),
        (("--one-in", "1000", "--slow", "100ms"), KeepPolicy(1000, 0.1)),
        (("--slow", "off"), EVERYTHING),
        (("--slow", "0.5"), KeepPolicy(1, 0.5)),
        (("--slow", "250us"), KeepPolicy(1, 0.00025)),
        (("--slow-operation", "WRITE=20ms"), KeepPolicy(1, None, (("WRITE", 0.02),))),
        (("--slow-operation", "write=20MS", "--slow-operation", "Unmap=1s"),
         KeepPolicy(1, None, (("WRITE", 0.02), ("UNMAP", 1.0)))),
        (("--slow", "1", "--slow-operation", "OTHER=2"), KeepPolicy(1, 1.0, (("OTHER", 2.0),))),
    ],
)  # fmt: skip
def test_what_to_keep_is_read(asked: list[KeepPolicy], options: tuple[str, ...], policy: KeepPolicy) -> None:
    """Durations with and without unit, operations in any case, one after the other."""
    assert record(*options) == NothingToTrace.exit_code
    assert asked == [policy]


def test_run_keeps_what_is_worth_seeing(asked: list[KeepPolicy]) -> None:
    """By default errors, what takes 100 ms, and one in a thousand; `record` keeps all."""
    assert cli.main(["run"]) == NothingToTrace.exit_code
    assert cli.main(["run", "--one-in", "1", "--guest-rate", "off"]) == NothingToTrace.exit_code
    assert asked == [KeepPolicy(1000, 0.1), KeepPolicy(1, 0.1)]


def test_variables_are_for_run_alone(asked: list[KeepPolicy], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a service is given in its environment changes no recording."""
    monkeypatch.setenv("OTEL_QEMU_ONE_IN", "7")
    assert record() == NothingToTrace.exit_code
    assert cli.main(["run"]) == NothingToTrace.exit_code
    assert [policy.one_in for policy in asked] == [1, 7]


@pytest.mark.parametrize("rate", ["-1", "many"])
def test_a_rate_is_a_number(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--guest-rate", rate]) == USAGE
    assert "--guest-rate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--one-in", "-1"), ("--one-in", "-1")),
        (("--one-in", "1.5"), ("--one-in", "1.5")),
        (("--one-in", "many"), ("--one-in", "many")),
        (("--one-in", "4294967297"), ("--one-in", "0 to 4294967296")),
        (("--slow", ""), ("--slow", "a duration like 100ms, or off")),
        (("--slow", "soon"), ("--slow", '"soon" is not allowed', "100ms")),
        (("--slow", "-1ms"), ("--slow", "is not allowed")),
        (("--slow", "0"), ("--slow", "is not allowed")),
        (("--slow", "nan"), ("--slow", "is not allowed")),
        (("--slow", "1e30"), ("--slow", "is not allowed")),
        (("--slow", "1ms,5ms"), ("--slow", '"1ms,5ms" is not allowed')),
        (("--slow-operation", "20ms"), ("--slow-operation", '"20ms" is not allowed', "like WRITE=20ms")),
        (("--slow-operation", "=20ms"), ("--slow-operation", '"" is no SCSI operation')),
        (("--slow-operation", "DELETE=20ms"), ("--slow-operation", '"DELETE" is no SCSI operation', "READ")),
        (("--slow-operation", "WRITE"), ("--slow-operation", "like WRITE=20ms")),
        (("--slow-operation", "WRITE="), ("--slow-operation", "WRITE: ", "a duration like 20ms")),
        (("--slow-operation", "WRITE=slow"), ("--slow-operation", 'WRITE: "slow" is not allowed')),
        (("--slow-operation", "WRITE=1ms,2ms"), ("--slow-operation", "WRITE: ")),
        (("--slow-operation", "WRITE=1=2"), ("--slow-operation", 'WRITE: "1=2"')),
        (("--slow-operation", "WRITE=1e30"), ("--slow-operation", 'WRITE: "1e30"')),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_one_line(
    asked: list[KeepPolicy], capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """Exit status 2, and a line that names the option and what is wrong with it; nothing is begun."""
    assert record(*options) == USAGE
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert all(word in said for word in words)
    assert asked == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "Missing command: see `otel-qemu --help`"),
        ("trace", "No such command 'trace': see `otel-qemu --help`"),
        (
            "check --pid qemu",
            """'--pid': "qemu" is not allowed: it must be the id of a process: see `otel-qemu check""",
        ),
        ("hist --duration 0", """'--duration': "0" is not allowed: it must be a number of seconds above 0: see"""),
        ("hist --duration nan", """'--duration': "nan" is not allowed"""),
        ("replay --slowest 0 x", """'--slowest': "0" is not allowed: it must be a whole number from 1 on: see"""),
    ],
)
def test_wrong_usage_is_one_line_with_the_help_to_read(
    capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    """Exit status 2; nothing of click's own types, and no page of usage."""
    assert cli.main(line.split()) == USAGE
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize("command", ["run", "record"])
def test_commands_that_keep_traces_have_the_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And say so."""
    cli.main([command, "--help"])
    said = capsys.readouterr().out
    assert all(option in said for option in ("--one-in", "--slow ", "--slow-operation"))


@pytest.mark.parametrize("command", sorted(cli.cli.commands))
def test_help_lines_are_sentences_and_show_the_default(command: str) -> None:
    """Help is not read in order: no line goes on with the one before it, and no default has to be guessed."""
    for option in cli.cli.commands[command].params:
        if isinstance(option, click.Option):
            assert re.fullmatch(r"(?!So |Also that|The same)[A-Z].*\.", option.help or ""), option.name
            assert option.is_flag or option.required or option.show_default, option.name


@pytest.mark.parametrize("bounds", ["exponential:1", "exponential:9", "2ms,1ms", "", ",".join(map(str, range(1, 33)))])
def test_bounds_that_the_kernel_cannot_count_with_are_refused(
    asked: list[KeepPolicy], capsys: pytest.CaptureFixture[str], bounds: str
) -> None:
    """At once, and not when the first guest comes: out of order, no scale, or more than it has room for."""
    for command in ("hist", "run"):
        assert cli.main([command, "--bounds", bounds]) == USAGE
        said = capsys.readouterr().err
        assert "--bounds" in said
        assert "at most 31 ascending durations" in said
    assert asked == []


def test_bounds_of_records_may_be_any(capsys: pytest.CaptureFixture[str]) -> None:
    """`replay --hist` counts in memory of its own, with finer bounds than the kernel's."""
    assert cli.main(["replay", RECORDING, "--hist", "--bounds", "exponential:3"]) == 0
    assert "WRITE" in capsys.readouterr().out


def test_histograms_need_no_records(asked: list[KeepPolicy]) -> None:
    """`hist` keeps nothing but errors: it reads what the kernel has counted."""
    assert cli.main(["hist"]) == NothingToTrace.exit_code
    assert asked == [KeepPolicy(0)]


@pytest.mark.parametrize("command", [("hist",), ("record", "-o", "recording")])
@pytest.mark.parametrize("audit", [True, False])
def test_an_audit_keeps_all_that_it_compares(tmp_path: Path, command: tuple[str, ...], audit: bool) -> None:
    """`hist` needs no record, and its audit needs them all; `record` keeps what its options say."""
    with patch.object(cli, "Service", side_effect=_Asked("nothing is traced here")) as service:
        line = [str(tmp_path / word) if word == "recording" else word for word in command]
        assert cli.main([*line, *["--audit"] * audit]) == NothingToTrace.exit_code
    options = service.call_args.kwargs
    assert options["audit"] == audit
    assert (options["policy"] == EVERYTHING) == (audit or command[0] == "record")
