# SPDX-License-Identifier: Apache-2.0
"""Settings: read as meant from flags, environment and file, printed so that they read the same, refused by name."""

import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_qemu import cli
from otel_qemu.errors import BadInput
from otel_qemu.policy import KeepPolicy
from otel_qemu.settings import SETTINGS, Settings
from otel_qemu.settings.file import lines_of
from otel_qemu.settings.types import read_duration, show_duration
from otel_qemu.trace.exponential import exponential_bounds
from otel_qemu.views.configuration import configuration_text
from tests.support.effective_settings import NOWHERE, read_settings

ROOT = Path(__file__).parents[3]

# A value of each setting that is not its default: as a text, in TOML, and as it is read.
OTHERS: dict[str, tuple[str, str, Any]] = {
    "domain": ("web1,db 2", '["web1", "db 2"]', ("web1", "db 2")),
    "one-in": ("250", "250", 250),
    "slow": ("250us", '"250us"', 0.00025),
    "slow-operation": ("write=20ms,UNMAP=1s", '{WRITE = "20ms", unmap = 1}', (("WRITE", 0.02), ("UNMAP", 1.0))),
    "guest-rate": ("0.5", "0.5", 0.5),
    "wait-span": ("0", "0", 0.0),
    "wait-share": ("1", "1.0", 1.0),
    "bounds": ("1ms,2.5ms", '["1ms", 0.0025]', (0.001, 0.0025)),
    "queue-size": ("8MB", "8000000", 8_000_000),
    "drain-interval": ("100ms", "0.1", 0.1),
    "refresh-interval": ("60", '"60s"', 60.0),
    "look-interval": ("1s", "1", 1.0),
}


def read(
    text: str = "", environment: Mapping[str, str] | None = None, folder: Path | None = None, **flags: Any
) -> Settings:
    """The settings of a file of this text, if there is a folder for it, an environment and flags."""
    file = folder / "settings.toml" if folder else None
    if file:
        file.write_text(text)
    return read_settings(flags, environment or {}, file, NOWHERE).settings


def test_every_setting_is_tried_here() -> None:
    """Those that follow are parametrised by the table of other values."""
    assert list(OTHERS) == list(SETTINGS)
    assert all(SETTINGS[name].default != value for name, (_, _, value) in OTHERS.items())


@pytest.mark.parametrize("name", SETTINGS)
def test_each_can_be_given_in_every_way(name: str, tmp_path: Path) -> None:
    """In the file, in the environment and by its flag, and it says the same; only it differs from the defaults."""
    text, toml, value = OTHERS[name]
    setting = SETTINGS[name]
    flag = tuple(text.split(",")) if setting.multiple else text
    expected = Settings(**{str(setting.name): value})

    assert read(f"{name} = {toml}\n", folder=tmp_path) == expected
    assert read(f"{name} = '{text}'\n", folder=tmp_path) == expected
    assert read(environment={str(setting.envvar): text}) == expected
    assert read_settings({name: flag}, {}, None, NOWHERE).settings == expected


@pytest.mark.parametrize("name", SETTINGS)
def test_each_has_a_flag(name: str) -> None:
    """With its name, on `run`."""
    (option,) = [option for option in cli.run.params if f"--{name}" in option.opts]
    assert option.name == SETTINGS[name].name
    assert option.multiple == SETTINGS[name].multiple


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    """And each says where it came from, the file by its line."""
    file = tmp_path / "settings.toml"
    file.write_text('# settings\none-in = 2\n\nslow = "1s"\nbounds = [\n  "1ms",\n]\n[slow-operation]\nREAD = 1\n')

    effective = read_settings({"one-in": "4"}, {"OTEL_QEMU_ONE_IN": "3", "OTEL_QEMU_SLOW": "2s"}, file, NOWHERE)

    assert effective.settings == Settings(one_in=4, slow_s=2.0, slow_by_operation_s=(("READ", 1.0),), bounds_s=(0.001,))
    origins = {name: origin for name, origin in effective.origins.items() if origin != "default"}
    assert origins == {
        "one-in": "--one-in",
        "slow": "OTEL_QEMU_SLOW",
        "bounds": f"{file} line 5",
        "slow-operation": f"{file} line 8",
    }


