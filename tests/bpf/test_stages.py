# SPDX-License-Identifier: Apache-2.0
"""The end of tracing: first no new request is taken, then no hit changes anything, and probes may go in any order."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_qemu.events import BPF_DIRECTORY, Ending, Link, RbdOperation, Stage
from tests.bpf.hits import counted_hits
from tests.bpf.layouts import QEMU_7_2, QEMU_11_1, UNKNOWN_OFFSET
from tests.bpf.machine import Completion, Machine, Request

ACTIONS = ("submit", "call", "lone call", "release", "complete", "retry")


def test_no_request_is_put_in_flight_any_more(machine: Machine) -> None:
    """Neither are its calls, which would have no parent; its end is that of a request that is not traced."""
    machine.set_stage(Stage.ENDING)
    request = machine.submit_request()
    machine.release(machine.call(request, RbdOperation.READ), 4096)
    machine.complete(request)
    counted = machine.counted()
    assert {name: counted[name] for name in ("scsi_not_taken", "rbd_not_taken", "rbd_unstarted", "scsi_unstarted")} == {
        "scsi_not_taken": 1, "rbd_not_taken": 1, "rbd_unstarted": 1, "scsi_unstarted": 1,
    }  # fmt: skip
    assert [int(record["submit_ns"]) for record in machine.records()] == [0]
    assert not any(machine.table_sizes().values())


def test_a_request_in_flight_goes_on_to_its_end(any_machine: Machine) -> None:
    """It still gets its calls, and a retry after an error."""
    machine = any_machine
    request = machine.submit_request()
    machine.release(machine.call(request, RbdOperation.WRITE), 4096)
    machine.set_stage(Stage.ENDING)
    machine.release(machine.call(request, RbdOperation.FLUSH), 0)
    machine.retry(request)
    machine.enqueue(request)
    machine.complete(request)
    record, _ = machine.records()
    assert (record["ending"], record["calls"], record["retries"]) == (Ending.COMPLETED, 2, 1)
    assert machine.counted()["scsi_resubmitted"] == 1
    assert not any(machine.table_sizes().values())


def test_a_new_request_at_an_address_in_flight_is_not_taken_either(machine: Machine) -> None:
    """The end of the one before was not seen; nothing stays in flight."""
    request = machine.submit_request(tag=1)
    machine.call(request, RbdOperation.WRITE)
    machine.call(request, RbdOperation.WRITE)
    machine.forget(request)
    machine.set_stage(Stage.ENDING)
    again = machine.submit_request(tag=2)
    assert again.address == request.address
    counted = machine.counted()
    assert (counted["scsi_end_lost"], counted["scsi_not_taken"], counted["scsi_submitted"]) == (1, 1, 1)
    assert (machine.table_sizes()["requests"], machine.table_sizes()["held"]) == (0, 0)
    assert [int(record["ending"]) for record in machine.records() if record["submit_ns"]][:1] == [Ending.LOST]


def test_a_call_that_cannot_be_walked_is_taken() -> None:
    """It may belong to a request in flight, which user space finds out."""
    machine = Machine(assumed=replace(QEMU_7_2, completion_argument=UNKNOWN_OFFSET))
    request = machine.submit_request()
    machine.set_stage(Stage.ENDING)
    machine.release(machine.call(request, RbdOperation.READ), 4096)
    call = machine.records()[0]
    assert (call["link"], machine.counted()["rbd_completed"]) == (Link.NO_LAYOUT, 1)


def test_in_the_end_no_hit_changes_anything(machine: Machine) -> None:
    """Requests in flight stay there, and each hit is counted as one that is not traced."""
    request, other = machine.submit_request(tag=1), machine.submit_request(tag=2)
    first, second = (machine.call(request, RbdOperation.DISCARD) for _ in range(2))
    before = {name: machine.copy(name) for name in ("requests", "calls", "held", "latencies")}
    counted, hits = machine.counted(), machine.hits
    machine.set_stage(Stage.ENDED)
    machine.release(first)
    machine.release(second)
    machine.call(other, RbdOperation.READ)
    machine.retry(other)
    machine.complete(request)
    machine.cancel(other)
    assert machine.submit_request().address in (request.address, other.address)
    assert {name: machine.copy(name) for name in before} == before
    assert machine.counted() == counted | {"foreign": machine.hits - hits}
    assert len(machine.records()) == 0


class Ended:
    """A machine that goes through the stages; in the last one some of its probes are removed."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.gone: set[str] = set()
        self.requests: list[Request] = []
        self.calls: list[Completion] = []

    def play(self, action: str, pick: int) -> None:
        machine = self.machine
        machine.now_ns += 1
        if action == "submit":
            request = machine.allocate_request()
            if action not in self.gone:
                machine.enqueue(request)
            self.requests.append(request)
        elif action in ("call", "lone call"):
            request_or_none = self.requests[pick % len(self.requests)] if self.requests and action == "call" else None
            if "call" not in self.gone:
                self.calls.append(machine.call(request_or_none, RbdOperation.READ))
        elif action == "release" and self.calls:
            completion = self.calls.pop(pick % len(self.calls))
            (machine.drop if action in self.gone else machine.release)(completion)
        elif action == "complete" and self.requests:
            request = self.requests.pop(pick % len(self.requests))
            (machine.forget if action in self.gone else machine.complete)(request)
        elif action == "retry" and self.requests and action not in self.gone:
            machine.retry(self.requests[pick % len(self.requests)])


STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 100)), max_size=25)


@settings(derandomize=True, database=None, max_examples=300, deadline=None)
@given(before=STEPS, ending=STEPS, ended=STEPS, gone=st.sets(st.sampled_from(ACTIONS)), new=st.booleans())
def test_whenever_it_ends_no_request_is_called_lost(
    before: list[tuple[str, int]], ending: list[tuple[str, int]], ended: list[tuple[str, int]], gone: set[str],
    new: bool,
) -> None:  # fmt: skip
    """Each request has ended with all its calls, or is in flight, in whatever order the probes go."""
    guest = Ended(Machine(QEMU_11_1 if new else QEMU_7_2))
    machine = guest.machine
    for step in before:
        guest.play(*step)
    machine.set_stage(Stage.ENDING)
    taken = machine.counters()["scsi_submitted"]
    for step in ending:
        guest.play(*step)
    machine.set_stage(Stage.ENDED)
    in_flight, guest.gone = machine.table_sizes(), gone
    for step in ended:
        guest.play(*step)
    counters = machine.counters()
    assert machine.table_sizes() == in_flight
    assert counters["scsi_submitted"] == counters["scsi_completed"] + in_flight["requests"] == taken
    assert counters["rbd_submitted"] == counters["rbd_completed"] + in_flight["calls"]
    assert (counters["scsi_end_lost"], counters["rbd_end_lost"]) == (0, 0)
    assert Ending.LOST not in machine.records()["ending"]
    assert counted_hits(machine) == machine.hits


@pytest.mark.parametrize("stage", [Stage.TRACING, Stage.ENDING])
def test_an_end_that_was_not_seen_is_still_called_lost(machine: Machine, stage: Stage) -> None:
    """While all probes are in place, a second submit at an address shows a lost end."""
    machine.forget(machine.submit_request())
    machine.set_stage(stage)
    machine.complete(machine.submit_request())
    assert [int(record["ending"]) for record in machine.records()] == [Ending.LOST, Ending.COMPLETED]


def test_no_hit_asks_for_the_middle_stage() -> None:
    """A hit reads the stage twice: one that asks for ENDING would miss it if ENDED comes between the two."""
    sources = "".join(path.read_text() for path in BPF_DIRECTORY.glob("*.bpf.c"))
    assert "is_stage(STAGE_ENDED)" in sources
    assert "is_stage(STAGE_ENDING)" not in sources
