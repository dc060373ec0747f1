# SPDX-License-Identifier: Apache-2.0
"""A tracer on fake QEMUs alone."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import ClassVar

import numpy as np

from otel_qemu.events import ADDITIONAL, Batch, Records
from otel_qemu.policy import EVERYTHING, KeepPolicy
from otel_qemu.probe.inspection import Inspection, Inspector
from otel_qemu.probe.processes import QemuProcess
from otel_qemu.probe.program import MOST_IN_FLIGHT, RING_PAGES, Program
from otel_qemu.probe.selection import Selection
from otel_qemu.probe.tracer import Tracer
from otel_qemu.trace.correlate import Correlator
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S, HistogramRow
from otel_qemu.trace.names import Names
from otel_qemu.trace.traces import Traces
from tests.kernel.fake_qemu import FakeQemu


class Those(Selection):
    """Some fake QEMUs and nothing else that runs on this machine; which may change between two refreshes."""

    def __init__(self, *qemus: FakeQemu) -> None:
        super().__init__()
        self.qemus = list(qemus)

    def _candidates(self) -> set[int]:
        return {qemu.pid for qemu in self.qemus if qemu.alive}


class KeptProgram(Program):
    """A program that stays loaded: compiling and verifying it takes most of the time of a test."""

    idle: ClassVar[list["KeptProgram"]] = []

    def close(self) -> None:
        """Leave it empty for the next test."""
        names = (b"processes", b"requests", b"calls", b"held", b"expected", b"made", b"submitted", b"latencies")
        for name in (*names, *(b"threads", b"coroutines", b"audited") * self._audits):
            self._bpf[name].clear()
        self.idle.append(self)

    @classmethod
    def one(cls, audit: bool = False) -> "KeptProgram":
        """One that no other tracer uses."""
        for index, idle in enumerate(cls.idle):
            if idle._audits == audit:
                return cls.idle.pop(index)
        return cls(audit)


class WithoutProof(Inspector):
    """Finds no function that could prove a layout, so that the first requests hit no probe more."""

    def inspect(self, process: QemuProcess) -> Inspection:
        """As any other, but for that."""
        found = super().inspect(process)
        found.proof = None
        return found


INSPECTOR, INSPECTOR_WITHOUT_PROOF = Inspector(), WithoutProof()
"""They know what earlier tests' binaries have shown: to read debug information takes a second."""


class Tracing:
    """A context manager: a `Tracer` attached to some fake QEMUs."""

    def __init__(
        self, *qemus: FakeQemu, route: str | None = None, requests: int = MOST_IN_FLIGHT,
        ring_pages: int = RING_PAGES, load_program: Callable[[bool], Program] | None = None, prove: bool = False,
        inspector: Inspector | None = None, policy: KeepPolicy = EVERYTHING,
        bounds_s: tuple[float, ...] = DEFAULT_BOUNDS_S, audit: bool = False,
    ) -> None:  # fmt: skip
        """
        Load, and attach when entered.

        Args:
            qemus: what to trace.
            route: of attaching; None for the best there is.
            requests: entries of each in-flight table.
            ring_pages: of the ring.
            load_program: None: one that is loaded already, if its tables have these sizes.
            prove: whether layouts are put to the proof, which makes the first requests hit one probe more.
            inspector: of the QEMUs; None for one that knows the binaries of earlier tests.
            policy: which traces get a record.
            bounds_s: of the histograms.
        """
        self.selection = Those(*qemus)
        if load_program is None:
            as_ever = (requests, ring_pages) == (MOST_IN_FLIGHT, RING_PAGES)
            small = partial(Program, most_in_flight=requests, ring_pages=ring_pages)
            load_program = KeptProgram.one if as_ever else small
        inspector = inspector or (INSPECTOR if prove else INSPECTOR_WITHOUT_PROOF)
        self.tracer = Tracer(self.selection, policy, bounds_s, audit, load_program=load_program, inspector=inspector)
        self.correlator = Correlator()
        self.tracer.route = route or self.tracer.route
        self._before = self.tracer.counters()
        self.tracer.read()

    def __enter__(self) -> "Tracing":
        try:
            self.tracer.refresh()
        except BaseException:
            self.tracer.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tracer.close()

    def counted(self) -> dict[str, int]:
        """What each kernel counter has gone up by since the last call; those that have not are left out."""
        now = self.tracer.counters()
        grown = {name: now[name] - self._before[name] for name in now if now[name] != self._before[name]}
        self._before = now
        return grown

    def records(self) -> Records:
        """What is in the ring."""
        return self.tracer.read().records

    def traces(self) -> Traces:
        """Whatever is in the ring, put together as if nothing came after it."""
        batch = self.tracer.read()
        return join(self.correlator, batch, len(batch) or 1)

    def counts(self) -> dict[tuple[str, str], int]:
        """How many the kernel's histograms have counted, by layer and operation, of all processes and disks."""
        found: dict[tuple[str, str], int] = {}
        for row in self.rows():
            found[row.layer, row.operation] = found.get((row.layer, row.operation), 0) + row.count
        return found

    def rows(self) -> list[HistogramRow]:
        """The kernel's histograms."""
        return self.tracer.histograms().rows(Names())

    @property
    def attached(self) -> int:
        """Binaries that have probes."""
        return len(self.tracer._attachments)

    def map_entries(self) -> dict[str, int]:
        """How many entries each table of the kernel side has."""
        tables = self.tracer._program._bpf
        return {name: len(tables[name.encode()]) for name in ("processes", "requests", "calls", "held")}


def join(correlator: Correlator, batch: Batch, step: int) -> Traces:
    """Feed records a few at a time, and put everything that comes out into one."""
    cuts = range(0, len(batch), step)
    fed = [correlator.feed(Batch(batch.records[at : at + step], batch.unix_offset_ns)) for at in cuts]
    requests, calls, before = [], [], 0
    for traces in (*fed, correlator.finish()):
        moved = traces.calls.copy()
        moved["parent"] += np.where(moved["parent"] >= 0, before, 0)
        requests.append(traces.requests)
        calls.append(moved)
        before += len(traces.requests)
    return Traces(np.concatenate(requests), np.concatenate(calls), batch.unix_offset_ns)


def hits(counted: Mapping[str, int]) -> int:
    """Hits by the counters, of which each hit adds to exactly one."""
    return sum(value for name, value in counted.items() if name not in ADDITIONAL)


def read_while_running(tracing: Tracing, qemu: FakeQemu, command: str, interval_s: float) -> Records:
    """Every record of a command, read as the service does: on a timer while it runs."""
    qemu.begin(command)
    parts = []
    end = time.monotonic() + 120
    while time.monotonic() < end and not qemu.answered:
        parts.append(tracing.records())
        time.sleep(interval_s)
    qemu.answer()
    return np.concatenate((*parts, tracing.records()))
