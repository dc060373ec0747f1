# SPDX-License-Identifier: Apache-2.0
"""In whatever order events come, every hit is counted once, every request has one record, and no entry remains."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from otel_qemu.events import Layer, RbdOperation, RecordKind
from otel_qemu.policy import KeepPolicy
from tests.bpf.hits import counted_hits
from tests.bpf.layouts import LAYOUTS
from tests.bpf.machine import PID, Completion, Machine, Request, Via
from tests.bpf.rooms import room_for

_PICK = st.integers(0, 1000)


def test_a_retry_is_counted(machine: Machine) -> None:
    """Stopped and continued without another submit: the hit of scsi_req_retry is one of the hits counted."""
    request = machine.submit_request()
    machine.retry(request)
    machine.complete(request)
    assert counted_hits(machine) == machine.hits


class Guest(RuleBasedStateMachine):
    """A guest in which anything may happen at any time, with tables and a ring that are always too small."""

    machine: Machine

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.calls: list[Completion] = []
        self.seen: set[int] = set()
        self.lost_calls: list[Completion] = []
        self.request_records = 0
        self.call_records = 0

    @initialize(
        version=st.sampled_from(sorted(LAYOUTS)), requests=st.integers(1, 4), calls=st.integers(1, 4),
        held=st.integers(0, 3), room=st.integers(0, 6),
        series=st.integers(0, 4), one_in=st.integers(0, 3), slow_ns=st.integers(0, 5), by_cookie=st.booleans(),
        keep_all=st.booleans(),
    )  # fmt: skip
    def begin(
        self, version: str, requests: int, calls: int, held: int, room: int, series: int, one_in: int, slow_ns: int,
        by_cookie: bool, keep_all: bool,
    ) -> None:  # fmt: skip
        tables = {"requests": requests, "calls": calls, "held": held, "latencies": series}
        policy = KeepPolicy(one_in, slow_ns * 1e-9 if slow_ns else None)
        self.machine = Machine(
            LAYOUTS[version], tables=tables, ring_bytes=room_for(room), policy=policy, by_cookie=by_cookie,
            keep_all=keep_all,
        )  # fmt: skip
        self.machine.world.dice_step = 0x5000_0000

    @rule(unreadable=st.booleans(), foreign=st.booleans())
    def submit(self, unreadable: bool, foreign: bool) -> None:
        self.machine.now_ns += 1
        self.machine.pid = PID + foreign
        request = self.machine.allocate_request()
        if unreadable:
            self.machine.fail_read(2)
        self.machine.enqueue(request)
        self.machine.pid = PID
        self.requests.append(request)
        self.seen.add(request.address)

    @precondition(lambda self: self.requests)
    @rule(pick=_PICK, enqueue=st.booleans())
    def retry(self, pick: int, enqueue: bool) -> None:
        request = self.requests[pick % len(self.requests)]
        self.machine.retry(request)
        self.machine.now_ns += 1
        if enqueue:
            self.machine.enqueue(request)

    @precondition(lambda self: self.requests)
    @rule(pick=_PICK, how=st.sampled_from(["complete", "check", "fail", "cancel", "forget", "foreign"]))
    def end(self, pick: int, how: str) -> None:
        request = self.requests.pop(pick % len(self.requests))
        self.machine.now_ns += 1
        if how == "check":
            self.machine.complete(request, 2, b"\x70\0\x05")
        elif how == "fail":
            self.machine.fail(request, 7)
        elif how == "foreign":
            self.machine.pid += 1
            self.machine.complete(request)
            self.machine.pid = PID
        else:
            getattr(self.machine, how)(request)

    @rule(
        pick=_PICK, operation=st.sampled_from(RbdOperation), via=st.sampled_from(Via),
        fail=st.integers(0, 40), own=st.integers(0, 5),
    )  # fmt: skip
    def call(self, pick: int, operation: RbdOperation, via: Via, fail: int, own: int) -> None:
        request = self.requests[pick % len(self.requests)] if self.requests and own else None
        self.machine.now_ns += 1
        if fail:
            self.machine.fail_read(fail)
        self.calls.append(self.machine.call(request, operation, via=via))

    @precondition(lambda self: self.calls)
    @rule(pick=_PICK, how=st.sampled_from(["release", "release", "release", "refuse", "drop", "foreign"]))
    def end_call(self, pick: int, how: str) -> None:
        completion = self.calls.pop(pick % len(self.calls))
        self.machine.now_ns += 1
        if how == "foreign":
            self.machine.pid += 1
            self.machine.release(completion)
            self.machine.pid = PID
        else:
            getattr(self.machine, how)(completion)
        if how in ("foreign", "drop"):
            self.lost_calls.append(completion)

    @rule()
    def read_ring(self) -> None:
        records = self.machine.records()
        self.request_records += int((records["kind"] == RecordKind.REQUEST).sum())
        self.call_records += int((records["kind"] == RecordKind.CALL).sum())

    @invariant()
    def every_hit_is_counted_once(self) -> None:
        assert counted_hits(self.machine) == self.machine.hits

    @invariant()
    def every_call_is_linked_or_says_why_not(self) -> None:
        counters = self.machine.counters()
        links = "parent_found parent_no_layout parent_fault parent_not_in_flight"
        assert sum(counters[name] for name in links.split()) == counters["rbd_submitted"] + counters["rbd_table_full"]

    @invariant()
    def what_was_submitted_has_ended_or_is_in_flight(self) -> None:
        counters, sizes = self.machine.counters(), self.machine.table_sizes()
        ended = counters["scsi_completed"] + counters["scsi_end_lost"]
        assert counters["scsi_submitted"] == ended + sizes["requests"]
        ended = counters["rbd_completed"] + counters["rbd_end_lost"]
        assert counters["rbd_submitted"] == ended + sizes["calls"]

    def end_everything(self) -> None:
        """End everything that may be in flight, also requests whose end was lost."""
        for completion in [*self.calls, *self.lost_calls]:
            self.machine.hit("rbd_aio_release", completion.address)
        for address in sorted(self.seen):
            self.machine.hit("scsi_req_complete", address, 0)

    def teardown(self) -> None:
        if not hasattr(self, "machine"):
            return
        self.end_everything()
        self.every_hit_is_counted_once()
        self.what_was_submitted_has_ended_or_is_in_flight()
        assert not any(self.machine.table_sizes().values()), "something was left behind"
        self.read_ring()
        counters = self.machine.counters()
        assert counters["records"] == self.request_records + self.call_records
        ends = counters["scsi_completed"] + counters["scsi_end_lost"] + counters["scsi_unstarted"]
        assert ends == self.request_records + counters["ring_full_request"] + counters["requests_not_kept"]
        lone = self.call_records + counters["ring_full_call"] + counters["calls_not_kept"]
        assert lone + counters["calls_not_held"] <= counters["rbd_completed"]
        self.histograms_count_what_ended(counters)

    def histograms_count_what_ended(self, counters: dict[str, int]) -> None:
        series, latencies = self.machine.latencies()
        counted = latencies["duration"]["counts"].sum(axis=1)
        of_requests, of_calls = (int(counted[series["layer"] == layer].sum()) for layer in Layer)
        assert (
            of_requests + of_calls + counters["series_full"] == counters["scsi_completed"] + counters["rbd_completed"]
        )
        assert of_requests <= counters["scsi_completed"]
        assert of_calls <= counters["rbd_completed"]
        assert (latencies["wait"]["counts"].sum(axis=1) == latencies["completion"]["counts"].sum(axis=1)).all()


TestGuest = Guest.TestCase
TestGuest.settings = settings(derandomize=True, database=None, max_examples=200, stateful_step_count=60, deadline=None)
