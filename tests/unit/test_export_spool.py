"""Traces on disk: whole, in order, bounded, and not lost to a disk that fails."""

import errno
import itertools
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_qemu.errors import BadInput
from otel_qemu.export.delivery import spool as spool_module
from otel_qemu.export.delivery import spooler as spooler_module
from otel_qemu.export.delivery.frames import framed, read_frames
from otel_qemu.export.delivery.portions import Bounds
from otel_qemu.export.delivery.spool import Spool
from otel_qemu.export.delivery.stats import Ledger
from otel_qemu.export.spans.encoded import EncodedTrace

from .encoded_traces import arrived, encoded, ids, many
from .otlp_server import GRPC, HTTP, Reply, serving
from .sending import LIMITS, WAIT_S, is_final, sender_to, until
from .spooling import LIMITS as SMALL
from .test_export_queue import is_conserved

ALL = Bounds(1 << 30, 1 << 30)
NOWHERE = "http://127.0.0.1:9/v1/traces"
REPOSITORY = Path(__file__).parents[2]

TRACE = st.builds(
    EncodedTrace,
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=8, max_size=8),
    st.sampled_from([b"", b"one", b"another"]),
    st.binary(max_size=40),
    st.integers(0, (1 << 32) - 1),
)


def keep(spool: Spool, ledger: Ledger, traces: list[EncodedTrace]) -> None:
    """Have a spool write new traces."""
    ledger.move(traces, "spooled")
    spool.append(traces)


def rest_of(spool: Spool) -> list[EncodedTrace]:
    """Settle all that a spool has, as sent."""
    found: list[EncodedTrace] = []
    while spool.refill():
        some = spool.peek(Bounds(7, 1 << 20), 0)
        found += spool.settle(len(some), "sent")
    return found


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.traces"))


@given(st.lists(TRACE, max_size=5))
def test_what_is_written_is_read(traces: list[EncodedTrace]) -> None:
    assert read_frames(framed(traces)) == (traces, "")


@settings(max_examples=200)
@given(st.lists(TRACE, min_size=1, max_size=4), st.data())
def test_damage_costs_what_is_behind_it(traces: list[EncodedTrace], data: Any) -> None:
    """A file cut off anywhere, or with any bit wrong, is read up to there, and says so."""
    content = framed(traces)
    at = data.draw(st.integers(0, len(content) - 1))
    ends = list(itertools.accumulate(len(framed([trace])) for trace in traces))
    whole = sum(end <= at for end in ends)
    cut = read_frames(content[:at])
    assert cut.traces == traces[:whole]
    assert bool(cut.damage) == (at not in (0, *ends))
    flipped = bytearray(content)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    read = read_frames(bytes(flipped))
    assert read.traces == traces[:whole]
    assert read.damage


def test_the_oldest_come_first_also_to_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a file goes when the last of it has been settled."""
    monkeypatch.setattr(spool_module, "FILE_BYTES", 1000)
    traces = many(40)
    ledger = Ledger()
    spool = Spool(tmp_path, 1 << 20, ledger)
    for begin in range(0, 40, 4):
        keep(spool, ledger, traces[begin : begin + 4])
    assert spool.refill()
    first = spool.peek(Bounds(6, 1 << 20), 0)
    assert first == spool.settle(len(first), "sent") == traces[: len(first)]
    spool.close()
    assert ledger.stats.of("spooled") == (2 * (40 - len(first)), 40 - len(first))
    again = Ledger()
    spool = Spool(tmp_path, 1 << 20, again)
    assert rest_of(spool) == traces[len(first) :]
    assert not files(tmp_path)
    spool.close()
    assert again.stats.of("restored") == again.stats.of("sent") == (2 * (40 - len(first)), 40 - len(first))


def test_what_is_written_while_it_is_read(tmp_path: Path) -> None:
    ledger = Ledger()
    spool = Spool(tmp_path, 1 << 20, ledger)
    traces = many(6)
    keep(spool, ledger, traces[:3])
    assert spool.refill()
    assert spool.peek(ALL, 0) == traces[:3]
    keep(spool, ledger, traces[3:])
    assert len(files(tmp_path)) == 2
    assert rest_of(spool) == traces
    spool.close()
    assert ledger.stats.of("sent") == (12, 6)


def test_the_bound_costs_the_oldest_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of an earlier run are counted as well, when they are dropped; disk is never more than was said."""
    monkeypatch.setattr(spool_module, "FILE_BYTES", 1000)
    old, new = many(20), many(80)
    earlier = Spool(tmp_path, 1 << 20, Ledger())
    keep(earlier, Ledger(), old)
    earlier.close()
    most_bytes = 10_000
    ledger = Ledger()
    spool = Spool(tmp_path, most_bytes, ledger)
    for trace in new:
        keep(spool, ledger, [trace])
        assert sum(path.stat().st_size for path in files(tmp_path)) == spool.size_bytes <= most_bytes
        assert is_conserved(ledger.stats)
    dropped = ledger.stats.dropped_spool_traces
    assert dropped > 20
    assert ledger.stats.of("restored") == (40, 20)
    assert rest_of(spool) == (old + new)[dropped:]
    spool.close()


