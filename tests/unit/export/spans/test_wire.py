# SPDX-License-Identifier: Apache-2.0
"""Columns of serialised messages: protobuf reads back what was put in, and writes the same bytes itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span

from otel_qemu.export.attributes import key_values
from otel_qemu.export.spans.wire import (
    LAST_NS,
    Block,
    BytesCache,
    Field,
    IntegerAttribute,
    double_tag,
    joined,
    later,
    tag_of,
    unix_ns,
)

numbers = st.integers(0, 2**64 - 1) | st.integers(0, 63).map(lambda bits: 1 << bits)


@given(st.lists(numbers, max_size=20))
def test_integers_are_written_as_protobuf_writes_them(values: list[int]) -> None:
    """To the byte; as text from 2**63 on."""
    found = IntegerAttribute("scsi.lba").column(np.array(values, "u8"))
    plain = [value if value < 2**63 else str(value) for value in values]
    assert found == [Span(attributes=key_values({"scsi.lba": value})).SerializeToString() for value in plain]


@given(st.lists(st.tuples(st.integers(1, 2**64 - 1), st.floats(allow_nan=False)), max_size=20))
def test_blocks_are_written_as_protobuf_writes_them(rows: list[tuple[int, float]]) -> None:
    """To the byte, in the order of the fields."""
    block = Block(("begin", tag_of(Span(start_time_unix_nano=1), 8), "<u8"), ("share", double_tag("share"), "<f8"))
    table = np.array(rows, [("begin", "u8"), ("share", "f8")])
    found = block.column(len(rows), begin=table["begin"], share=table["share"])
    spans = [Span(start_time_unix_nano=begin, attributes=key_values({"share": share})) for begin, share in rows]
    assert found == [span.SerializeToString() for span in spans]


@given(st.integers(0, 70_000))
@settings(max_examples=50)
def test_a_field_of_any_size_is_written_as_protobuf_writes_it(size: int) -> None:
    """To the byte, alone and in a column."""
    span = Span(name="x" * size)
    expected = ScopeSpans(spans=[span]).SerializeToString()
    field = Field(ScopeSpans(spans=[Span()]))
    assert field.of(span.SerializeToString()) == expected
    assert field.column([span.SerializeToString()] * 2) == [expected] * 2


def test_rows_are_joined_side_by_side() -> None:
    """Columns of unlike length are a mistake."""
    assert joined([b"a", b"b"], [b"", b"c"]) == [b"a", b"bc"]
    with pytest.raises(ValueError):
        joined([b"a"], [])


def test_what_is_cache_is_made_once_and_bounded() -> None:
    """Beyond the bound all is forgotten, and made again."""
    made: list[int] = []

    def make(key: int) -> bytes:
        made.append(key)
        return bytes([key])

    cache = BytesCache(make, most=3)
    assert cache.column([1, 2, 1, 3, 2]) == [b"\1", b"\2", b"\1", b"\3", b"\2"]
    assert made == [1, 2, 3]
    assert cache.column([4, 1]) == [b"\4", b"\1"]
    assert made == [1, 2, 3, 4, 1]
    assert len(cache) <= 3


@given(st.lists(st.integers(0, LAST_NS), max_size=5), st.integers(-(2**70), 2**70))
def test_times_stay_within_64_bits(times_ns: list[int], offset_ns: int) -> None:
    """Clamped, not wrapped."""
    found = unix_ns(np.array(times_ns, "u8"), offset_ns).tolist()
    assert found == [min(max(time_ns + offset_ns, 0), LAST_NS) for time_ns in times_ns]


def test_later_times_end_at_the_last() -> None:
    """As many ns as there are."""
    assert later(np.array([1, LAST_NS - 1], "u8"), np.array([2, 2], "u8")).tolist() == [3, LAST_NS]
