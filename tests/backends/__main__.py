# SPDX-License-Identifier: Apache-2.0
"""
`python3 -m tests.backends jaeger`: a Jaeger for a person or a script.

It serves until Ctrl-C or SIGTERM. Started where SIGINT is ignored, as by `nohup`, it ignores Ctrl-C too.

Exit codes: 0 done, 1 it did not start or ended by itself, 2 wrong usage, 4 it cannot be built here,
130 interrupted before it was up.
"""

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from . import detached
from .jaeger import VERSION, BackendFailed, BackendMissing, Jaeger, cache_folder, install
from .ui import install_ui


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.detach or options.stop) and options.dir is None:
        parser.error("--detach and --stop need --dir")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _stop(options.dir) if options.stop else _start(options)
    except (BackendMissing, BackendFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 4 if isinstance(error, BackendMissing) else 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python3 -m tests.backends", description="Run a backend on loopback.")
    parser.add_argument("backend", choices=["jaeger"])
    parser.add_argument("--dir", type=Path, help="for configuration, log and pid file (default: a new one)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--detach", action="store_true", help="leave it running; endpoints in DIR/jaeger.json")
    how.add_argument("--stop", action="store_true", help="end the one left running in DIR")
    return parser


def _start(options: argparse.Namespace) -> int:
    binary, ui = install(cache_folder(), _say), install_ui(cache_folder(), _say)
    if options.detach:
        running = detached.find(options.dir) or detached.start(binary, options.dir, ui)
        _tell(running, f"stays; end it with --stop --dir {options.dir}", ui)
        return 0
    if options.dir and detached.find(options.dir):
        raise BackendFailed(f"one is left running in {options.dir}; end it with --stop first")
    with contextlib.ExitStack() as stack:
        directory = options.dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jaeger-")))
        return _serve(stack.enter_context(Jaeger.start(binary, directory, ui)))


def _serve(jaeger: Jaeger) -> int:
    assert jaeger.process is not None
    _tell(detached.describe(jaeger), "Ctrl-C ends it", jaeger.ui)
    try:
        code = jaeger.process.wait(timeout=None)
    except KeyboardInterrupt:
        return 0
    raise BackendFailed(f"Jaeger ended with code {code}; the end of its log:\n{jaeger.log_tail()}")


def _stop(directory: Path) -> int:
    running = detached.stop(directory)
    _say(f"ended Jaeger, pid {running.pid}" if running else f"no Jaeger runs in {directory}")
    return 0


def _tell(running: detached.Running, end: str, ui: Path | None) -> None:
    _say(f"Jaeger {VERSION} is up, pid {running.pid}, keeping traces in memory ({end})")
    _say(f"  OTLP gRPC  {running.otlp_grpc}")
    _say(f"  OTLP HTTP  {running.otlp_http}")
    _say(f"  query API  {running.query}/api/v3/services")
    _say(f"  web page   {running.query}" if ui else "  It has no web page: read traces through the query API.")


def _say(line: str) -> None:
    print(line, flush=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
