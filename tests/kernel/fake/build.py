# SPDX-License-Identifier: Apache-2.0
"""
Compiles the fake QEMU, once a run and variant, into a folder that goes away with the interpreter.

A variant is a set of struct layouts and code generation that some distribution ships; what it imitates is in its name.
"""

import functools
import subprocess
import tempfile
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from otel_qemu.probe.elf import open_binary
from otel_qemu.probe.layouts import UNKNOWN_OFFSET

_SOURCES = Path(__file__).parent
_WARNINGS = ("-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Werror")
_CET = ("-fcf-protection=full",)
# QEMU's own names, by which debug information is looked up.
_IN_QEMU = {"scsi_bus.c": "hw/scsi/scsi-bus.c", "block_rbd.c": "block/rbd.c"}

EXECUTABLE, LIBRBD, BLOCK_RBD = "qemu-system-x86_64", "librbd.so.1", "block-rbd.so"


class Symbols(Enum):
    """Where a build without exported functions has its symbols."""

    TABLE = ".symtab"
    TABLE_AND_DWARF = ".symtab and debug information"
    DEBUG_FILE = "debug file"
    NONE = "nowhere"


@dataclass(frozen=True, eq=False)
class Variant:
    """
    One build.

    Attributes:
        name: of the QEMU whose layouts it has.
        layout: the offsets that `otel_qemu.probe.layouts` has to find, by field of its `Layout`.
        definitions: of the preprocessor.
        flags: of the compiler.
        endbr64: whether every function begins with it.
        compiler: gcc or clang.
        symbols: None for a QEMU with modules, which exports its functions; else it has none, and is optimised at link
            time.
    """

    name: str
    layout: dict[str, int]
    definitions: tuple[str, ...]
    flags: tuple[str, ...] = ("-fcf-protection=none",)
    endbr64: bool = field(default=False)
    compiler: str = "gcc"
    symbols: Symbols | None = None


_OLD_REQUEST = {"device": 0x08, "tag": 0x1C, "sense": 0x70}
_NEW_REQUEST = {"device": 0x08, "tag": 0x24, "sense": 0x78}
_RADOSCB = {"coroutine": 0, "through_acb": 1, "return_value": 0x20}
_TASK_FROM_6_1 = {"coroutine": 8, "return_value": 0x18}
_TASK_FROM_10_0_7 = {"coroutine": 0, "return_value": 0x08}

QEMU_5_2 = Variant("5.2", _OLD_REQUEST | _RADOSCB | {"completion_argument": 0xB8}, ("QEMU=52", "COMPLETE_ARG=0xb8"))
QEMU_7_2 = Variant(
    "7.2", _OLD_REQUEST | _TASK_FROM_6_1 | {"completion_argument": 0x60}, ("QEMU=72", "COMPLETE_ARG=0x60")
)
QEMU_11_1 = Variant(
    "11.1", _NEW_REQUEST | _TASK_FROM_10_0_7 | {"completion_argument": 0x30}, ("QEMU=100", "COMPLETE_ARG=0x30"),
    flags=_CET, endbr64=True,
)  # fmt: skip
OPAQUE = Variant("opaque", _OLD_REQUEST | _TASK_FROM_6_1, (*QEMU_7_2.definitions, "OPAQUE"))
"""A librbd whose get_arg() does more than load two words: its layout cannot be read off."""

INLINED = Variant("inlined", QEMU_7_2.layout, (*QEMU_7_2.definitions, "INLINED"))
"""A QEMU in which scsi_req_complete() is never entered: link-time optimisation put it into its callers."""

CHAINLESS = Variant("chainless", QEMU_7_2.layout, (*QEMU_7_2.definitions, "CHAINLESS"))
"""A QEMU without the symbol of dma_blk_io(), which the audit needs."""

IN_CALLERS = Variant("in-callers", QEMU_7_2.layout, (*QEMU_7_2.definitions, "IN_CALLERS"))
"""A QEMU in which blk_aio_preadv() is never entered: link-time optimisation put it into its callers."""

