# SPDX-License-Identifier: Apache-2.0
"""The exact chain of the audit: from dma_blk_io and blk_aio_* by coroutines and threads to the librbd call."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_qemu.events import ADDITIONAL, AUDIT_SITES, RECORD, Chain, RbdOperation, RecordKind
from tests.bpf.layouts import LAYOUTS
from tests.bpf.machine import SUBMITTER, Machine, Request, Via

YIELD, TERMINATE, ENTER = 1, 2, 3
STACK = 0x7FFC_0000_0000
LEADER = 0x5555_0001_0000
"""The coroutine that every thread begins with."""
DBS = 0x5555_0002_0000
"""A DMAAIOCB."""
OTHER_THREAD = SUBMITTER + 7
BLK, CALLBACK_FUNCTION = 0x5555_0003_0000, 0x5555_0004_0000


class Chained(Machine):
    """A machine whose QEMU has coroutines; the functions that hand a request on are hit as QEMU calls them."""

    def __init__(self, *, new_dma: bool = False, **options: object) -> None:
        super().__init__(audit=True, **options)  # type: ignore[arg-type]
        self._new_dma = new_dma
        self.running = dict.fromkeys((SUBMITTER, OTHER_THREAD), LEADER)

    def dma_blk_io(self, request: int, stack: int = STACK) -> None:
        """With the AioContext in front, as up to QEMU 9.2, or without it."""
        arguments = [0x1, 0x2, 4096, 512, CALLBACK_FUNCTION, request, 0x3]
        self.hit("dma_blk_io", *(arguments[1:] if self._new_dma else arguments)[:6], stack=stack)

    def blk_aio(self, name: str, opaque: int, stack: int = STACK - 200) -> None:
        """blk_aio_NAME; the opaque is last."""
        count = {"flush": 1, "pdiscard": 3}.get(name, 4)
        self.hit(f"blk_aio_{name}", BLK, *[0] * (count - 1), CALLBACK_FUNCTION, opaque, stack=stack)

    def begin(self, coroutine: int, name: str, opaque: int, run: bool = True) -> None:
        """blk_aio_NAME up to where the coroutine that it has made runs."""
        self.blk_aio(name, opaque)
        self.hit("qemu_coroutine_create", 0x9, 0x10, stack=STACK - 300)
        self.hit("aio_co_enter", 0x11, coroutine, stack=STACK - 320)
        if run:
            self.switch(coroutine, ENTER)

    def switch(self, to: int, action: int, thread: int = SUBMITTER) -> None:
        """qemu_coroutine_switch from what runs on the thread."""
        self.hit("qemu_coroutine_switch", self.running[thread], to, action, thread=thread, stack=STACK - 500)
        self.running[thread] = to

    def ask(self, thread: int = SUBMITTER) -> dict[str, int]:
        """The verdict on a call that is made now on a thread; the call is ended."""
        completion = self.prepare(None, Via.REQUEST)
        self.hit("rbd_aio_flush", 0x1, completion.address, thread=thread)
        self.hit("rbd_aio_release", completion.address, thread=OTHER_THREAD + 1)
        self.drop(completion)
        records = self.records()
        (verdict,) = records[records["kind"] == RecordKind.AUDIT]
        return {name: int(verdict[name]) for name in RECORD.names or () if name != "cdb"}

    def said(self, thread: int = SUBMITTER) -> tuple[Chain, int]:
        """The same: what it is, and the address of the request."""
        verdict = self.ask(thread)
        return Chain(verdict["ending"]), verdict["request"]


@pytest.fixture
def chained() -> Chained:
    machine = Chained()
    machine.switch(LEADER, YIELD)
    return machine


def begin_read(machine: Chained, request: Request, coroutine: int = 0xC0) -> None:
    machine.dma_blk_io(request.address)
    machine.begin(coroutine, "preadv", DBS)


@pytest.mark.parametrize("by_cookie", [False, True])
@pytest.mark.parametrize("version", LAYOUTS)
def test_a_read_is_followed_from_its_dma(version: str, by_cookie: bool) -> None:
    """The request is the sixth argument of dma_blk_io, or from QEMU 10.0 on the fifth; the verdict names its call."""
    machine = Chained(layout=LAYOUTS[version], by_cookie=by_cookie, new_dma=version in ("10.0", "11.1"))
    request = machine.submit_request()
    begin_read(machine, request)
    machine.now_ns += 5
    verdict = machine.ask()
    assert (verdict["ending"], verdict["request"], verdict["submit_ns"]) == (
        Chain.REQUEST, request.address, machine.now_ns - 5
    )  # fmt: skip
    assert (verdict["pid"], verdict["operation"], verdict["image"]) == (machine.pid, RbdOperation.FLUSH, 1)
    assert verdict["call_submit_ns"] == machine.now_ns
    assert verdict["tag"] == 0b11


@pytest.mark.parametrize("name", ["flush", "pwrite_zeroes", "pwritev", "preadv", "pdiscard"])
@pytest.mark.parametrize("is_first_field", [False, True])
def test_the_opaque_is_the_request_or_begins_with_it(chained: Chained, name: str, is_first_field: bool) -> None:
    """Both are recognised, for every blk_aio_*() that uses them."""
    request = chained.submit_request()
    data = chained.memory.allocate(32)
    chained.memory.write(data, "Q", request.address)
    chained.begin(0xC0, name, data if is_first_field else request.address)
    assert chained.said() == (Chain.REQUEST, request.address)
    assert chained.counted()["audit_led"] == 2


def test_it_is_found_on_whichever_thread_wakes_it(chained: Chained) -> None:
    """A throttled coroutine that another thread wakes still works for its request."""
    first, second = chained.submit_request(tag=1), chained.submit_request(tag=2)
    begin_read(chained, first, 0xC0)
    chained.switch(LEADER, YIELD)
    begin_read(chained, second, 0xC1)
    chained.switch(0xC0, ENTER, OTHER_THREAD)
    assert chained.said(OTHER_THREAD) == (Chain.REQUEST, first.address)
    assert chained.said() == (Chain.REQUEST, second.address)
    chained.switch(LEADER, YIELD)
    assert chained.said() == (Chain.NONE, 0)


def test_a_coroutine_that_has_ended_works_for_nobody(chained: Chained) -> None:
    """Its memory may be used again for a block job."""
    begin_read(chained, chained.submit_request())
    chained.switch(LEADER, TERMINATE)
    chained.switch(0xC0, ENTER)
    assert chained.said() == (Chain.NONE, 0)


def test_a_helper_works_for_whom_its_maker_does(chained: Chained) -> None:
    """qcow2's helpers do so even after their creator has gone on; the end of a helper ends its own work only."""
    request = chained.submit_request()
    begin_read(chained, request)
    chained.hit("qemu_coroutine_create", 0x9, 0x10)
    chained.switch(0xD0, ENTER)
    chained.switch(0xC0, YIELD)
    assert chained.said() == (Chain.REQUEST, request.address)
    chained.switch(0xD0, ENTER)
    assert chained.said() == (Chain.REQUEST, request.address)
    chained.switch(0xC0, TERMINATE)
    chained.switch(0xD0, ENTER)
    assert chained.said() == (Chain.NONE, 0)


