# SPDX-License-Identifier: Apache-2.0
"""The exact chain with real probes: it agrees with every join, or gives no verdict; and only if asked for."""

import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from otel_qemu.probe.attach import MULTI, PERF
from otel_qemu.trace.audit import Audit, Tally
from otel_qemu.trace.audit_verdicts import Outcome
from otel_qemu.trace.pipeline import Pipeline
from otel_qemu.trace.recording import Recording
from otel_qemu.trace.traces import Join
from tests.children import child
from tests.kernel.fake.build import CHAINLESS, IN_CALLERS, OPAQUE, QEMU_7_2, Variant
from tests.kernel.fake_qemu import FakeQemu
from tests.kernel.tracing import Tracing

OTEL_QEMU = (sys.executable, "-c", "import sys; from otel_qemu.cli import main; sys.exit(main(sys.argv[1:]))")
COMMANDS = ("read 211 4096 32", "write 101 65536 16", "fua 23", "flush 23", "unmap 23 7 4", "zero 5", "inquiry 7",
            "layered 50 4096 8", "check-condition 3", "early-fail 3", "cancel 5", "retry 3", "retry-data 3",
            "orphan 23")  # fmt: skip
WITH_RANGE = 211 + 101 + 23 + 50 + 3 + 3 + 5 + 3 * 2
WITHOUT_RANGE = 23 + 23 + 23 * 7 + 5 + 3 * 2
EXIT_NOT_POSSIBLE = 4


def audit_of(tracing: Tracing) -> Audit:
    """Return the audit of every record in the ring."""
    pipeline = Pipeline(audit=True)
    list(pipeline.traces_of([tracing.tracer.read()]))
    assert pipeline.audit is not None
    return pipeline.audit


@pytest.mark.parametrize("route", [MULTI, PERF])
def test_every_join_agrees(route: str, variant: Variant) -> None:
    """
    This holds for every kind of request, a qcow2 image's helpers included; neither finds a request for a block job.
    """
    with FakeQemu(variant) as qemu, Tracing(qemu, route=route, audit=True) as tracing:
        for command in COMMANDS:
            assert qemu.command(command).strange_returns == 0
        assert tracing.tracer.audited == [qemu.pid]
        audit = audit_of(tracing)
    assert audit.joins == {
        Join.WALK_RANGE: Tally({Outcome.AGREED: WITH_RANGE}),
        Join.WALK: Tally({Outcome.AGREED: WITHOUT_RANGE}),
        Join.INTERNAL: Tally({Outcome.AGREED: 23}),
    }
    assert audit.verdicts == WITH_RANGE + WITHOUT_RANGE + 23
    assert audit.unwalked[Join.RANGE] == Tally(
        {Outcome.AGREED: WITH_RANGE - 3}
    )  # the second call of `retry-data` finds no bytes


def test_the_rules_are_audited_where_there_is_no_walk() -> None:
    """If the layout of librbd is not known, the joins by range and time are compared with the chain."""
    with FakeQemu(OPAQUE) as qemu, Tracing(qemu, audit=True) as tracing:
        for command in ("read 211 4096 16", "flush 23 0 1", "orphan 23"):
            qemu.command(command)
        audit = audit_of(tracing)
    assert audit.joins == {
        Join.RANGE: Tally({Outcome.AGREED: 211}),
        Join.TIME: Tally({Outcome.AGREED: 23}),
        Join.UNMATCHED: Tally({Outcome.AGREED: 23}),
    }


def test_a_function_that_is_never_entered_makes_silence() -> None:
    """If link-time optimisation has inlined blk_aio_preadv, reads get no verdict, and all writes do."""
    with FakeQemu(IN_CALLERS) as qemu, Tracing(qemu, audit=True) as tracing:
        for command in ("read 211 4096 32", "write 101 65536 16", "flush 23", "orphan 5"):
            qemu.command(command)
        audit = audit_of(tracing)
    assert audit.joins[Join.WALK_RANGE] == Tally({Outcome.AGREED: 101, Outcome.SILENT: 211})
    assert audit.joins[Join.WALK] == Tally({Outcome.AGREED: 23})
    assert audit.joins[Join.INTERNAL] == Tally({Outcome.SILENT: 5})
    assert audit.silences == {"some of the chain never ran": 216}


