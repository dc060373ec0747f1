# SPDX-License-Identifier: Apache-2.0
"""Exemplars in a real Prometheus lead to traces in a real Jaeger."""

import os
import time
from typing import Any

import pytest

from tests.backends.jaeger import Jaeger, wait_for
from tests.backends.prometheus import Prometheus
from tests.kernel.fake_qemu import FakeQemu
from tests.lab.tracing import Tracing

pytestmark = pytest.mark.usefixtures("metrics_variables")

WAIT_S = 120.0


def test_exemplars_lead_to_traces(
    prometheus: Prometheus, jaeger: Jaeger, qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command as users run it: each exemplar's trace is in Jaeger, and its root took as long as it says."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", jaeger.otlp_grpc)
    begin_s = time.time()
    with Tracing("run", "--pid", str(qemu.pid), "--one-in", "1", env=dict(os.environ)) as tracing:
        for command in ("read 211 4096 16", "write 101 5120", "check-condition 11"):
            qemu.command(command)
        found = wait_for(lambda: exemplars(prometheus, qemu.pid, begin_s), WAIT_S, "exemplars")
        assert tracing.stop() == 0
    assert " 0 lost" in tracing.stderr
    assert "data points sent to" in tracing.stderr
    roots = set()
    for exemplar in found:
        trace = jaeger.trace(exemplar["labels"]["trace_id"])
        assert trace is not None, exemplar
        (root,) = trace.roots
        assert root.span_id == exemplar["labels"]["span_id"]
        assert root.duration_ns == round(float(exemplar["value"]) * 1e9)
        roots.add(root.name)
    assert roots == {"READ", "WRITE"}


def exemplars(prometheus: Prometheus, pid: int, begin_s: float) -> list[dict[str, Any]]:
    """Those of a guest's requests, once both operations have some."""
    series = f'qemu_scsi_request_duration_seconds_bucket{{process_pid="{pid}"}}'
    by_operation = {
        operation: prometheus.exemplars(
            series.replace("}", f', scsi_operation_name="{operation}"}}'), begin_s, time.time() + 1
        )
        for operation in ("READ", "WRITE")
    }
    return [each for found in by_operation.values() for each in found] if all(by_operation.values()) else []
