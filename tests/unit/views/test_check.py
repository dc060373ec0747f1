# SPDX-License-Identifier: Apache-2.0
"""What `check` says of layouts: where each is from, for people and for programs."""

import dataclasses
from pathlib import Path

import pytest

from otel_qemu.probe.elf import open_binary
from otel_qemu.probe.inspection import Inspection
from otel_qemu.probe.layouts import CALIBRATION, COMPLETION, OLD_SCSI_REQUEST, RBD_TASK, SCSI_REQUEST, Layout
from otel_qemu.probe.processes import MappedFile, QemuProcess
from otel_qemu.probe.sites import proof_site, sites
from otel_qemu.probe.trial import Trial
from otel_qemu.trace.names import Guest
from otel_qemu.views.check import check_line, check_text
from tests.support.builders import compiled

FUNCTIONS = "".join(
    f"void {name}(void *req) {{}}" for name in ("scsi_req_enqueue", "scsi_req_complete", "scsi_req_new")
)


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """A QEMU of which debug information shows one struct, and nothing the others."""
    path = str(compiled(tmp_path, FUNCTIONS, "-shared", "-fPIC"))
    process = QemuProcess(7, 0, MappedFile("/usr/bin/kvm", path, 0, 0), None, None, None)
    found = Inspection(process, Layout(**OLD_SCSI_REQUEST), {SCSI_REQUEST: "debug information (/a.debug)"})
    with open_binary(path) as binary:
        found.sites["scsi"], found.proof = sites(binary, "scsi")[0], proof_site(binary)
    return Trial(
        Guest(7, "/usr/bin/kvm"), found, "uprobe_multi", "the stand-in kernel headers", {"scsi": True, "rbd": False}
    )


def test_a_layout_with_its_source(trial: Trial) -> None:
    """One that is not known is named, too."""
    assert check_line(trial)["layout"] == {
        "device": 8,
        "tag": 0x1C,
        "sense": 0x70,
        "completion_argument": None,
        "coroutine": None,
        "through_acb": 0,
        "return_value": None,
        "sources": {SCSI_REQUEST: "debug information (/a.debug)", RBD_TASK: None, COMPLETION: None},
    }
    text = list(check_text(trial))
    assert "  layout   SCSIRequest: debug information (/a.debug), which the first requests must confirm" in text
    assert "  layout   RBDTask: not known" in text


def test_a_layout_that_nothing_can_confirm(trial: Trial) -> None:
    """There is no function to see a request made by."""
    trial.inspection.proof = None
    assert any(line.endswith("which nothing can confirm: no symbol scsi_req_new") for line in check_text(trial))


def test_a_layout_that_is_to_be_calibrated(trial: Trial) -> None:
    """`check` sees no request, so its offsets are not known yet."""
    trial.inspection.layout = dataclasses.replace(Layout())
    trial.inspection.sources.clear()
    layout = check_line(trial)["layout"]
    assert (layout["device"], layout["sources"][SCSI_REQUEST]) == (None, CALIBRATION)
    assert f"  layout   SCSIRequest: {CALIBRATION}" in list(check_text(trial))
