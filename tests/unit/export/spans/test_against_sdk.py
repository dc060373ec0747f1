# SPDX-License-Identifier: Apache-2.0
"""Every span, field by field, against what the SDK's own encoder makes of the same span."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span
from opentelemetry.sdk.resources import Resource

from otel_qemu.events import RETURN_UNKNOWN, Ending, RbdOperation
from otel_qemu.export.resources import Resources
from otel_qemu.export.spans.encode import encode, orphaned_calls
from otel_qemu.export.spans.encoded import EncodedTrace, request_of
from otel_qemu.export.spans.ids import Ids
from otel_qemu.policy import WaitThreshold
from otel_qemu.trace.names import Disk, Guest, Names
from otel_qemu.trace.scsi import OPERATIONS
from otel_qemu.trace.traces import Join, Traces
from tests.support.builders import DEVICE, IMAGE, PID, Call, Request, traces
from tests.support.decoded import resource_of, spans_in
from tests.support.normal_spans import ids_of, normal
from tests.support.readable_spans import spans_of

PIDS = (PID, PID + 1)
SHARED = Resources()

texts = st.none() | st.text(max_size=6) | st.sampled_from(["\ud800", "\x00\x1b[31m\n", "\u202eevil", "é" * 300])
disks = st.builds(Disk, texts.map(lambda text: text or ""), texts, texts, texts)
small, byte = st.integers(0, 300_000_000), st.integers(0, 255)
numbers = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 127, 128, 2**63 - 1, 2**63, 2**64 - 1])
times = small | st.integers(0, 2**61)
durations = small | st.integers(-(2**62), 2**62)
thresholds = st.sampled_from([0, 1, 0xFFBE76C8B43958, 0xFD70A3D70A3D71, 2**55, 2**56 - 1, 2**56, 2**64 - 1])
offsets = st.sampled_from([0, 1_700_000_000_000_000_000, -5_000_000, -(2**62), 2**63, 2**70, -(2**70)])


def in_one_process(request: Request) -> Request:
    """With the calls in the request's process, as they are."""
    own = {"pid": request.fields.get("pid", PID)}
    return replace(request, calls=tuple(replace(call, fields=call.fields | own) for call in request.calls))


def columns(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=strategies)


returned = st.sampled_from([0, 4096, -5, -110, -9999, RETURN_UNKNOWN]) | st.integers(-(2**31), 2**31 - 1)
calls = st.builds(
    Call,
    st.sampled_from(list(RbdOperation)),
    times,
    st.none() | small,
    st.sampled_from([join for join in Join if join < Join.INTERNAL]),
    columns(
        pid=st.sampled_from(PIDS), image=st.sampled_from([0, IMAGE]), offset=numbers, length=numbers,
        disagrees=st.integers(0, 1), return_value=returned, operation=byte, join=byte,
        randomness=st.integers(0, 2**56 - 1), threshold=thresholds,
    ),
)  # fmt: skip
requests = st.builds(
    Request,
    st.sampled_from(OPERATIONS),
    times,
    small,
    st.lists(calls, max_size=4).map(tuple),
    columns(
        pid=st.sampled_from(PIDS), device=st.sampled_from([0, DEVICE]), operation=byte, opcode=byte,
        lun=st.integers(0, 2**16 - 1), tag=st.integers(0, 2**32 - 1), status=st.sampled_from([0, 2, 4, 8]) | byte,
        ending=st.sampled_from(list(Ending)) | byte, host_status=byte, retries=byte,
        sense_key=byte, asc=byte, ascq=byte, incomplete=st.integers(0, 1),
        lba=numbers, bytes=numbers, block_bytes=st.integers(0, 2**32 - 1),
        complete_ns=times, wait_ns=durations, rbd_ns=durations, completion_ns=durations,
        randomness=st.integers(0, 2**56 - 1), threshold=thresholds,
    ),
)  # fmt: skip
batches = st.builds(
    lambda made, alone, offset_ns: traces(*made, orphans=alone, unix_offset_ns=offset_ns),
    st.lists(requests.map(in_one_process), max_size=6),
    st.lists(calls, max_size=4),
    offsets,
)
wait_thresholds = st.builds(WaitThreshold, st.integers(0, 10**9), st.floats(0, 1))


@st.composite
def namings(draw: st.DrawFn) -> Names:
    """Two guests of any names, of which one disk and one image are known."""
    guests = {pid: Guest(pid, draw(texts) or "", draw(texts), draw(texts)) for pid in PIDS[:1]}
    return Names(guests, {(PID, DEVICE): draw(disks)}, {(PID, IMAGE): draw(disks)})