def test_what_began_before_us_has_no_request_in_either() -> None:
    """Calls of requests that were in flight at the start have no request in either; later ones have."""
    with FakeQemu(QEMU_7_2) as qemu:
        qemu.command("hold")
        qemu.command("unmap 23 3")
        with Tracing(qemu, audit=True) as tracing:
            qemu.command("release-held")
            qemu.command("unmap 5 2")
            audit = audit_of(tracing)
    assert audit.joins[Join.WALK] == Tally({Outcome.AGREED: 10})
    assert audit.joins[Join.STARTED_BEFORE] == Tally({Outcome.SILENT: 46})


def test_without_it_nothing_of_it_is_there() -> None:
    """Without --audit it has no table, counter or probe; with it, detaching removes its probes, too."""
    with FakeQemu(QEMU_7_2) as qemu:
        with Tracing(qemu) as tracing:
            qemu.command("read 211 4096 32")
            assert not [name for name in tracing.counted() if name.startswith("audit")]
            assert b"coroutines" not in [bytes(name) for name in tracing.tracer._program._bpf.tables]
        with Tracing(qemu, audit=True) as tracing:
            qemu.command("read 211 4096 32")
            assert tracing.counted()["audit_led"] == 3 * 211
            tracing.tracer.detach()
            qemu.command("read 211 4096 32")
            assert tracing.counted() == {}


def test_a_process_that_ends_leaves_nothing(variant: Variant) -> None:
    """Threads and coroutines of a killed process are forgotten."""
    with FakeQemu(variant) as qemu, Tracing(qemu, audit=True) as tracing:
        qemu.command("hold")
        qemu.command("read 211 4096")
        tables = tracing.tracer._program._bpf
        assert len(tables[b"coroutines"]) == 211
        qemu.kill()
        tracing.tracer.refresh()
        assert [len(tables[name]) for name in (b"coroutines", b"threads", b"audited")] == [0, 0, 0]
        assert tracing.tracer.audited == []


# ---- as a command ----------------------------------------------------------------------------------------------


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return tmp_path / "recording.otq"


def traced(qemu: FakeQemu, *arguments: str) -> tuple[int, str, str]:
    """Run a command that traces while the guest reads and writes; return its exit status, stdout and stderr."""
    command = [*OTEL_QEMU, *arguments, "--audit", "--pid", str(qemu.pid)]
    with child(command, stdout=PIPE, stderr=PIPE) as process:
        assert process.stderr
        said = ""
        while not said.endswith("Ctrl-C ends it\n"):
            line = process.stderr.readline()
            assert line, said
            said += line
        for load in ("read 211 4096 32", "write 101 65536 16"):
            qemu.command(load)
        process.terminate()
        stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, said + stderr


def table(text: str) -> list[list[str]]:
    """Return the lines of an audit's report, word by word."""
    return [line.split() for line in text[text.index("audit: ") :].splitlines()]


def test_a_recording_holds_its_audit(recording: Path) -> None:
    """`record --audit` reports, and `replay` of the file reports the same; its traces are as without an audit."""
    with FakeQemu(QEMU_7_2) as qemu:
        status, _, said = traced(qemu, "record", "-o", str(recording))
    assert status == 0, said
    report = table(said)
    assert ["walk+range", "312", "0", "0", "0"] in report
    with child([*OTEL_QEMU, "replay", str(recording), "--json"], stdout=PIPE, stderr=PIPE) as replay:
        stdout, stderr = replay.communicate(timeout=60)
    assert replay.returncode == 0
    assert table(stderr) == report
    assert len(stdout.splitlines()) == 312
    assert sum(len(batch) for batch in Recording.open(recording).batches()) == 2 * 312


def test_histograms_can_be_audited(recording: Path) -> None:
    """`hist --audit` prints the same histograms, and a report."""
    with FakeQemu(QEMU_7_2) as qemu:
        status, stdout, said = traced(qemu, "hist", "--json")
    assert status == 0, said
    assert sum('"layer": "rbd"' in line for line in stdout.splitlines()) == 2
    assert ["walk+range", "312", "0", "0", "0"] in table(said)


def test_without_the_functions_tracing_goes_on_and_says_so(recording: Path) -> None:
    """A build without dma_blk_io gives one warning, a complete recording, and an exit status of 4."""
    with FakeQemu(CHAINLESS) as qemu:
        status, _, said = traced(qemu, "record", "-o", str(recording))
    assert status == EXIT_NOT_POSSIBLE
    assert said.count("has no function dma_blk_io: install its debug symbols") == 1
    assert said.splitlines()[-1].startswith("error: no join was audited")
    assert sum(len(batch) for batch in Recording.open(recording).batches()) == 312
