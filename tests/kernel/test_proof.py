# SPDX-License-Identifier: Apache-2.0
"""Layouts are proven by the first requests of a binary, and a refuted layout is not used."""

import dataclasses
import logging
from collections.abc import Iterator

import pytest

from otel_qemu.errors import NotPossible
from otel_qemu.probe import attach as attach_module
from otel_qemu.probe import tracer as tracer_module
from otel_qemu.probe.attach import MULTI, PERF
from otel_qemu.probe.inspection import Inspection, inspect
from otel_qemu.probe.processes import QemuProcess
from otel_qemu.probe.program import Program
from otel_qemu.probe.proof import ENOUGH_PROOFS
from otel_qemu.probe.sites import PROOF, Site
from tests.kernel.fake.build import QEMU_7_2, Variant
from tests.kernel.fake_qemu import FakeQemu
from tests.kernel.tracing import Tracing


@pytest.fixture
def qemu(variant: Variant) -> Iterator[FakeQemu]:
    with FakeQemu(variant) as qemu:
        yield qemu


@pytest.mark.parametrize("route", [MULTI, PERF])
def test_the_first_requests_prove_a_layout(qemu: FakeQemu, route: str) -> None:
    """Each of them is traced; then the probe of scsi_req_new is removed, and costs nothing any more."""
    with Tracing(qemu, route=route, prove=True) as tracing:
        qemu.command(f"read {ENOUGH_PROOFS - 1} 4096")
        tracing.tracer.refresh()
        qemu.command("write 1 4096")
        counted = tracing.counted()
        assert (counted["scsi_made"], counted["scsi_submitted"]) == (ENOUGH_PROOFS, ENOUGH_PROOFS)
        tracing.tracer.refresh()
        qemu.command("read 100 4096 32")
        counted = tracing.counted()
    assert counted["scsi_submitted"] == 100
    assert "scsi_made" not in counted


def test_a_proof_is_of_the_binary() -> None:
    """An idle guest does not keep the probe in the others, and a later guest needs no proof."""
    with FakeQemu(QEMU_7_2) as busy, FakeQemu(QEMU_7_2) as idle, FakeQemu(QEMU_7_2) as later:
        with Tracing(busy, idle, prove=True) as tracing:
            busy.command(f"read {ENOUGH_PROOFS} 4096")
            tracing.tracer.refresh()
            tracing.selection.qemus.append(later)
            tracing.tracer.refresh()
            tracing.counted()
            for qemu in (busy, idle, later):
                qemu.command("read 5 4096")
            counted = tracing.counted()
    assert counted["scsi_submitted"] == 15
    assert "scsi_made" not in counted


def test_a_process_that_ends_while_its_probes_are_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    """If its file cannot be opened after the first probe, it is not traced, and no probe remains."""
    attach = attach_module.attach

    def refuse(program: Program, path: str, sites: list[Site], route: str) -> attach_module.Attachment:
        if sites[0].probe is not PROOF:
            raise NotPossible(f"cannot attach to {path}: No such file or directory")
        return attach(program, path, sites, route)

    monkeypatch.setattr(attach_module, "attach", refuse)
    with FakeQemu(QEMU_7_2) as qemu, Tracing(qemu, prove=True) as tracing:
        tracing.tracer.refresh()
        qemu.command("read 5 4096")
        assert (tracing.tracer.inspections, tracing.counted()) == ([], {})


@pytest.mark.parametrize("field", ["device", "tag"])
def test_a_refuted_layout_is_not_used_and_reported_once(
    field: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If a build has moved a field, no request is reported wrongly, and RBD is traced alone."""

    def misread(process: QemuProcess) -> Inspection:
        found = inspect(process)
        found.layout = dataclasses.replace(found.layout, **{field: getattr(found.layout, field) + 8})
        return found

    monkeypatch.setattr(tracer_module, "inspect", misread)
    with FakeQemu(QEMU_7_2) as qemu, Tracing(qemu, prove=True) as tracing, caplog.at_level(logging.WARNING):
        qemu.command(f"read {ENOUGH_PROOFS} 4096")
        for _ in range(3):
            tracing.tracer.refresh()
        counted = tracing.counted()
        traces = tracing.traces()
    assert counted["scsi_unproven"] == ENOUGH_PROOFS
    assert "scsi_submitted" not in counted
    assert (len(traces.requests), len(traces.calls)) == (0, ENOUGH_PROOFS)
    (warned,) = caplog.messages
    assert warned.startswith(f"process {qemu.pid}: SCSI is not traced: requests differ from the arguments of scsi_req")
