"""
Compiles the fake QEMU, once a run and variant, into a folder that goes away with the interpreter.

A variant is a set of struct layouts and code generation that some distribution ships; what it imitates is in its name.
"""

import functools
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

_SOURCES = Path(__file__).parent
_WARNINGS = ("-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Werror")
_CET = ("-fcf-protection=full",)

EXECUTABLE, LIBRBD, BLOCK_RBD = "qemu-system-x86_64", "librbd.so.1", "block-rbd.so"


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
    """

    name: str
    layout: dict[str, int]
    definitions: tuple[str, ...]
    flags: tuple[str, ...] = ("-fcf-protection=none",)
    endbr64: bool = field(default=False)


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

VARIANTS = (QEMU_5_2, QEMU_7_2, QEMU_11_1)
"""The layouts that there are; every test of requests runs on each."""


@functools.cache
def built(variant: Variant) -> Path:
    """The folder that holds the binaries of a variant; readable by every user."""
    folder = Path(_temporary().name) / variant.name
    folder.mkdir()
    common = ["gcc", "-O2", "-g0", "-pthread", *_WARNINGS, *variant.flags, *(f"-D{d}" for d in variant.definitions)]
    shared = [*common, "-fPIC", "-shared"]
    beside = [f"-L{folder}", "-Wl,-rpath,$ORIGIN"]
    _compile(folder, [*shared, f"-Wl,-soname,{LIBRBD}", "-o", LIBRBD], ["librbd.c"], [])
    _compile(folder, [*shared, "-o", BLOCK_RBD], ["block_rbd.c"], [*beside, f"-l:{LIBRBD}"])
    program = [*common, "-fPIE", "-pie", "-rdynamic", "-o", EXECUTABLE]
    _compile(folder, program, ["main.c", "scsi_bus.c", "scsi_disk.c", "block_backend.c"], [])
    return folder


@functools.cache
def _temporary() -> "tempfile.TemporaryDirectory[str]":
    directory = tempfile.TemporaryDirectory(prefix="otel-qemu-fake-")
    Path(directory.name).chmod(0o755)
    return directory


def _compile(folder: Path, command: list[str], sources: list[str], libraries: list[str]) -> None:
    """Run the compiler in the folder of the results."""
    subprocess.run([*command, *(str(_SOURCES / source) for source in sources), *libraries], cwd=folder, check=True)