def test_more_than_it_may_take_is_counted(tmp_path: Path) -> None:
    ledger = Ledger()
    spool = Spool(tmp_path, 1000, ledger)
    keep(spool, ledger, small := many(1))
    with pytest.raises(OSError, match="bytes more do not fit into the 1000 that"):
        keep(spool, ledger, [encoded(2, padding_bytes=1000)])
    assert ledger.stats.of("dropped_spool") == (2, 1)
    assert is_conserved(ledger.stats)
    assert rest_of(spool) == small
    spool.close()


def test_a_damaged_tail_is_said_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    traces = many(5)
    spool = Spool(tmp_path, 1 << 20, ledger := Ledger())
    keep(spool, ledger, traces)
    (path,) = files(tmp_path)
    os.truncate(path, path.stat().st_size - 1)
    assert rest_of(spool) == traces[:4]
    assert ledger.stats.of("dropped_spool") == (2, 1)
    assert is_conserved(ledger.stats)
    spool.close()
    (message,) = caplog.messages
    assert message.startswith(f"spool file {path} is cut off at byte ")
    assert message.endswith(": 4 traces before that are sent")


def test_a_disk_that_is_full_leaves_no_half_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger()
    spool = Spool(tmp_path, 1 << 20, ledger)
    traces = many(9)
    keep(spool, ledger, traces[:3])
    write, calls = os.write, itertools.count()

    def full(descriptor: int, content: bytes) -> int:
        if next(calls):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, bytes(content)[:10])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            keep(spool, ledger, traces[3:6])
    keep(spool, ledger, traces[6:])
    assert rest_of(spool) == traces[:3] + traces[6:]
    assert ledger.stats.of("dropped_spool") == (6, 3)
    assert is_conserved(ledger.stats)
    spool.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20, Ledger())
    with pytest.raises(BadInput, match="is used by another otel-qemu: name another folder"):
        Spool(tmp_path, 1 << 20, Ledger())
    spool.close()
    Spool(tmp_path, 1 << 20, Ledger()).close()
    with pytest.raises(BadInput, match=r"spool /dev/null/x: .*: name a folder that can be written"):
        Spool(Path("/dev/null/x"), 1 << 20, Ledger())


