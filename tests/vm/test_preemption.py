# SPDX-License-Identifier: Apache-2.0
"""
Two busy QEMUs on the only CPU of a kernel that preempts BPF programs: no request is lost, and the kernel stays
healthy.
"""

from typing import Any

import pytest

from otel_qemu.probe.attach import MULTI, PERF
from tests.vm.machine import Report

COUNTED = ("scsi_submitted", "scsi_completed", "rbd_submitted", "rbd_completed", "parent_found")
AUDIT_COUNTED = ("audit_led", "audit_elsewhere", "audit_switched")
LEAST_REQUESTS = 10_000
"""In a minute an emulated CPU makes 200,000 of them, traced."""
ROUTES = [(MULTI, False), (PERF, False), (MULTI, True)]
ROUTE_NAMES = ["uprobe_multi", "perf_event", "audit"]


def test_the_kernel_preempts_and_is_well(reports: list[Report]) -> None:
    """It reports that it preempts its own code, logs no problem, and powers off in the end."""
    for report in reports:
        assert report.broken == []
        assert report.ended, report.output
        assert "(lazy)" in report.lines[0]["preemption"] or "(full)" in report.lines[0]["preemption"]


@pytest.mark.parametrize(("route", "audit"), ROUTES, ids=ROUTE_NAMES)
def test_every_count_is_the_qemus_own(route: str, audit: bool, reports: list[Report]) -> None:
    """Every request and call of the two is counted, joined and read; no other counter has grown."""
    found = traced(reports, route, audit)
    requests, calls = (sum(answer[what] for answer in found["answers"]) for what in ("requests", "calls"))
    assert requests == calls > LEAST_REQUESTS
    counted = {name: value for name, value in found["counted"].items() if name not in AUDIT_COUNTED or not audit}
    assert counted == dict.fromkeys(COUNTED, requests) | {"records": requests * (2 if audit else 1)}
    assert found["read"] == counted["records"]
    assert [(answer["in_flight"], answer["strange_returns"]) for answer in found["answers"]] == [(0, 0), (0, 0)]


def traced(reports: list[Report], route: str, audit: bool) -> dict[str, Any]:
    """Return the counts of one route."""
    found = [
        line for report in reports for line in report.lines[1:] if (line["route"], line["audit"]) == (route, audit)
    ]
    assert found, f"{route} has not ended: {[report.output for report in reports]}"
    return found[0]
