# SPDX-License-Identifier: Apache-2.0
"""Attaching to a real guest under load, and leaving it, again and again: nothing looks lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_qemu.probe.selection import Selection
from tests.kernel.window import Window
from tests.lab.disk import Disk
from tests.lab.guest import Guest
from tests.lab.lab import Lab
from tests.lab.tracing import otel_qemu, traces_of

DEPTH = 8
FIO = (
    "fio --name=load --filename=/dev/sda --rw=randrw --bs=4k --direct=1 --ioengine=libaio"
    f" --iodepth={DEPTH} --time_based --runtime=600 > /dev/null 2>&1 & echo $! > /tmp/fio.pid"
)
WINDOWS = 50
RECORDINGS = 2


@pytest.fixture(scope="module")
def busy(lab: Lab) -> Iterator[Guest]:
    """A guest that reads and writes all the time."""
    guest = lab.guest("edges", disks=[Disk("edges")])
    guest.run(FIO)
    yield guest
    guest.run("kill $(cat /tmp/fio.pid)")
    guest.destroy()


def test_fifty_windows_on_a_busy_guest_lose_nothing(busy: Guest) -> None:
    """Each is what one that attaches, looks and goes again sees: whole traces of ended requests."""
    seen = 0
    for _ in range(WINDOWS):
        window = Window(Selection(pids=(busy.pid,)))
        window.run(duration_s=0.1)
        window.assert_is_whole(in_flight=DEPTH)
        seen += len(window.endings)
    assert seen > WINDOWS


def test_a_recording_of_a_busy_guest_has_no_request_that_is_lost(busy: Guest, tmp_path: Path) -> None:
    """`record`, as a user runs it, and `replay`: requests completed, and nothing about losses was said."""
    for number in range(RECORDINGS):
        done = otel_qemu("record", "--pid", str(busy.pid), "--duration", "0.5", "-o", str(tmp_path / f"{number}.rec"))
        assert (done.returncode, "lost" in done.stderr) == (0, False), done.stderr
        requests = [trace for trace in traces_of(tmp_path / f"{number}.rec") if trace["operation"]]
        assert len(requests) > 10
        assert {trace["status"] for trace in requests} == {"GOOD"}
