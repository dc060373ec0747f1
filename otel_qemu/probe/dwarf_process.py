# SPDX-License-Identifier: Apache-2.0
"""
Read a file's debug information in a process of its own.

Such a file is large, and it may come from a guest's container.  The reader is this module, run as a program.  It has
limits of time and memory and none of our rights, and its memory is freed when it ends.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import astuple

from otel_qemu.errors import BadInput
from otel_qemu.probe.child_process import finished
from otel_qemu.probe.dwarf import Offsets, Struct, read_offsets

_SECONDS = 15
_MEMORY_BYTES = 1 << 30  # a QEMU takes a quarter of it
_NOBODY = 65534


def offsets_in(path: str, structs: Iterable[Struct], timeout_s: float = _SECONDS) -> Offsets:
    """
    Look for structs in a file's debug information; a file without any gives an empty result.

    Raises:
        BadInput: the file is damaged, too large, split over several files, or takes too long to read.
        Unwanted: tracing ends.
    """
    command = [sys.executable, "-P", "-m", __name__, json.dumps([astuple(struct) for struct in structs])]
    try:
        with open(path, "rb") as file:
            done = finished(command, timeout_s, stdin=file)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"the debug information of {path} is not used: reading it takes over {timeout_s:g} s") from error
    return _answer(path, done)


def _answer(path: str, done: "subprocess.CompletedProcess[bytes]") -> Offsets:
    if done.returncode:
        raise BadInput(f"the debug information of {path} is not used: its reader ended with status {done.returncode}")
    answer = json.loads(done.stdout)
    if isinstance(answer, str):
        raise BadInput(f"the debug information of {path} is not used: {answer}")
    return dict(answer)


def _limit_this_process() -> None:
    """
    Limit time and memory, and give up all rights.  Every module must have been imported by now.

    Raises:
        BadInput: the rights cannot be given up.
    """
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        except PermissionError as error:
            raise BadInput("its reader cannot become nobody: give root CAP_SETUID and CAP_SETGID") from error
    # A service has capabilities besides its user: capset(2), version 3, of this process; three empty sets of two words.
    if ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()):
        raise BadInput("its reader cannot give up its capabilities")


def _main() -> None:
    structs = [Struct(unit, name, tuple(fields)) for unit, name, fields in json.loads(sys.argv[1])]
    answer: Offsets | str
    try:
        _limit_this_process()
        answer = read_offsets(sys.stdin.buffer, structs)
    except BadInput as error:
        answer = str(error)
    except MemoryError:
        answer = f"reading it takes over {_MEMORY_BYTES >> 20:,} MiB"
    except Exception as error:  # pyelftools raises various types for a damaged file
        answer = f"{type(error).__name__} {error}: is the file damaged?"
    print(json.dumps(answer))


if __name__ == "__main__":
    _main()