def test_who_is_only_woken_by_a_coroutine_does_not_work_for_it(chained: Chained) -> None:
    """Neither a coroutine that is entered by aio_co_enter, nor one that existed before; both are block jobs here."""
    begin_read(chained, chained.submit_request())
    chained.hit("qemu_coroutine_create", 0x9, 0x10)
    chained.hit("aio_co_enter", 0x11, 0xD0)
    chained.switch(0xD0, ENTER)
    assert chained.said() == (Chain.NONE, 0)
    chained.switch(0xC0, YIELD)
    chained.switch(0xD1, ENTER)
    assert chained.said() == (Chain.NONE, 0)


def test_what_calls_back_goes_on(chained: Chained) -> None:
    """The next piece of a DMA is submitted by the coroutine of the last one, with the same opaque."""
    request = chained.submit_request()
    begin_read(chained, request)
    chained.begin(0xC1, "preadv", DBS, run=False)
    chained.switch(LEADER, TERMINATE)
    chained.switch(0xC1, ENTER)
    assert chained.said() == (Chain.REQUEST, request.address)


def test_another_opaque_does_not_go_on(chained: Chained) -> None:
    """A request's coroutine may make a block call for a disk that is not SCSI."""
    begin_read(chained, chained.submit_request())
    chained.begin(0xC1, "preadv", DBS + 8, run=False)
    chained.switch(LEADER, TERMINATE)
    chained.switch(0xC1, ENTER)
    assert chained.said() == (Chain.NONE, 0)


