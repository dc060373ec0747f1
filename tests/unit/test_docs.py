"""The documents hold to the code: commands, counters, files and settings that they name exist, and the reverse."""

import re
from pathlib import Path

import click

from otel_qemu.cli import cli
from otel_qemu.events import COUNTERS
from otel_qemu.export.instruments import INSTRUMENTS

ROOT = Path(__file__).parents[2]
README, METRICS = ((ROOT / name).read_text() for name in ("README.md", "docs/metrics.md"))
DOCUMENTS = [*sorted(path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))]


def test_the_readme_names_every_command() -> None:
    """The table of commands and the commands are the same set."""
    named = set(re.findall(r"^\| `otel-qemu (\w+)", README, re.M))

    assert named == set(cli.commands)


def test_every_option_has_help() -> None:
    """No option or command is without a line of help."""
    for command in cli.commands.values():
        assert command.help
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, f"{command.name} {option.name}"


def test_paths_that_documents_name_exist() -> None:
    """A path in backquotes with a slash in it is a path of this checkout."""
    for name in DOCUMENTS:
        for path in re.findall(r"`((?:otel_qemu|tests|deploy|bench|collector)/[\w./-]*)`", (ROOT / name).read_text()):
            assert (ROOT / path).exists(), f"{name} names {path}"


def test_links_between_documents_lead_somewhere() -> None:
    """Each relative link is to a file of this checkout."""
    for name in DOCUMENTS:
        for target in re.findall(r"\]\(([\w./-]+)\)", (ROOT / name).read_text()):
            assert (ROOT / name).parent.joinpath(target).exists(), f"{name} links to {target}"


def test_counters_that_documents_name_exist() -> None:
    """A counter in the README's table of losses is one that the kernel program counts."""
    losses = README.split("| counter | means |")[1]
    named = re.findall(r"^\| `(\w+)` \| .* \|$", losses, re.M)

    assert named
    assert set(named) <= set(COUNTERS)


def test_every_metric_is_documented() -> None:
    """Name, kind, unit and attributes, in the order in which they are registered."""
    rows = re.findall(
        r"^\| `([\w.]+)` \| ([\w -]+) \| `([^`]+)` \| (.*)\|$", (ROOT / "docs/metrics.md").read_text(), re.M
    )
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
