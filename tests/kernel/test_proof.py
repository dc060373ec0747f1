# SPDX-License-Identifier: Apache-2.0
"""Layouts are proven by the first requests of a binary, and a refuted layout is not used."""

import dataclasses
import logging
from collections.abc import Iterator

import pytest

from otel_qemu.errors import NotPossible
from otel_qemu.probe.attach import MULTI, PERF
from otel_qemu.probe.inspection import Inspection, Inspector
from otel_qemu.probe.processes import QemuProcess
from otel_qemu.probe.program import Program
from otel_qemu.probe.proof import ENOUGH_PROOFS
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


def test_a_process_that_ends_while_its_probes_are_attached() -> None:
    """If only its first probe can be attached, it is not traced, and no probe remains."""
    with FakeQemu(QEMU_7_2) as qemu, Tracing(qemu, prove=True, load_program=FirstAlone) as tracing:
        tracing.tracer.refresh()
        qemu.command("read 5 4096")
        assert (tracing.tracer.inspections, tracing.counted()) == ([], {})


class FirstAlone(Program):
    """Gives one function, which is attached, and no other, as if the process had ended then."""

    given = False

    def function(self, name: str, multi: bool) -> int:
        """The first one, and else refuse."""
        if self.given:
            raise NotPossible("No such file or directory")
        self.given = True
        return super().function(name, multi)


class Misreading(Inspector):
    """Finds a field 8 bytes behind its place."""

    def __init__(self, field: str) -> None:
        super().__init__()
        self._field = field

    def inspect(self, process: QemuProcess) -> Inspection:
        """As any other, but for that."""
        found = super().inspect(process)
        found.layout = dataclasses.replace(found.layout, **{self._field: getattr(found.layout, self._field) + 8})
        return found


@pytest.mark.parametrize("field", ["device", "tag"])
def test_a_refuted_layout_is_not_used_and_reported_once(field: str, caplog: pytest.LogCaptureFixture) -> None:
    """If a build has moved a field, no request is reported wrongly, and RBD is traced alone."""
    with (
        FakeQemu(QEMU_7_2) as qemu,
        Tracing(qemu, prove=True, inspector=Misreading(field)) as tracing,
        caplog.at_level(logging.WARNING),
    ):
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
