# SPDX-License-Identifier: Apache-2.0
"""Attaching by either route: entry probes only, repeatable, and without a trace afterwards."""

import ast
import ctypes
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import otel_qemu
from otel_qemu.errors import NotPossible
from otel_qemu.events import SITES
from otel_qemu.probe.attach import MULTI, PERF, _UprobeMulti, attach
from otel_qemu.probe.elf import open_binary
from otel_qemu.probe.program import Program
from otel_qemu.probe.sites import PROBES
from tests.kernel.fake_qemu import FakeQemu
from tests.kernel.tracing import Tracing
from tests.kernel.uprobes import Text, open_probes, perf_event_type, read_link, traced_events

SOURCES = Path(otel_qemu.__file__).parent
INT3 = 0xCC
NO_TRACEFS = not Path("/sys/kernel/tracing/uprobe_events").exists()
ONE_OF_EVERYTHING = (
    "read 211 4096 16",
    "fua 23",
    "flush 23",
    "unmap 23 3",
    "fail 5",
    "cancel 5",
    "retry 5",
    "orphan 5",
)


@pytest.fixture
def qemu() -> Iterator[FakeQemu]:
    with FakeQemu() as qemu:
        yield qemu


def sites(tracing: Tracing, qemu: FakeQemu) -> list[tuple[Text, int, int]]:
    """Return each probed instruction: its address in memory, its offset, and its byte in the file."""
    found = []
    for file, sites in tracing.tracer.inspections[0].binaries():
        content = Path(file.name).read_bytes()
        found += [(Text(qemu.pid, Path(file.name)), site.offset, content[site.offset]) for site in sites]
    return found


@pytest.mark.parametrize("route", [MULTI, PERF])
def test_both_routes_see_the_same(route: str, qemu: FakeQemu) -> None:
    """uprobe_multi and perf events give equal counts, request by request."""
    with Tracing(qemu, route=route) as tracing:
        for command in ONE_OF_EVERYTHING:
            qemu.command(command)
        counted = tracing.counted()
    calls = 211 + 2 * 23 + 23 + 3 * 23 + 5 + 5 + 2 * 5
    assert counted == {
        "scsi_submitted": 295, "scsi_completed": 295, "scsi_retried": 5, "scsi_resubmitted": 5,
        "rbd_submitted": calls + 5, "rbd_completed": calls + 5, "parent_found": calls, "parent_not_in_flight": 5,
        "records": calls + 5,
    }  # fmt: skip


@pytest.mark.parametrize("route", [MULTI, PERF])
def test_every_probe_is_an_entry_probe(route: str, qemu: FakeQemu) -> None:
    """The kernel reports every descriptor as an entry probe, and the process never sees a foreign return address."""
    with Tracing(qemu, route=route) as tracing:
        attachments = tracing.tracer._attachments.values()
        links = [fd for attachment in attachments for fd in attachment.links]
        events = [fd for attachment in attachments for _, fd in attachment.perf_events]
        assert (len(links), len(events)) == ((2, 0) if route == MULTI else (0, 13))
        assert {read_link(fd).flags for fd in links} <= {0}
        assert {perf_event_type(fd) for fd in events} <= {"uprobe"}
        assert "r:" not in traced_events()
        assert qemu.command("read 211 4096 16").strange_returns == 0


def test_one_link_a_binary_has_every_site_with_its_cookie(qemu: FakeQemu) -> None:
    """For each file the kernel has the offset of every site, with the number of its function as cookie."""
    with Tracing(qemu) as tracing:
        wanted = [
            {site.offset: SITES.index(site.program) for site in sites}
            for _, sites in tracing.tracer.inspections[0].binaries()
        ]
        attachments = tracing.tracer._attachments.values()
        found = [read_link(fd).cookies for attachment in attachments for fd in attachment.links]
    assert found == wanted
    functions = [SITES[cookie].removesuffix("_inner") for cookies in found for cookie in cookies.values()]
    assert sorted(functions) == sorted(probe.function for probe in PROBES)


def test_the_checks_would_notice_a_return_probe(qemu: FakeQemu) -> None:
    """With a return probe both checks above fail: the link reports it, and the process sees it every time."""
    program = Program()
    with open_binary(str(qemu.executable)) as binary:
        function = binary.function("scsi_req_enqueue")
    assert function
    link = _return_probe(program.function("scsi_site", multi=True), qemu.executable, function.offset)
    try:
        assert read_link(link).flags == 1
        assert qemu.command("read 211 4096 16").strange_returns == 211
    finally:
        os.close(link)
        program.close()


