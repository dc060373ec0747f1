# SPDX-License-Identifier: Apache-2.0
"""Replaying a recording of the lab gives the same trees and histograms again, to the letter."""

import io
from pathlib import Path

import numpy as np
import pytest

from otel_qemu.trace.histograms import Histograms
from otel_qemu.trace.pipeline import Pipeline
from otel_qemu.trace.recording import Recording
from otel_qemu.views.table import print_histograms
from otel_qemu.views.tree import tree_lines

HERE = Path(__file__).parent
RECORDINGS = sorted((HERE / "recordings").glob("*.otq"))


def replayed(recording: Recording) -> str:
    """Return the trees of all traces, then the histograms."""
    histograms, lines = Histograms(), list[str]()
    for traces in Pipeline().traces_of(recording.batches()):
        histograms.add(traces)
        lines += tree_lines(traces, recording.names)
    table = io.StringIO()
    print_histograms(histograms.rows(recording.names), table)
    # rich fills lines up with blanks, which no editor keeps.
    return "\n".join(line.rstrip() for line in [*lines, "", *table.getvalue().splitlines()]) + "\n"


def test_there_are_recordings() -> None:
    """Without any, the next test would check nothing."""
    assert RECORDINGS


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_recording_gives_its_golden(path: Path, request: pytest.FixtureRequest) -> None:
    """The text equals the golden file beside it; --rewrite-goldens writes that anew, for a reviewer to read."""
    recording, golden = Recording.open(path), path.with_suffix(".txt")
    if request.config.getoption("--rewrite-goldens"):
        golden.write_text(replayed(recording))

    assert recording.damage is None
    assert replayed(recording) == golden.read_text()


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_the_kernels_union_is_that_of_the_calls(path: Path) -> None:
    """The kernel's union of calls equals the correlator's, to the ns."""
    recording = Recording.open(path)
    records = np.concatenate([batch.records for batch in recording.batches()])
    requests = records[(records["kind"] == 1) & (records["calls"] > 0)]
    expected = dict(zip(requests["submit_ns"].tolist(), requests["rbd_ns"].tolist(), strict=True))
    for traces in Pipeline().traces_of(recording.batches()):
        for row in traces.requests[traces.requests["calls"] > 0]:
            assert row["rbd_ns"] == expected.pop(int(row["submit_ns"]))

    assert not expected
    assert recording.counters["records"] == len(records)
