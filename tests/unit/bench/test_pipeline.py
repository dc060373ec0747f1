# SPDX-License-Identifier: Apache-2.0
"""The pure parts of bench/: what is made of samples, what is parsed, what is printed."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource

from bench import (
    bpftrace,
    callback,
    guest,
    hit,
    kernel,
    machine,
    pipeline,
    probe,
    programs,
    readings,
    sidecar,
    spans,
    workload,
)
from bench.figures import Figure, added, as_json, print_table, ratios
from otel_qemu.events import Batch, Link, RecordKind
from otel_qemu.export.resources import Resources
from otel_qemu.export.spans.encode import encode
from otel_qemu.export.spans.ids import Ids
from otel_qemu.probe.disassembly import decoded
from otel_qemu.probe.elf import open_binary
from otel_qemu.probe.sites import is_emulated
from otel_qemu.trace.histograms import Histograms, rbd_operation
from otel_qemu.trace.names import Names
from otel_qemu.trace.pipeline import Pipeline
from tests.support.decoded import spans_in
from tests.support.normal_spans import ids_of, normal
from tests.support.readable_spans import spans_of

CPUINFO = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu vme {}\nmodel name\t: Another\n"


def test_a_figure_is_median_and_minimum() -> None:
    """One disturbed repetition moves neither."""
    assert Figure.of("push_ns", [5.0, 4.0, 900.0]) == Figure("push_ns", median=5.0, least=4.0)


def test_a_figure_needs_samples() -> None:
    """Nothing measured is an error, not a zero."""
    with pytest.raises(ValueError, match="push_ns: nothing"):
        Figure.of("push_ns", [])


@pytest.mark.parametrize(("aim", "met"), [(None, None), (2.0, True), (1.9, False)])
def test_an_aim_is_the_most(aim: float | None, met: bool | None) -> None:
    """The median itself is within it; without one, there is nothing to meet."""
    assert Figure.of("x_ratio", [2.0], aim).met is met


def test_differences_are_taken_repetition_by_repetition() -> None:
    """A machine that slows down slows both."""
    assert added({"base": [1.0, 10.0], "ours": [3.0, 12.0]}, "ours", "base") == [2.0, 2.0]


def test_ratios_leave_out_what_noise_has_eaten() -> None:
    """A base at or below 0 says nothing."""
    assert ratios([1.0, 1.0, 3.0], [0.0, -1.0, 2.0]) == [1.5]


def test_json_is_plain_numbers() -> None:
    """One object, serialisable, with the machine and each section's figures by name."""
    figures = [Figure.of("push_ns", [1.0, 2.0, 3.0]), Figure.of("x_ratio", [0.5], 1.6)]
    line = json.loads(json.dumps(probe.report({"cores": 2, "bcc": None}, {"hit": figures})))

    assert line == {
        "machine": {"cores": 2, "bcc": None},
        "hit": {"push_ns": {"median": 2.0, "min": 1.0}, "x_ratio": {"median": 0.5, "min": 0.5, "aim": 1.6}},
    }
    assert as_json([]) == {}


def test_the_table_has_a_row_a_figure() -> None:
    """With the aim, and whether it is met."""
    out = io.StringIO()
    print_table("hit: a hit", [Figure.of("push_ns", [1234.5]), Figure.of("x_ratio", [1.25, 1.75], 1.6)], out)
    title, _head, *rows = map(str.rstrip, out.getvalue().strip().splitlines())

    assert title == "hit: a hit"
    assert [row.split() for row in rows] == [
        ["push_ns", "1,234", "1,234"],
        ["x_ratio", "1.5", "1.25", "≤", "1.6", "met"],
    ]


@pytest.mark.parametrize(("flag", "virtualised"), [("hypervisor", True), ("hypervisors", False)])
def test_cpuinfo(flag: str, virtualised: bool) -> None:
    """The first CPU's model, and whether a hypervisor is below."""
    assert machine.cpu_model(CPUINFO) == "Some CPU @ 2 GHz"
    assert machine.is_virtualised(CPUINFO.format(flag)) is virtualised


def test_the_machine_is_told_in_plain_values() -> None:
    """Every version that is not known is null."""
    told = machine.machine()

    assert {"kernel", "cpu", "cores", "virtualised", "qemu", "librbd", "bcc"} <= told.keys()
    assert json.loads(json.dumps(told)) == told
    assert machine.version("no-such-package") is None


def test_fdinfo_gives_the_numbers() -> None:
    """Words are left out, a name with a tab is read."""
    text = "pos:\t0\nprog_tag:\tf958f6eb72ef5af6\nprog_id:\t41\nrun_time_ns:\t1200\nrun_cnt:\t4\n"

    assert kernel.parse_fdinfo(text) == {"pos": 0, "prog_id": 41, "run_time_ns": 1200, "run_cnt": 4}