@pytest.mark.parametrize("stack", [STACK, STACK + 8, STACK - 20000])
def test_only_what_is_below_on_the_stack_belongs_to_a_call(chained: Chained, stack: int) -> None:
    """A dma_blk_io without a block call does not affect the next one; nor does a block call without a coroutine."""
    request = chained.submit_request()
    chained.dma_blk_io(request.address)
    chained.blk_aio("preadv", DBS, stack)
    chained.hit("aio_co_enter", 0x11, 0xC0, stack=stack - 8)
    chained.switch(0xC0, ENTER)
    assert chained.said() == (Chain.NONE, 0)
    chained.blk_aio("flush", request.address)
    chained.hit("aio_co_enter", 0x11, 0xC1, stack=stack)
    chained.switch(0xC1, ENTER)
    assert chained.said() == (Chain.NONE, 0)


def test_what_is_not_in_flight_is_no_request(chained: Chained) -> None:
    """
    For a request from before, an IDE disk or an ended request, the functions are hit and count as not leading to one.
    """
    request = chained.allocate_request()
    begin_read(chained, request)
    verdict = chained.ask()
    assert (verdict["ending"], verdict["tag"]) == (Chain.NONE, 0)
    assert "audit_led" not in chained.counted()


def test_a_thread_that_was_not_seen_to_switch_breaks_the_chain() -> None:
    """The verdict on its calls is CHAIN_BROKEN."""
    machine = Chained()
    begin = machine.submit_request()
    machine.dma_blk_io(begin.address)
    assert machine.said() == (Chain.BROKEN, 0)
    assert machine.said(OTHER_THREAD) == (Chain.BROKEN, 0)


def test_full_tables_are_counted_and_make_none_worthless() -> None:
    """If a coroutine finds no room, later verdicts say that some are lost."""
    machine = Chained(tables={"coroutines": 1})
    machine.switch(LEADER, YIELD)
    for coroutine in (0xC0, 0xC1):
        begin_read(machine, machine.submit_request(tag=coroutine), coroutine)
    verdict = machine.ask()
    assert (verdict["ending"], verdict["tag"]) == (Chain.NONE, 1 << 31 | 0b11)
    machine.hit("qemu_coroutine_create", 0x9, 0x10)
    machine.switch(0xC0, ENTER)
    machine.hit("qemu_coroutine_create", 0x9, 0x10)
    machine.switch(0xD0, ENTER)
    assert machine.counted()["audit_table_full"] == 2

    machine = Chained(tables={"threads": 1})
    machine.switch(LEADER, YIELD)
    machine.switch(LEADER, YIELD, OTHER_THREAD)
    assert machine.ask(OTHER_THREAD)["ending"] == Chain.BROKEN
    assert machine.counted()["audit_table_full"] == 1


def test_a_full_ring_loses_the_verdict_and_counts_it() -> None:
    """The loss is counted, and no half record takes room."""
    machine = Chained(ring_bytes=128)
    machine.switch(LEADER, YIELD)
    completion = machine.prepare(None, Via.REQUEST)
    machine.hit("rbd_aio_flush", 0x1, completion.address)
    assert machine.counted()["audit_ring_full"] == 1
    assert machine.ring_used == 0


def test_processes_that_are_not_traced_are_left_alone() -> None:
    """Their hits are counted as foreign, and nothing else."""
    machine = Chained()
    machine.pid += 1
    for function in AUDIT_SITES:
        machine.hit(function, 1, 2, 3, 4, 5, 6, stack=STACK)
    assert machine.counted() == {"foreign": len(AUDIT_SITES)}


