# SPDX-License-Identifier: Apache-2.0
"""The walk from a completion to its request: with every read failing, with wrong offsets, with none."""

from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_qemu.events import RETURN_UNKNOWN, Link, RbdOperation, RecordKind, Records
from tests.bpf.layouts import LAYOUTS, QEMU_7_2, UNKNOWN_OFFSET, Layout
from tests.bpf.library import MEMORY_BYTES
from tests.bpf.machine import CALLBACK, VIA, Completion, Machine, Via
from tests.bpf.memory import GAP

WAYS = [
    (RbdOperation.READ, Via.DMA),
    (RbdOperation.WRITE, Via.CALLBACK_DATA),
    (RbdOperation.FLUSH, Via.REQUEST),
    (RbdOperation.DISCARD, Via.CALLBACK_DATA),
    (RbdOperation.WRITE_ZEROES, Via.DMA),
]


def passed(version: str) -> list[str]:
    """Return the objects that the walk passes before it has the opaque pointer."""
    old = ["old_acb", "io_completion"] if LAYOUTS[version].through_acb else []
    return ["completion", "aio", "task", *old, "coroutine", "acb"]


def submit(machine: Machine, completion: Completion, operation: RbdOperation) -> None:
    """Hit the call's probe alone, with an empty iovec, so that every read is the walk's."""
    if operation in (RbdOperation.READ, RbdOperation.WRITE):
        machine.call_vector(completion, operation, 0, 0, 0)
    elif operation == RbdOperation.FLUSH:
        machine.hit("rbd_aio_flush", 1, completion.address)
    else:
        machine.hit(f"rbd_aio_{operation.name.lower()}", 1, 0, 512, completion.address)


def assert_own_parent_or_none(machine: Machine, records: Records, tag: int) -> None:
    """Check that only the request with this tag has a call, and that every call is counted."""
    requests = records[records["kind"] == RecordKind.REQUEST]
    linked = requests[requests["calls"] > 0]
    alone = records[records["kind"] == RecordKind.CALL]
    assert len(linked) + len(alone) == 1
    assert set(linked["tag"]) <= {tag}
    counted = machine.counters()
    assert counted["parent_found"] == len(linked)
    assert counted["parent_fault"] + counted["parent_not_in_flight"] + counted["parent_no_layout"] == len(alone)
    assert not any(machine.table_sizes().values())


def trace_one(machine: Machine, operation: RbdOperation, via: Via, fail_read: int = 0, helpers: int = 0) -> int:
    """Submit four requests and one call for the third, end all of them, and return the reads of the walk."""
    requests = [machine.submit_request(tag=tag) for tag in range(4)]
    completion = [machine.prepare(request, via, helpers) for request in requests][2]
    if fail_read:
        machine.fail_read(fail_read)
    before = machine.world.reads
    submit(machine, completion, operation)
    reads = machine.world.reads - before
    # Not through Machine.release: wrong offsets would have it write elsewhere, and the result is not what is tested.
    machine.hit("rbd_aio_release", completion.address, thread=CALLBACK)
    for request in requests:
        machine.complete(request)
    return reads


@pytest.mark.parametrize(("operation", "via"), WAYS)
@pytest.mark.parametrize("version", LAYOUTS)
def test_every_read_of_the_walk_may_fail(version: str, operation: RbdOperation, via: Via) -> None:
    """If any one of the reads fails, the call has its own parent or none, and is counted."""
    reads = trace_one(Machine(LAYOUTS[version]), operation, via)
    assert reads >= 5
    for number in range(1, reads + 1):
        machine = Machine(LAYOUTS[version])
        trace_one(machine, operation, via, fail_read=number)
        assert machine.world.faults_injected == 1, f"read {number} was not reached"
        assert_own_parent_or_none(machine, machine.records(), tag=2)


@pytest.mark.parametrize("helpers", [1, 2, 3, 4])
@pytest.mark.parametrize("version", LAYOUTS)
def test_a_helper_leads_to_whom_it_helps(version: str, helpers: int) -> None:
    """Up to three coroutines lie between (qcow2 on qcow2), and any read may fail; beyond three, there is no parent."""
    machine = Machine(LAYOUTS[version])
    reads = trace_one(machine, RbdOperation.WRITE, Via.DMA, helpers=helpers)
    assert machine.counters()["parent_found"] == (helpers <= 3)
    assert_own_parent_or_none(machine, machine.records(), tag=2)
    for number in range(1, reads + 1):
        machine = Machine(LAYOUTS[version])
        trace_one(machine, RbdOperation.WRITE, Via.DMA, number, helpers)
        assert machine.world.faults_injected == 1, f"read {number} was not reached"
        assert_own_parent_or_none(machine, machine.records(), tag=2)


@pytest.mark.parametrize(("version", "name"), [(version, name) for version in LAYOUTS for name in passed(version)])
def test_an_object_that_cannot_be_read_is_a_fault(version: str, name: str) -> None:
    """Whichever object of the walk is gone, the call has LINK_FAULT and no parent."""
    machine = Machine(LAYOUTS[version])
    request = machine.submit_request()
    completion = machine.prepare(request, Via.DMA)
    machine.hole(*completion.objects[name])
    submit(machine, completion, RbdOperation.READ)
    assert machine.world.faults_injected
    machine.hole(0, 0)
    machine.hit("rbd_aio_release", completion.address, thread=CALLBACK)
    (record,) = machine.records()
    assert (record["kind"], record["link"], record["submit_ns"]) == (RecordKind.CALL, Link.FAULT, 0)
    assert machine.counted()["parent_fault"] == 1


