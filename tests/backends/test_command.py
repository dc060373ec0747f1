# SPDX-License-Identifier: Apache-2.0
"""
`python3 -m tests.backends jaeger` serves until Ctrl-C, or leaves one behind that a later call ends.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.children import child

from . import detached
from .jaeger import Reader
from .query import is_up

COMMAND = [sys.executable, "-m", "tests.backends", "jaeger"]

pytestmark = pytest.mark.usefixtures("binary")


def query_of(process: subprocess.Popen[str]) -> str:
    """The query API that it names, once it has said all that it says at its start."""
    assert process.stdout is not None
    query = ""
    while "web page" not in (line := next(process.stdout)):
        query = line.split()[-1] if "query API" in line else query
    assert query.endswith("/api/v3/services")
    assert is_up(query)
    return query


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], check=False, capture_output=True, text=True, timeout=120)


def test_foreground_ends_with_ctrl_c(tmp_path: Path) -> None:
    """It prints the endpoints, answers there, and takes its Jaeger along."""
    with child([*COMMAND, "--dir", str(tmp_path)], stdout=subprocess.PIPE) as process:
        query = query_of(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not is_up(query)


def test_where_sigint_is_ignored_it_ends_by_sigterm(tmp_path: Path) -> None:
    """Started as `nohup` and `&` in a script do it: Ctrl-C is not for it, and SIGTERM ends it with its Jaeger."""
    command = ["env", "--ignore-signal=INT", *COMMAND, "--dir", str(tmp_path)]
    with child(command, stdout=subprocess.PIPE) as process:
        query = query_of(process)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert not is_up(query)


def test_foreground_fails_when_its_jaeger_ends(tmp_path: Path) -> None:
    """A Jaeger that goes away by itself is an error with the end of its log."""
    command = [*COMMAND, "--dir", str(tmp_path)]
    with child(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(next(process.stdout).split("pid ")[1].split(",")[0])
        os.kill(pid, signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.startswith("error: Jaeger ended with code 0")


def test_detached_one_stays_until_it_is_stopped(tmp_path: Path) -> None:
    """Its file holds pid and endpoints; started twice it is one; stopped twice is no error."""
    try:
        first, second = run("--detach", "--dir", tmp_path), run("--detach", "--dir", tmp_path)
        assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
        state = json.loads((tmp_path / "jaeger.json").read_text())
        assert first.stdout == second.stdout
        assert Reader(state["query"]).services() == []
        assert set(state) == {"pid", "otlp_grpc", "otlp_http", "query", "query_grpc", "health"}
        assert "end it with --stop" in run("--dir", tmp_path).stderr
    finally:
        stopped = run("--stop", "--dir", tmp_path)
    assert stopped.stdout == f"ended Jaeger, pid {state['pid']}\n"
    assert not Path("/proc", str(state["pid"]), "exe").exists()
    again = run("--stop", "--dir", tmp_path)
    assert (again.returncode, again.stdout) == (0, f"no Jaeger runs in {tmp_path}\n")


def test_a_stale_file_ends_nobody(tmp_path: Path) -> None:
    """A pid that belongs to another process by now is not signalled."""
    with child(["sleep", "1000"]) as innocent:
        state = dict.fromkeys(("otlp_grpc", "otlp_http", "query", "query_grpc", "health"), "")
        (tmp_path / "jaeger.json").write_text(json.dumps({"pid": innocent.pid, **state}))
        assert detached.find(tmp_path) is None
        assert detached.stop(tmp_path) is None
        assert innocent.poll() is None


@pytest.mark.parametrize("arguments", [["--detach"], ["--stop"], ["--detach", "--stop", "--dir", "x"]])
def test_wrong_usage_is_two(arguments: list[str]) -> None:
    """What stays needs a folder to be found in."""
    assert run(*arguments).returncode == 2
