# SPDX-License-Identifier: Apache-2.0
"""
What is built once: a cache of executables.

A name in the cache is whole or absent: building happens beside it, and a rename puts it in place.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .go import BackendMissing, Go, Say, find_go

__all__ = ["BackendMissing", "Go", "Say", "built", "cache_folder", "work_folder"]


def cache_folder() -> Path:
    """
    Return the folder for what is built once: $OTEL_QEMU_CACHE, or the system's.
    """
    return Path(os.environ.get("OTEL_QEMU_CACHE") or "/var/cache/otel-qemu")


def built(cache: Path, name: str, what: str, say: Say, build: Callable[[Go], Path]) -> Path:
    """
    Return the executable of this name in the cache; where it is not there, have it built first (minutes).

    Args:
        what: its name for people.
        build: gives the path of a new one, made by the toolchain that it is given.

    Raises:
        BackendMissing: it cannot be built here.
    """
    executable = cache.resolve() / name
    if not os.access(executable, os.X_OK):
        go = find_go(what)
        cache.mkdir(parents=True, exist_ok=True)
        with work_folder(executable.parent) as folder:
            started = time.monotonic()
            say(f"building {what} with {go}; once, some minutes")
            build(Go(go, Path(folder), what, say)).replace(executable)
            say(f"built {what} in {time.monotonic() - started:.0f} s")
    return executable


def work_folder(cache: Path) -> tempfile.TemporaryDirectory[str]:
    """
    Make the folder in which something comes into being; it goes away with all that is in it.
    """
    return tempfile.TemporaryDirectory(prefix=".building-", dir=cache, ignore_cleanup_errors=True)
