"""
`python3 -m tests.backends jaeger` serves until Ctrl-C, or leaves one behind that a later call ends.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from . import detached
from .jaeger import Reader
from .query import is_up

COMMAND = [sys.executable, "-m", "tests.backends", "jaeger"]

pytestmark = pytest.mark.usefixtures("binary")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], check=False, capture_output=True, text=True, timeout=120)


def test_foreground_ends_with_ctrl_c(tmp_path: Path) -> None:
    """It prints the endpoints, answers there, and takes its Jaeger along."""
    with subprocess.Popen([*COMMAND, "--dir", tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [next(process.stdout) for _ in range(5)]
        query = lines[3].split()[-1]
        assert query.endswith("/api/v3/services")
        assert "no web UI" in lines[4]
        assert is_up(query)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert not is_up(query)


def test_foreground_fails_when_its_jaeger_ends(tmp_path: Path) -> None:
    """A Jaeger that goes away by itself is an error with the end of its log."""
    with subprocess.Popen(
        [*COMMAND, "--dir", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(next(process.stdout).split("pid ")[1].split(",")[0])
        subprocess.run(["kill", "-TERM", str(pid)], check=True)
        _, error = process.communicate(timeout=30)
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
    with subprocess.Popen(["sleep", "1000"]) as innocent:
        state = dict.fromkeys(("otlp_grpc", "otlp_http", "query", "query_grpc", "health"), "")
        (tmp_path / "jaeger.json").write_text(json.dumps({"pid": innocent.pid, **state}))
        assert detached.find(tmp_path) is None
        assert detached.stop(tmp_path) is None
        assert innocent.poll() is None
        innocent.kill()


@pytest.mark.parametrize("arguments", [["--detach"], ["--stop"], ["--detach", "--stop", "--dir", "x"]])
def test_wrong_usage_is_two(arguments: list[str]) -> None:
    """What stays needs a folder to be found in."""
    assert run(*arguments).returncode == 2
