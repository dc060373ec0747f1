# SPDX-License-Identifier: Apache-2.0
"""
Every way a request can end, made to happen on the real QEMU: reset, unplug, kill, a cluster that stops answering.

In process, so that the tracer's tables can be looked into.
"""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from otel_qemu.events import Batch, Ending, Records
from otel_qemu.probe.program import Program
from otel_qemu.probe.tracer import Tracer
from otel_qemu.trace.correlate import traces_of_requests
from otel_qemu.trace.hung import HungRequests
from otel_qemu.trace.names import Names
from tests.lab.disk import Disk
from tests.lab.lab import Lab
from tests.lab.live import READERS, await_held, ended, frozen_cluster, read_in_flight, traced, wait_until

SMALL_RING_PAGES = 64  # 256 KiB: half a second of this load


def test_requests_in_flight_at_a_reset_end_once(lab: Lab) -> None:
    """system_reset waits for what is in flight: each request ends with its call, as completed or as cancelled."""
    guest = lab.guest("reset", disks=[Disk("reset")])
    with traced(guest) as tracer:
        with ThreadPoolExecutor() as pool:
            with frozen_cluster(lab):
                read_in_flight(guest, tracer)
                pool.submit(guest.qmp, {"execute": "system_reset"})
                await_held(guest, pool)
        found = ended(tracer, READERS).requests
    guest.destroy()

    assert set(found["ending"].tolist()) <= {Ending.COMPLETED, Ending.CANCELLED}
    assert (found["calls"] == 1).all()
    assert (found["rbd_ns"] > 0).all()


def test_a_disk_that_is_unplugged_leaves_nothing_in_flight(lab: Lab) -> None:
    """device_del while reads are in flight: every one of them ends, one way or another, and the table is empty."""
    guest = lab.guest("unplug", disks=[Disk("unplug")])
    with traced(guest) as tracer:
        with ThreadPoolExecutor() as pool:
            with frozen_cluster(lab):
                read_in_flight(guest, tracer)
                pool.submit(guest.qmp, {"execute": "device_del", "arguments": {"id": guest.disks[0].alias}})
                await_held(guest, pool)
        wait_until(lambda: len(tracer.in_flight()) == 0)
        counters = tracer.counters()
    guest.destroy()

    assert counters["scsi_submitted"] == counters["scsi_completed"] + counters["scsi_end_lost"]
    assert counters["rbd_submitted"] == counters["rbd_completed"]


def test_a_killed_qemu_is_forgotten(lab: Lab) -> None:
    """kill -9 with reads in flight: its entries are dropped and counted, and nothing stays attached."""
    guest = lab.guest("killed", disks=[Disk("killed")])
    with traced(guest) as tracer:
        guest.run("dd if=/dev/sda of=/dev/null bs=4k count=23 iflag=direct")
        with frozen_cluster(lab):
            read_in_flight(guest, tracer)
            os.kill(guest.pid, signal.SIGKILL)
            wait_until(lambda: _is_forgotten(tracer))
        assert len(tracer.in_flight()) == 0
        assert tracer.abandoned >= READERS
        (reads,) = [row for row in tracer.histograms().rows(Names()) if row.operation == "READ" and row.layer == "scsi"]
    assert reads.count == 23  # the histograms of a guest that has gone stay
    guest.destroy()


def test_requests_that_hang_are_reported_while_they_do(lab: Lab) -> None:
    """With the cluster frozen each request is reported as hung, once, with its open call, and later as ended."""
    guest = lab.guest("hanging", disks=[Disk("hanging")])
    hung = HungRequests(longest_s=0.5)
    with traced(guest) as tracer:
        with frozen_cluster(lab):
            read_in_flight(guest, tracer)
            reported = reported_as_hung(hung, tracer)
            again = hung.select(tracer.in_flight(), time.monotonic_ns())
        finished = ended(tracer, READERS).requests
    guest.destroy()

    traces = traces_of_requests(reported, 0)
    assert len(reported) == READERS
    assert not len(again)
    assert (traces.requests["ending"] == Ending.HUNG).all()
    assert (traces.calls["complete_ns"] == 0).all()
    assert len(traces.calls) == READERS
    assert set(reported["request"].tolist()) <= set(finished["request"].tolist())


def test_a_reader_that_stops_costs_records_and_no_count(lab: Lab) -> None:
    """Ten seconds of load into a small ring that nobody reads: histograms equal QMP, and every drop has its reason."""
    guest = lab.guest("overfull", disks=[Disk("overfull")], paused=True)
    with traced(guest, partial(Program, ring_pages=SMALL_RING_PAGES)) as tracer:
        guest.resume()
        guest.run(
            "fio --name=load --filename=/dev/sda --rw=randrw --bs=4k --direct=1 --ioengine=libaio --iodepth=32"
            " --time_based --runtime=10 > /dev/null"
        )
        counts = guest.block_counts()[guest.disks[0].alias]
        tracer.detach()
        batch: Batch = tracer.read()
        counters, rows = tracer.counters(), tracer.histograms().rows(Names())
    guest.destroy()

    counted = {row.operation: row.count for row in rows if row.layer == "scsi"}
    assert (counted["READ"], counted["WRITE"]) == (counts.reads, counts.writes)
    requests = int((batch.records["kind"] == 1).sum())
    assert counters["scsi_completed"] == requests + counters["ring_full_request"] + counters["requests_not_kept"]
    assert len(batch) == counters["records"]
    assert counters["ring_full_request"] > requests


def reported_as_hung(hung: HungRequests, tracer: Tracer) -> Records:
    """What is reported while the readers hang, until there is a record for each of them."""
    records: list[Records] = []

    def all_are() -> bool:
        records.append(hung.select(tracer.in_flight(), time.monotonic_ns()))
        return sum(map(len, records)) >= READERS

    wait_until(all_are)
    return np.concatenate(records)


def _is_forgotten(tracer: Tracer) -> bool:
    tracer.refresh()
    return not tracer.inspections
