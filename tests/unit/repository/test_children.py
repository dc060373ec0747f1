# SPDX-License-Identifier: Apache-2.0
"""What a test starts is ended, whatever it does with signals."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from tests import children
from tests.children import child, end, end_by_pidfd, join, log_tail

# Says that it has begun to ignore them.
DEAF = ["sh", "-c", "trap '' TERM INT; echo deaf; while :; do sleep 1; done"]


def test_a_deaf_child_is_ended_with_its_block() -> None:
    """Also when the block is left by an error."""
    started = []

    def fail() -> None:
        with child(DEAF, stdout=subprocess.PIPE) as process:
            started.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == "deaf\n"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    (process,) = started
    assert process.returncode == -9
    assert process.stdout is not None
    assert process.stdout.closed


def test_one_that_listens_is_not_killed() -> None:
    """It has the time to end in order."""
    with child(
        ["sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        end(process, polite_s=60)
    assert process.returncode == 7


def test_a_process_is_ended_by_its_descriptor() -> None:
    """A deaf one too, after the time that it is given."""
    with child(DEAF, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pidfd = os.pidfd_open(process.pid)
        assert end_by_pidfd(pidfd, polite_s=0.1)
        os.close(pidfd)
        assert process.wait(children.KILL_TIMEOUT_S) == -9


def test_a_thread_that_does_not_end_is_named() -> None:
    """The test fails, and does not wait on."""
    released = threading.Event()
    thread = threading.Thread(target=released.wait, name="endless", daemon=True)
    thread.start()
    with pytest.raises(AssertionError, match=r"endless has not ended in 0\.1 s"):
        join(thread, timeout_s=0.1)
    released.set()
    join(thread)


def test_the_end_of_a_log(tmp_path: Path) -> None:
    """Its last lines, of what was written since a moment."""
    log = tmp_path / "log"
    log.write_text("before\n" + "".join(f"{number}\n" for number in range(30)))
    assert log_tail(log, lines=2) == "28\n29\n"
    assert log_tail(log, from_byte=log.stat().st_size) == ""
