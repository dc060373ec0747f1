# SPDX-License-Identifier: Apache-2.0
"""
Free the compiler's memory once the program is loaded: the service runs on and does not compile again.

malloc_trim returns the freed heap.  The code of LLVM, clang and bcc is file-backed and unchanged, so its pages can be
dropped; if that code runs again, the kernel reads them back from the page cache.  Only ``r-xp`` mappings are dropped,
because the others hold relocated data.
"""

import ctypes
import mmap
import re
from pathlib import Path

_COMPILER = re.compile(r"/(libLLVM|libclang|libbcc)[\w.+-]*\.so[\w.]*$")
_MADV_DONTNEED = 4


def release_compiler_memory() -> None:
    """Free the memory; where the kernel or the C library refuses, nothing changes."""
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, flags, _offset, _device, _inode, *name = line.split(maxsplit=5)
        if flags == "r-xp" and name and _COMPILER.search(name[0]):
            start, end = (int(address, 16) for address in span.split("-"))
            libc.madvise(start, end - start, _MADV_DONTNEED)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def resident_bytes() -> int:
    """Return the resident memory of this process (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
