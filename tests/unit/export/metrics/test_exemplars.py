# SPDX-License-Identifier: Apache-2.0
"""Exemplars: the slowest trace of each series and bucket, if it was sent, and no other."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import Exemplar

from otel_qemu.events import Ending, RbdOperation
from otel_qemu.export.metrics.entries import GuestEntries
from otel_qemu.export.metrics.exemplars import Exemplars
from otel_qemu.export.spans.encoded import EncodedTrace
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S
from otel_qemu.trace.traces import Traces
from tests.support.builders import DEVICE, UNIX_OFFSET_NS, Call, Request, names, traces, write
from tests.support.metering import RESOURCES, SECOND_NS, START_UNIX_NS, Kernel, Meter, by_series, otlp

MS = 1_000_000
EVER = (1 << 63, UNIX_OFFSET_NS)
SCSI, WAIT, COMPLETION = "qemu.scsi.request.duration", "qemu.block.wait.duration", "qemu.block.completion.duration"
RBD = "ceph.rbd.client.operation.duration"


@pytest.fixture
def exemplars() -> Exemplars:
    return Exemplars(DEFAULT_BOUNDS_S, RESOURCES.of)


def sent(*randomness: int) -> list[EncodedTrace]:
    """Traces as they were encoded: above the randomness, a trace id has other bits."""
    return [EncodedTrace(b"\xab" * 9 + each.to_bytes(7, "big"), each.to_bytes(8, "big"), b"", b"", 1)
            for each in randomness]  # fmt: skip


def read(duration_ms: float, randomness: int, **fields: Any) -> Request:
    return Request("READ", 1_000, round(duration_ms * MS), fields={"randomness": randomness, **fields})


def shown(exemplars: Exemplars) -> dict[str, list[int]]:
    """The values of each metric's exemplars, in ns."""
    found: dict[str, list[int]] = {}
    for series, its in exemplars.collect(*EVER).items():
        found.setdefault(series.instrument, []).extend(map(value_ns, its))
    return found


def value_ns(exemplar: Exemplar) -> int:
    return round(exemplar.value * 1e9)


def consider(exemplars: Exemplars, made: Traces) -> None:
    exemplars.consider(made, names())


def test_a_trace_that_was_sent_is_shown_in_each_of_its_series(exemplars: Exemplars) -> None:
    """Duration, wait and completion of the request, and its call's; all lead to the root of the one trace."""
    consider(exemplars, traces(write(randomness=7)))
    exemplars.on_sent(sent(7))
    found = exemplars.collect(*EVER)
    assert {series.instrument: value_ns(its[0]) for series, its in found.items()} == {
        SCSI: 412_000, WAIT: 18_000, COMPLETION: 23_000, RBD: 371_000,
    }  # fmt: skip
    (of_request,) = (its[0] for series, its in found.items() if series.instrument == SCSI)
    trace_id, root_id = int.from_bytes(sent(7)[0].trace_id), int.from_bytes(sent(7)[0].root_id)
    assert of_request == Exemplar({}, 412e-6, UNIX_OFFSET_NS + 1_412_000, root_id, trace_id)


def test_a_trace_that_was_not_sent_is_not_shown(exemplars: Exemplars) -> None:
    """Not before it is sent, and not at all if it never is; shown once."""
    consider(exemplars, traces(read(1, 1), read(30, 2)))
    assert shown(exemplars) == {}
    exemplars.on_sent(sent(2, 99))
    assert shown(exemplars) == {SCSI: [30 * MS]}
    assert shown(exemplars) == {}


def test_the_slowest_of_a_bucket_is_shown(exemplars: Exemplars) -> None:
    """One of each bucket: those of 1.1, 2 and 2.4 ms share one, that of 3 ms has its own."""
    consider(exemplars, traces(read(1.1, 1), read(2.4, 2), read(2, 3)))
    consider(exemplars, traces(read(2.2, 4), read(3, 5)))
    exemplars.on_sent(sent(1, 2, 3, 4, 5))
    assert shown(exemplars) == {SCSI: [2_400_000, 3_000_000]}


def test_failures_are_of_their_own_series(exemplars: Exemplars) -> None:
    """As the kernel counts them: by ending and status, and by return value."""
    failing = Call(RbdOperation.READ, 1_010, 20, fields={"return_value": -5})
    made = traces(
        read(1.1, 1), read(1.2, 2, status=2), read(1.3, 3, ending=Ending.CANCELLED), read(1.4, 4, status=4),
        Request("READ", 1_000, MS, (failing,), {"randomness": 5}),
    )  # fmt: skip
    consider(exemplars, made)
    exemplars.on_sent(sent(1, 2, 3, 4, 5))
    errors = {(series.instrument, "error.type" in dict(series.attributes)): list(map(value_ns, its))
              for series, its in exemplars.collect(*EVER).items() if series.instrument in (SCSI, RBD)}  # fmt: skip
    assert errors == {(SCSI, False): [MS, 1_400_000], (SCSI, True): [1_300_000], (RBD, True): [20]}


def test_what_has_not_ended_is_no_exemplar(exemplars: Exemplars) -> None:
    """A request that hangs is in no histogram yet, and one whose end was lost never will be."""
    consider(exemplars, traces(read(1, 1, ending=Ending.HUNG), read(1, 2, ending=Ending.LOST)))
    exemplars.on_sent(sent(1, 2))
    assert shown(exemplars) == {}


