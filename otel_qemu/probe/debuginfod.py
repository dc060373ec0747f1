# SPDX-License-Identifier: Apache-2.0
"""Debug files from debuginfod, by elfutils' client, which caches them; only if DEBUGINFOD_URLS is set."""

import os
import subprocess
import time
from pathlib import Path

from otel_qemu.errors import BadInput
from otel_qemu.probe.child_process import Unwanted, finished

TIMEOUT_S = 60.0
RETRY_S = 600.0  # as elfutils' cache_miss_s
_CLIENT = "debuginfod-find"


def is_set() -> bool:
    """Whether the user has configured servers."""
    return bool(os.environ.get("DEBUGINFOD_URLS", "").split())


class Client:
    """
    Fetches debug files, and remembers which it could not fetch: many processes run one binary.

    Args:
        timeout_s: for one file.
        retry_s: time after a failure during which the same file is not asked for again.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S, retry_s: float = RETRY_S) -> None:
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._failures: dict[tuple[str, str], tuple[float, str]] = {}
        """Time and reason, by build id and servers."""

    def fetched(self, build_id: str) -> Path:
        """
        Return the debug file with this build id, from the client's cache or a server.

        Raises:
            BadInput: neither has it.  For `retry_s` the same answer is given without asking again.
            Unwanted: tracing ends.
        """
        key = build_id, os.environ.get("DEBUGINFOD_URLS", "")
        when, why = self._failures.get(key, (0.0, ""))
        if why and time.monotonic() - when < self._retry_s:
            raise BadInput(why)
        try:
            return _asked(build_id, self._timeout_s)
        except Unwanted:
            raise
        except BadInput as error:
            self._failures[key] = time.monotonic(), str(error)
            raise


def _asked(build_id: str, timeout_s: float) -> Path:
    command = [_CLIENT, "debuginfo", build_id]
    try:
        done = finished(command, timeout_s)
    except FileNotFoundError as error:
        raise BadInput(
            f"DEBUGINFOD_URLS is set, but there is no {_CLIENT}: install the package debuginfod, or unset it"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"debuginfod gave no debug file for {build_id} in {timeout_s:g} s") from error
    answer, said = os.fsdecode(done.stdout).strip(), done.stderr.decode(errors="replace").strip()
    if done.returncode or not answer:
        why = said.rpartition("\n")[2] or f"status {done.returncode}"
        raise BadInput(f"debuginfod gave no debug file for {build_id}: {why}")
    return Path(answer)
