# SPDX-License-Identifier: Apache-2.0
"""Every setting: its flag, its type, its default and what it does."""

import sys
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from otel_qemu.policy import KeepPolicy, WaitThreshold
from otel_qemu.settings import types
from otel_qemu.settings.option import Setting, variable
from otel_qemu.settings.types import SettingType, show_duration
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S
from otel_qemu.trace.kernel_histograms import MOST_BOUNDS

_MOST_ONE_IN = 1 << 32  # the kernel's dice have 32 bits


def _interval(least_s: float, most_s: float) -> SettingType:
    return types.duration(f"a duration from {show_duration(least_s)} to {show_duration(most_s)}", least_s, most_s)


def _setting(key: str, type: SettingType, default: Any, help: str, **others: Any) -> Any:
    value = default if others.get("multiple") else type.convert(default, None, None)
    described = {"type": type, "default": default, "help": help, "show_default": True, **others}
    return field(default=value, metadata={"key": key, "option": described})


# fmt: off
_NAME = SettingType("NAME|UUID", "a name or UUID of a libvirt domain, not empty", (str,), str)
_ONE_IN = SettingType("N", f"a whole number, 0 to {_MOST_ONE_IN}", (str, int), int, least=0, most=_MOST_ONE_IN)
_SLOW = types.duration("a duration like 100ms, or off", optional=True)
_SLOW_OPERATION = SettingType(
    "OPERATION=DURATION", "an operation and a duration, like WRITE=20ms", (str, tuple),
    types.read_slow_operation, types.show_slow_operation)
_GUEST_RATE = SettingType(
    "N", "a number of traces a second above 0, or off", types.NUMBER, types.read_number,
    least=sys.float_info.min, most=sys.float_info.max, optional=True)
_WAIT = types.duration("a duration like 1ms, or 0", least_s=0)
_SHARE = SettingType("SHARE", "a number from 0 to 1", types.NUMBER, types.read_number, least=0, most=1)
_BOUNDS = SettingType(
    "DURATIONS", f"at most {MOST_BOUNDS} ascending durations, like 1ms,5ms,10ms, or exponential:0", (str, list),
    partial(types.read_bounds, most=MOST_BOUNDS), types.show_bounds)
_QUEUE = SettingType(
    "SIZE", "a size like 32MiB, 1MiB or more", (str, int), types.read_size, types.show_size, least=2**20)


@dataclass(frozen=True)
class Settings:
    """The value of each setting; its help says what it does."""

    domains: tuple[str, ...] = _setting(
        "domain", _NAME, (), "Select this libvirt domain, given by name or UUID. May be repeated.",
        multiple=True, show_default="all")
    one_in: int = _setting(
        "one-in", _ONE_IN, "1000", "Keep one in N of the traces that are neither slow nor an error; 0 keeps none.")
    slow_s: float | None = _setting(
        "slow", _SLOW, "100ms", "Keep the trace of every request or call that takes this long or longer.")
    slow_by_operation_s: tuple[tuple[str, float], ...] = _setting(
        "slow-operation", _SLOW_OPERATION, (), "Threshold for one SCSI operation, overriding --slow. May be repeated.",
        multiple=True, show_default="none")
    guest_traces_per_s: float | None = _setting(
        "guest-rate", _GUEST_RATE, "100", "Export at most N traces per second of each guest, divided fairly among its "
        "disks; the rest is only counted.")
    wait_span_s: float = _setting(
        "wait-span", _WAIT, "1ms", "A wait in QEMU's block layer that takes at least this long has a span of its own.")
    wait_share: float = _setting(
        "wait-share", _SHARE, "0.1", "A wait in QEMU's block layer that takes at least this share of its request's "
        "time also has a span of its own.")
    bounds_s: tuple[float, ...] = _setting(
        "bounds", _BOUNDS, ", ".join(map(show_duration, DEFAULT_BOUNDS_S)), "Upper bounds of the histograms' buckets, "
        f"such as 1ms,5ms,10ms: at most {MOST_BOUNDS} ascending durations, or exponential:SCALE with a scale of 0 or "
        "below.")
    queue_bytes: int = _setting(
        "queue-size", _QUEUE, "32MiB", "Maximum memory for traces that wait to be sent.")
    drain_s: float = _setting(
        "drain-interval", _interval(0.05, 5), "500ms", "How often to read records from the kernel.")
    refresh_s: float = _setting(
        "refresh-interval", _interval(0.1, 60), "1s", "How often to look for new guests.")
    look_s: float = _setting(
        "look-interval", _interval(1, 600), "5s", "How often to look for requests that hang.")
    # fmt: on

    @property
    def policy(self) -> KeepPolicy:
        """Which traces get a record."""
        return KeepPolicy(self.one_in, self.slow_s, self.slow_by_operation_s)

    @property
    def wait_threshold(self) -> WaitThreshold:
        """Which waits have a span of their own."""
        return WaitThreshold(round(self.wait_span_s * 1e9), self.wait_share)


SETTINGS = {
    key: Setting([f"--{key}", each.name], envvar=variable(key), **each.metadata["option"])
    for each in fields(Settings) for key in [each.metadata["key"]]
}  # fmt: skip
"""Options of `run` by their keys in the file, in the order in which they are listed."""