def _return_probe(function: int, path: Path, offset: int) -> int:
    """Attach a return probe, as the product never does."""
    attributes = _UprobeMulti(
        prog_fd=function,
        attach_type=48,
        path=str(path).encode(),
        offsets=(ctypes.c_uint64 * 1)(offset),
        count=1,
        flags=1,
    )
    fd = ctypes.CDLL(None).syscall(321, 28, ctypes.byref(attributes), ctypes.sizeof(attributes))
    assert fd >= 0
    return int(fd)


def test_no_code_asks_for_a_return_probe() -> None:
    """The word is nowhere in the product, the link's flags are never set, and perf events are of the entry type."""
    texts = {path: path.read_text() for pattern in ("*.py", "*.c", "*.h") for path in SOURCES.rglob(pattern)}
    assert [path for path, text in texts.items() if re.search("uretprobe|kretprobe|RETPROBE|MULTI_RETURN", text)] == []
    tree = ast.parse(texts[SOURCES / "probe/attach.py"])
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "_UprobeMulti"]
    assert len(calls) == 1
    assert {keyword.arg for keyword in calls[0].keywords}.isdisjoint({"flags", "link_flags", None})
    assert not re.search(r"\.(link_)?flags\s*=", texts[SOURCES / "probe/attach.py"])


@pytest.mark.parametrize("route", [MULTI, PERF])
def test_nothing_remains_after_closing(route: str, qemu: FakeQemu) -> None:
    """Traps are in the process's code only while attached, and no descriptor is left afterwards."""
    before = open_probes()
    with Tracing(qemu, route=route, load_program=Program) as tracing:
        places = sites(tracing, qemu)
        assert len(places) == 13
        assert {text.at(offset) for text, offset, _ in places} == {INT3}
        qemu.command("read 23 4096")
    assert [text.at(offset) for text, offset, _ in places] == [byte for _, _, byte in places]
    assert open_probes() == before
    assert "otel_qemu" not in traced_events()
    assert qemu.command("read 211 4096 16").requests == 211


def test_detaching_perf_events_prints_nothing(qemu: FakeQemu, capfd: pytest.CaptureFixture[str]) -> None:
    """Messages of bcc's library are not shown."""
    with Tracing(qemu, route=PERF):
        pass
    assert capfd.readouterr().err == ""


def test_detaching_twice_is_safe(qemu: FakeQemu) -> None:
    """A second detach does nothing."""
    with Tracing(qemu) as tracing:
        for attachment in tracing.tracer._attachments.values():
            attachment.detach()
            attachment.detach()
        qemu.command("read 23 4096")
        assert tracing.counted() == {}


def test_a_half_attached_binary_is_let_go(qemu: FakeQemu) -> None:
    """If the kernel refuses one site, the sites before it are detached again."""
    with Tracing(qemu) as tracing:
        file, good = tracing.tracer.inspections[0].binaries()[0]
        tracing.selection.qemus.clear()
        tracing.tracer.refresh()
        before = open_probes()
        beyond = replace(good[0], offset=1 << 40)
        with pytest.raises(NotPossible, match="cannot attach to"):
            attach(tracing.tracer._program, file.path, [*good, beyond], MULTI)
        assert open_probes() == before


def test_attaching_again_and_again_under_load(qemu: FakeQemu) -> None:
    """A busy process survives fifty attachments, and afterwards every count is exact."""
    with Tracing(qemu) as tracing:
        (inspection,) = tracing.tracer.inspections
        binaries = list(inspection.binaries())
        assert sum(len(sites) for _, sites in binaries) == 13
        program = tracing.tracer._program
        tracing.selection.qemus = []
        tracing.tracer.refresh()
        qemu.begin("rate 0 20")
        for _ in range(50):
            program.trace_process(qemu.pid, inspection.layout)
            for attachment in [attach(program, file.path, sites, MULTI) for file, sites in binaries]:
                attachment.detach()
            program.forget_process(qemu.pid)
            tracing.records()
        assert not qemu.answered, "the load ended before the test did"
        answer = qemu.stop()
        assert (qemu.alive, answer.in_flight, answer.strange_returns) == (True, 0, 0)
        assert tracing.counted()["scsi_submitted"] > 0

        tracing.selection.qemus = [qemu]
        tracing.tracer.refresh()
        qemu.command("read 20011 4096 32")
        names = ("scsi_submitted", "scsi_completed", "rbd_submitted", "rbd_completed", "parent_found", "records")
        assert tracing.counted() == dict.fromkeys(names, 20011)
