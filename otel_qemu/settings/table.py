"""Every setting: its name, what it may be, its default and what it does."""

from dataclasses import dataclass, field, fields
from typing import Any

from otel_qemu.export.waits import WaitThreshold
from otel_qemu.probe.keeping import Keeping
from otel_qemu.settings import kinds
from otel_qemu.settings.kinds import Kind
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S
from otel_qemu.trace.kernel_histograms import MOST_BOUNDS


@dataclass(frozen=True)
class Setting:
    """
    One setting.

    Attributes:
        name: as in the file, and behind ``--``.
        field: of `Settings`.
        kind: what it may be.
        default: what it is when nobody says.
        help: what it does, in a sentence.
    """

    name: str
    field: str
    kind: Kind
    default: Any
    help: str

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"OTEL_QEMU_{self.name.upper().replace('-', '_')}"

    @property
    def default_text(self) -> str:
        """Its default for people, without quotes and brackets."""
        shown = self.kind.show(self.default).translate(str.maketrans("", "", '"[]{}'))
        return shown.replace(", ", ",") or "none"


def _setting(name: str, kind: Kind, default: Any, help: str) -> Any:
    return field(default=default, metadata={"name": name, "kind": kind, "help": help})


def _interval(least_s: float, most_s: float) -> kinds.Duration:
    allowed = f"a duration from {kinds.show_duration(least_s)} to {kinds.show_duration(most_s)}"
    return kinds.Duration("DURATION", allowed, least_s=least_s, most_s=most_s)


_LONGEST_S = 9e9  # what 64 bits of ns hold
_NAMES = kinds.Names("NAME|UUID", "names or UUIDs of libvirt domains, none of them empty")
_MOST_ONE_IN = 1 << 32  # the kernel's dice have 32 bits
_ONE_IN = kinds.Count("N", f"a whole number, 0 to {_MOST_ONE_IN}", _MOST_ONE_IN)
_SLOW = kinds.Duration("DURATION", "a duration like 100ms, or off", least_s=1e-9, most_s=_LONGEST_S, optional=True)
_SLOW_OPERATION = kinds.DurationByOperation(
    "OPERATION=DURATION",
    "operations and durations, like WRITE=20ms",
    kinds.Duration("DURATION", "a duration like 20ms", least_s=1e-9, most_s=_LONGEST_S),
)
_RATE = kinds.Rate("N", "a number of traces a second above 0, or off")
_WAIT = kinds.Duration("DURATION", "a duration like 1ms, or 0", most_s=_LONGEST_S)
_SHARE = kinds.Share("SHARE", "a number from 0 to 1")
_BOUNDS = kinds.Bounds(
    "DURATIONS", f"at most {MOST_BOUNDS} ascending durations, like 1ms,5ms,10ms, or exponential:0", MOST_BOUNDS
)
_QUEUE = kinds.Size("SIZE", "a size like 32MiB, 1MiB or more", least_bytes=2**20)
_FOLDER = kinds.Folder("DIRECTORY", "an absolute path, or off")
_SPOOL = kinds.Size("SIZE", "a size like 1GiB, 1MiB or more", least_bytes=2**20)


@dataclass(frozen=True)
class Settings:
    """What the service does; the fields' help says it."""

    domains: tuple[str, ...] = _setting(
        "domain", _NAMES, (), "Trace these libvirt domains only, by name or UUID; none: all."
    )
    one_in: int = _setting(
        "one-in", _ONE_IN, 1000, "Of traces without error that are not slow, keep one in N; 0: none."
    )
    slow_s: float | None = _setting("slow", _SLOW, 0.1, "Keep every trace that takes so long.")
    slow_by_operation_s: tuple[tuple[str, float], ...] = _setting(
        "slow-operation", _SLOW_OPERATION, (), "The same for some operations."
    )
    guest_traces_per_s: float | None = _setting(
        "guest-rate",
        _RATE,
        100,
        "Export at most so many traces a second of each guest, shared fairly by its disks; the rest is counted.",
    )
    wait_span_s: float = _setting("wait-span", _WAIT, 0.001, "A wait this long has a span of its own.")
    wait_share: float = _setting("wait-share", _SHARE, 0.1, "So has one that is this share of its request's time.")
    bounds_s: tuple[float, ...] = _setting("bounds", _BOUNDS, DEFAULT_BOUNDS_S, "Upper bounds of the histograms' bins.")
    queue_bytes: int = _setting("queue-size", _QUEUE, 32 * 2**20, "Most memory for traces that wait to be sent.")
    spool: str | None = _setting("spool", _FOLDER, None, "Where traces wait on disk while the endpoint is away.")
    spool_bytes: int = _setting("spool-size", _SPOOL, 256 * 2**20, "Most disk space for them.")
    drain_s: float = _setting("drain-interval", _interval(0.05, 5), 0.5, "How often records are taken from the kernel.")
    refresh_s: float = _setting("refresh-interval", _interval(0.1, 60), 1.0, "How often new guests are looked for.")
    look_s: float = _setting("look-interval", _interval(1, 600), 5.0, "How often requests that hang are looked for.")

    @property
    def keeping(self) -> Keeping:
        """Which traces get a record."""
        return Keeping(self.one_in, self.slow_s, self.slow_by_operation_s)

    @property
    def wait_threshold(self) -> WaitThreshold:
        """From when on a wait has a span of its own."""
        return WaitThreshold(round(self.wait_span_s * 1e9), self.wait_share)


SETTINGS = {
    each.metadata["name"]: Setting(
        each.metadata["name"], each.name, each.metadata["kind"], each.default, each.metadata["help"]
    )
    for each in fields(Settings)
}
"""By name, in the order in which people are told of them."""