@pytest.mark.parametrize("scale", [-2, -1, 0])
def test_exponential_bounds_are_a_setting(scale: int, tmp_path: Path) -> None:
    """Those of a scale that the kernel has room for; printed as durations, they are the same."""
    bounds_s = read(bounds=f"exponential:{scale}").bounds_s
    assert bounds_s == exponential_bounds(str(scale))
    printed = configuration_text(*read_settings({"bounds": f"exponential:{scale}"}, {}, None, NOWHERE), {})
    assert read(printed, folder=tmp_path).bounds_s == bounds_s


def test_a_space_after_a_comma_is_none_of_a_name(tmp_path: Path) -> None:
    """A text has several values in a file as in a variable; a flag has one."""
    assert read("domain = 'web1 , db 2'", folder=tmp_path).domains == ("web1", "db 2")
    assert read(environment={"OTEL_QEMU_DOMAIN": "web1, db 2"}).domains == ("web1", "db 2")
    assert read(domain=("off",)).domains == ("off",)
    assert read(domain=("web1, db 2",)).domains == ("web1, db 2",)


def test_off_in_a_flag_takes_back_what_the_file_says(tmp_path: Path) -> None:
    """A setting that may be off can be turned off again."""
    assert read('slow = "1s"', folder=tmp_path, slow="off").slow_s is None


def test_the_default_file_is_read_if_it_is_there(tmp_path: Path) -> None:
    """Another one, by flag or variable, takes its place, and must exist."""
    default, other = tmp_path / "default.toml", tmp_path / "other.toml"
    assert read_settings({}, {}, None, default).file is None
    default.write_text("one-in = 2")
    other.write_text("one-in = 3")

    assert read_settings({}, {}, None, default).settings.one_in == 2
    assert read_settings({}, {}, other, default).settings.one_in == 3
    assert read_settings({}, {"OTEL_QEMU_CONFIG": str(other)}, None, default).settings.one_in == 3
    with pytest.raises(BadInput, match=r"^/nonexistent/otel-qemu\.toml cannot be read: No such file"):
        read_settings({}, {}, NOWHERE, default)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("one-in = -1", ("line 1: one-in: -1 is not allowed", "a whole number, 0 to 4294967296")),
        ("one-in = 4294967297", ("one-in: 4294967297",)),
        ("one-in = true", ("one-in: true", "whole number")),
        ("\n\none-in = 1.5", ("line 3: one-in: 1.5",)),
        ('one-in = "many"', ('one-in: "many"',)),
        ("slow = 0", ("slow: 0", "a duration like 100ms, or off")),
        ("slow = false", ("slow: false",)),
        ("slow = nan", ("slow: nan",)),
        ("slow = inf", ("slow: inf",)),
        ('slow = "1ms,2ms"', ("slow:",)),
        ('slow = "soon\\u001b"', ('slow: "soon\\u001b"',)),
        ("slow-operation = {DELETE = 1}", ('"DELETE" is no SCSI operation', "READ", "WRITE_SAME")),
        ("[slow-operation]\nWRITE = 0", ("line 1: slow-operation: WRITE: 0 is not allowed", "a duration like 20ms")),
        ("slow-operation = {WRITE = inf}", ("slow-operation: WRITE: inf is not allowed",)),
        ("slow-operation = {WRITE = 1e10}", ("slow-operation: WRITE: 10000000000.0",)),
        ('slow-operation = "WRITE"', ('"WRITE" is not allowed', "WRITE=20ms")),
        ("slow-operation = 7", ("slow-operation: 7", "WRITE=20ms")),
        ("guest-rate = 0", ("guest-rate: 0", "above 0, or off")),
        ('wait-span = "off"', ('wait-span: "off" is not allowed', "or 0")),
        ("wait-span = -1", ("wait-span: -1", "or 0")),
        ("wait-share = 1.1", ("wait-share: 1.1", "from 0 to 1")),
        ("bounds = []", ("bounds: []", "ascending")),
        ("bounds = [2, 1]", ("bounds: [2, 1]", "ascending")),
        ("bounds = 7", ("bounds: 7",)),
        ("bounds = [true]", ("bounds: [true]", "ascending")),
        ("bounds = [[1]]", ("bounds: [[1]]", "ascending")),
        ("slow-operation = {WRITE = [1]}", ("slow-operation: WRITE: [1] is not allowed",)),
        ('bounds = "exponential:1"', ("line 1: bounds:", "at most 31", "exponential:0")),
        (f"bounds = {list(range(1, 33))}", ("bounds: [1, 2, 3,", "at most 31")),
        ('queue-size = "1kB"', ("queue-size:", "1MiB or more")),
        ('queue-size = "64M"', ('"64M"', "a size like 32MiB")),
        ('drain-interval = "10s"', ("drain-interval:", "from 50ms to 5s")),
        ('domain = [""]', ('domain: "" is not allowed', "not empty")),
        ("domain = [1]", ("domain: [1]",)),
        ("domain = 7", ("domain: 7",)),
        ("domain = {}", ("domain: {", "not empty")),
        ("domain = {a = 1}", ('domain: { "a" = 1 } is not allowed', "not empty")),
        ('slow-operation = ["WRITE=1", 2]', ('slow-operation: ["WRITE=1", 2]', "WRITE=20ms")),
        ("[[slow-operation]]\nWRITE = 1", ("line 1: slow-operation: [", "WRITE=20ms")),
        ('"one\\u005Fin" = 2', ("line 1: 'one_in' is no setting",)),
        ("'one in' = 2", ("line 1: 'one in' is no setting",)),
        ("one.in = 2", ("line 1: 'one' is no setting",)),
        ("one_in = 2", ("line 1: 'one_in' is no setting: is 'one-in' meant?",)),
        ("colour = 2", ("'colour' is no setting: one of domain, one-in,",)),
        ("one-in = ", ("is not TOML", "Invalid value")),
        ("one-in = 1\none-in = 2", ("is not TOML",)),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    """File, line, key, value and what is allowed, in one printable line."""
    with pytest.raises(BadInput) as refused:
        read(text, folder=tmp_path)

    said = str(refused.value)
    assert said.startswith(str(tmp_path / "settings.toml"))
    assert said.isprintable()
    assert all(word in said for word in words), said