def test_an_unreadable_opaque_is_no_request(chained: Chained) -> None:
    """The verdict on its call is CHAIN_NONE."""
    chained.begin(0xC0, "pdiscard", 0x10)
    assert chained.said() == (Chain.NONE, 0)


COROUTINES = [0xC00 + 0x100 * number for number in range(6)]


class Model:
    """The true state of QEMU: the request of each coroutine, and the coroutine of each thread."""

    def __init__(self) -> None:
        self.works_for: dict[int, int] = {}
        self.waiting: list[int] = []


def steps(draw: st.DataObject, machine: Chained) -> Iterator[tuple[int, int]]:
    """Let some requests live on two threads; yield (thread, its request) wherever a call can be made."""
    model = Model()
    requests = [machine.submit_request(tag=number) for number in range(4)]
    for _ in range(draw.draw(st.integers(1, 25), label="steps")):
        thread = draw.draw(st.sampled_from([SUBMITTER, OTHER_THREAD]), label="thread")
        running = machine.running[thread]
        free = [co for co in COROUTINES if co not in model.waiting and co not in machine.running.values()]
        kinds = ["leave", "end"] if running != LEADER else ["read", "job"] if thread == SUBMITTER else []
        kinds += ["help"] if running != LEADER and free else []
        kinds += ["wake"] if running == LEADER and model.waiting else []
        kind = draw.draw(st.sampled_from(kinds), label="kind") if kinds else "nothing"
        if kind in ("read", "job") and free:
            request = draw.draw(st.sampled_from(requests), label="request")
            if kind == "read":
                begin_read(machine, request, free[0])
                model.works_for[free[0]] = request.address
            else:
                machine.hit("qemu_coroutine_create", 0x9, 0x10)
                machine.hit("aio_co_enter", 0x11, free[0])
                machine.switch(free[0], ENTER)
        elif kind == "help":
            machine.hit("qemu_coroutine_create", 0x9, 0x10, thread=thread)
            machine.switch(free[0], ENTER, thread)
            model.waiting.append(running)
            if running in model.works_for:
                model.works_for[free[0]] = model.works_for[running]
        elif kind == "leave":
            model.waiting.append(running)
            machine.switch(LEADER, YIELD, thread)
        elif kind == "end":
            model.works_for.pop(running, None)
            machine.switch(LEADER, TERMINATE, thread)
        elif kind == "wake":
            machine.switch(model.waiting.pop(0), ENTER, thread)
        if kind != "nothing":
            yield thread, model.works_for.get(machine.running[thread], 0)


@settings(derandomize=True, database=None, max_examples=200, deadline=None)
@given(draw=st.data())
def test_whatever_coroutines_do_each_call_is_whose_it_is(draw: st.DataObject) -> None:
    """
    With reads, jobs, helpers, waits and wake-ups on two threads, each verdict is the model's, and every hit is
    counted.
    """
    machine = Chained()
    for thread in (SUBMITTER, OTHER_THREAD):
        machine.switch(LEADER, YIELD, thread)
    for thread, request in steps(draw, machine):
        assert machine.said(thread) == ((Chain.REQUEST, request) if request else (Chain.NONE, 0))
    counted = machine.counted()
    assert sum(count for name, count in counted.items() if name not in ADDITIONAL) == machine.hits


def test_the_verdict_changes_nothing_else() -> None:
    """With the audit, requests and calls have the same records and counters as without it."""

    def life(audit: bool) -> tuple[bytes, dict[str, int]]:
        machine = Machine(audit=audit)
        for operation in RbdOperation:
            request = machine.submit_request(tag=int(operation))
            machine.release(machine.call(request, operation), 0)
            machine.complete(request)
        records, counted = machine.records(), machine.counted()
        verdicts = int(np.count_nonzero(records["kind"] == RecordKind.AUDIT))
        assert verdicts == audit * len(RbdOperation)
        counted["records"] -= verdicts
        return records[records["kind"] != RecordKind.AUDIT].tobytes(), counted

    assert life(audit=True) == life(audit=False)
