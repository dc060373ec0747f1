# SPDX-License-Identifier: Apache-2.0
"""The list in ``otel_qemu.__doc__`` is the architecture: every part is on it, and imports point up it."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import otel_qemu

PACKAGE = Path(otel_qemu.__file__).parent
LINE = re.compile(r"^    (\w+) {2,}\S.*?(?:\[([\w, ]+)\])?$", re.M)
PARTS = {name: set(filter(None, re.split(r", ?", own))) for name, own in LINE.findall(otel_qemu.__doc__ or "")}

# Packages that these modules alone may import: what it is, and everything that may go wrong with it, stays in there.
OWNERS = {
    "bcc": {"probe/program.py"},
    "libvirt": {"probe/domains.py"},
    "elftools": {"probe/elf.py", "probe/dwarf.py"},
}
RICH = {"views", "cli"}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms(package: Path) -> list[str]:
    """The names that a package's docstring lists, in order."""
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    return re.findall(r"^    (\w+) {2,}\S", docstring, re.M)


def imports(module: Path) -> Iterator[str]:
    """Dotted names that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide where they point"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


ROOMS = rooms(PACKAGE / "export")
EXPORT = [path for path in (PACKAGE / "export").rglob("*.py") if path.name != "__init__.py"]


def test_every_part_is_listed() -> None:
    """Nothing stands beside the list, and nothing on it is missing."""
    assert {part_of(module) for module in modules()} == set(PARTS)


def room_of(module: Path) -> str:
    """The part of export/ that a module belongs to."""
    return module.relative_to(PACKAGE / "export").parts[0].removesuffix(".py")


def test_every_room_of_export_is_listed() -> None:
    """In the list that its package begins with, and nothing beside it."""
    assert {room_of(module) for module in EXPORT} == set(ROOMS)


@pytest.mark.parametrize("module", EXPORT, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_of_export_import_up_their_list(module: Path) -> None:
    """Inside export/, too, imports point one way only."""
    allowed = set(ROOMS[: ROOMS.index(room_of(module)) + 1])
    ours = {name.split(".")[2] for name in imports(module) if name.startswith("otel_qemu.export.")}

    assert ours <= allowed


@pytest.mark.parametrize("module", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_up_the_list(module: Path) -> None:
    """A part imports from itself and from parts above it."""
    order = list(PARTS)
    allowed = set(order[: order.index(part_of(module)) + 1]) | {"__version__"}
    ours = {name.split(".")[1] for name in imports(module) if name.startswith("otel_qemu.")}

    assert ours <= allowed


@pytest.mark.parametrize("module", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_packages_stay_with_their_owners(module: Path) -> None:
    """bcc and libvirt are imported by one module each, elftools by two, opentelemetry by export alone, and so on."""
    roots = {name.split(".")[0] for name in imports(module)}
    relative = str(module.relative_to(PACKAGE))
    for package, owners in OWNERS.items():
        assert package not in roots or relative in owners
    for package in set().union(*PARTS.values()):
        assert package not in roots or package in PARTS[part_of(module)]
    assert "rich" not in roots or part_of(module) in RICH


ARRAYS = sorted((PACKAGE / "trace/arrays").glob("*.py"))


@pytest.mark.parametrize("module", ARRAYS, ids=lambda path: path.name)
def test_array_tools_know_nothing_of_the_domain(module: Path) -> None:
    """trace/arrays/ imports itself and numpy: whoever reads the domain need not know how a table lies in memory."""
    ours = {name for name in imports(module) if name.startswith("otel_qemu.")}

    assert all(name.startswith("otel_qemu.trace.arrays.") for name in ours)


@pytest.mark.parametrize("module", [m for m in modules() if part_of(m) == "trace"], ids=lambda path: path.name)
def test_trace_needs_numpy_and_nothing_else(module: Path) -> None:
    """trace/ runs on any machine."""
    import sys

    roots = {name.split(".")[0] for name in imports(module)} - {"otel_qemu", "numpy"}

    assert roots <= sys.stdlib_module_names


def test_only_an_export_costs_the_libraries_of_export() -> None:
    """`hist`, `record`, `check` and each --help have no use for them; protobuf alone is 100 modules and 5 MB."""
    code = (
        "import sys, otel_qemu.cli; "
        "print({name.partition('.')[0] for name in sys.modules} & {'opentelemetry', 'google', 'grpc', 'requests'})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60)
    assert loaded.stdout == "set()\n"
