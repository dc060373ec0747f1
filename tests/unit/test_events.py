# SPDX-License-Identifier: Apache-2.0
"""The record and the counters, as parsed from events.h."""

import re

import numpy as np
import pytest

from otel_qemu import events
from otel_qemu.events import BPF_DIRECTORY, COUNTERS, MOST_AT_ONCE, RECORD, Batch

HEADER = (BPF_DIRECTORY / "events.h").read_text()


def enum(name: str) -> dict[str, int]:
    """The constants of an enum that gives each its number."""
    block = HEADER.partition(f"enum {name} {{")[2].partition("};")[0]
    return {key: int(value) for key, value in re.findall(r"^    (\w+) = (\d+),", block, re.M)}


def test_a_record_has_128_bytes() -> None:
    """Two cache lines, and the ring's array view depends on it."""
    assert RECORD.itemsize == 128


def test_fields_lie_as_c_would_put_them() -> None:
    """Each field is aligned to its size and follows the one before: no hidden padding."""
    end = 0
    for name in RECORD.names or ():
        field, offset = RECORD.fields[name][:2]  # type: ignore[index]
        assert offset == end, name
        assert offset % field.base.itemsize == 0, name
        end = offset + field.itemsize
    assert end == RECORD.itemsize


def test_a_cdb_is_sixteen_bytes() -> None:
    """char[16] is a column of bytes, not a string that loses its trailing zeros."""
    assert RECORD["cdb"].subdtype == (np.dtype("u1"), (16,))


def test_every_field_of_the_header_is_there() -> None:
    """Nothing between the braces is parsed away."""
    block = HEADER.partition("struct record {")[2].partition("\n};")[0]
    code = re.sub(r"/\*.*?\*/", "", block, flags=re.S)
    names = [part.split()[-1].partition("[")[0] for part in code.split(";") if part.strip()]
    assert list(RECORD.names or ()) == names


def test_counters_are_the_enum() -> None:
    """One name a constant, in the order of their numbers, each with its meaning."""
    block = HEADER.partition("enum counter {")[2].partition("};")[0]
    code = re.sub(r"/\*.*?\*/", "", block, flags=re.S)
    constants = [name.strip() for name in code.split(",") if name.strip().startswith("COUNT_")]
    assert [f"COUNT_{name.upper()}" for name in COUNTERS] == constants
    assert all(COUNTERS.values())


@pytest.mark.parametrize(
    ("name", "prefix", "python"),
    [
        ("record_kind", "RECORD_", events.RecordKind),
        ("ending", "ENDING_", events.Ending),
        ("rbd_operation", "RBD_", events.RbdOperation),
        ("link", "LINK_", events.Link),
    ],
)
def test_enums_are_those_of_the_header(name: str, prefix: str, python: type[events.RecordKind]) -> None:
    """What Python repeats of the header has the same names and numbers."""
    assert {f"{prefix}{member.name}": member.value for member in python} == enum(name)


def test_records_are_viewed_without_a_copy() -> None:
    """A buffer's records are its own bytes; a part of one record is an error."""
    data = bytearray(256)
    records = events.records_of(data)
    data[128] = 7

    assert records["pid"].tolist() == [0, 7]
    with pytest.raises(ValueError, match="buffer size"):
        events.records_of(bytes(130))


def test_an_unknown_type_is_refused() -> None:
    """A field whose width is not fixed, or a struct that is not there, is an error at import, not a wrong offset."""
    header = "struct record {\n    long x;\n};\n"
    with pytest.raises(LookupError, match="type long"):
        events.struct_dtype("record", header)
    with pytest.raises(LookupError, match="no struct nothing"):
        events.struct_dtype("nothing", header)


@pytest.mark.parametrize("count", [0, 1, MOST_AT_ONCE, MOST_AT_ONCE + 1, 3 * MOST_AT_ONCE])
def test_parts_of_a_batch_are_the_batch(count: int) -> None:
    """In order, none too long, on the same clock; an empty one is one part."""
    whole = Batch(np.zeros(count, dtype=RECORD), 7)
    whole.records["tag"] = np.arange(count)
    parts = list(whole.parts())

    assert np.concatenate([part.records["tag"] for part in parts]).tolist() == list(range(count))
    assert all(len(part) <= MOST_AT_ONCE and part.unix_offset_ns == 7 for part in parts)
    assert len(parts) == max(1, -(-count // MOST_AT_ONCE))
