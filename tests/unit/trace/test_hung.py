# SPDX-License-Identifier: Apache-2.0
"""Requests that hang: reported once while they do, and only then."""

import numpy as np

from otel_qemu.events import NO_RECORDS, RECORD, Batch, Ending, Kept, RbdOperation, RecordKind, Records
from otel_qemu.trace.correlate import Correlator, traces_of_requests
from otel_qemu.trace.histograms import Histograms
from otel_qemu.trace.hung import LONGEST_S, HungRequests
from otel_qemu.trace.names import Names
from tests.support.builders import PID, UNIX_OFFSET_NS, Hit, Submitted, records, ring

SECOND_NS = 10**9
LONGEST_NS = round(LONGEST_S * 1e9)


def in_flight(*submits_ns: int) -> Records:
    """Requests as they lie in the kernel's table: without an end."""
    rows = records(len(submits_ns), complete_ns=0, ending=0)
    rows["submit_ns"] = submits_ns
    return rows


def test_a_request_hangs_after_30_s_and_not_before() -> None:
    """At exactly 30 s it does not, one ns later it does."""
    assert LONGEST_S == 30.0
    hung = HungRequests()
    assert not len(hung.select(in_flight(1000), 1000 + LONGEST_NS))
    assert len(hung.select(in_flight(1000), 1000 + LONGEST_NS + 1)) == 1


def test_it_ends_now_as_hung_and_slow() -> None:
    """The copy has an end and a reason; all else is as it was, and the original is left alone."""
    rows = in_flight(5)
    before = rows.copy()
    now_ns = 5 + 31 * SECOND_NS
    (found,) = HungRequests().select(rows, now_ns)
    assert (found["complete_ns"], found["ending"], found["kept"]) == (now_ns, Ending.HUNG, Kept.SLOW)
    untouched = [name for name in RECORD.names or () if name not in ("complete_ns", "ending", "kept")]
    assert all((found[name] == before[0][name]).all() for name in untouched)
    assert rows.tobytes() == before.tobytes()


def test_it_is_told_once_however_long_it_hangs() -> None:
    """The next look tells only those that have begun to hang since."""
    hung = HungRequests(1.0)
    rows = in_flight(0, SECOND_NS)
    rows["submit_ns"] += 1
    assert hung.select(rows, 3 * SECOND_NS // 2)["submit_ns"].tolist() == [1]
    assert hung.select(rows, 3 * SECOND_NS)["submit_ns"].tolist() == [1 + SECOND_NS]
    assert not len(hung.select(rows, 100 * SECOND_NS))


def test_the_order_in_the_table_does_not_matter() -> None:
    """A hash table gives its entries in another order each time."""
    hung = HungRequests(1.0)
    rows = in_flight(1, 2, 3)
    assert len(hung.select(rows, 5 * SECOND_NS)) == 3
    assert not len(hung.select(rows[::-1].copy(), 6 * SECOND_NS))


def test_another_request_at_the_same_address_is_told_as_well() -> None:
    """Address and process are used again; the submit time tells them apart."""
    hung = HungRequests(1.0)
    assert len(hung.select(in_flight(1), 5 * SECOND_NS)) == 1
    assert len(hung.select(in_flight(2 * SECOND_NS), 5 * SECOND_NS)) == 1


def test_the_same_address_in_two_processes_is_two_requests() -> None:
    """Process, address and submit time are the identity."""
    rows = in_flight(1, 1)
    rows["request"], rows["pid"] = 0x7000, (PID, PID + 1)
    assert len(HungRequests(1.0).select(rows, 5 * SECOND_NS)) == 2


def test_what_has_ended_is_forgotten() -> None:
    """No memory is kept of requests that hang no more."""
    hung = HungRequests(1.0)
    rows = in_flight(*range(1, 100))
    assert len(hung.select(rows, 5 * SECOND_NS)) == 99
    assert not len(hung.select(rows, 6 * SECOND_NS))
    assert not len(hung.select(NO_RECORDS, 7 * SECOND_NS))
    assert len(hung.select(rows, 8 * SECOND_NS)) == 99


def test_nothing_in_flight_is_nothing_hung() -> None:
    """An empty table, and one whose requests are young or from the future of another CPU's clock."""
    assert not len(HungRequests().select(NO_RECORDS, 10**15))
    assert not len(HungRequests().select(in_flight(10**15 - 5, 10**15 + 5), 10**15))


def test_a_hung_request_is_a_trace_but_in_no_histogram() -> None:
    """It is shown with the call it waits for; its duration is not known yet."""
    rows = in_flight(1_000)
    rows["calls"], rows["operation"], rows["call_submit_ns"] = 1, 2, 2_000
    found = HungRequests().select(rows, 1_000 + 31 * SECOND_NS)
    traces = traces_of_requests(found, UNIX_OFFSET_NS)
    assert (len(traces.requests), len(traces.calls)) == (1, 1)
    assert traces.calls["complete_ns"].tolist() == [0]
    parts = sum(int(traces.requests[name][0]) for name in ("wait_ns", "rbd_ns", "completion_ns"))
    assert parts == 31 * SECOND_NS
    histograms = Histograms()
    histograms.add(traces)
    assert histograms.rows(Names()) == []
    assert np.array_equal(traces.requests["ending"], [Ending.HUNG])


def test_replay_tells_it_as_it_was_told_and_takes_nothing_from_its_end() -> None:
    """A recording has both: the one that hung leaves at once, and the calls belong to the one that ended."""
    begin_ns, end_ns = 1_000, 1_000 + LONGEST_NS + SECOND_NS
    calls = (Hit(RbdOperation.WRITE, 2_000, end_ns - 9), Hit(RbdOperation.FLUSH, end_ns - 8, end_ns - 1))
    ended = ring([Submitted(submit_ns=begin_ns, complete_ns=end_ns, calls=calls)])
    rows = ended[ended["kind"] == RecordKind.REQUEST].copy()
    rows["calls"], rows["call_complete_ns"], rows["complete_ns"], rows["ending"] = 1, 0, 0, 0
    hung = HungRequests().select(rows, begin_ns + LONGEST_NS + 1)

    correlator = Correlator()
    first, then, rest = (correlator.feed(Batch(part, UNIX_OFFSET_NS)) for part in (hung, ended, NO_RECORDS))
    assert (first.requests["ending"].tolist(), first.calls["complete_ns"].tolist()) == ([Ending.HUNG], [0])
    assert then.requests[["ending", "calls", "incomplete"]].tolist() == [(Ending.COMPLETED, 2, 0)]
    assert (len(rest.requests), correlator.held) == (0, 0)
