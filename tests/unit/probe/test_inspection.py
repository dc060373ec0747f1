# SPDX-License-Identifier: Apache-2.0
"""What a binary shows is looked for once a build and inode, and again as long as something is missing."""

from pathlib import Path

import pytest

from otel_qemu.probe.elf import Binary, open_binary
from otel_qemu.probe.inspection import MOST_CACHED, Findings, FindingsCache, Inspector
from otel_qemu.probe.layouts import Evidence
from otel_qemu.probe.processes import MappedFile, QemuProcess
from otel_qemu.probe.sites import PROBES
from tests.support.builders import compiled
from tests.support.debug_builds import SOURCE, built

LAYOUT = Evidence({"device": 8}, "somewhere")
COMPLETE = Findings(layout=LAYOUT)


class Look:
    """Counts how often it is asked, by a cache of its own."""

    __name__ = "look"

    def __init__(self, found: Findings = COMPLETE, most: int = MOST_CACHED) -> None:
        self.found = found
        self.asked = 0
        self.cache = FindingsCache(most)

    def __call__(self, _binary: Binary) -> Findings:
        self.asked += 1
        return self.found


def ask(folder: Path, look: Look, source: str = "int main(void) { return 0; }", *flags: str, inode: int = 1) -> None:
    flags = flags or ("-Wl,--build-id=sha1",)
    path = str(compiled(folder, source, *flags))
    with open_binary(path) as binary:
        look.cache.find(binary, MappedFile(path, path, 7, inode), look)


def test_the_same_build_and_inode_is_looked_at_once(tmp_path: Path) -> None:
    look = Look()
    ask(tmp_path, look)
    ask(tmp_path, look)
    assert look.asked == 1


def test_another_build_or_inode_is_looked_at_again(tmp_path: Path) -> None:
    """An upgrade may put another build on a number that was free, or the same build on another."""
    look = Look()
    ask(tmp_path, look)
    ask(tmp_path, look, "int main(void) { return 1; }")
    ask(tmp_path, look, inode=2)
    assert look.asked == 3


@pytest.mark.parametrize("found", [Findings(), Findings(missing=[PROBES[0]], layout=LAYOUT)])
def test_what_lacks_something_is_looked_at_again(tmp_path: Path, found: Findings) -> None:
    """Its debug file may have been installed since."""
    look = Look(found)
    ask(tmp_path, look)
    ask(tmp_path, look)
    assert look.asked == 2


def test_a_binary_without_build_id_is_never_believed_to_be_another(tmp_path: Path) -> None:
    look = Look()
    ask(tmp_path, look, "int main(void) { return 0; }", "-Wl,--build-id=none")
    ask(tmp_path, look, "int main(void) { return 0; }", "-Wl,--build-id=none")
    assert look.asked == 2


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    """Of five, it remembers the last two at most, and the last one in any case."""
    look = Look(most=2)
    for inode in range(5):
        ask(tmp_path, look, inode=inode)
    ask(tmp_path, look, inode=4)
    assert look.asked == 5
    for inode in range(3):
        ask(tmp_path, look, inode=inode)
    assert look.asked == 8


DISAGREEING = SOURCE.format(more="").replace(
    "int main",
    """
void scsi_req_complete(char *req, int status) { req[2] = status; }
void scsi_req_retry(char *req) { req[0x17a] = 1; }
void *scsi_req_new(void *device, unsigned tag, unsigned lun, char *cdb) { return cdb; }
int main""",
)


def test_sources_that_disagree_are_reported_and_neither_is_used(tmp_path: Path) -> None:
    """Debug information of an old SCSIRequest, machine code of a new one: the first requests will show which it is."""
    path = str(built(tmp_path, DISAGREEING, "-g", "-rdynamic"))
    found = Inspector().inspect(QemuProcess(0, 0, MappedFile("/usr/bin/kvm", path, 0, 0), None, None, None))
    (problem,) = [each for each in found.problems if "SCSIRequest" in each]
    assert problem == (
        "the layout of SCSIRequest is not used, because two sources disagree: debug information (in the file itself): "
        "device at 0x8, tag at 0x1c, sense at 0x70, but machine code of scsi_req_retry: "
        "device at 0x8, tag at 0x24, sense at 0x78"
    )
    assert found.calibrates
    assert not found.layout.scsi_known


@pytest.mark.parametrize(
    ("known", "moved"), [("tag, lun;", "tag, between, lun;"), ("int len;", "int len, between, another;")]
)
def test_a_layout_that_the_probes_cannot_read_is_reported(tmp_path: Path, known: str, moved: str) -> None:
    """
    Debug information shows that it is no layout that is known, whatever machine code looks like.

    It is not calibrated either: calibration could not see that `cmd.xfer` has moved.
    """
    assert known in DISAGREEING
    source = DISAGREEING.replace("0x17a", "0x172").replace(known, moved)
    path = str(built(tmp_path, source, "-g", "-rdynamic"))
    found = Inspector().inspect(QemuProcess(0, 0, MappedFile("/usr/bin/kvm", path, 0, 0), None, None, None))
    assert not found.layout.scsi_known
    assert not found.calibrates
    assert "scsi" not in found.sites
    assert any("has an unknown layout of SCSIRequest" in problem for problem in found.problems)


@pytest.mark.parametrize("is_known", [True, False], ids=["machine code shows it", "nothing else shows it"])
def test_debug_information_that_cannot_be_read(tmp_path: Path, is_known: bool) -> None:
    """A problem only where it is needed."""
    source = DISAGREEING if is_known else DISAGREEING.replace("req[0x17a] = 1", "req[0] = 1")
    path = str(built(tmp_path, source, "-g", "-gsplit-dwarf", "-rdynamic"))
    found = Inspector().inspect(QemuProcess(0, 0, MappedFile("/usr/bin/kvm", path, 0, 0), None, None, None))
    assert any("split off into .dwo files" in problem for problem in found.problems) is not is_known
    assert found.calibrates is not is_known


def test_a_layout_that_nothing_shows_nor_can_show(tmp_path: Path) -> None:
    """Without scsi_req_new there is nothing to calibrate with: the reason and the remedy are said."""
    source = DISAGREEING.replace("req[0x17a] = 1", "req[0] = 1").replace("scsi_req_new", "another")
    path = str(built(tmp_path, source, "-rdynamic"))
    found = Inspector().inspect(QemuProcess(0, 0, MappedFile("/usr/bin/kvm", path, 0, 0), None, None, None))
    assert not found.calibrates
    assert found.problems[0] == (
        "SCSI is not traced: the layout of SCSIRequest is not known, and /usr/bin/kvm has no symbol scsi_req_new "
        "for calibration; install its debug symbols"
    )
