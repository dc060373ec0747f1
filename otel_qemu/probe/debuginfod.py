# SPDX-License-Identifier: Apache-2.0
"""Debug files from debuginfod, by elfutils' client, which caches them; only if DEBUGINFOD_URLS is set."""

import os
import subprocess
import time
from pathlib import Path

from otel_qemu.errors import BadInput

_SECONDS = 60.0
_RETRY_SECONDS = 600.0  # as elfutils' cache_miss_s
_CLIENT = "debuginfod-find"

_failures: dict[tuple[str, str], tuple[float, str]] = {}  # time and reason: many processes run one binary


def is_set() -> bool:
    """Whether the user has configured servers."""
    return bool(os.environ.get("DEBUGINFOD_URLS", "").split())


def fetched(build_id: str) -> Path:
    """
    Return the debug file with this build id, from the client's cache or a server.

    Raises:
        BadInput: neither has it.  For ten minutes the same answer is given without asking again.
    """
    key = build_id, os.environ.get("DEBUGINFOD_URLS", "")
    when, why = _failures.get(key, (0.0, ""))
    if why and time.monotonic() - when < _RETRY_SECONDS:
        raise BadInput(why)
    try:
        return _asked(build_id)
    except BadInput as error:
        _failures[key] = time.monotonic(), str(error)
        raise


def _asked(build_id: str) -> Path:
    command = [_CLIENT, "debuginfo", build_id]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False)
    except FileNotFoundError as error:
        raise BadInput(
            f"DEBUGINFOD_URLS is set, but there is no {_CLIENT}: install the package debuginfod, or unset it"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"debuginfod gave no debug file for {build_id} in {_SECONDS:g} s") from error
    if done.returncode or not done.stdout.strip():
        why = done.stderr.strip().rpartition("\n")[2] or f"status {done.returncode}"
        raise BadInput(f"debuginfod gave no debug file for {build_id}: {why}")
    return Path(done.stdout.strip())
