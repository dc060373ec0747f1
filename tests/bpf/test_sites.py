# SPDX-License-Identifier: Apache-2.0
"""Both ways of attaching: one program per function, and one program per binary with the site as a cookie."""

import pytest

from otel_qemu.events import AUDIT_SITES, SITES, Link, RbdOperation
from otel_qemu.probe.sites import PROBES
from tests.bpf.layouts import LAYOUTS
from tests.bpf.machine import IMAGE, Machine, Via


def one_of_everything(machine: Machine) -> list[str]:
    """Hit every site at least once; return the sites in the order of their first hits."""
    hit, seen = machine.hit, dict[str, None]()

    def noted(function: str, *arguments: int, **others: int) -> None:
        seen[function] = None
        hit(function, *arguments, **others)

    machine.hit = noted  # type: ignore[method-assign]
    machine.trace(machine.pid, machine.layout, proving=True)
    made = machine.allocate_request()
    machine.new(made)
    machine.enqueue(made)
    machine.trace(machine.pid, machine.layout)
    for operation in RbdOperation:
        request = machine.submit_request(tag=int(operation))
        machine.now_ns += 5
        call = machine.call(request, operation, offset=4096, length=512)
        machine.now_ns += 7
        machine.release(call, -5)
        machine.complete(request, 2, b"\x70\0\x03")
    for operation in (RbdOperation.DISCARD, RbdOperation.WRITE_ZEROES, RbdOperation.FLUSH):
        request = machine.submit_request(tag=int(operation))
        machine.release(machine.call(request, operation, offset=512, length=2048, inner=True), 0)
        machine.complete(request)
    for name in ("rbd_aio_read", "rbd_aio_write"):
        request = machine.submit_request(tag=77)
        completion = machine.prepare(request, Via.DMA)
        machine.hit(name, IMAGE, 8192, 1024, 0xBAD, completion.address)
        machine.release(completion, 1024)
        machine.retry(request)
        machine.enqueue(request)
        machine.now_ns += 3
        machine.fail(request, 7)
    machine.cancel(machine.submit_request())
    return list(seen)


def outcome(version: str, by_cookie: bool) -> tuple[bytes, dict[str, int], list[bytes]]:
    """Return the records, the counters and the histograms."""
    machine = Machine(LAYOUTS[version], by_cookie=by_cookie)
    assert sorted(one_of_everything(machine)) == sorted(set(SITES) - set(AUDIT_SITES))
    histograms = sorted(key.tobytes() + value.tobytes() for key, value in zip(*machine.latencies(), strict=True))
    return machine.records().tobytes(), machine.counted(), histograms


@pytest.mark.parametrize("version", LAYOUTS)
def test_both_ways_in_lead_to_the_same(version: str) -> None:
    """Every site gives equal records, counters and histograms by its own program and by its cookie."""
    assert outcome(version, by_cookie=True) == outcome(version, by_cookie=False)


def test_each_way_leads_to_what_is_expected() -> None:
    """The operations and endings are those of the sites that were hit."""
    machine = Machine(by_cookie=True)
    one_of_everything(machine)
    records = machine.records()
    assert records["operation"].tolist() == [*RbdOperation, *list(RbdOperation)[2:], *list(RbdOperation)[:2], 0]
    assert records["ending"].tolist() == [1] * 8 + [2, 2, 3]
    assert records["status"].tolist() == [2] * 5 + [0] * 6
    assert records["host_status"].tolist() == [0] * 8 + [7, 7, 0]
    assert records["length"].tolist() == [512, 512, 512, 512, 0, 2048, 2048, 0, 1024, 1024, 0]
    assert records["offset"].tolist() == [4096, 4096, 4096, 4096, 0, 512, 512, 0, 8192, 8192, 0]
    assert records["link"].tolist() == [Link.WALK] * 10 + [Link.NONE]


def test_the_program_of_a_site_is_that_of_its_layer() -> None:
    """Functions and the programs that take a cookie begin with the name of their layer."""
    assert all(probe.function.partition("_")[0] == probe.layer for probe in PROBES)
