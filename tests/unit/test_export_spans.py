"""Traces into spans: names, kinds, times, attributes and errors, as the naming contract has them."""

import random
from collections import Counter
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from otel_qemu.events import RETURN_UNKNOWN, Ending, RbdOperation
from otel_qemu.export import semconv
from otel_qemu.export.ids import Ids
from otel_qemu.export.resources import Resources
from otel_qemu.export.spans import spans_of
from otel_qemu.export.text import LONGEST_TEXT, printable
from otel_qemu.export.waits import WaitThreshold
from otel_qemu.trace.names import Disk, Guest, Names
from otel_qemu.trace.traces import Join, Traces

from . import builders
from .builders import PID, UNIX_OFFSET_NS, Call, Request, traces, write

MS = 1_000_000


def spans(batch: Traces, names: Names | None = None, threshold: WaitThreshold | None = None) -> list[ReadableSpan]:
    resources, ids = Resources(), Ids(random.Random(7))
    return spans_of(batch, names or builders.names(), resources, ids, threshold or WaitThreshold())


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def first(*requests: Request, **orphans: Any) -> dict[str, Any]:
    return attributes(spans(traces(*requests, **orphans))[0])


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time - UNIX_OFFSET_NS, span.end_time - UNIX_OFFSET_NS


def waits(*calls: Call, threshold: WaitThreshold | None = None, **fields: Any) -> list[tuple[int, int]]:
    made = spans(traces(Request(duration_ns=100 * MS, calls=calls, fields=fields)), threshold=threshold)
    return [times(span) for span in made if span.name == "block.wait"]


def call(submit_ms: int, duration_ms: int | None, **fields: Any) -> Call:
    return Call(submit_ns=submit_ms * MS, duration_ns=None if duration_ms is None else duration_ms * MS, fields=fields)


def test_a_write_is_a_server_span_with_a_client_child() -> None:
    request, child = spans(traces(write()))
    assert (request.name, request.kind, times(request)) == ("WRITE", SpanKind.SERVER, (1_000_000, 1_412_000))
    assert (child.name, child.kind, times(child)) == ("rbd.aio_write", SpanKind.CLIENT, (1_018_000, 1_389_000))
    assert request.parent is None
    assert child.parent == request.context
    assert child.context.trace_id == request.context.trace_id
    assert {span.status.status_code for span in (request, child)} == {StatusCode.UNSET}
    assert all(span.context.trace_flags.sampled for span in (request, child))


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
    assert request.status.status_code is (StatusCode.ERROR if error else StatusCode.UNSET)
    assert request.status.description is None


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
    assert child.status.status_code is (StatusCode.ERROR if error else StatusCode.UNSET)
    assert request.status.status_code is StatusCode.UNSET


def test_an_unseen_return_value_is_neither_told_nor_an_error() -> None:
    child = spans(traces(Request(calls=(Call(fields={"return_value": RETURN_UNKNOWN}),))))[1]
    assert semconv.RBD_RETURN_VALUE not in attributes(child)
    assert child.status.status_code is StatusCode.UNSET


def test_a_call_that_had_not_ended_ends_with_its_request() -> None:
    request, child = spans(traces(Request(calls=(Call(duration_ns=None),), fields={"ending": Ending.CANCELLED})))
    assert times(child)[1] == times(request)[1]
    assert attributes(child)[semconv.INCOMPLETE] is True
    assert semconv.RBD_RETURN_VALUE not in attributes(child)


def test_a_call_without_parent_is_a_trace_of_its_own_and_says_why() -> None:
    orphans = [Call(join=join) for join in (Join.INTERNAL, Join.STARTED_BEFORE, Join.PARENT_LOST, Join.UNMATCHED)]
    made = spans(traces(write(), orphans=orphans))[2:]
    assert [(span.parent, span.kind) for span in made] == [(None, SpanKind.CLIENT)] * 4
    assert [attributes(span)[semconv.JOIN] for span in made] == [
        "internal",
        "started_before",
        "parent_lost",
        "unmatched",
    ]
    assert len({span.context.trace_id for span in made}) == 4


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
    assert (wait.name, wait.kind, wait.parent) == ("block.wait", SpanKind.INTERNAL, request.context)
    assert child.parent == request.context
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
    ids = [span.context.trace_id for span in made]
    assert ids == sorted(ids, key=ids.index)
    assert list(Counter(ids).values()) == [5, 5, 5]
    assert [span.parent is None for span in made] == [True, False, False, False, False] * 3