def test_others_may_not_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spool = Spool(folder, 1 << 20, ledger := Ledger())
    keep(spool, ledger, many(1))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    spool.close()


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
def test_the_close_keeps_what_was_not_sent_for_the_next_run(protocol: str, tmp_path: Path) -> None:
    traces = many(30)
    sender = sender_to(NOWHERE, protocol, limits=LIMITS, spool_directory=tmp_path)
    sender.send(traces)
    stats = sender.close(0.4)
    assert stats.of("spooled") == (60, 30)
    assert stats.lost_spans == 0
    assert is_final(stats)
    with serving(protocol) as server:
        sender = sender_to(server.url, protocol, limits=LIMITS, spool_directory=tmp_path)
        more = many(3)
        sender.send(more)
        until(lambda: sender.stats.sent_traces == 33)
        stats = sender.close()
    assert stats.of("restored") == (60, 30)
    assert is_final(stats)
    assert arrived(server.taken) == ids(traces + more)
    assert not files(tmp_path)


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
def test_what_memory_has_no_room_for_waits_on_disk(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the endpoint is away ten times the room is produced; all of it arrives, once, and at once."""
    monkeypatch.setattr("otel_qemu.export.delivery.spooler._DISK_PAUSE_S", 1e6)
    monkeypatch.setattr(spool_module, "FILE_BYTES", 1 << 16)
    away = True

    def behaviour(*_: object) -> Reply:
        return Reply(unavailable, takes=False) if away else Reply()

    import grpc

    unavailable = grpc.StatusCode.UNAVAILABLE if protocol == GRPC else 503
    traces: list[EncodedTrace] = []
    with serving(protocol, behaviour) as server:
        sender = sender_to(server.url, protocol, limits=SMALL, spool_directory=tmp_path)
        while len(traces) < 2000:
            some = many(20)
            sender.send(some)
            traces += some
            assert is_conserved(sender.stats)
            until(lambda: sender.stats.queued_spans <= 240)
        assert sender.stats.spooled_traces > 1500
        away = False
        until(lambda: sender.stats.sent_traces == 2000)
        assert is_final(sender.close())
    assert arrived(server.taken) == ids(traces)
    assert not files(tmp_path)


def test_a_request_out_of_the_spool_is_split_and_refused_like_any_other(tmp_path: Path) -> None:
    traces = [*many(10), encoded(9), *many(5)]
    spool = Spool(tmp_path, 1 << 20, ledger := Ledger())
    keep(spool, ledger, traces)
    spool.close()

    def behaviour(request: Any, _index: int) -> Reply:
        spans = sum(len(scope.spans) for of in request.resource_spans for scope in of.scope_spans)
        return Reply(413, takes=False) if spans > 8 else Reply()

    with serving(HTTP, behaviour) as server:
        sender = sender_to(server.url, HTTP, limits=LIMITS, spool_directory=tmp_path)
        until(lambda: not files(tmp_path))
        stats = sender.close()
    assert stats.of("dropped_refused") == (9, 1)
    assert is_final(stats)
    assert arrived(server.taken) == ids(trace for trace in traces if trace.span_count == 2)


def test_a_disk_that_nothing_can_be_deleted_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything is sent, and once in this run."""
    spool = Spool(tmp_path, 1 << 20, ledger := Ledger())
    traces = many(30)
    keep(spool, ledger, traces)
    spool.close()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refuse)
    more = many(5)
    with serving(HTTP) as server:
        sender = sender_to(server.url, HTTP, limits=LIMITS, spool_directory=tmp_path)
        until(lambda: sender.stats.sent_traces == 30)
        sender.send(more)
        until(lambda: sender.stats.sent_traces == 35)
        assert is_final(sender.close())
    assert arrived(server.taken) == ids(traces + more)
    assert "cannot be deleted, the next run sends it again: Read-only file system" in caplog.text


def test_a_disk_that_hangs_stalls_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither who makes traces, nor who sends them, nor the close; what the disk has taken with it is one portion."""
    hangs, released = threading.Event(), threading.Event()

    def hang(_descriptor: int, content: bytes) -> int:
        hangs.set()
        released.wait(WAIT_S)
        return len(content)

    with serving(HTTP, lambda *_: Reply(503, takes=False)) as server:
        sender = sender_to(server.url, HTTP, limits=SMALL, spool_directory=tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", hang)
            sender.send(many(150))
            assert hangs.wait(WAIT_S)
            server.behaviour = lambda *_: Reply()
            for _ in range(3):
                more = many(30)
                sender.send(more)
                until(lambda more=more: set(ids(more)) <= set(arrived(server.taken)))  # type: ignore[misc]
                until(lambda: sender.stats.queued_traces == 0)
            stats = sender.close(0.4)
            assert not released.is_set()
            released.set()
            until(lambda: not any(thread.name.startswith("export") for thread in threading.enumerate()))
    assert is_final(stats)
    assert stats.sent_traces + stats.spooled_traces == 240


def test_a_defect_while_writing_costs_what_it_met_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its traces are counted, and the next are written."""
    met: list[int] = []

    def broken(traces: Sequence[EncodedTrace]) -> bytes:
        if met:
            return framed(traces)
        met.append(len(traces))
        raise ValueError("a defect")

    monkeypatch.setattr(spool_module, "framed", broken)
    monkeypatch.setattr(spooler_module, "_DISK_PAUSE_S", 0.01)
    sender = sender_to(NOWHERE, HTTP, limits=SMALL, spool_directory=tmp_path)
    sender.send(many(150))
    until(lambda: sender.stats.dropped_spool_traces > 0)
    sender.send(many(150))
    until(lambda: sender.stats.spooled_traces > 0)
    stats = sender.close(1)
    assert stats.dropped_spool_traces == met[0]
    assert is_final(stats)


def test_a_folder_that_cannot_be_looked_through_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, and it is not left locked."""
    (tmp_path / "000000000001.traces").symlink_to(tmp_path / "gone")
    with pytest.raises(BadInput, match=f"^spool {tmp_path}: No such file"):
        Spool(tmp_path, 1 << 20, Ledger())
    (tmp_path / "000000000001.traces").unlink()
    Spool(tmp_path, 1 << 20, Ledger()).close()
