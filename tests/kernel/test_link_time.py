# SPDX-License-Identifier: Apache-2.0
"""
QEMUs without modules, optimised at link time by gcc and by clang, as some distributions and clouds build theirs.

Nothing is exported there, and what is called once is inlined.  Symbols and layouts come from a debug file, from the
binary itself or, for the layout of SCSIRequest, from calibration; with none of them, RBD is traced alone.
"""

import dataclasses
import logging
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from otel_qemu.probe import proof
from otel_qemu.probe.attach import MULTI, PERF
from otel_qemu.probe.calibration import ENOUGH_SAMPLES, SAMPLES
from otel_qemu.probe.inspection import Inspection, Inspector
from otel_qemu.probe.layouts import CALIBRATION, SCSI_REQUEST, UNKNOWN_OFFSET
from otel_qemu.probe.processes import QemuProcess
from otel_qemu.probe.program import Program
from otel_qemu.probe.proof import ENOUGH_PROOFS
from otel_qemu.trace.traces import Join
from tests.kernel.fake.build import (
    QEMU_5_2,
    QEMU_7_2,
    QEMU_11_1,
    STRANGE,
    Symbols,
    Variant,
    built,
    optimised_at_link_time,
)  # fmt: skip
from tests.kernel.fake_qemu import FakeQemu
from tests.kernel.tracing import Tracing

COMPILERS = ("gcc", "clang")
BUILDS = [
    *(optimised_at_link_time(QEMU_7_2, compiler, symbols) for compiler in COMPILERS for symbols in Symbols),
    *(
        optimised_at_link_time(base, compiler, Symbols.DEBUG_FILE)
        for compiler in COMPILERS
        for base in (QEMU_5_2, QEMU_11_1)
    ),
]
TRACEABLE = [build for build in BUILDS if build.symbols is not Symbols.NONE]
# In a mount namespace of its own, where the debug file lies as a package puts it.
WITH_DEBUG_FILES = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /usr/lib/debug && exec "$@"')
DEBUG_FILES = Path("/usr/lib/debug")


def running(build: Variant) -> FakeQemu:
    """Run a build in a process whose file system has its debug file, if there is one."""
    folder = built(build) / "debug"
    if build.symbols is not Symbols.DEBUG_FILE:
        return FakeQemu(build)
    DEBUG_FILES.mkdir(exist_ok=True)
    return FakeQemu(build, wrapper=(*WITH_DEBUG_FILES, str(folder)))


