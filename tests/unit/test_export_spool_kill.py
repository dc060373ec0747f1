"""Traces on disk are still there after a kill."""

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from otel_qemu.export.delivery.frames import read_frames
from tests.children import child

from .encoded_traces import arrived
from .otlp_server import HTTP, serving
from .sending import WAIT_S, is_final, sender_to, until
from .spooling import LIMITS as SMALL
from .test_export_spool import NOWHERE, REPOSITORY, files


def killed(folder: Path, url: str, traces: int, when: Callable[[int, int, int], bool]) -> tuple[int, int, int]:
    """Run the process of `spooling` until it is so, kill it, and say what it said last: spooled, restored, sent."""
    command = [sys.executable, "-m", "tests.unit.spooling", str(folder), url, str(traces)]
    with child(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.stdout
        watchdog = threading.Timer(WAIT_S, process.kill)
        watchdog.start()
        for line in process.stdout:
            spooled, restored, sent = map(int, line.split())
            if when(spooled, restored, sent):
                watchdog.cancel()
                process.kill()
                return spooled, restored, sent
    raise AssertionError(f"it never came to it within {WAIT_S} s, or ended by itself")


def test_a_kill_costs_nothing_that_was_on_disk(tmp_path: Path) -> None:
    """Killed while it writes, and again while it sends: what was in the file that it read may arrive twice."""
    on_disk, _, _ = killed(tmp_path, NOWHERE, 9000, lambda spooled, _restored, _sent: spooled > 4000)
    by_file = [read_frames(path.read_bytes()).traces for path in files(tmp_path)]
    kept = Counter(trace.trace_id for traces in by_file for trace in traces)
    assert kept.total() == len(kept) >= on_disk
    assert len(by_file) > 1
    with serving(HTTP) as server:
        killed(tmp_path, server.url, 0, lambda _spooled, _restored, sent: sent > 200)
        sender = sender_to(server.url, HTTP, limits=SMALL, spool_directory=tmp_path)
        until(lambda: not files(tmp_path))
        stats = sender.close()
    assert is_final(stats)
    taken = arrived(server.taken)
    assert set(taken) == set(kept)
    assert sum(count - 1 for count in taken.values()) <= max(map(len, by_file))