@pytest.mark.parametrize("wins", ["flag", "variable"])
def test_a_wrong_value_is_refused_even_where_another_wins(wins: str, tmp_path: Path) -> None:
    """It would be wrong at the next start; the file's is named first."""
    flags: dict[str, Any] = {"one-in": "3"} if wins == "flag" else {}
    right = {"OTEL_QEMU_ONE_IN": "3"} if wins == "variable" else {}
    with pytest.raises(BadInput, match=r"settings\.toml line 2: one-in: -1 is not allowed"):
        read("\none-in = -1", right, tmp_path, **flags)
    with pytest.raises(BadInput, match=r"^OTEL_QEMU_ONE_IN: \"many\" is not allowed"):
        read_settings({"one-in": "3"}, {"OTEL_QEMU_ONE_IN": "many"})


@pytest.mark.parametrize("value", ["/nonexistent/file.toml", "broken.toml"])
def test_help_needs_no_file(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody who mends a file may ask for it."""
    (tmp_path / "broken.toml").write_text("one-in = ")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTEL_QEMU_CONFIG", value)
    assert cli.main(["run", "--help"]) == 0
    assert "--print-config" in capsys.readouterr().out


def test_a_file_that_is_no_text_or_far_too_large_is_refused(tmp_path: Path) -> None:
    """In a line."""
    file = tmp_path / "settings.toml"
    file.write_bytes(b"\xff")
    with pytest.raises(BadInput, match="is not TOML: 'utf-8' codec"):
        read_settings({}, {}, file)
    file.write_bytes(b"#" * (1 << 21))
    with pytest.raises(BadInput, match="larger than a file of settings"):
        read_settings({}, {}, file)


@pytest.mark.parametrize("name", SETTINGS)
def test_flags_and_variables_are_refused_by_name(name: str) -> None:
    """With what is allowed."""
    setting = SETTINGS[name]
    wrong = "," if name == "domain" else "?"
    flag = tuple(wrong.split(",")) if setting.multiple else wrong
    with pytest.raises(BadInput, match=f"^{setting.envvar}: "):
        read(environment={str(setting.envvar): wrong})
    with pytest.raises(BadInput, match=f"^--{name}: "):
        read_settings({name: flag}, {}, None, NOWHERE)


def test_an_empty_variable_is_none_and_an_empty_flag_is_wrong() -> None:
    """As the OpenTelemetry specification has it for its own variables."""
    assert read(environment={"OTEL_QEMU_SLOW": " "}) == Settings()
    with pytest.raises(BadInput, match=r"^--slow: "):
        read_settings({"slow": ""}, {}, None, NOWHERE)


def test_a_mistyped_variable_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """One that no setting resembles is somebody else's."""
    read(environment={"OTEL_QEMU_ONEIN": "5", "OTEL_QEMU_CACHE": "/x", "OTEL_QEMU_CONFIG": ""})
    assert caplog.messages == ["OTEL_QEMU_ONEIN is no setting: is OTEL_QEMU_ONE_IN meant?"]


@pytest.mark.parametrize("name", [None, *SETTINGS])
def test_what_is_printed_reads_the_same(name: str | None, tmp_path: Path) -> None:
    """Defaults, and each setting in turn: the printed file gives the same settings, and says where each came from."""
    environment = {str(SETTINGS[name].envvar): OTHERS[name][0]} if name else {}
    before = read_settings({}, environment, None, NOWHERE)

    printed = configuration_text(*before, environment)

    (tmp_path / "again.toml").write_text(printed)
    after = read_settings({}, {}, tmp_path / "again.toml")
    assert after.settings == before.settings
    assert list(tomllib.loads(printed)) == list(SETTINGS)
    lines = dict(line.split(" = ", 1) for line in printed.splitlines() if line and line[0] != "#")
    assert all(lines[each].endswith(f"  # {before.origins[each]}") for each in SETTINGS)


@pytest.mark.parametrize("name", ['/a"b', "/a\\b", "/a\nb", "/\u00e9\u2028", "/#", "/'''"])
def test_a_printed_name_reads_the_same(name: str, tmp_path: Path) -> None:
    """Whatever characters it has, on one line."""
    (tmp_path / "again.toml").write_text(configuration_text(*read_settings({"domain": (name,)}, {}), {}))
    assert read_settings({}, {}, tmp_path / "again.toml").settings == Settings(domains=(name,))


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Headers, passwords in URLs and variables that we do not know; their names are, and nothing is traced."""
    for variable, value in {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20SECRET,x-tenant=SECRET",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://user:SECRET@collector:4317/x?token=SECRET",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "user:SECRET@collector:4317",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "a=SECRET,SECRET",  # of a signal of which we have none
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_SOMEBODYS_TOKEN": "SECRET",
    }.items():
        monkeypatch.setenv(variable, value)

    assert cli.main(["run", "--print-config", "--one-in", "7"]) == 0

    said = capsys.readouterr().out
    assert "SECRET" not in said
    assert "one-in = 7  # --one-in" in said
    assert (
        "# traces: http://collector:4317/x, grpc, gzip, 10 s a request, headers authorization=***, x-tenant=***" in said
    )
    assert "# metrics: https://collector:4317, grpc, gzip, 10 s a request, headers " in said
    assert ", x-tenant=***, every 60 s, cumulative\n" in said
    assert "# OTEL_EXPORTER_OTLP_HEADERS=authorization=***,x-tenant=***" in said
    assert "# OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://***@collector:4317/x?***" in said
    assert "# OTEL_SOMEBODYS_TOKEN=***" in said


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *(("HEADERS", each) for each in ("Bearer SECRET", "Bearer SECRET==", "x-tenant=1,SECRET", "a=\u00dfSECRET")),
        *(("ENDPOINT", each) for each in ("htp://user:SECRET@collector", "http://u:SEC/RET@:x", "http://:x/?a=SECRET")),
    ],
)
def test_what_is_refused_is_not_printed_where_it_may_be_secret(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A token that somebody forgot to put a name in front of would stand in the journal."""
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{variable}", value)
    assert cli.main(["run", "--print-config"]) == BadInput.exit_code
    said = capsys.readouterr()
    assert said.err.startswith(f"error: OTEL_EXPORTER_OTLP_{variable}")
    assert "secret" not in f"{said.out}{said.err}".lower()


def test_what_does_not_leave_is_printed_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An exporter that is off has no endpoint; exponential histograms have bounds of their own."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "console")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram")
    assert cli.main(["run", "--print-config"]) == 0
    said = capsys.readouterr().out
    assert "# traces: none\n" in said
    assert "# metrics: console, every 60 s, cumulative, exponential histograms with bounds of their own\n" in said


