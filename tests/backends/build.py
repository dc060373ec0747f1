"""
Build Jaeger once with the Go toolchain, at one pinned version, into a cache.

In: a cache folder.  Out: the path of an executable.
A name in the cache is whole or absent: building happens beside it, and a rename puts it in place.
"""

import collections
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

MODULE = "github.com/jaegertracing/jaeger"
MODULE_VERSION = "v1.76.0"
VERSION = "v2.13.0"  # the same commit: upstream tags it twice, and its module path has no /v2
GO_NEEDED = (1, 24, 6)  # the go line of its go.mod
GO_FOLDERS = ("/usr/local/go/bin", "/usr/lib/go/bin")  # sudo's PATH leaves these out
PROGRESS_S = 15.0

Environment = Mapping[str, str]
Say = Callable[[str], None]


class BackendMissing(Exception):
    """
    A backend cannot be had here; the text says why, and what to do.
    """


def cache_folder() -> Path:
    """
    Return the folder for what is built once: $OTEL_QEMU_CACHE, or the system's.
    """
    return Path(os.environ.get("OTEL_QEMU_CACHE") or "/var/cache/otel-qemu")


def install(cache: Path, say: Say) -> Path:
    """
    Return Jaeger's executable, building it first where the cache has none (minutes).
    """
    executable = cache.resolve() / f"jaeger-{MODULE_VERSION}"
    if not os.access(executable, os.X_OK):
        go = find_go()
        cache.mkdir(parents=True, exist_ok=True)
        with work_folder(executable.parent) as folder:
            _build(go, Path(folder), say).replace(executable)
    return executable


def find_go() -> str:
    """
    Return the path of a Go toolchain that is new enough.
    """
    path = os.pathsep.join((os.environ.get("PATH", ""), *GO_FOLDERS))
    needed = ".".join(map(str, GO_NEEDED))
    remedy = f"install Go {needed} or newer (Debian 12's golang-go is 1.19)"
    go = shutil.which("go", path=path)
    if go is None:
        raise BackendMissing(f"building Jaeger {VERSION} needs Go, and none is in PATH: {remedy}")
    version = subprocess.run([go, "version"], check=False, capture_output=True, text=True).stdout
    # "go version go1.26.5 linux/amd64"; a development build has no number, and is taken as new.
    numbers = re.search(r"\bgo(\d+)\.(\d+)(?:\.(\d+))?", version)
    if numbers and tuple(int(n or 0) for n in numbers.groups()) < GO_NEEDED:
        raise BackendMissing(f"{go} is too old to build Jaeger {VERSION} ({numbers[0]}): {remedy}")
    return go


def _build(go: str, folder: Path, say: Say) -> Path:
    # `go install MODULE@VERSION` refuses a module that has a replace line, as this one does. Built
    # from its own folder it uses its own go.sum and replace.
    started = time.monotonic()
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOTMPDIR": str(folder)}
    say(f"building Jaeger {VERSION} with {go}; once, some minutes")
    download = [go, "mod", "download", "-json", f"{MODULE}@{MODULE_VERSION}"]
    source = json.loads(run_go(download, folder, environment, say))["Dir"]
    output = folder / "jaeger"
    flags = ["-v", "-trimpath", "-ldflags=-s -w", "-o", str(output)]
    run_go([go, "build", "-C", source, *flags, "./cmd/jaeger"], folder, environment, say)
    say(f"built Jaeger {VERSION} in {time.monotonic() - started:.0f} s")
    return output


def run_go(
    command: list[str], folder: Path, environment: Environment, say: Say, what: str = f"Jaeger {VERSION}"
) -> str:
    """
    Return its standard output, once done; meanwhile say now and then how far it got.

    Raises:
        BackendMissing: it failed; the text names `what` it was to build.
    """
    started = time.monotonic()
    progress = _Progress()
    with (folder / "stdout").open("w+") as stdout, contextlib.ExitStack() as at_end:
        with _signals_held_back() as usual:  # or one could leave a process that nobody knows
            process = at_end.enter_context(_spawn(command, folder, environment, stdout, usual))
            reader = threading.Thread(target=progress.read, args=(process,))
            reader.start()
            at_end.callback(reader.join)
            at_end.push(lambda broken_off, *_: _kill_all_of(process) if broken_off else None)
        while (code := _wait(process)) is None:
            say(f"building {what}: {time.monotonic() - started:.0f} s, {progress}")
        stdout.seek(0)
        answer = stdout.read()
    if code:
        raise BackendMissing(f"{what} could not be built: {_reason(answer, progress)}")
    return answer


@contextlib.contextmanager
def _signals_held_back() -> Iterator[set[signal.Signals]]:
    """Inside, what asks for the end waits; gives the signals that were held back before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield {signal.Signals(number) for number in before}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _spawn(
    command: list[str], cwd: Path, env: Environment, stdout: IO[str], held_back: set[signal.Signals]
) -> subprocess.Popen[str]:
    # A process group of its own, so that it can be ended with all that it started.
    return subprocess.Popen(
        command, cwd=cwd, env=env, text=True, start_new_session=True, stdout=stdout, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, held_back),
    )  # fmt: skip


def _kill_all_of(process: subprocess.Popen[str]) -> None:
    # Its compilers too: they would work on for nobody.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def work_folder(cache: Path) -> tempfile.TemporaryDirectory[str]:
    """
    Make the folder in which an executable comes into being and go keeps its work; it goes away with all that is in it.
    """
    return tempfile.TemporaryDirectory(prefix=".building-", dir=cache, ignore_cleanup_errors=True)


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
