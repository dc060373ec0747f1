# SPDX-License-Identifier: Apache-2.0
"""
Requests that fail, are reset or are tried again, on the real QEMU.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from otel_qemu.events import Ending
from tests.lab.disk import Disk
from tests.lab.guest import Guest
from tests.lab.lab import Lab
from tests.lab.live import READERS, await_held, ended, ending, frozen_cluster, read_in_flight, traced, wait_until
from tests.lab.programs import type_in

LUN_RESET = Path(__file__).with_name("lun_reset.c")
WRITE = "dd if=/dev/zero of=/dev/sda bs=4k count=1 seek=100 oflag=direct > /tmp/dd 2>&1; echo $? > /tmp/status"
ETIMEDOUT = 110


@contextmanager
def impatient_clients(lab: Lab) -> Iterator[None]:
    """Guests that are started here give librbd 3 s for each request: what takes longer fails with ETIMEDOUT."""
    before = lab.ceph.conf.read_text()
    lab.ceph.conf.write_text(f"{before}rados_osd_op_timeout = 3\n")  # it ends with [client]
    try:
        yield
    finally:
        lab.ceph.conf.write_text(before)


def status_of(guest: Guest) -> str:
    return str(guest.qmp({"execute": "query-status"})["return"]["status"])


@pytest.mark.parametrize("suite", [None, "sid"], ids=["host", "sid"])
def test_a_write_that_stopped_the_guest_is_one_request_with_two_calls(lab: Lab, suite: str | None) -> None:
    """werror=stop with an OSD that hangs, then cont: one retry, the first call's errno, and success in the end."""
    name = f"stopping-{suite}"
    with impatient_clients(lab):
        guest = lab.guest(name, disks=[Disk(name, error_policy="stop")], suite=suite)
    with traced(guest) as tracer:
        with frozen_cluster(lab):
            guest.run(f"({WRITE}) > /dev/null 2>&1 &")
            wait_until(lambda: status_of(guest) == "io-error")
            waiting = tracer.in_flight()
        guest.resume()
        traces = ended(tracer, 1, "WRITE")
        wait_until(lambda: len(tracer.in_flight()) == 0)  # Linux may write it once more
    guest.run("until test -s /tmp/status; do sleep 0.1; done; test $(cat /tmp/status) = 0")
    guest.destroy()

    request, calls = traces.requests[0], traces.calls_of(0)
    assert (request["ending"], request["status"], request["retries"]) == (Ending.COMPLETED, 0, 1)
    assert request["submit_ns"] in waiting["submit_ns"]
    assert calls["return_value"].tolist() == [-ETIMEDOUT, 0]  # without the flush of a QEMU that stops
    assert request["wait_ns"] > 0
    assert request["rbd_ns"] >= 1_000_000_000


def test_a_write_that_fails_is_reported_with_its_errno(lab: Lab) -> None:
    """The same with werror=report: CHECK CONDITION or a failure of the host adapter, and librbd's own errno below."""
    with impatient_clients(lab):
        guest = lab.guest("reporting", disks=[Disk("reporting", error_policy="report")])
    with traced(guest) as tracer:
        with frozen_cluster(lab):
            guest.run(f"({WRITE}) > /dev/null 2>&1 &")
            traces = ended(tracer, 1, "WRITE")
    guest.destroy()

    request = traces.requests[0]  # Linux may try it again
    assert request["ending"] == Ending.FAILED or request["status"] == 2
    assert traces.calls_of(0)["return_value"].tolist() == [-ETIMEDOUT]


def test_requests_in_flight_at_a_lun_reset_end_once(lab: Lab, tmp_path: Path) -> None:
    """
    LOGICAL UNIT RESET by the guest with reads in flight: each ends once, as completed or as cancelled.

    Not with QEMU 7.2: it resets on the iothread's own thread, and aborts there, traced or not (blk_drain: Assertion
    `qemu_in_main_thread()'; mended in QEMU 8.0 by be2c42b97c3a).
    """
    guest = lab.guest("lunreset", disks=[Disk("lunreset")], suite="sid")
    type_in(guest, tmp_path, LUN_RESET)
    with traced(guest) as tracer, ThreadPoolExecutor() as pool:
        with frozen_cluster(lab):
            read_in_flight(guest, tracer)
            waiting = tracer.in_flight()["submit_ns"]
            pool.submit(guest.run, "/tmp/lun_reset")
            await_held(guest, pool)
            those = ending(tracer)
        wait_until(lambda: np.isin(waiting, those().requests["submit_ns"]).all())
        wait_until(lambda: len(tracer.in_flight()) == 0)  # Linux reads again what was cancelled
        found = those().requests
    guest.destroy()

    of_then = found[np.isin(found["submit_ns"], waiting)]
    assert of_then["ending"].tolist() == READERS * [Ending.CANCELLED]
    assert sorted(of_then["submit_ns"]) == sorted(waiting)