STRANGE = Variant(
    "strange", QEMU_7_2.layout | {"device": 0x18, "tag": 0x2C, "sense": UNKNOWN_OFFSET},
    (*QEMU_7_2.definitions, "STRANGE"), symbols=Symbols.TABLE,
)  # fmt: skip
"""Optimised at link time, and its SCSIRequest is laid out as in no QEMU that is known."""


def optimised_at_link_time(variant: Variant, compiler: str, symbols: Symbols) -> Variant:
    """The same without modules, as some distributions and clouds build QEMU."""
    name = f"{variant.name}-{compiler}-{symbols.name.lower()}"
    return replace(variant, name=name, compiler=compiler, symbols=symbols)


VARIANTS = (QEMU_5_2, QEMU_7_2, QEMU_11_1)
"""The layouts that there are; every test of requests runs on each."""


@functools.cache
def built(variant: Variant) -> Path:
    """The folder that holds the binaries of a variant; readable by every user."""
    folder = Path(_temporary().name) / variant.name
    folder.mkdir()
    common = ["-O2", "-pthread", *_WARNINGS, *variant.flags, *(f"-D{d}" for d in variant.definitions)]
    shared = ["gcc", *common, "-fPIC", "-shared", "-g0"]
    beside = [f"-L{folder}", "-Wl,-rpath,$ORIGIN", f"-l:{LIBRBD}"]
    _compile(folder, [*shared, f"-Wl,-soname,{LIBRBD}", "-o", LIBRBD], ["librbd.c"], [])
    program, sources = (
        [variant.compiler, *common, "-fPIE", "-pie", "-o", EXECUTABLE],
        ["main.c", "scsi_disk.c", "block_backend.c"],
    )
    if variant.symbols is None:
        _compile(folder, [*shared, "-o", BLOCK_RBD], ["block_rbd.c"], beside)
        _compile(folder, [*program, "-g0", "-rdynamic"], [*sources, "scsi_bus.c"], [])
        return folder
    linked = [*program, "-DSTATIC", "-flto", "-g", "-Wl,--build-id=sha1", f"-I{_SOURCES}"]
    if variant.compiler == "clang":
        linked += ["-fuse-ld=lld", "-flto=thin"]
    _compile(folder, linked, [*sources, *_named_as_in_qemu(folder)], beside)
    _strip(folder, variant.symbols)
    return folder


def _named_as_in_qemu(folder: Path) -> list[str]:
    """The sources whose names matter, under those names."""
    for ours, theirs in _IN_QEMU.items():
        link = folder / theirs
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(_SOURCES / ours)
    return [str(folder / theirs) for theirs in _IN_QEMU.values()]


def _strip(folder: Path, symbols: Symbols) -> None:
    """Leave the symbols where they should be; a debug file below ``debug``, as below /usr/lib/debug."""
    binary = folder / EXECUTABLE
    if symbols is Symbols.DEBUG_FILE:
        with open_binary(str(binary)) as opened:
            build_id = opened.build_id
        file = folder / "debug/.build-id" / build_id[:2] / f"{build_id[2:]}.debug"
        file.parent.mkdir(parents=True)
        subprocess.run(
            ["objcopy", "--only-keep-debug", "--compress-debug-sections", binary, file], check=True, timeout=120
        )
    if symbols in (Symbols.DEBUG_FILE, Symbols.NONE):
        subprocess.run(["strip", binary], check=True, timeout=120)
    elif symbols is Symbols.TABLE:
        subprocess.run(["strip", "--strip-debug", binary], check=True, timeout=120)


@functools.cache
def _temporary() -> "tempfile.TemporaryDirectory[str]":
    directory = tempfile.TemporaryDirectory(prefix="otel-qemu-fake-")
    Path(directory.name).chmod(0o755)
    return directory


def _compile(folder: Path, command: list[str], sources: list[str], libraries: list[str]) -> None:
    """Run the compiler in the folder of the results."""
    subprocess.run(
        [*command, *(str(_SOURCES / source) for source in sources), *libraries], cwd=folder, check=True, timeout=300
    )
