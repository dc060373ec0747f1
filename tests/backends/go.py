# SPDX-License-Identifier: Apache-2.0
"""
The Go toolchain: find it, and run it with a word now and then about how far it got.

In: a folder for its work, and the name of what it builds.  Out: its answers, or BackendMissing with its reason.
"""

import collections
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests import children

GO_NEEDED = (1, 24, 6)  # the go line of Jaeger's go.mod
GO_FOLDERS = ("/usr/local/go/bin", "/usr/lib/go/bin")  # sudo's PATH leaves these out
PROGRESS_S = 15.0
BUILD_TIMEOUT_S = 3600.0

Say = Callable[[str], None]


class BackendMissing(Exception):
    """
    A backend cannot be had here; the text says why, and what to do.
    """


def find_go(what: str) -> str:
    """
    Return the path of a Go toolchain that is new enough to build `what`.
    """
    path = os.pathsep.join((os.environ.get("PATH", ""), *GO_FOLDERS))
    needed = ".".join(map(str, GO_NEEDED))
    remedy = f"install Go {needed} or newer (Debian 12's golang-go is 1.19)"
    go = shutil.which("go", path=path)
    if go is None:
        raise BackendMissing(f"building {what} needs Go, and none is in PATH: {remedy}")
    version = subprocess.run([go, "version"], check=False, capture_output=True, text=True, timeout=60).stdout
    # "go version go1.26.5 linux/amd64"; a development build has no number, and is taken as new.
    numbers = re.search(r"\bgo(\d+)\.(\d+)(?:\.(\d+))?", version)
    if numbers and tuple(int(n or 0) for n in numbers.groups()) < GO_NEEDED:
        raise BackendMissing(f"{go} is too old to build {what} ({numbers[0]}): {remedy}")
    return go


@dataclass(frozen=True)
class Go:
    """
    A toolchain at work on one thing.

    Attributes:
        program: the path of go.
        folder: where its work and its result go.
        what: the name of what it builds, for people.
    """

    program: str
    folder: Path
    what: str
    say: Say

    def module(self, name: str, version: str) -> Path:
        """
        Download a module; return the folder with its source.
        """
        return Path(json.loads(self.run(self.program, "mod", "download", "-json", f"{name}@{version}"))["Dir"])

    def build(self, source: Path, package: str, *flags: str) -> Path:
        """
        Build a package of a module from the module's folder, so that its own go.sum and replace lines hold.
        """
        # `go install MODULE@VERSION` refuses a module that has a replace line, as Jaeger's has.
        output = self.folder / "built"
        options = ["-v", "-trimpath", "-ldflags=-s -w", *flags, "-o", str(output)]
        self.run(self.program, "build", "-C", str(source), *options, package)
        return output

    def run(self, *command: str) -> str:
        """
        Run a command to its end; return its standard output.

        Raises:
            BackendMissing: it failed, or took an hour; the text names `what` it was to build.
        """
        started = time.monotonic()
        progress = _Progress()
        with (self.folder / "stdout").open("w+") as stdout, contextlib.ExitStack() as at_end:
            with _signals_held_back() as usual:  # or one could leave a process that nobody knows
                process = _spawn(command, self.folder, self._environment(), stdout, usual)
                at_end.callback(_end, process)
                reader = threading.Thread(target=progress.read, args=(process,), daemon=True)
                reader.start()
                at_end.callback(reader.join, children.KILL_TIMEOUT_S)
                at_end.push(lambda broken_off, *_: children.end_group(process) if broken_off else None)
            while (code := _wait(process)) is None:
                elapsed_s = time.monotonic() - started
                if elapsed_s > BUILD_TIMEOUT_S:
                    raise BackendMissing(f"{self.what} was not built in {elapsed_s:.0f} s: {progress}")
                self.say(f"building {self.what}: {elapsed_s:.0f} s, {progress}")
            stdout.seek(0)
            answer = stdout.read()
        if code:
            raise BackendMissing(f"{self.what} could not be built: {_reason(answer, progress)}")
        return answer

    def _environment(self) -> Mapping[str, str]:
        path = os.pathsep.join((str(Path(self.program).parent), os.environ.get("PATH", "")))
        folder = str(self.folder)
        ours = {"PATH": path, "CGO_ENABLED": "0", "GOWORK": "off", "GOTMPDIR": folder, "GOBIN": folder}
        return {**os.environ, **ours}


@contextlib.contextmanager
def _signals_held_back() -> Iterator[set[signal.Signals]]:
    """Inside, what asks for the end waits; gives the signals that were held back before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield {signal.Signals(number) for number in before}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _spawn(
    command: tuple[str, ...], cwd: Path, env: Mapping[str, str], stdout: IO[str], held_back: set[signal.Signals]
) -> subprocess.Popen[str]:
    # A process group of its own, so that it can be ended with all that it started: its compilers, too, would work on.
    return subprocess.Popen(
        command, cwd=cwd, env=env, text=True, start_new_session=True, stdout=stdout, stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL, preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, held_back),
    )  # fmt: skip


def _end(process: subprocess.Popen[str]) -> None:
    children.end(process, polite_s=0)


def _wait(process: subprocess.Popen[str]) -> int | None:
    try:
        return process.wait(PROGRESS_S)
    except subprocess.TimeoutExpired:
        return None


def _reason(answer: str, progress: "_Progress") -> str:
    # `go mod download -json` tells its error in its answer, everything else on standard error.
    try:
        return " ".join(str(json.loads(answer)["Error"]).split())
    except (ValueError, KeyError, TypeError):
        return progress.last[-1] if progress.last else "go said nothing"


class _Progress:
    # What `go build -v` has done so far, counted from its lines, and the last of them.
    def __init__(self) -> None:
        self.fetched = self.compiled = 0
        self.last: collections.deque[str] = collections.deque(maxlen=1)

    def __str__(self) -> str:
        return f"{self.fetched} modules fetched, {self.compiled} packages compiled"

    def read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in map(str.strip, process.stderr):
            self.fetched += line.startswith("go: downloading")
            self.compiled += re.fullmatch(r"[\w./~-]+", line) is not None
            if line:
                self.last.append(line)
