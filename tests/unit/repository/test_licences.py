# SPDX-License-Identifier: Apache-2.0
"""Every source file names its licence, and the BPF program names its own to the kernel."""

import re
from pathlib import Path

from otel_qemu.events import BPF_DIRECTORY, SOURCES

ROOT = Path(__file__).parents[3]
FOLDERS = ("otel_qemu", "tests", "bench", "deploy", "collector", ".github", ".ci")
SUFFIXES = {".py", ".c", ".h", ".bt", ".sh", ".yaml", ".yml", ".toml", ".service", ".sysusers", ".default"}
NAMES = {"Makefile", "run", ".clang-format", ".editorconfig", ".shellcheckrc"}
GPL = ("otel_qemu/bpf", "tests/bpf/shim")
"""What becomes part of the BPF program, in the kernel or in a test; everything else is Apache-2.0."""


def sources() -> list[Path]:
    """Every source file of the checkout, relative to it."""
    paths = [*ROOT.glob("*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    return [path.relative_to(ROOT) for path in paths if path.suffix in SUFFIXES or path.name in NAMES]


def expected(path: Path) -> str:
    """The licence of the part that a file belongs to."""
    return "GPL-2.0-only" if path.is_relative_to(GPL[0]) or path.is_relative_to(GPL[1]) else "Apache-2.0"


def named(path: Path) -> str | None:
    """The licence that a file's first line names, or its second below a shebang."""
    lines = (ROOT / path).read_text().splitlines()[:2]
    line = lines[lines[0].startswith("#!")] if lines else ""
    found = re.fullmatch(r"(?:#|//|/\*) SPDX-License-Identifier: (\S+)(?: \*/)?", line)
    return found[1] if found else None


def test_every_source_file_names_its_licence() -> None:
    """In its first line, or below the shebang: `# SPDX-License-Identifier: Apache-2.0`."""
    files = sources()

    assert len(files) > 300, "the layout has changed: this looks at too few files"
    assert [str(path) for path in files if named(path) != expected(path)] == []


def test_the_program_names_its_licence_to_the_kernel() -> None:
    """bcc takes BPF_LICENSE for the license section; its text must be one that the kernel counts as GPL."""
    text = "".join((BPF_DIRECTORY / f"{name}.bpf.c").read_text() for name in SOURCES)

    assert re.findall(r"^#define BPF_LICENSE (.*)$", text, re.M) == ["GPL v2"]


def test_the_texts_of_the_licences_are_there() -> None:
    """Beside what they are for."""
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert "Version 2, June 1991" in (BPF_DIRECTORY / "LICENSE").read_text()
