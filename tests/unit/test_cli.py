"""Options of the command line that say what to keep: read as meant, or refused with one line."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from otel_qemu import cli
from otel_qemu.errors import NothingToTrace
from otel_qemu.probe.keeping import EVERYTHING, Keeping

USAGE = 2


class _Asked(NothingToTrace):
    """Stops a command where it would begin to trace."""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Keeping]]:
    """What the commands ask to be kept; none of them traces."""
    monkeypatch.chdir(tmp_path)
    found: list[Keeping] = []

    def service(_selection: object, _sinks: object, keeping: Keeping, *_others: object, **_more: object) -> None:
        found.append(keeping)
        raise _Asked("nothing is traced here")

    with patch.object(cli, "Service", service):
        yield found


def record(*options: str) -> int:
    """Exit status of `record` with some options."""
    return cli.main(["record", "-o", "recording", *options])


@pytest.mark.parametrize(
    ("options", "keeping"),
    [
        ((), EVERYTHING),
        (("--one-in", "0"), Keeping(0)),
        (("--one-in", "1000", "--slow", "100ms"), Keeping(1000, 0.1)),
        (("--slow", "0.5"), Keeping(1, 0.5)),
        (("--slow", "250us"), Keeping(1, 0.00025)),
        (("--slow-operation", "WRITE=20ms"), Keeping(1, None, (("WRITE", 0.02),))),
        (("--slow-operation", "write=20MS", "--slow-operation", "Unmap=1s"),
         Keeping(1, None, (("WRITE", 0.02), ("UNMAP", 1.0)))),
        (("--slow", "1", "--slow-operation", "OTHER=2"), Keeping(1, 1.0, (("OTHER", 2.0),))),
    ],
)  # fmt: skip
def test_what_to_keep_is_read(asked: list[Keeping], options: tuple[str, ...], keeping: Keeping) -> None:
    """Durations with and without unit, operations in any case, one after the other."""
    assert record(*options) == NothingToTrace.exit_code
    assert asked == [keeping]


def test_run_keeps_what_is_worth_seeing(asked: list[Keeping]) -> None:
    """By default errors, what takes 100 ms, and one in a thousand; `record` keeps all."""
    assert cli.main(["run"]) == NothingToTrace.exit_code
    assert cli.main(["run", "--one-in", "1", "--guest-rate", "off"]) == NothingToTrace.exit_code
    assert asked == [Keeping(1000, 0.1), Keeping(1, 0.1)]


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
        (("--slow", ""), ("--slow", "is not a duration")),
        (("--slow", "soon"), ("--slow", "'soon' is not a duration", "100ms")),
        (("--slow", "-1ms"), ("--slow", "is not a duration")),
        (("--slow", "0"), ("--slow", "is not a duration")),
        (("--slow", "nan"), ("--slow", "is not a duration")),
        (("--slow", "1e30"), ("--slow", "is not a duration")),
        (("--slow", "1ms,5ms"), ("--slow", "'1ms,5ms' is not a duration", "give one")),
        (("--slow-operation", "20ms"), ("--slow-operation", "'20ms' is no SCSI operation", "WRITE_SAME")),
        (("--slow-operation", "=20ms"), ("--slow-operation", "'' is no SCSI operation")),
        (("--slow-operation", "DELETE=20ms"), ("--slow-operation", "'DELETE' is no SCSI operation", "READ")),
        (("--slow-operation", "WRITE"), ("--slow-operation", "is not a duration")),
        (("--slow-operation", "WRITE="), ("--slow-operation", "is not a duration")),
        (("--slow-operation", "WRITE=slow"), ("--slow-operation", "'slow' is not a duration")),
        (("--slow-operation", "WRITE=1ms,2ms"), ("--slow-operation", "is not a duration")),
        (("--slow-operation", "WRITE=1=2"), ("--slow-operation", "'1=2' is not a duration")),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_one_line(
    asked: list[Keeping], capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """Exit status 2, and a line that names the option and what is wrong with it; nothing is begun."""
    assert record(*options) == USAGE
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert all(word in said for word in words)
    assert asked == []


@pytest.mark.parametrize("command", ["run", "record"])
def test_commands_that_keep_traces_have_the_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And say so."""
    cli.main([command, "--help"])
    said = capsys.readouterr().out
    assert all(option in said for option in ("--one-in", "--slow ", "--slow-operation"))


def test_histograms_need_no_records(asked: list[Keeping]) -> None:
    """`hist` keeps nothing but errors: it reads what the kernel has counted."""
    assert cli.main(["hist"]) == NothingToTrace.exit_code
    assert asked == [Keeping(0)]


@pytest.mark.parametrize("command", [("hist",), ("record", "-o", "recording")])
@pytest.mark.parametrize("audit", [True, False])
def test_an_audit_keeps_all_that_it_compares(tmp_path: Path, command: tuple[str, ...], audit: bool) -> None:
    """`hist` needs no record, and its audit needs them all; what `record` keeps is what it was told."""
    with patch.object(cli, "Service", side_effect=_Asked("nothing is traced here")) as service:
        line = [str(tmp_path / word) if word == "recording" else word for word in command]
        assert cli.main([*line, *["--audit"] * audit]) == NothingToTrace.exit_code
    (_selection, _sinks, keeping, *_), options = service.call_args
    assert options["audit"] == audit
    assert (keeping == EVERYTHING) == (audit or command[0] == "record")
