"""
Debug files from debuginfod, the service that distributions serve them from; asked only where DEBUGINFOD_URLS is set.

The cache is laid out as that of elfutils, so what gdb or perf have fetched is not fetched again.
"""

import os
import tempfile
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from otel_qemu import __version__
from otel_qemu.errors import BadInput
from otel_qemu.probe.symtab import FunctionTable

_SECONDS_WITHOUT_DATA = 5.0
_SECONDS = 60.0
_LARGEST_BYTES = 1 << 29
_RETRY_SECONDS = 600.0  # as elfutils' cache_miss_s

Read = Callable[[Path], FunctionTable]
"""Raises BadInput where the file is not the one that was asked for."""

_failures: dict[tuple[str, ...], tuple[float, str]] = {}  # when, and why: many processes run one binary


def urls() -> list[str]:
    """The servers of DEBUGINFOD_URLS, apart by spaces; what else elfutils allows there (file:, ima:) is left out."""
    return [url for url in os.environ.get("DEBUGINFOD_URLS", "").split() if url.startswith(("http://", "https://"))]


def fetched(build_id: str, servers: list[str], read: Read) -> FunctionTable:
    """
    What `read` finds in the debug file with this build id: the cached one, or one that a server has.

    Raises:
        BadInput: neither; said again without asking again for ten minutes.
    """
    path = _cache() / build_id / "debuginfo"
    cached = _cached(path, read)
    if cached is not None:
        return cached
    key = (build_id, *servers)
    when, why = _failures.get(key, (0.0, ""))
    if not why or time.monotonic() - when > _RETRY_SECONDS:
        try:
            return _downloaded(path, servers, read)
        except BadInput as error:
            why = str(error)
            _failures[key] = time.monotonic(), why
    raise BadInput(why)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("DEBUGINFOD_CACHE_PATH") or Path(home, "otel-qemu", "debuginfod"))


def _cached(path: Path, read: Read) -> FunctionTable | None:
    """What an earlier download has; None for a damaged one, which the next one replaces."""
    try:
        return read(path) if path.stat().st_size else None  # elfutils leaves an empty file where a server had none
    except (OSError, BadInput):
        return None


def _downloaded(path: Path, servers: list[str], read: Read) -> FunctionTable:
    """
    The first good answer, kept at the path.

    Raises:
        BadInput: there is none, or it cannot be kept.
    """
    problems = []
    for server in servers:
        url = f"{server.rstrip('/')}/buildid/{path.parent.name}/debuginfo"
        try:
            return _kept(url, path, read)
        except (OSError, HTTPException, ValueError, BadInput) as error:  # ValueError: what is no URL
            problems.append(f"{url}: {error or type(error).__name__}")
    raise BadInput(f"debuginfod gave no symbols: {'; '.join(problems)}")


def _kept(url: str, path: Path, read: Read) -> FunctionTable:
    """Only a whole and right file takes its place in the cache, and at once: others may be reading there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        part = Path(scratch, path.name)
        _download(url, part)
        table = read(part)
        part.replace(path)
    return table


def _download(url: str, path: Path) -> None:
    """
    Save an answer.

    Raises:
        OSError, HTTPException, ValueError: there is none; it takes too long, is too large, or is no URL.
    """
    request = urllib.request.Request(url, headers={"User-Agent": f"otel-qemu/{__version__}"})
    end = time.monotonic() + _SECONDS
    with urllib.request.urlopen(request, timeout=_SECONDS_WITHOUT_DATA) as answer, path.open("wb") as file:
        _copy(answer, file, end)


def _copy(answer: Any, file: Any, end: float) -> None:
    size = 0
    while part := answer.read1(1 << 20):
        size += file.write(part)
        if size > _LARGEST_BYTES:
            raise OSError(f"it is larger than {_LARGEST_BYTES:,} bytes")
        if time.monotonic() > end:
            raise TimeoutError(f"it takes longer than {_SECONDS:.0f} s")