def test_run_times_go_by_the_names_that_the_kernel_cuts() -> None:
    """15 bytes of a name; a program that did not run has no mean."""
    times = {
        "scsi_req_comple": kernel.RunTime(4, 1200),
        "rbd_aio_writev": kernel.RunTime(0, 0),
        "rbd_aio_readv": kernel.RunTime(1, 1),
    }

    assert programs.ns_a_run(times) == {"scsi_req_complete": 300.0}


def test_programs_are_compared_a_hit() -> None:
    """What ours adds to the untraced request, by what the empty program adds, four hits each."""
    samples = {"untraced": [1000.0], "empty": [3000.0], "counting": [4000.0], "keeping_all": [5000.0]}
    by_name = {figure.name: figure.median for figure in programs.summarised("q", samples)}

    assert by_name["q_empty_hit_ns"] == 500
    assert by_name["q_counting_hit_ns"] == 750
    assert by_name["q_counting_to_empty_ratio"] == 1.5
    assert by_name["q_keeping_all_to_empty_ratio"] == 2.0


def test_tracers_are_compared_by_all_that_they_add() -> None:
    """In QEMU beside its virtual CPUs, and in the tracer itself."""
    costs = {"untraced": (10.0, 0.0), "counting": (12.0, 1.0), "keeping_all": (13.0, 2.0), "bpftrace": (18.0, 12.0)}
    phases = {
        name: [guest.Phase(iops=1000, qemu_us=99, without_vcpus_us=qemu, tracer_us=tracer, bpf_us=1)]
        for name, (qemu, tracer) in costs.items()
    }
    by_name = {figure.name: figure.median for figure in guest.summarised(phases)}

    assert by_name["counting_to_bpftrace_ratio"] == 3 / 20
    assert by_name["keeping_all_to_bpftrace_ratio"] == 5 / 20
    assert "untraced_tracer_us" not in by_name


def test_percent_is_of_one_core() -> None:
    """A tenth of a second in ten."""
    assert sidecar.percent(100_000_000, 10_000_000_000) == 1.0


def test_the_program_under_test_has_every_kind(tmp_path: Path) -> None:
    """A function begins with each instruction, which the kernel emulates or single-steps as named, and can be timed."""
    program = hit.compile_into(tmp_path)
    code = program.read_bytes()
    with open_binary(str(program)) as binary:
        for kind in hit.KINDS:
            function = binary.function(f"on_{kind}")
            assert function is not None
            first = next(decoded(code[function.offset : function.offset + 16]))
            assert first.mnemonic == kind
            assert is_emulated(bytes(first.bytes)) != (kind in hit.SINGLE_STEPPED)
            assert hit.ns_a_call(program, kind, attached=False) > 0


@pytest.mark.parametrize(
    ("output", "count"),
    [("123 scsi end 0x7f 5 us\n@scsi_count: 417\n@scsi_mean_ms: 2\n", 417), ("@scsi_mean_ms: 2\n", 0), ("", 0)],
)
def test_bpftrace_tells_its_count(output: str, count: int) -> None:
    """Among events and histograms."""
    assert bpftrace.counted(output) == count


def test_bpftrace_is_attached_when_every_probe_has_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """One perf event a uprobe, beside the one of each CPU."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    script = "uprobe:/a:f,\nuprobe:/a:g\n{ }\nEND { }"
    events = ["anon_inode:[perf_event]"] * 4

    assert bpftrace.is_attached([*events, "/dev/null"], script)
    assert not bpftrace.is_attached([*events[1:], "anon_inode:bpf-prog"], script)


def test_each_layer_has_a_script() -> None:
    """Two of them, as they are run by hand."""
    assert [script.stem for script in bpftrace.SCRIPTS] == ["librbd", "scsi"]


def test_ways_to_encode_are_compared_span_by_span() -> None:
    """A quarter of the SDK's CPU time is the aim, with its construction of spans and without."""
    samples = {"encode": [1000.0], "encode_request": [2000.0], "encode_request_gzip": [3000.0]}
    samples |= {"sdk_encode": [8000.0], "sdk": [10000.0], "sdk_gzip": [30000.0]}
    figures = spans.summarised(samples, {"request": 480.0})
    by_name = {figure.name: figure for figure in figures}

    assert by_name["to_sdk_ratio"].median == 0.2
    assert by_name["to_sdk_ratio"].met
    assert by_name["to_sdk_encode_ratio"].median == 0.25
    assert by_name["to_sdk_gzip_ratio"].median == 0.1
    assert by_name["encode_request_spans_a_s"].median == 500_000
    assert by_name["encode_request_us_a_span"].met
    assert by_name["request_bytes_a_span"].median == 480


def test_spans_that_are_measured_are_those_of_a_busy_hypervisor() -> None:
    """Times add up, all guests and disks are there, some requests wait, and their names are known."""
    traces, names = spans.some_traces(2000), spans.some_names()
    requests, calls = traces.requests, traces.calls
    parts_ns = requests["wait_ns"] + requests["rbd_ns"] + requests["completion_ns"]

    assert (requests["complete_ns"] - requests["submit_ns"] == parts_ns).all()
    assert (calls["complete_ns"] - calls["submit_ns"] == requests["rbd_ns"]).all()
    assert (calls["submit_ns"] - requests["submit_ns"] == requests["wait_ns"]).all()
    assert set(zip(requests["pid"].tolist(), requests["device"].tolist(), strict=True)) == names.devices.keys()
    assert set(zip(calls["pid"].tolist(), calls["image"].tolist(), strict=True)) == names.images.keys()
    encoded = encode(traces, names, Resources(), Ids())
    assert 2 * 2000 < sum(trace.span_count for trace in encoded) < 3 * 2000