def test_a_seed_gives_the_same_ids_and_the_default_never_does() -> None:
    def drawn(ids: Ids) -> list[int]:
        return [ids.trace_id(), ids.span_id()]

    assert drawn(Ids(random.Random(1))) == drawn(Ids(random.Random(1)))
    assert drawn(Ids()) != drawn(Ids())


def test_ids_are_never_zero_and_use_all_their_bits() -> None:
    class Zeros(random.Random):
        """Gives 0 first, then all bits."""

        answers = iter([0, 0])

        def getrandbits(self, k: int, /) -> int:
            return next(self.answers, (1 << k) - 1)

    assert Ids(Zeros()).trace_id() == (1 << 128) - 1
    seen = [0, 0]
    ids = Ids(random.Random(3))
    for _ in range(200):
        seen = [seen[0] | ids.trace_id(), seen[1] | ids.span_id()]
    assert seen == [(1 << 128) - 1, (1 << 64) - 1]


NASTY = ["\x00\x1b[31m\n", "\ud800", "\u202eevil", "é" * 5000, "\U0001f600" * 300, "\x01" * 5000, "", "a=b,c;d\"'<&>"]


@pytest.mark.parametrize("text", NASTY)
def test_no_name_breaks_the_export(text: str) -> None:
    disk = Disk(text, text, text, text)
    names = Names({PID: Guest(PID, text, text, text, (disk,))})
    names.devices[PID, builders.DEVICE] = names.images[PID, builders.IMAGE] = disk
    printed = printable(text)
    assert len(printed) <= LONGEST_TEXT
    assert printed.isprintable()
    (resource_spans,) = encode_spans(spans(traces(write()), names)).resource_spans
    span = resource_spans.scope_spans[0].spans[0]
    sent = {item.key: item.value.string_value for item in (*resource_spans.resource.attributes, *span.attributes)}
    assert {sent.get(key, "") for key in (semconv.DOMAIN_NAME, semconv.DISK_ALIAS)} == {printed}


def test_printable_leaves_readable_text_as_it_is() -> None:
    for text in ("ua-ceph-root", "диск ä 日本", "rbd/alpha.snap@1"):
        assert printable(text) == text
    assert printable("a\nb") == "a\\nb"


def test_a_guest_cannot_break_the_export_with_numbers(caplog: pytest.LogCaptureFixture) -> None:
    huge = (1 << 64) - 1
    batch = traces(Request(calls=(Call(fields={"offset": huge, "length": huge}),), fields={"lba": huge, "bytes": huge}))
    (resource_spans,) = encode_spans(spans(batch)).resource_spans
    request, child = resource_spans.scope_spans[0].spans
    texts = {item.key: item.value.string_value for item in (*request.attributes, *child.attributes)}
    assert {texts[key] for key in (semconv.SCSI_LBA, semconv.RBD_OFFSET, semconv.RBD_LENGTH)} == {str(huge)}
    assert not caplog.records


@pytest.mark.parametrize("offset_ns", [-(1 << 62), 1 << 70])
def test_absurd_times_are_clamped(offset_ns: int) -> None:
    (resource_spans,) = encode_spans(spans(traces(write(), unix_offset_ns=offset_ns))).resource_spans
    span = resource_spans.scope_spans[0].spans[0]
    assert span.start_time_unix_nano <= span.end_time_unix_nano


def test_a_request_that_ends_before_it_begins_has_no_negative_duration() -> None:
    (span,) = spans(traces(Request(submit_ns=900, fields={"complete_ns": 100, "wait_ns": 0})))
    assert times(span) == (900, 900)


def test_nothing_gives_nothing() -> None:
    assert spans(traces()) == []
