# SPDX-License-Identifier: Apache-2.0
"""Attributes in OTLP's form, and those that name the disk of a span."""

from collections.abc import Iterable, Mapping
from functools import lru_cache

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_qemu.export import semconv
from otel_qemu.export.text import printable
from otel_qemu.trace.names import Disk

Value = str | bool | int | float
Values = dict[str, Value]

_KEPT = 4096


def key_values(values: Mapping[str, Value]) -> list[KeyValue]:
    """
    Attributes, in this order.

    Raises:
        ValueError: an integer is beyond OTLP's int64, or a text has a lone surrogate.
    """
    return [KeyValue(key=key, value=_any_value(value)) for key, value in values.items()]


def plain_values(attributes: Iterable[KeyValue]) -> Values:
    """The reverse of `key_values`."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in attributes}


@lru_cache(maxsize=_KEPT)
def serialised_disk(disk: Disk) -> bytes:
    """A `Span` with only the attributes that name its disk; names that are not known have no attribute."""
    values = texts({semconv.DISK_ALIAS: disk.alias, semconv.DISK_TARGET: disk.target})
    return Span(attributes=key_values(values)).SerializeToString()


@lru_cache(maxsize=_KEPT)
def serialised_image(disk: Disk) -> bytes:
    """The same, with the RBD image behind the disk."""
    image = texts({semconv.RBD_POOL: disk.pool, semconv.RBD_IMAGE: disk.image})
    return serialised_disk(disk) + Span(attributes=key_values(image)).SerializeToString()


def texts(named: Mapping[str, str | None]) -> Values:
    """The texts that are not empty, made printable."""
    return {key: printable(text) for key, text in named.items() if text}


def _any_value(value: Value) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(double_value=value) if isinstance(value, float) else AnyValue(string_value=value)
