# SPDX-License-Identifier: Apache-2.0
"""`record` on a fake QEMU writes into the file where it was made."""

import os
from pathlib import Path

from otel_qemu.trace.histograms import Histograms
from otel_qemu.trace.pipeline import Pipeline
from otel_qemu.trace.recording import Recording
from tests.kernel.fake_qemu import FakeQemu
from tests.lab.tracing import Tracing


def test_a_recording_says_where_it_was_made(tmp_path: Path) -> None:
    """It has the kernel, the clocks and the bounds, and of the process the build ids and the layout."""
    path = tmp_path / "records"
    with FakeQemu() as qemu, Tracing("record", "-o", str(path), "--pid", str(qemu.pid)) as tracing:
        qemu.command("read 211 4096 8")
        assert tracing.stop() == 0
    recording = Recording.open(path)
    process = recording.processes[qemu.pid]

    assert recording.damage is None
    assert recording.details["kernel"] == os.uname().release
    assert {"monotonic_ns", "unix_ns"} == recording.details["clock"].keys()
    assert recording.details["bounds_s"][0] == 0.00005
    assert process["build_ids"].keys() == {"qemu", "librbd", "block_rbd"}
    assert process["layout"]["device"] < 4096
    histograms = Histograms(recording.details["bounds_s"])
    for traces in Pipeline().traces_of(recording.batches()):
        histograms.add(traces)
    assert {row.count for row in histograms.rows(recording.names)} == {211}
