# SPDX-License-Identifier: Apache-2.0
"""A recording of the lab, sent by `otel-qemu replay --otlp` and fetched back from a real Jaeger: nothing is missing."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from otel_qemu import cli
from tests.backends.jaeger import Jaeger, Span, Trace

RECORDING = str(Path(__file__).parents[1] / "replay/recordings/throttled.otq")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_recording_stands_in_jaeger(
    jaeger: Jaeger,
    service: str,
    protocol: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each trace with its time, range, split and calls, as `--json` has them, over each protocol."""
    endpoint = jaeger.otlp_grpc if protocol == "grpc" else jaeger.otlp_http
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_SERVICE_NAME", service)
    assert cli.main(["replay", RECORDING, "--json"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert cli.main(["replay", RECORDING, "--otlp"]) == 0
    said = capsys.readouterr().err
    assert f"spans sent to {endpoint}" in said
    assert ", 0 lost" in said
    begin_ns, end_ns = min(starts(shown)) - 1, max(starts(shown)) + 1
    found = jaeger.traces(service, begin_ns, end_ns)

    assert sorted(map(told, found), key=repr) == sorted(map(expected, shown), key=repr)
    assert all(span.trace_state.startswith("ot=th:") for trace in found for span in trace.spans)


def starts(lines: Iterable[dict[str, Any]]) -> list[int]:
    """When each trace began."""
    return [line["start_unix_ns"] or line["children"][0]["start_unix_ns"] for line in lines]


def told(trace: Trace) -> tuple[object, ...]:
    """What Jaeger says of a trace."""
    (root,) = trace.roots
    calls = tuple(sorted(call(span) for span in trace.spans if span.kind == "CLIENT"))
    if root.kind == "CLIENT":
        return calls
    durations = [root.attributes[f"{name}.duration"] for name in ("qemu.block.wait", "qemu.block.completion")]
    durations.append(root.attributes["ceph.rbd.duration"])
    numbers = [root.attributes.get(f"scsi.{name}", 0) for name in ("lba", "transfer.size")]
    disk = root.resource["qemu.domain.name"], root.attributes["qemu.disk.alias"]
    return (root.name, *disk, root.start_unix_ns, root.duration_ns, *durations, *numbers, calls)


def call(span: Span) -> tuple[object, ...]:
    """What Jaeger says of a call."""
    keys = ("ceph.rbd.image", "ceph.rbd.offset", "ceph.rbd.length", "ceph.rbd.return_value")
    values = [span.attributes.get(key, 0) for key in keys]
    return span.name, span.start_unix_ns, span.duration_ns, *values


def expected(line: dict[str, Any]) -> tuple[object, ...]:
    """The same of a line of `--json`."""
    calls = tuple(
        sorted(
            (
                f"rbd.aio_{child['operation']}", child["start_unix_ns"], child["duration_ns"],
                child["image"].split("/")[-1], child["offset"], child["length"], child["return_value"],
            )
            for child in line["children"]
        )
    )  # fmt: skip
    if line["operation"] is None:
        return calls
    durations = [line[f"{name}_ns"] / 1e9 for name in ("wait", "completion", "rbd")]
    own = (line["operation"], line["domain"], line["disk"], line["start_unix_ns"], line["duration_ns"])
    return (*own, *durations, line["lba"] or 0, line["bytes"], calls)