@pytest.mark.parametrize(
    "variable",
    ["OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_METRIC_EXPORT_INTERVAL", "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED",
     "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_RESOURCE_ATTRIBUTES"],
)  # fmt: skip
def test_what_would_be_refused_at_the_start_is_not_printed(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The standard variables too, whoever reads them."""
    monkeypatch.setenv(variable, "sideways")
    assert cli.main(["run", "--print-config"]) == BadInput.exit_code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {variable}")


def test_a_wrong_setting_is_the_end_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, and one line."""
    assert cli.main(["run", "--slow", "soon"]) == BadInput.exit_code
    assert capsys.readouterr().err == (
        'error: --slow: "soon" is not allowed: it must be a duration like 100ms, or off\n'
    )


def test_what_the_service_gets() -> None:
    """Settings as the parts take them."""
    settings = Settings(one_in=5, slow_s=0.1, slow_by_operation_s=(("WRITE", 0.02),), wait_span_s=0.0025)
    assert settings.policy == KeepPolicy(5, 0.1, (("WRITE", 0.02),))
    assert (settings.wait_threshold.min_ns, settings.wait_threshold.min_share) == (2_500_000, 0.1)


@given(st.integers(1, 10**18))
def test_durations_read_as_they_are_shown(duration_ns: int) -> None:
    """Whatever the unit."""
    assert read_duration(show_duration(duration_ns / 1e9)) == duration_ns / 1e9


@given(st.integers(0, 5), st.integers(1, 4), st.integers(0, 5), st.sampled_from(["'''", '"""']))
def test_the_line_of_a_key_is_where_it_begins(before: int, length: int, after: int, fence: str) -> None:
    """Whatever stands around it, however many lines its value has, and though its name stands elsewhere too."""
    head = "# wanted\u2028 = 1\n" + "".join(f'k{number} = "wanted = 2"\n' for number in range(before))
    value = "[" + ",\n".join(["1"] * length) + "]"
    head += f"{fence}\nwanted = 5\n{fence}\n".replace(fence, f"text = {fence}", 1)
    tail = "".join(f"l{number} = '''\nwanted = 3\n'''\n" for number in range(after))
    assert lines_of(f"{head}wanted = {value}\n{tail}[table]\nwanted = 4\n")["wanted"] == before + 5


def test_a_long_file_takes_no_longer_by_the_line() -> None:
    """Its time grows with its lines, not with their square, which would be 64 times as long."""
    short, long = ("# a line of text\n" * lines + "one-in = 1\n" for lines in (2_000, 16_000))
    begin_s = time.process_time()
    assert lines_of(short) == {"one-in": 2_001}
    short_s = time.process_time() - begin_s
    assert lines_of(long) == {"one-in": 16_001}
    assert time.process_time() - begin_s - short_s < 30 * short_s


def default_text(name: str) -> str:
    """The default as help shows it."""
    shown, default = SETTINGS[name].show_default, SETTINGS[name].default
    return shown if isinstance(shown, str) else str(default)


def test_the_settings_are_documented() -> None:
    """Name, default and help of each, in their order."""
    rows = [line for line in (ROOT / "docs/settings.md").read_text().splitlines() if line.startswith("| `--")]
    assert rows == [f"| `--{name}` | `{default_text(name)}` | {option.help} |" for name, option in SETTINGS.items()]
