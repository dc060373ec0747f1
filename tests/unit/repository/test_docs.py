# SPDX-License-Identifier: Apache-2.0
"""The documents match the code: commands, flags, counters, files and settings that they name exist, and the reverse."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from otel_qemu import __version__
from otel_qemu.cli import cli
from otel_qemu.events import COUNTERS, LOSSES
from otel_qemu.export.metrics.instruments import INSTRUMENTS

ROOT = Path(__file__).parents[3]
TESTS = ("tests/backends", "tests/browser", "tests/kernel", "tests/lab", "tests/vm")
FOLDERS = (".", "docs", "bench", "collector", "deploy", *TESTS)
TEXTS = {
    path.relative_to(ROOT): path.read_text() for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.md"))
}
README, METRICS, LIMITS, DECISIONS, CHANGELOG = (
    TEXTS[Path(name)] for name in ("README.md", "docs/metrics.md", "docs/limits.md", "DECISIONS.md", "CHANGELOG.md")
)
FLAGS_OF_OTHERS = {"--require", "--rewrite-goldens"}
"""Of pytest, as CONTRIBUTING.md names them."""
PRIVATE_WORDS = r"\b(told|handed|pile|halves|is none|so many|so long)\b"
"""Words that once stood for things which have a name in the field, and turns that have to be read twice."""

each_document = pytest.mark.parametrize("document", TEXTS, ids=str)


def flags_of(command: click.Command) -> set[str]:
    """All spellings of its options."""
    return {spelling for option in command.params for spelling in option.opts} | {"--help", "-h"}


def code_of(text: str) -> Iterator[str]:
    """Each line of a code block, with its continuation, and each code span."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def commands_in(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each use of a command in code, as `otel-qemu run --wait` or `run --wait`, with its flags."""
    for code in code_of(text):
        code = code.partition("  #")[0]
        used = re.search(rf"(?:\botel-qemu |^)({'|'.join(cli.commands)})\b(?=( |$))(.*)", code)
        if used:
            yield used[1], re.findall(r"(?<!\S)-[-\w]+", used[3])


def slugs_of(text: str) -> set[str]:
    """The anchors of its headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_names_every_command() -> None:
    """The table of commands and the commands are the same set."""
    named = set(re.findall(r"^\| `otel-qemu (\w+)", README, re.M))

    assert named == set(cli.commands)


def test_the_readme_is_short() -> None:
    """A hundred lines: what it is, how to get it, and links to the rest."""
    assert len(README.splitlines()) <= 110


def test_every_option_has_help() -> None:
    """No option or command is without a line of help."""
    for command in cli.commands.values():
        assert command.help
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, f"{command.name} {option.name}"


@each_document
def test_commands_and_flags_that_documents_name_exist(document: Path) -> None:
    """A flag after a command is one of that command's; one that stands alone is some command's."""
    for command, flags in commands_in(TEXTS[document]):
        assert set(flags) <= flags_of(cli.commands[command]), f"{document}: {command}"
    alone = {code.split()[0] for code in code_of(TEXTS[document]) if code.startswith("--")}
    if document.parts[0] == "docs" or len(document.parts) == 1:
        assert alone <= FLAGS_OF_OTHERS.union(*map(flags_of, cli.commands.values()))


@each_document
def test_every_command_after_the_name_exists(document: Path) -> None:
    """What follows `otel-qemu` in code is a command or an option."""
    known = set(cli.commands) | flags_of(cli) | {"--version"}
    for code in code_of(TEXTS[document]):
        for word in re.findall(r"(?:^|[ /])otel-qemu ([-\w]+)", code.partition("  #")[0]):
            assert word in known, f"{document}: {code}"


@each_document
def test_paths_and_modules_that_documents_name_exist(document: Path) -> None:
    """A path in backquotes with a slash in it is a path of this checkout, and `python -m NAME` one of its modules."""
    text = TEXTS[document]
    for path in re.findall(r"`((?:otel_qemu|tests|deploy|bench|collector|docs|\.github)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python3? -m ((?:tests|bench|deploy)[\w.]*)", text):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module


@each_document
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    """Each relative link is to a file of this checkout, and its anchor to a heading there."""
    for target, anchor in re.findall(r"\]\(([\w./-]+)(?:#([\w-]+))?\)", TEXTS[document]):
        file = ROOT.joinpath(document).parent / target
        assert file.exists(), target
        assert not anchor or anchor in slugs_of(file.read_text()), f"{target}#{anchor}"


@each_document
def test_targets_of_make_that_documents_name_exist(document: Path) -> None:
    """Each word after `make` is a target, and each target says what it does."""
    targets = dict(re.findall(r"^([a-z-]+):.*?(## .*)?$", (ROOT / "Makefile").read_text(), re.M))
    assert all(targets.values())
    for code in code_of(TEXTS[document]):
        if code.startswith("make "):
            assert set(code.split()[1:]) <= set(targets), code


def test_every_loss_is_documented() -> None:
    """The table of losses and the counters that mean a loss are the same, in the same order."""
    rows = LIMITS.split("| counter | means |")[1].partition("\n\n")[0]

    assert re.findall(r"^\| `(\w+)` \| .+ \|$", rows, re.M) == list(LOSSES)


def test_every_metric_is_documented() -> None:
    """Name, kind, unit and attributes, in the order in which they are registered."""
    rows = re.findall(r"^\| `([\w.]+)` \| ([\w -]+) \| `([^`]+)` \| (.*)\|$", METRICS, re.M)
    documented = [
        (name, kind.replace("-", "_").replace(" ", "_"), unit, tuple(re.findall(r"`([\w.]+)`", attributes)))
        for name, kind, unit, attributes in rows
    ]

    assert documented == [
        (each.name, each.kind.name.lower(), each.unit, each.attributes) for each in INSTRUMENTS.values()
    ]


def test_every_counter_says_what_it_counts() -> None:
    """events.h explains each counter on its line; none is parsed away."""
    header = (ROOT / "otel_qemu/bpf/events.h").read_text()

    assert len(COUNTERS) == len(re.findall(r"^    COUNT_\w+,", header, re.M))
    assert all(COUNTERS.values())


def test_decisions_are_numbered_and_have_a_status() -> None:
    """From 001 on without a gap; one that is superseded names a later one that exists."""
    headings = re.findall(r"^## (.*)$", DECISIONS, re.M)
    found = [re.fullmatch(r"(\d{3}) .+ — (accepted|superseded by (\d{3}))", heading) for heading in headings]

    assert all(found), [heading for heading, match in zip(headings, found, strict=True) if not match]
    numbers = [int(match[1]) for match in found if match]
    assert numbers == list(range(1, len(headings) + 1))
    assert all(int(match[1]) < int(match[3]) <= len(headings) for match in found if match and match[3])
    assert "\n**" not in DECISIONS, "a decision without a heading"


def test_the_changelog_begins_with_this_version() -> None:
    """Its newest heading is that of `__version__`."""
    newest = re.search(r"^## ([\d.]+)", CHANGELOG, re.M)

    assert newest is not None
    assert newest[1] == __version__


@each_document
def test_documents_use_no_private_words(document: Path) -> None:
    """Prose, that is all but code, says things in the field's words."""
    prose = re.sub(r"^```.*?^```|`[^`\n]+`", "", TEXTS[document], flags=re.M | re.S)
    if document != Path("docs/settings.md"):  # help texts, as they stand in the table of settings
        assert not re.findall(PRIVATE_WORDS, prose)