class Noting(Inspector):
    """Keeps the inspections, which change as the tracer calibrates."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Inspection] = []

    def inspect(self, process: QemuProcess) -> Inspection:
        """As any other."""
        self.found.append(super().inspect(process))
        return self.found[-1]


def run_everything(qemu: FakeQemu) -> tuple[int, int]:
    """Make every sort of request; return the numbers of requests and of librbd calls."""
    commands = ("read 211 4096 32", "write 101 65536 16", "fua 23", "flush 23", "unmap 23 7 4", "zero 5", "inquiry 7",
                "fail 3" if qemu.variant.symbols and "QEMU=52" not in qemu.variant.definitions else "inquiry 3",
                "check-condition 3", "cancel 5", "retry 7", "retry-data 5")  # fmt: skip
    answers = [qemu.command(command) for command in commands]
    return sum(answer.requests for answer in answers), sum(answer.calls for answer in answers)


@pytest.mark.parametrize("build", TRACEABLE, ids=lambda build: build.name)
def test_every_request_is_counted_and_joined(build: Variant) -> None:
    """This holds from the first request on, which begins the proof; the walk joins each call."""
    inspector = Noting()
    with running(build) as qemu, Tracing(qemu, prove=True, inspector=inspector) as tracing:
        first = qemu.command(f"read {ENOUGH_PROOFS} 4096")
        tracing.tracer.refresh()
        requests, calls = run_everything(qemu)
        counted, traces = tracing.counted(), tracing.traces()
    requests, calls = requests + first.requests, calls + first.calls
    assert (counted["scsi_submitted"], counted["scsi_completed"]) == (requests, requests)
    assert (counted["rbd_submitted"], counted["rbd_completed"]) == (calls, calls)
    assert counted["scsi_made"] == ENOUGH_PROOFS
    assert counted["scsi_resubmitted"] == 7
    assert "scsi_end_lost" not in counted
    assert (len(traces.requests), len(traces.calls)) == (requests, calls)
    assert set(traces.calls["join"].tolist()) == {Join.WALK, Join.WALK_RANGE}
    (found,) = inspector.found
    assert {
        name: value for name, value in dataclasses.asdict(found.layout).items() if name in build.layout
    } == build.layout
    assert found.problems == []


@pytest.mark.parametrize("build", TRACEABLE, ids=lambda build: build.name)
def test_where_symbols_and_layout_are_from(build: Variant) -> None:
    """They come from debug information, if there is any, and from the functions that are not inlined."""
    with running(build) as qemu, Tracing(qemu) as tracing:
        (found,) = tracing.tracer.inspections
    names = {Symbols.DEBUG_FILE: "debug file", Symbols.TABLE: ".symtab", Symbols.TABLE_AND_DWARF: ".symtab"}
    assert build.symbols is not None
    assert found.symbols == {"scsi": names[build.symbols], "rbd": ".dynsym"}
    functions = [site.probe.function for site in found.sites["scsi"]]
    assert "scsi_req_retry" not in functions or build.compiler == "clang"  # which inlines it, and leaves it there
    begin = {Symbols.DEBUG_FILE: f"debug information ({DEBUG_FILES}/.build-id/", Symbols.TABLE: "machine code of ",
             Symbols.TABLE_AND_DWARF: "debug information (in the file itself); machine code of "}  # fmt: skip
    assert found.sources[SCSI_REQUEST].startswith(begin[build.symbols])
    assert found.sources[SCSI_REQUEST].endswith("scsi_req_cancel_complete")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_without_any_symbols_rbd_is_traced_alone(compiler: str, caplog: pytest.LogCaptureFixture) -> None:
    """One warning gives the reason and the remedy, and every call is counted."""
    build = optimised_at_link_time(QEMU_7_2, compiler, Symbols.NONE)
    with FakeQemu(build) as qemu, caplog.at_level(logging.WARNING), Tracing(qemu, prove=True) as tracing:
        calls = run_everything(qemu)[1]
        counted, traces = tracing.counted(), tracing.traces()
    assert (counted["rbd_submitted"], counted["rbd_completed"], len(traces.calls)) == (calls, calls, calls)
    assert "scsi_submitted" not in counted
    (said,) = [message for message in caplog.messages if "SCSI" in message]
    assert said.endswith("has no symbol scsi_req_complete, scsi_req_enqueue; install its debug symbols")


@pytest.mark.parametrize("route", [MULTI, PERF])
def test_a_layout_that_nothing_shows_is_calibrated(route: str, caplog: pytest.LogCaptureFixture) -> None:
    """
    An unknown layout is found with the first requests and proven with the next; from there every request is counted.
    """
    inspector = Noting()
    with (
        running(STRANGE) as qemu,
        caplog.at_level(logging.INFO),
        Tracing(qemu, route=route, prove=True, inspector=inspector) as tracing,
    ):
        assert inspector.found[0].calibrates
        qemu.command(f"read {ENOUGH_PROOFS} 4096 4")
        calibrating = tracing.counted()
        tracing.tracer.refresh()
        qemu.command(f"write {ENOUGH_PROOFS} 4096 4")
        tracing.tracer.refresh()
        assert tracing.counted()["scsi_submitted"] == ENOUGH_PROOFS
        tracing.traces()
        requests, calls = run_everything(qemu)
        counted, traces = tracing.counted(), tracing.traces()
        assert tracing.map_entries()["requests"] == 0
    assert (calibrating["scsi_made"], calibrating["scsi_unproven"]) == (ENOUGH_PROOFS, ENOUGH_PROOFS)
    assert "scsi_submitted" not in calibrating
    assert "scsi_made" not in counted
    assert (counted["scsi_submitted"], counted["scsi_completed"], len(traces.requests)) == (requests,) * 3
    assert (counted["rbd_submitted"], len(traces.calls)) == (calls, calls)
    assert set(traces.calls["join"].tolist()) == {Join.WALK, Join.WALK_RANGE}
    layout = inspector.found[0].layout
    assert (layout.device, layout.tag, layout.sense) == (0x18, 0x2C, UNKNOWN_OFFSET)
    assert inspector.found[0].sources[SCSI_REQUEST] == CALIBRATION
    assert caplog.messages[-1].endswith(f"SCSIRequest is read by {CALIBRATION}; sense data are not read")


def test_a_calibration_is_of_the_binary() -> None:
    """A later process of the same binary is traced from its first request on."""
    with running(STRANGE) as qemu, running(STRANGE) as later, Tracing(qemu, prove=True) as tracing:
        for _ in range(2):
            qemu.command(f"read {ENOUGH_PROOFS} 4096")
            tracing.tracer.refresh()
        tracing.selection.qemus.append(later)
        tracing.tracer.refresh()
        tracing.counted()
        later.command("read 5 4096")
        assert tracing.counted()["scsi_submitted"] == 5


def test_samples_that_found_no_room_are_taken_again() -> None:
    """As many processes are calibrated as there is room for; once there is room again, the next one is."""
    inspector = Noting()
    with running(STRANGE) as qemu, Tracing(qemu, prove=True, inspector=inspector) as tracing:
        tables = [tracing.tracer._program._bpf[name] for name in (b"made", b"submitted")]
        for table in tables:
            for index in range(table.max_entries):
                table[table.Key(0, 0, index)] = table.Leaf()
        qemu.command(f"read {SAMPLES} 4096")
        for table in tables:
            table.clear()
        tracing.tracer.refresh()
        assert inspector.found[0].calibrates
        qemu.command(f"read {ENOUGH_SAMPLES} 4096")
        tracing.tracer.refresh()
        assert not inspector.found[0].calibrates
        qemu.command(f"read {SAMPLES} 4096")
        assert [len(list(table.keys())) for table in tables] == [0, 0]


class Misread(Program):
    """Its samples are as if the tag had moved away from its CDB."""

    def samples(self, pid: int) -> tuple[NDArray[np.void], NDArray[np.uint8]]:
        """As any other's, with another tag."""
        made, submitted = super().samples(pid)
        made = made.copy()
        made["tag"] += 1
        return made, submitted


def test_a_calibration_that_finds_nothing_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No request is traced, and new samples are taken, within their bounds, later and later."""
    monkeypatch.setattr(proof, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(proof, "LONGEST_PAUSE_S", 3600.0)
    with (
        running(STRANGE) as qemu,
        Tracing(qemu, prove=True, load_program=Misread) as tracing,
        caplog.at_level(logging.WARNING),
    ):
        pauses: list[float] = []
        deadline = time.monotonic() + 60
        while len(pauses) < 3 and time.monotonic() < deadline:
            qemu.command("read 200 4096")
            tracing.tracer.refresh()
            pauses += [pause for pause in tracing.tracer._proofs._pause_s.values() if pause not in pauses]
        counted = tracing.counted()
    assert pauses == [0.002, 0.004, 0.008]
    assert counted["scsi_unproven"] % 200 == 0
    assert "scsi_submitted" not in counted
    (said,) = [message for message in caplog.messages if "calibration" in message]
    assert said.startswith(f"process {qemu.pid}: SCSI is not traced: calibration has found no layout")
