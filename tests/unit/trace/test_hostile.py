# SPDX-License-Identifier: Apache-2.0
"""Recordings that somebody else has made: whatever they hold, and whatever their checksums say, only our errors."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_qemu.cli import cli
from otel_qemu.errors import OtelQemuError
from otel_qemu.events import RECORD, Batch, Records
from otel_qemu.trace.recording import RecordingWriter
from tests.support import builders

FORMS = ("--tree", "--json", "--hist", "--otlp")
NUMBERS = [name for name in RECORD.names or () if name != "cdb"]


def made(seed: int, count: int) -> Records:
    """Requests, calls and verdicts that often name each other, with odd values here and there."""
    random = np.random.default_rng(seed)
    rows = builders.records(count)
    named = random.integers(0, count, count)
    for name in ("request", "submit_ns"):
        rows[name] = rows[name][named]
    choices = {"kind": (1, 3), "link": (0, 4), "operation": (0, 5), "calls": (0, 2), "kept": (0, 4)}
    for name, (lowest, highest) in choices.items():
        rows[name] = random.integers(lowest, highest + 1, count)
    rows["length"] = 4096
    rows["call_submit_ns"] = rows["submit_ns"] + random.integers(0, 1000, count).astype("u8")
    rows["call_complete_ns"] = rows["call_submit_ns"] + random.integers(0, 500_000, count).astype("u8")
    for name in random.choice(NUMBERS, 3):
        limits, odd = np.iinfo(RECORD[str(name)]), random.integers(0, 4, count) == 0
        values = np.array([limits.min, 0, 1, 103, limits.max // 2, limits.max], dtype=RECORD[str(name)])
        rows[str(name)][odd] = random.choice(values, int(odd.sum()))
    return rows


@settings(
    derandomize=True, database=None, max_examples=150, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    seed=st.integers(0, 2**32), count=st.integers(1, 40), form=st.sampled_from(FORMS),
    offset_ns=st.sampled_from([0, builders.UNIX_OFFSET_NS, -(2**63), 2**63 - 1]),
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3),
    cut=st.floats(0, 1),
)  # fmt: skip
def test_nothing_but_our_errors(
    tmp_path: Path, seed: int, count: int, form: str, offset_ns: int, damage: list[tuple[float, int]], cut: float
) -> None:
    """Every form of replay, with bytes changed before and after the checksum was made, and the end cut off."""
    path = tmp_path / "hostile.oqr"
    path.unlink(missing_ok=True)
    with RecordingWriter(path, {"one_in": 7}) as writer:
        writer.write_names(builders.names())
        rows = made(seed, count)
        writer.write(Batch(rows[: count // 2], builders.UNIX_OFFSET_NS))
        writer.write(Batch(rows[count // 2 :], offset_ns))
        writer.write_counters({"records": count})
    data = bytearray(path.read_bytes())
    for where, byte in damage:
        data[int(where * len(data))] = byte
    path.write_bytes(data[: len(data) if cut > 0.5 else int(2 * cut * len(data))])
    said = replayed(form, path)
    assert said is None or isinstance(said, SystemExit | OtelQemuError), said


def replayed(form: str, path: Path) -> Any:
    """What `replay` raised, if it did."""
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "console"}
    return CliRunner(env=environment).invoke(cli, ["replay", form, str(path)]).exception