def test_traces_without_an_id_are_none(exemplars: Exemplars) -> None:
    consider(exemplars, traces(read(1, 0)))
    exemplars.on_sent(sent(0))
    assert shown(exemplars) == {}


def test_calls_without_a_request_have_none_of_a_disk(exemplars: Exemplars) -> None:
    """As in the kernel, they are counted under no disk."""
    consider(exemplars, traces(orphans=[Call(RbdOperation.READ, 5, MS, fields={"randomness": 3})]))
    exemplars.on_sent(sent(3))
    (series,) = exemplars.collect(*EVER)
    assert dict(series.attributes) == {"ceph.rbd.operation.name": "aio_read", "disk.io.direction": "read"}


def test_those_that_wait_are_bounded() -> None:
    """A sender that sends nothing costs the oldest."""
    exemplars = Exemplars(DEFAULT_BOUNDS_S, RESOURCES.of, most_waiting=2)
    for randomness in (1, 2, 3):
        consider(exemplars, traces(read(randomness, randomness)))
    exemplars.on_sent(sent(1, 2, 3))
    assert shown(exemplars) == {SCSI: [2 * MS, 3 * MS]}


def test_what_ended_after_the_measurement_is_left_for_the_next(exemplars: Exemplars) -> None:
    """The counts that are sent with it do not have it yet."""
    consider(exemplars, traces(read(1, 1), read(30, 2)))
    exemplars.on_sent(sent(1, 2))
    ended_ns = 1_000 + 30 * MS
    assert [value_ns(its[0]) for its in exemplars.collect(ended_ns - 1, UNIX_OFFSET_NS).values()] == [MS]
    assert [value_ns(its[0]) for its in exemplars.collect(ended_ns, UNIX_OFFSET_NS).values()] == [30 * MS]


def test_a_clock_that_is_set_back_holds_up_none(exemplars: Exemplars) -> None:
    """It is the records' clock that says what has ended; Unix time is that of the export."""
    consider(exemplars, traces(read(30, 2)))
    exemplars.on_sent(sent(2))
    (its,) = exemplars.collect(1_000 + 30 * MS, UNIX_OFFSET_NS - 3600 * SECOND_NS).values()
    assert its[0].time_unix_nano == UNIX_OFFSET_NS - 3600 * SECOND_NS + 1_000 + 30 * MS


@pytest.mark.parametrize(("start_s", "shown"), [(START_UNIX_NS, 1), (START_UNIX_NS + 60 * SECOND_NS, 0)])
def test_they_leave_with_their_series(start_s: int, shown: int) -> None:
    """In the data point of the series, with ids as bytes and the value in s; unless it counts what came later."""
    meter = Meter()
    kernel = Kernel(DEFAULT_BOUNDS_S)
    kernel.request(0x28, 30 * MS, device=DEVICE)
    exemplars = Exemplars(DEFAULT_BOUNDS_S, meter.readings.resource_of)
    consider(exemplars, traces(read(30, 2)))
    exemplars.on_sent(sent(2))
    meter.measure(kernel)
    points = [point._replace(start_unix_ns=start_s) for point in meter.readings.points()]
    entries = GuestEntries(DEFAULT_BOUNDS_S, False, frozenset()).of(points, exemplars.collect(*EVER))
    (point,) = (each for key, each in by_series(otlp(entries)).items() if key[0] == SCSI)
    assert [(each.as_double, each.trace_id, each.span_id, each.time_unix_nano) for each in point.exemplars] == [
        (0.03, sent(2)[0].trace_id, sent(2)[0].root_id, UNIX_OFFSET_NS + 1_000 + 30 * MS)
    ] * shown


@given(st.lists(st.tuples(st.integers(1, 10**10), st.booleans()), max_size=30), st.integers(1, 7))
def test_agrees_with_choosing_one_by_one(made: list[tuple[int, bool]], step: int) -> None:
    """In any cut: of those that were sent, in each bucket, one at least as slow as all others of its batches."""
    exemplars = Exemplars(DEFAULT_BOUNDS_S, RESOURCES.of)
    requests = [read(duration_ns / MS, index + 1) for index, (duration_ns, _) in enumerate(made)]
    for at in range(0, len(requests), step):
        consider(exemplars, traces(*requests[at : at + step]))
    exemplars.on_sent(sent(*(index + 1 for index, (_, arrives) in enumerate(made) if arrives)))
    assert shown(exemplars).get(SCSI, []) == expected(made, step)


def expected(made: Sequence[tuple[int, bool]], step: int) -> list[int]:
    """The slowest of each bucket and batch, if it was sent; of these, the slowest of each bucket."""
    best: dict[int, int] = {}
    for at in range(0, len(made), step):
        slowest: dict[int, tuple[int, bool]] = {}
        for duration_ns, arrives in made[at : at + step]:
            bucket = sum(duration_ns > round(bound * 1e9) for bound in DEFAULT_BOUNDS_S)
            if duration_ns > slowest.get(bucket, (0, False))[0]:
                slowest[bucket] = (duration_ns, arrives)
        for bucket, (duration_ns, arrives) in slowest.items():
            if arrives:
                best[bucket] = max(best.get(bucket, 0), duration_ns)
    return [best[bucket] for bucket in sorted(best)]