def test_an_opaque_object_that_cannot_be_read_is_a_fault(machine: Machine) -> None:
    """The last object of the walk, a DMAAIOCB, is a pointer on the way like the others."""
    completion = machine.prepare(machine.submit_request(), Via.DMA)
    machine.hole(*completion.objects["opaque"])
    submit(machine, completion, RbdOperation.READ)
    assert machine.counters()["parent_fault"] == 1


def test_where_walks_are_known_to_work_a_fault_is_qemus_own_call(machine: Machine) -> None:
    """The flush of a QEMU that stops comes through other objects: it belongs to no request."""
    request = machine.submit_request()
    machine.release(machine.call(request, RbdOperation.WRITE), 0)
    own = machine.prepare(None, Via.REQUEST)
    machine.hole(*own.objects["coroutine"])
    submit(machine, own, RbdOperation.FLUSH)
    machine.hole(0, 0)
    machine.release(own, 0)
    (call,) = machine.records()
    assert (call["link"], call["request"]) == (Link.NOT_IN_FLIGHT, 0)
    assert machine.counted()["parent_fault"] == 1


@pytest.mark.parametrize("field", ["completion_argument", "coroutine"])
def test_without_layout_nothing_is_walked(field: str) -> None:
    """An offset that is not known is not guessed: no read, LINK_NO_LAYOUT, and the return value is unknown."""
    machine = Machine(assumed=replace(QEMU_7_2, **{field: UNKNOWN_OFFSET}))
    request = machine.submit_request()
    reads = machine.world.reads
    completion = machine.prepare(request, Via.DMA)
    submit(machine, completion, RbdOperation.READ)
    machine.release(completion, 4096)
    assert machine.world.reads == reads
    machine.complete(request)
    call, record = machine.records()
    assert (call["link"], call["return_value"]) == (Link.NO_LAYOUT, RETURN_UNKNOWN)
    assert record["calls"] == 0
    assert machine.counted()["parent_no_layout"] == 1


def test_without_the_offset_of_the_result_the_parent_is_found() -> None:
    """The walk needs no return value: it is unknown, and nothing is counted as unreadable."""
    machine = Machine(assumed=replace(QEMU_7_2, return_value=UNKNOWN_OFFSET))
    request = machine.submit_request()
    machine.release(machine.call(request, RbdOperation.READ), 4096)
    machine.complete(request)
    (record,) = machine.records()
    assert (record["calls"], record["return_value"]) == (1, RETURN_UNKNOWN)
    assert "return_unreadable" not in machine.counted()


# Within the object or the gap behind it, or beyond all memory: what lies at another object's pointer is that object's.
_OFFSETS = st.one_of(
    st.integers(0, GAP - 32),
    st.sampled_from([0, 8, 24, 0x30, 0x60, 0xB8]),
    st.integers(MEMORY_BYTES, UNKNOWN_OFFSET - 1),
)


@settings(derandomize=True, database=None, max_examples=300, deadline=None)
@given(
    version=st.sampled_from(sorted(LAYOUTS)),
    way=st.sampled_from(WAYS),
    assumed=st.builds(
        Layout,
        completion_argument=_OFFSETS,
        coroutine=_OFFSETS,
        through_acb=st.sampled_from([0, 1]),
        return_value=_OFFSETS,
    ),
)
def test_wrong_offsets_never_give_a_wrong_parent(version: str, way: tuple[RbdOperation, Via], assumed: Layout) -> None:
    """With any offsets of the walk, a call has its own parent or none."""
    walk = {name: asdict(assumed)[name] for name in ("completion_argument", "coroutine", "through_acb", "return_value")}
    machine = Machine(LAYOUTS[version], assumed=replace(LAYOUTS[version], **walk))
    trace_one(machine, *way)
    assert_own_parent_or_none(machine, machine.records(), tag=2)


@pytest.mark.parametrize("assumed", LAYOUTS)
@pytest.mark.parametrize("version", LAYOUTS)
def test_the_layout_of_another_version_finds_the_parent_or_none(version: str, assumed: str) -> None:
    """A table entry taken for the wrong build never joins a call to another request."""
    machine = Machine(LAYOUTS[version], assumed=LAYOUTS[assumed])
    trace_one(machine, RbdOperation.READ, Via.DMA)
    records = machine.records()
    assert len(records[records["kind"] == RecordKind.CALL]) == machine.counters()["rbd_submitted"] - sum(
        records["calls"]
    )


@pytest.mark.parametrize("operation", RbdOperation)
def test_a_call_of_a_request_begun_before_names_it(machine: Machine, operation: RbdOperation) -> None:
    """A request not seen at its submit is no parent, but the call names it, as its end does."""
    request = machine.allocate_request()
    completion = machine.prepare(request, VIA[operation])
    submit(machine, completion, operation)
    machine.hit("rbd_aio_release", completion.address, thread=CALLBACK)
    machine.complete(request)
    call, end = machine.records()
    assert (call["link"], call["submit_ns"]) == (Link.NOT_IN_FLIGHT, 0)
    assert call["request"] == end["request"] == request.address
