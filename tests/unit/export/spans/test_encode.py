# SPDX-License-Identifier: Apache-2.0
"""Traces into spans: names, kinds, times, attributes and errors, as the naming contract has them."""

import functools
import operator
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from otel_qemu.events import RETURN_UNKNOWN, Ending, RbdOperation
from otel_qemu.export import semconv
from otel_qemu.export.resources import Resources
from otel_qemu.export.spans import span_templates
from otel_qemu.export.spans.encode import encode, orphaned_calls
from otel_qemu.export.spans.ids import Ids
from otel_qemu.export.text import LONGEST_TEXT, printable
from otel_qemu.policy import WaitThreshold
from otel_qemu.trace.names import Disk, Guest, Names
from otel_qemu.trace.traces import Join, Traces
from tests.support import builders
from tests.support.builders import PID, UNIX_OFFSET_NS, Call, Request, traces, write
from tests.support.decoded import resource_of, spans_in, values_of

MS = 1_000_000


def spans(batch: Traces, names: Names | None = None, threshold: WaitThreshold | None = None) -> list[Span]:
    resources, ids = Resources(), Ids(random.Random(7))
    return spans_in(encode(batch, names or builders.names(), resources, ids, threshold or WaitThreshold()))


def attributes(span: Span) -> dict[str, Any]:
    return values_of(span.attributes)


def first(*requests: Request, **orphans: Any) -> dict[str, Any]:
    return attributes(spans(traces(*requests, **orphans))[0])


def times(span: Span) -> tuple[int, int]:
    return span.start_time_unix_nano - UNIX_OFFSET_NS, span.end_time_unix_nano - UNIX_OFFSET_NS


def waits(*calls: Call, threshold: WaitThreshold | None = None, **fields: Any) -> list[tuple[int, int]]:
    made = spans(traces(Request(duration_ns=100 * MS, calls=calls, fields=fields)), threshold=threshold)
    return [times(span) for span in made if span.name == "block.wait"]


def call(submit_ms: int, duration_ms: int | None, **fields: Any) -> Call:
    return Call(submit_ns=submit_ms * MS, duration_ns=None if duration_ms is None else duration_ms * MS, fields=fields)


def test_a_write_is_a_server_span_with_a_client_child() -> None:
    request, child = spans(traces(write()))
    assert (request.name, request.kind, times(request)) == ("WRITE", Span.SPAN_KIND_SERVER, (1_000_000, 1_412_000))
    assert (child.name, child.kind, times(child)) == ("rbd.aio_write", Span.SPAN_KIND_CLIENT, (1_018_000, 1_389_000))
    assert not request.parent_span_id
    assert child.parent_span_id == request.span_id
    assert child.trace_id == request.trace_id
    assert {span.status.code for span in (request, child)} == {Status.STATUS_CODE_UNSET}
    assert {span.flags for span in (request, child)} == {0x103}  # sampled, random trace id, parent known as not remote


def test_a_write_has_exactly_these_attributes() -> None:
    request, child = map(attributes, spans(traces(write(tag=9, lun=1))))
    assert request == {
        "scsi.operation.name": "WRITE",
        "scsi.opcode": 0x2A,
        "scsi.lun": 1,
        "scsi.tag": 9,
        "scsi.lba": 2048,
        "scsi.block.size": 512,
        "scsi.transfer.size": 4096,
        "scsi.status_code": 0,
        "scsi.status": "GOOD",
        "disk.io.direction": "write",
        "qemu.disk.alias": "ua-ceph-root",
        "qemu.disk.target": "sda",
        "qemu.block.wait.duration": 18e-6,
        "ceph.rbd.duration": 371e-6,
        "qemu.block.completion.duration": 23e-6,
    }
    assert child == {
        "ceph.rbd.operation.name": "aio_write",
        "ceph.rbd.pool": "rbd",
        "ceph.rbd.image": "alpha-root",
        "ceph.rbd.offset": 1_048_576,
        "ceph.rbd.length": 4096,
        "ceph.rbd.return_value": 0,
        "disk.io.direction": "write",
        "qemu.disk.alias": "ua-ceph-root",
        "qemu.disk.target": "sda",
        "service.peer.name": "ceph",
        "peer.service": "ceph",
        "otel_qemu.join": "walk+range",
    }