def test_both_ways_make_the_same_spans() -> None:
    """What is compared is the same work."""
    traces, names = spans.some_traces(200), spans.some_names()
    ours = spans_in(encode(traces, names, Resources(), Ids()))
    theirs = spans_of(traces, names, {pid: Resource({}) for pid in names.guests}, ids_of(ours))
    (of_resource,) = encode_spans(theirs).resource_spans

    assert [*map(normal, ours)] == [*map(normal, of_resource.scope_spans[0].spans)]


def test_an_export_of_metrics_has_every_guest_and_disk() -> None:
    """Of each disk 22 series, beside those of ourselves, which are there without any guest."""
    figures = {figure.name: figure for figure in readings.measure(2, guests=2, disks=3)}
    of_guests = readings.measure(1, guests=0)
    ours = next(figure.median for figure in of_guests if figure.name == "points_an_export")

    assert figures["points_an_export"].median == ours + 2 * 3 * 22
    assert figures["request_bytes_an_export"].median > figures["gzip_bytes_an_export"].median > 0
    assert figures["encode_ms_an_export"].least > 0


def test_a_span_costs_a_quarter_of_the_sdks_at_most() -> None:
    """In one run, on whatever machine this is; it is some 28 times less where it is quiet."""
    by_name = {figure.name: figure for figure in spans.measure(3, requests=512)}

    assert by_name["to_sdk_ratio"].met
    assert by_name["to_sdk_encode_ratio"].met


def test_a_way_that_takes_longer_costs_more() -> None:
    """CPU time of this thread, in ns."""
    assert spans.cpu_ns(lambda: sum(range(1_000_000))) > spans.cpu_ns(lambda: None) >= 0


class TestPipeline:
    """The recordings it makes up, and the two ways that they go."""

    @pytest.mark.parametrize("name", ["usual", "many_calls"])
    def test_the_callback_does_the_same_work(self, name: str) -> None:
        """Each histogram, each bin and each sum; calls, joins and what disagrees."""
        records = workload.records_of(replace(pipeline.SHAPES[name], requests=3000))
        script, joins, histograms = callback.Script(), Pipeline(), Histograms()
        script.consume(records)
        for traces in joins.traces_of([Batch(records, 0)]):
            histograms.add(traces)
        ours = {
            (row.pid, row.device, row.layer, row.operation): (row.counts, round(row.sum_s * 1e9))
            for row in histograms.rows(Names())
        }

        assert ours == {
            (pid, device, layer, rbd_operation(int(name)) if layer == "rbd" else name): (tuple(counts), sum_ns)
            for (pid, device, layer, name), (*counts, sum_ns) in script.histograms.items()
        }
        assert (script.requests, script.calls) == (joins.stats.requests, joins.stats.calls)
        assert script.disagreements == joins.stats.disagreements == 0

    def test_the_usual_recording_is_as_it_says(self) -> None:
        """One in a hundred requests has several calls, there are some orphans, and the order is nearly that of ends."""
        shape = replace(pipeline.USUAL, requests=20_000)
        records = workload.records_of(shape)
        requests = records[records["kind"] == RecordKind.REQUEST]
        alone = (records["kind"] == RecordKind.CALL) & (records["link"] == Link.NOT_IN_FLIGHT)
        behind_ns = np.maximum.accumulate(requests["complete_ns"]) - requests["complete_ns"]

        assert len(requests) == 20_000
        assert 0.005 < (requests["calls"] > 1).mean() < 0.02
        assert alone.sum() == 40
        assert 0 < behind_ns.max() <= 10_000
        assert len(np.unique(requests[["pid", "device"]])) == 24

    def test_without_a_walk_calls_name_nothing(self) -> None:
        """They are records of their own, and nearly all find their request again."""
        records = workload.records_of(replace(pipeline.SHAPES["unwalked"], requests=2000))
        joins = Pipeline()
        list(joins.traces_of([Batch(records, 0)]))

        assert not records["request"][records["kind"] == RecordKind.CALL].any()
        assert joins.stats.joined > 0.9 * joins.stats.calls

    def test_figures_have_aims(self) -> None:
        """ns a request, the share of the usual way's, and MB."""
        samples = {name: [500.0] for name in (*pipeline.SHAPES, "callback", "memory")} | {"callback": [10_000.0]}
        by_name = {figure.name: figure for figure in pipeline.summarised(samples)}

        assert by_name["usual_ns"].met
        assert by_name["usual_requests_per_s"].median == 2e6
        assert by_name["usual_to_callback_ratio"].met
        assert not by_name["usual_memory_mb"].met
