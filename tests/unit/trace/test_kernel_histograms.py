# SPDX-License-Identifier: Apache-2.0
"""The kernel's histograms as people get them: equal to those that are counted from the requests themselves."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from otel_qemu.events import Ending, Layer, RbdOperation
from otel_qemu.trace import scsi
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S, Histograms, in_ns
from otel_qemu.trace.kernel_histograms import BINS, LATENCY, MOST_BOUNDS, SERIES, histograms_of
from otel_qemu.trace.names import Names
from otel_qemu.trace.scsi import OPERATION_OF_OPCODE
from tests.support.builders import DEVICE, PID, Call, Request, traces

BOUNDS_S = (1e-6, 1e-3, 1.0)
GOOD, CHECK_CONDITION = 0, 2


class Kernel:
    """The obvious counterpart of ``bpf/latency.bpf.c``: one entry a series, one addition a value."""

    def __init__(self, bounds_s: tuple[float, ...] = BOUNDS_S) -> None:
        self._bounds_ns = in_ns(bounds_s).tolist()
        self._entries: dict[tuple[Any, ...], Any] = {}

    def add(self, layer: Layer, operation: int, *, pid: int = PID, device: int = DEVICE, failed: bool = False,
            size_bytes: int = 0, **parts_ns: int) -> None:  # fmt: skip
        """Count one request or call; `parts_ns` are `duration` and what else is known."""
        entry = self._entries.setdefault((device, pid, layer, operation, failed), np.zeros(1, LATENCY))
        entry["bytes"] += size_bytes
        for part, value_ns in parts_ns.items():
            entry[part]["sum_ns"] += value_ns
            entry[part]["counts"][0, sum(bound < value_ns for bound in self._bounds_ns)] += 1

    def tables(self) -> tuple[Any, Any]:
        """What is read out of the kernel: series and latencies."""
        series = np.zeros(len(self._entries), SERIES)
        latencies = np.zeros(len(self._entries), LATENCY)
        for index, (key, entry) in enumerate(self._entries.items()):
            series[index] = (*key, 0)
            latencies[index] = entry[0]
        return series, latencies


def rows(kernel: Kernel, bounds_s: tuple[float, ...] = BOUNDS_S) -> dict[tuple[int, str, str], tuple[Any, ...]]:
    """Counts and sum by device, layer and operation."""
    found = histograms_of(*kernel.tables(), bounds_s).rows(Names())
    return {(row.device, row.layer, row.operation): (row.counts, row.sum_s) for row in found}


def test_nothing_counted_gives_no_rows() -> None:
    """An empty table, and an entry that was made and not added to yet."""
    assert rows(Kernel()) == {}
    assert histograms_of(np.zeros(1, SERIES), np.zeros(1, LATENCY), BOUNDS_S).rows(Names()) == []


def test_opcodes_of_one_operation_add_up() -> None:
    """READ(6), (10), (12) and (16) are READ; opcodes without a name are OTHER."""
    kernel = Kernel()
    for opcode in (0x08, 0x28, 0x88, 0xA8, 0xC0, 0xC1):
        kernel.add(Layer.SCSI, opcode, duration=1_000)
    assert rows(kernel) == {
        (DEVICE, "scsi", "READ"): ((4, 0, 0, 0), 4e-6),
        (DEVICE, "scsi", "OTHER"): ((2, 0, 0, 0), 2e-6),
    }


def test_failed_and_good_add_up() -> None:
    """Of requests and of calls, in every part."""
    kernel = Kernel()
    for failed in (False, True):
        kernel.add(Layer.SCSI, 0x2A, failed=failed, duration=10, wait=4, completion=2)
        kernel.add(Layer.RBD, RbdOperation.WRITE, failed=failed, duration=4)
    assert rows(kernel) == {
        (DEVICE, "scsi", "WRITE"): ((2, 0, 0, 0), 20e-9),
        (DEVICE, "wait", "WRITE"): ((2, 0, 0, 0), 8e-9),
        (DEVICE, "rbd", "write"): ((2, 0, 0, 0), 8e-9),
    }


def test_a_request_without_call_has_no_wait() -> None:
    """What was never added to is no row; a wait of 0 is one."""
    kernel = Kernel()
    kernel.add(Layer.SCSI, 0x12, duration=10)
    kernel.add(Layer.SCSI, 0x28, duration=10, wait=0, completion=0)
    assert set(rows(kernel)) == {(DEVICE, "scsi", "INQUIRY"), (DEVICE, "scsi", "READ"), (DEVICE, "wait", "READ")}


def test_disks_and_processes_are_apart() -> None:
    """And calls without request are under device 0."""
    kernel = Kernel()
    for pid, device in ((PID, DEVICE), (PID, DEVICE + 8), (PID + 1, DEVICE), (PID, 0)):
        kernel.add(Layer.RBD, RbdOperation.READ, pid=pid, device=device, duration=5)
    found = histograms_of(*kernel.tables(), BOUNDS_S).rows(Names())
    assert sorted((row.pid, row.device, row.count) for row in found) == [
        (PID, 0, 1), (PID, DEVICE, 1), (PID, DEVICE + 8, 1), (PID + 1, DEVICE, 1),
    ]  # fmt: skip


def test_as_many_bounds_as_there_can_be() -> None:
    """31 bounds take all of the 32 bins."""
    bounds_s = tuple(float(second) for second in range(1, MOST_BOUNDS + 1))
    kernel = Kernel(bounds_s)
    for second in range(1, BINS + 1):
        kernel.add(Layer.SCSI, 0x28, duration=second * 10**9)
    assert rows(kernel, bounds_s)[DEVICE, "scsi", "READ"][0] == (1,) * BINS


def test_sums_stay_exact_beyond_what_a_float_can_count() -> None:
    """Added up as whole ns."""
    kernel = Kernel()
    for opcode in (0x08, 0x28, 0x88):
        kernel.add(Layer.SCSI, opcode, duration=2**53 + 1)
    assert rows(kernel)[DEVICE, "scsi", "READ"][1] == 3 * (2**53 + 1) / 1e9


def test_adding_all_of_another_is_as_if_counted_together() -> None:
    """What a process that ended has left is added to what goes on."""
    whole, parts = Kernel(), (Kernel(), Kernel())
    for index, (opcode, duration_ns) in enumerate(((0x28, 5), (0x28, 5_000), (0x2A, 7), (0x35, 9), (0x35, 10**10))):
        for kernel in (whole, parts[index % 2]):
            kernel.add(Layer.SCSI, opcode, duration=duration_ns)
    together = histograms_of(*parts[0].tables(), BOUNDS_S)
    together.add_all(histograms_of(*parts[1].tables(), BOUNDS_S))
    assert together.rows(Names()) == histograms_of(*whole.tables(), BOUNDS_S).rows(Names())


_NS = st.one_of(st.integers(1, 2**36), st.sampled_from(in_ns(DEFAULT_BOUNDS_S).tolist()))
_CALL = st.tuples(st.sampled_from(RbdOperation), _NS, st.sampled_from([0, -5]))
_REQUEST = st.tuples(
    st.sampled_from(sorted(OPERATION_OF_OPCODE)), st.sampled_from([DEVICE, DEVICE + 8]), _NS,
    st.sampled_from([Ending.COMPLETED, Ending.FAILED, Ending.CANCELLED]), st.sampled_from([GOOD, CHECK_CONDITION]),
    st.lists(_CALL, max_size=3),
)  # fmt: skip


def built(made: Iterable[tuple[Any, ...]]) -> list[Request]:
    """Requests whose calls come one after the other, 3 ns apart, and end before they do."""
    requests = []
    for opcode, device, rest_ns, ending, status, its_calls in made:
        calls, now_ns = [], 1_000
        for operation, call_ns, value in its_calls:
            calls.append(Call(operation, now_ns + 3, call_ns, fields={"return_value": value}))
            now_ns += 3 + call_ns
        fields = {"opcode": opcode, "device": device, "ending": ending, "status": status}
        operation = OPERATION_OF_OPCODE[opcode]
        requests.append(Request(operation, 1_000, now_ns - 1_000 + rest_ns, tuple(calls), fields))
    return requests


@given(st.lists(_REQUEST, max_size=20), st.lists(_CALL, max_size=4))
def test_agrees_with_what_is_counted_from_the_requests_themselves(
    made: list[tuple[Any, ...]], lone: list[tuple[RbdOperation, int, int]]
) -> None:
    """The same requests counted as the kernel does and as a recording's are: the same rows."""
    requests = built(made)
    orphans = [Call(operation, 5, call_ns, fields={"return_value": value}) for operation, call_ns, value in lone]
    plain, kernel = Histograms(), Kernel(DEFAULT_BOUNDS_S)
    plain.add(traces(*requests, orphans=orphans))

    for request in requests:
        columns = request.columns(0)
        parts = {"duration": request.duration_ns}
        if request.calls:
            parts |= {"wait": columns["wait_ns"], "completion": columns["completion_ns"]}
        failed = columns["ending"] != Ending.COMPLETED or columns["status"] != GOOD
        kernel.add(Layer.SCSI, columns["opcode"], device=columns["device"], failed=failed, **parts)
    of_calls = [(request.fields["device"], call) for request in requests for call in request.calls]
    for device, call in (*of_calls, *((0, call) for call in orphans)):
        failed = call.fields["return_value"] < 0
        kernel.add(Layer.RBD, call.operation, device=device, failed=failed, duration=call.duration_ns or 0)

    assert histograms_of(*kernel.tables(), DEFAULT_BOUNDS_S).rows(Names()) == plain.rows(Names())


def test_every_operation_has_a_code() -> None:
    """The opcode in a series is what `scsi.CODES` is indexed by."""
    kernel = Kernel()
    for opcode in range(256):
        kernel.add(Layer.SCSI, opcode, duration=1)
    counts = {operation: counts[0] for (_, _, operation), (counts, _) in rows(kernel).items()}
    assert counts == {name: int(np.count_nonzero(code == scsi.CODES)) for code, name in enumerate(scsi.OPERATIONS)}