@pytest.mark.parametrize("operation", list(RbdOperation))
def test_every_call_has_its_name(operation: RbdOperation) -> None:
    child = spans(traces(Request(calls=(Call(operation),))))[1]
    assert child.name == f"rbd.aio_{operation.name.lower()}"
    assert (semconv.RBD_OFFSET in attributes(child)) == (operation is not RbdOperation.FLUSH)


def test_a_command_without_blocks_names_none() -> None:
    values = first(Request("INQUIRY", fields={"lba": 0, "block_bytes": 0, "bytes": 36}))
    assert values[semconv.SCSI_TRANSFER_SIZE] == 36
    assert not {semconv.SCSI_LBA, semconv.SCSI_BLOCK_SIZE, semconv.DISK_IO_DIRECTION} & set(values)


def test_an_unknown_operation_is_told_by_its_opcode() -> None:
    made = spans(traces(Request("OTHER"), Request(fields={"operation": 250, "opcode": 0xC1})))
    assert [(span.name, attributes(span)[semconv.SCSI_OPCODE]) for span in made] == [("OTHER", 0xFF), ("OTHER", 0xC1)]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"status": 0x00}, None),
        ({"status": 0x04}, None),
        ({"status": 0x02, "sense_key": 3}, "CHECK_CONDITION.MEDIUM_ERROR"),
        ({"status": 0x02, "sense_key": 200}, "CHECK_CONDITION._OTHER"),
        ({"status": 0x28}, "TASK_SET_FULL"),
        ({"status": 0x7E}, "_OTHER"),
        ({"ending": Ending.FAILED, "host_status": 3}, "SCSI_HOST_TIME_OUT"),
        ({"ending": Ending.FAILED, "host_status": 0x13}, "SCSI_HOST_MEDIUM_ERROR"),
        ({"ending": Ending.FAILED, "host_status": 99}, "_OTHER"),
        ({"ending": Ending.CANCELLED}, "cancelled"),
        ({"ending": Ending.LOST}, "end_lost"),
        ({"ending": 77}, "_OTHER"),
    ],
)
def test_how_a_request_ended(fields: dict[str, int], error: str | None) -> None:
    (request,) = spans(traces(Request(duration_ns=MS // 2, fields=fields)))
    assert attributes(request).get(semconv.ERROR_TYPE) == error
    assert request.status.code == (Status.STATUS_CODE_ERROR if error else Status.STATUS_CODE_UNSET)
    assert not request.status.message


def test_sense_data_comes_with_a_check_condition_only() -> None:
    sense = {"sense_key": 3, "asc": 0x11, "ascq": 0}
    bad, good = first(write(status=2, **sense)), first(write(status=0, **sense))
    assert {key: bad[key] for key in bad if key.startswith("scsi.sense")} == {
        "scsi.sense.key": 3,
        "scsi.sense.asc": 0x11,
        "scsi.sense.ascq": 0,
    }
    assert not [key for key in good if key.startswith("scsi.sense")]


def test_a_status_is_told_only_of_a_request_that_completed() -> None:
    assert semconv.SCSI_STATUS not in first(write(ending=Ending.CANCELLED))
    assert first(write(ending=Ending.FAILED, host_status=8))[semconv.SCSI_HOST_STATUS_CODE] == 8


def test_a_lost_end_claims_no_durations() -> None:
    (request,) = spans(traces(Request(duration_ns=5 * MS, fields={"ending": Ending.LOST})))
    assert semconv.BLOCK_WAIT_DURATION not in attributes(request)
    assert attributes(request)[semconv.INCOMPLETE] is True


@pytest.mark.parametrize(
    ("value", "error"), [(4096, None), (0, None), (-5, "EIO"), (-110, "ETIMEDOUT"), (-9999, "_OTHER")]
)
def test_a_negative_return_value_is_an_errno(value: int, error: str | None) -> None:
    request, child = spans(traces(Request(calls=(Call(fields={"return_value": value}),))))
    assert attributes(child).get(semconv.ERROR_TYPE) == error
    assert attributes(child)[semconv.RBD_RETURN_VALUE] == value
    assert child.status.code == (Status.STATUS_CODE_ERROR if error else Status.STATUS_CODE_UNSET)
    assert request.status.code == Status.STATUS_CODE_UNSET


def test_an_unseen_return_value_is_neither_told_nor_an_error() -> None:
    child = spans(traces(Request(calls=(Call(fields={"return_value": RETURN_UNKNOWN}),))))[1]
    assert semconv.RBD_RETURN_VALUE not in attributes(child)
    assert child.status.code == Status.STATUS_CODE_UNSET


def test_a_call_that_had_not_ended_ends_with_its_request() -> None:
    request, child = spans(traces(Request(calls=(Call(duration_ns=None),), fields={"ending": Ending.CANCELLED})))
    assert times(child)[1] == times(request)[1]
    assert attributes(child)[semconv.INCOMPLETE] is True
    assert semconv.RBD_RETURN_VALUE not in attributes(child)


def test_a_call_without_parent_is_a_trace_of_its_own_and_says_why() -> None:
    orphans = [Call(join=join) for join in (Join.INTERNAL, Join.STARTED_BEFORE, Join.UNMATCHED)]
    made = spans(traces(write(), orphans=orphans))[2:]
    assert [(span.parent_span_id, span.kind) for span in made] == [(b"", Span.SPAN_KIND_CLIENT)] * 3
    assert [attributes(span)[semconv.JOIN] for span in made] == ["internal", "started_before", "unmatched"]
    assert len({span.trace_id for span in made}) == 3


def test_half_a_trace_is_never_sent_and_counted() -> None:
    batch = traces(write(), orphans=[Call(join=join) for join in (Join.PARENT_LOST, Join.INTERNAL, Join.PARENT_LOST)])
    assert [span.name for span in spans(batch)] == ["WRITE", "rbd.aio_write", "rbd.aio_write"]
    assert orphaned_calls(batch) == 2
    assert orphaned_calls(traces(write())) == 0


def test_an_endless_call_without_parent_lasts_no_time() -> None:
    (span,) = spans(traces(orphans=[Call(submit_ns=50, duration_ns=None, join=Join.INTERNAL)]))
    assert times(span) == (50, 50)


def test_a_disagreement_of_the_witnesses_is_visible() -> None:
    child = spans(traces(Request(calls=(Call(fields={"disagrees": 1}),))))[1]
    assert attributes(child)[semconv.DISAGREEMENT] is True


def test_waits_before_and_between_calls_are_spans_of_their_own() -> None:
    assert waits(call(30, 10), call(70, 10)) == [(0, 30 * MS), (40 * MS, 70 * MS)]
    assert waits(call(30, 60), call(40, 10), call(91, 5)) == [(0, 30 * MS), (90 * MS, 91 * MS)]
    assert waits(call(0, 100)) == []


def test_a_wait_lies_under_its_request() -> None:
    request, wait, child = spans(traces(Request(duration_ns=100 * MS, calls=(call(60, 10),))))
    assert (wait.name, wait.kind, wait.parent_span_id) == ("block.wait", Span.SPAN_KIND_INTERNAL, request.span_id)
    assert child.parent_span_id == request.span_id
    assert attributes(wait) == {"qemu.disk.alias": "ua-ceph-root", "qemu.disk.target": "sda"}


def test_a_call_without_end_leaves_no_wait_behind_it() -> None:
    assert waits(call(20, None), call(90, 5)) == [(0, 20 * MS)]


def test_a_call_that_outlives_its_request_makes_no_wait_backwards() -> None:
    assert waits(call(20, 500), call(150, 10)) == [(0, 20 * MS)]


def test_either_length_or_share_makes_a_wait_worth_seeing() -> None:
    some = WaitThreshold(min_ns=20 * MS, min_share=0.5)
    assert waits(call(19, 1), threshold=some) == []
    assert waits(call(20, 1), threshold=some) == [(0, 20 * MS)]
    assert waits(call(40, 1), threshold=WaitThreshold(50 * MS, 0.4)) == [(0, 40 * MS)]
    assert waits(call(0, 1), call(1, 1), threshold=WaitThreshold(0, 0)) == []


def test_only_the_first_wait_is_known_where_calls_were_lost() -> None:
    assert waits(call(30, 10), call(70, 10), incomplete=1) == [(0, 30 * MS)]


def test_a_command_that_qemu_answers_itself_shows_a_wait_only_when_it_is_long() -> None:
    assert [s.name for s in spans(traces(Request("INQUIRY", duration_ns=30_000)))] == ["INQUIRY"]
    made = spans(traces(Request("READ", duration_ns=5 * MS, fields={"ending": Ending.CANCELLED})))
    assert [(s.name, times(s)) for s in made] == [("READ", (0, 5 * MS)), ("block.wait", (0, 5 * MS))]


def test_spans_of_a_trace_are_side_by_side_root_first() -> None:
    made = spans(traces(*[Request(duration_ns=100 * MS, calls=(call(30, 10), call(70, 10))) for _ in range(3)]))
    ids = [span.trace_id for span in made]
    assert ids == sorted(ids, key=ids.index)
    assert list(Counter(ids).values()) == [5, 5, 5]
    assert [not span.parent_span_id for span in made] == [True, False, False, False, False] * 3


def drawn(ids: Ids, *randomness: int) -> tuple[list[bytes], list[bytes]]:
    return ids.trace_ids(np.array(randomness, "u8")).tolist(), ids.span_ids(len(randomness)).tolist()


def test_a_seed_gives_the_same_ids_and_the_default_never_does() -> None:
    assert drawn(Ids(random.Random(1)), 0, 5) == drawn(Ids(random.Random(1)), 0, 5)
    assert drawn(Ids(), 0, 5) != drawn(Ids(), 0, 5)


def test_the_low_bits_of_a_trace_id_are_those_it_was_sampled_by() -> None:
    given = [1, 0x00F0_0000_0000_0001, (1 << 56) - 1]
    found, _ = drawn(Ids(random.Random(3)), *given)
    assert [int.from_bytes(one) % (1 << 56) for one in found] == given
    assert len({one[:9] for one in found}) == len(given)


def test_ids_are_never_zero_and_use_all_their_bits() -> None:
    class Zeros(random.Random):
        """Gives 0 twice, then all bits."""

        zeros = 2

        def randbytes(self, n: int) -> bytes:
            self.zeros -= 1
            return bytes(n) if self.zeros >= 0 else b"\xff" * n

    assert Ids(Zeros()).trace_ids(np.zeros(2, "u8")).tolist() == [b"\xff" * 16] * 2
    assert Ids(Zeros()).span_ids(2).tolist() == [b"\xff" * 8] * 2
    trace_ids, span_ids = drawn(Ids(random.Random(3)), *[0] * 200)
    assert functools.reduce(operator.or_, map(int.from_bytes, trace_ids)) == (1 << 128) - 1
    assert functools.reduce(operator.or_, map(int.from_bytes, span_ids)) == (1 << 64) - 1


SAMPLED = [
    (0, "ot=th:0", None),
    (1 << 55, "ot=th:8", 0.5),
    (0xFFBE7700000000, "ot=th:ffbe77", 0x418900000000 / (1 << 56)),
    (0xFFBE76C8B43958, "ot=th:ffbe76c8b43958", 0.001),
    (1, "ot=th:00000000000001", 1.0),
    ((1 << 56) - 1, "ot=th:ffffffffffffff", 2**-56),
    (1 << 56, "", None),
    ((1 << 64) - 1, "", None),
]


@pytest.mark.parametrize(("threshold", "state", "share"), SAMPLED)
def test_all_spans_of_a_trace_say_how_it_was_sampled(threshold: int, state: str, share: float | None) -> None:
    request = Request(duration_ns=100 * MS, calls=(call(60, 10),), fields={"threshold": threshold})
    made = spans(traces(request, orphans=[Call(join=Join.INTERNAL, fields={"threshold": threshold})]))
    root, wait, child, alone = made
    assert [span.trace_state for span in made] == [state] * 4
    for span in (root, alone):
        assert attributes(span).get(semconv.SAMPLING_RATIO) == (
            None if share is None else pytest.approx(share, rel=1e-12)
        )
    assert not {semconv.SAMPLING_RATIO} & {*attributes(wait), *attributes(child)}


def test_a_request_that_hangs_stands_for_nobody_else() -> None:
    made = spans(traces(write(ending=Ending.HUNG, threshold=1 << 55)))
    assert [span.trace_state for span in made] == ["", ""]
    assert semconv.SAMPLING_RATIO not in attributes(made[0])
    assert attributes(made[0])[semconv.ERROR_TYPE] == "timeout"


NASTY = ["\x00\x1b[31m\n", "\ud800", "\u202eevil", "é" * 5000, "\U0001f600" * 300, "\x01" * 5000, "", "a=b,c;d\"'<&>"]


@pytest.mark.parametrize("text", NASTY)
def test_no_name_breaks_the_export(text: str) -> None:
    disk = Disk(text, text, text, text)
    names = Names({PID: Guest(PID, text, text, text, (disk,))})
    names.devices[PID, builders.DEVICE] = names.images[PID, builders.IMAGE] = disk
    printed = printable(text)
    assert len(printed) <= LONGEST_TEXT
    assert printed.isprintable()
    (trace,) = encode(traces(write()), names, Resources(), Ids())
    sent = resource_of(trace.resource) | attributes(spans_in([trace])[0])
    assert {sent.get(key, "") for key in (semconv.DOMAIN_NAME, semconv.DISK_ALIAS)} == {printed}


def test_printable_leaves_readable_text_as_it_is() -> None:
    for text in ("ua-ceph-root", "диск ä 日本", "rbd/alpha.snap@1"):
        assert printable(text) == text
    assert printable("a\nb") == "a\\nb"


def test_a_guest_cannot_break_the_export_with_numbers() -> None:
    huge = (1 << 64) - 1
    batch = traces(Request(calls=(Call(fields={"offset": huge, "length": huge}),), fields={"lba": huge, "bytes": huge}))
    request, child = map(attributes, spans(batch))
    assert {request[semconv.SCSI_LBA], request[semconv.SCSI_TRANSFER_SIZE]} == {str(huge)}
    assert {child[semconv.RBD_OFFSET], child[semconv.RBD_LENGTH]} == {str(huge)}


@pytest.mark.parametrize("value", [0, *[(1 << bits) + by for bits in range(7, 63, 7) for by in (-1, 0)], (1 << 63) - 1])
def test_numbers_of_any_length_arrive(value: int) -> None:
    assert first(write(lba=value))[semconv.SCSI_LBA] == value


def test_a_guest_cannot_make_us_remember_without_end() -> None:
    for start in range(0, 3 * 8192, 4096):
        rows = [write(lun=number % 65536, opcode=number // 65536) for number in range(start, start + 4096)]
        assert len(spans(traces(*rows))) == 2 * 4096
    assert len(span_templates.REQUESTS) <= 8192


@pytest.mark.parametrize("offset_ns", [-(1 << 62), 1 << 70])
def test_absurd_times_are_clamped(offset_ns: int) -> None:
    span = spans(traces(write(), unix_offset_ns=offset_ns))[0]
    assert span.start_time_unix_nano <= span.end_time_unix_nano


def test_a_request_that_ends_before_it_begins_has_no_negative_duration() -> None:
    (span,) = spans(traces(Request(submit_ns=900, fields={"complete_ns": 100, "wait_ns": 0})))
    assert times(span) == (900, 900)


def test_nothing_gives_nothing() -> None:
    assert spans(traces()) == []