@given(batches, namings(), wait_thresholds)
@settings(max_examples=200, deadline=None)
def test_spans_are_those_of_the_sdk(batch: Traces, names: Names, threshold: WaitThreshold) -> None:
    """Every field of every span, and which traces there are; attributes in any order."""
    encoded = encode(batch, names, SHARED, Ids(random.Random(3)), threshold)

    found = spans_in(encoded)
    expected = expected_spans(batch, names, threshold, found)
    assert list(map(normal, found)) == list(map(normal, expected))
    alone = len(batch.orphans) - orphaned_calls(batch)
    assert len(encoded) == len(batch.requests) + alone


@given(batches, namings())
@settings(max_examples=60, deadline=None)
def test_requests_are_those_of_the_sdk(batch: Traces, names: Names) -> None:
    """Resource and scope as well, when traces of several guests are put into one request."""
    encoded = encode(batch, names, SHARED, Ids(random.Random(3)))
    found = ExportTraceServiceRequest.FromString(request_of(encoded))

    spans = spans_of(batch, names, sdk_resources(names), ids_of(spans_in(encoded)))
    expected = encode_spans(spans)
    assert len(found.resource_spans) == len(expected.resource_spans)
    for ours, theirs in zip(found.resource_spans, expected.resource_spans, strict=True):
        assert ours.resource == theirs.resource
        assert [part.scope for part in ours.scope_spans] == [part.scope for part in theirs.scope_spans]
        assert (ours.schema_url, ours.scope_spans[0].schema_url) == ("", "")
        assert list(map(normal, ours.scope_spans[0].spans)) == list(map(normal, theirs.scope_spans[0].spans))


@given(batches, namings())
@settings(max_examples=60, deadline=None)
def test_ids_are_random_but_for_what_was_drawn_before(batch: Traces, names: Names) -> None:
    """A trace's low 56 bits are those that it was sampled by; every id is another, and none is 0."""
    encoded = encode(batch, names, SHARED, Ids())
    spans = spans_in(encoded)

    drawn = [*batch.requests["randomness"].tolist()]
    drawn += [int(call["randomness"]) for call in batch.orphans if call["join"] != Join.PARENT_LOST]
    low = [int.from_bytes(trace.trace_id) % 2**56 for trace in encoded]
    assert all(had in (0, has) for had, has in zip(drawn, low, strict=True))
    assert all(low)
    assert len({trace.trace_id for trace in encoded}) == len(encoded)
    assert len({span.span_id for span in spans} - {bytes(8)}) == len(spans)


@given(batches, namings(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_trace_does_not_depend_on_its_batch(batch: Traces, names: Names, data: st.DataObject) -> None:
    """One request alone is encoded as it is among others, but for its ids."""
    if not len(batch.requests):
        return
    index = data.draw(st.integers(0, len(batch.requests) - 1))
    alone = batch.only(np.array([index]))

    among = encode(batch, names, SHARED, Ids(random.Random(3)))[index]
    (by_itself,) = encode(alone, names, SHARED, Ids(random.Random(4)))
    assert by_itself.resource == among.resource
    assert list(map(nameless, spans_in([by_itself]))) == list(map(nameless, spans_in([among])))


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_ids_give_the_same_bytes(seed: int) -> None:
    """Whatever was encoded before."""
    batch = traces(Request(calls=(Call(),)), orphans=[Call(join=Join.INTERNAL)])
    names = Names()

    def again() -> list[EncodedTrace]:
        return encode(batch, names, SHARED, Ids(random.Random(seed)))

    assert again() == again()


def expected_spans(batch: Traces, names: Names, threshold: WaitThreshold, found: list[Span]) -> list[Span]:
    made = spans_of(batch, names, {pid: Resource({}) for pid in PIDS}, ids_of(found), threshold)
    request = encode_spans(made)
    return [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]


def sdk_resources(names: Names) -> dict[int, Resource]:
    return {pid: Resource(resource_of(SHARED.of(names.guest(pid)))) for pid in PIDS}


def nameless(span: Span) -> Span:
    """The span without its ids."""
    found = normal(span)
    for name in ("trace_id", "span_id", "parent_span_id"):
        found.ClearField(name)
    return found


def test_a_resource_is_field_one_of_whatever_has_one() -> None:
    """So that the same bytes begin a ``ResourceMetrics``."""
    from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

    message = SHARED.of(Guest(PID, "/usr/bin/qemu"))

    assert ResourceMetrics.FromString(message).resource == ResourceSpans.FromString(message).resource
