# SPDX-License-Identifier: Apache-2.0
"""``events.h`` as a C compiler understands it, against ``otel_qemu.events``."""

import re
import subprocess
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest

from otel_qemu.events import (
    BPF_DIRECTORY,
    COUNTERS,
    RECORD,
    RETURN_UNKNOWN,
    SITES,
    Chain,
    Ending,
    Kept,
    Layer,
    Link,
    RbdOperation,
    RecordKind,
    Stage,
)
from otel_qemu.probe.program import KERNEL_SETTINGS
from otel_qemu.trace import kernel_histograms
from tests.bpf.library import PROGRAM_ARGUMENTS, compile_c, program_source

ENUMS: list[tuple[str, str, type[IntEnum]]] = [
    ("record_kind", "RECORD_", RecordKind),
    ("ending", "ENDING_", Ending),
    ("rbd_operation", "RBD_", RbdOperation),
    ("stage", "STAGE_", Stage),
    ("layer", "LAYER_", Layer),
    ("kept", "KEPT_", Kept),
    ("link", "LINK_", Link),
    ("chain", "CHAIN_", Chain),
]


def evaluate(directory: Path, expressions: Iterable[str]) -> dict[str, int]:
    """The value of each C expression where ``events.h`` is included."""
    wanted = list(expressions)
    lines = "".join(f'printf("%lld\\n", (long long)({text}));\n' for text in wanted)
    source = directory / "program.c"
    source.write_text(
        f'#include <stddef.h>\n#include <stdio.h>\n#include <linux/types.h>\n#include "{BPF_DIRECTORY}/events.h"\n'
        f"static struct record record;\nint main(void) {{\n(void)record;\n{lines}return 0; }}\n"
    )
    compile_c(source, directory / "program", [])
    output = subprocess.run([directory / "program"], capture_output=True, text=True, check=True, timeout=120).stdout
    return dict(zip(wanted, map(int, output.split()), strict=True))


def evaluate_in_program(directory: Path, expressions: Iterable[str]) -> dict[str, int]:
    """The value of each C expression at the end of the whole program, where its own structs are known."""
    wanted = list(expressions)
    source = program_source(directory)
    numbers = ", ".join(f"(long long)({text})" for text in wanted)
    loop = f'for (int i = 0; i < {len(wanted)}; i++) printf("%lld\\n", numbers[i]);'
    lines = f"const long long numbers[] = {{{numbers}}};\n{loop}"
    source.write_text(
        f"#include <stddef.h>\n#include <stdio.h>\n{source.read_text()}\nint main(void) {{\n{lines}\nreturn 0; }}\n"
    )
    compile_c(source, directory / "whole", PROGRAM_ARGUMENTS)
    output = subprocess.run([directory / "whole"], capture_output=True, text=True, check=True, timeout=120).stdout
    return dict(zip(wanted, map(int, output.split()), strict=True))


def enumerators(enum: str) -> list[str]:
    """The names in an enum of the header, in its order."""
    block = re.search(rf"^enum {enum} {{\n(.*?)^}}", (BPF_DIRECTORY / "events.h").read_text(), re.M | re.S)
    assert block is not None
    return re.findall(r"^\s+([A-Z]\w+)", block[1], re.M)


def test_every_field_lies_where_numpy_looks_for_it(tmp_path: Path) -> None:
    """Offset and size of every field are the compiler's, and together they fill the struct, without padding."""
    fields = RECORD.fields
    assert fields is not None
    expected = {f"offsetof(struct record, {name})": int(fields[name][1]) for name in fields}
    expected |= {f"sizeof(record.{name})": fields[name][0].itemsize for name in fields}
    expected["sizeof(struct record)"] = RECORD.itemsize
    assert evaluate(tmp_path, expected) == expected
    assert sum(fields[name][0].itemsize for name in fields) == RECORD.itemsize


def test_every_field_has_the_sign_that_numpy_gives_it(tmp_path: Path) -> None:
    """A field is signed in C exactly if it is in the dtype; byte arrays have no sign to speak of."""
    fields = RECORD.fields
    assert fields is not None
    scalars = {name: fields[name][0].kind for name in fields if not fields[name][0].shape}
    expected = {f"(double)(__typeof__(record.{name}))-1 < 0": int(kind == "i") for name, kind in scalars.items()}
    assert evaluate(tmp_path, expected) == expected


def test_every_counter_has_the_number_of_its_place(tmp_path: Path) -> None:
    """The n-th name of COUNTERS is the compiler's n, none is missing, and each says what it counts."""
    expected = {f"COUNT_{name.upper()}": number for number, name in enumerate(COUNTERS)}
    expected["COUNTERS"] = len(COUNTERS)
    assert evaluate(tmp_path, expected) == expected
    assert enumerators("counter") == list(expected)
    assert all(COUNTERS.values())


@pytest.mark.parametrize(("enum", "prefix", "python"), ENUMS, ids=[enum for enum, _, _ in ENUMS])
def test_every_enum_is_the_same_on_both_sides(tmp_path: Path, enum: str, prefix: str, python: type[IntEnum]) -> None:
    """Every enumerator of the header is a member of the Python enum with the same number, and the reverse."""
    expected = {prefix + member.name: int(member) for member in python}
    assert evaluate(tmp_path, expected) == expected
    assert sorted(enumerators(enum)) == sorted(expected)


def test_the_unknown_return_value_is_the_same_on_both_sides(tmp_path: Path) -> None:
    """RETURN_UNKNOWN is the smallest 32-bit integer."""
    assert evaluate(tmp_path, ["RETURN_UNKNOWN"]) == {"RETURN_UNKNOWN": RETURN_UNKNOWN}


def test_every_site_has_the_number_of_its_place(tmp_path: Path) -> None:
    """The n-th name of SITES is the compiler's n: the cookie of its probe."""
    expected = {f"SITE_{name.upper()}": number for number, name in enumerate(SITES)}
    assert evaluate(tmp_path, expected) == expected
    assert enumerators("site") == list(expected)


@pytest.mark.parametrize(
    ("struct", "dtype"),
    [("settings", KERNEL_SETTINGS), ("series", kernel_histograms.SERIES), ("latency", kernel_histograms.LATENCY)],
    ids=["settings", "series", "latency"],
)
def test_structs_of_maps_lie_where_numpy_looks_for_them(tmp_path: Path, struct: str, dtype: np.dtype[np.void]) -> None:
    """Offset and size of every field of what user space writes and reads are the compiler's."""
    fields = dtype.fields
    assert fields is not None
    expected = {f"offsetof(struct {struct}, {name})": int(fields[name][1]) for name in fields}
    expected |= {f"sizeof(((struct {struct} *)0)->{name})": fields[name][0].itemsize for name in fields}
    expected[f"sizeof(struct {struct})"] = dtype.itemsize
    assert evaluate_in_program(tmp_path, expected) == expected


def test_there_are_as_many_bins_on_both_sides(tmp_path: Path) -> None:
    """BINS is the number of counts in a histogram."""
    assert evaluate_in_program(tmp_path, ["BINS"]) == {"BINS": kernel_histograms.BINS}
