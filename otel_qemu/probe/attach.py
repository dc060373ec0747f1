"""
Attaching: one binary, some sites, a handle that detaches.  Entry probes only; there is no way here to ask for another.

The kernel's uprobe_multi link (6.6 on) is tried first: it needs CAP_BPF and CAP_PERFMON only, and closing its file
descriptor detaches atomically.  Below it lies bcc's own way: perf_event_open, then tracefs.
"""

import ctypes
import logging
import os
from dataclasses import dataclass, field

from otel_qemu.errors import NotPossible
from otel_qemu.events import SITES
from otel_qemu.probe.elf import open_binary
from otel_qemu.probe.program import Program
from otel_qemu.probe.sites import PROBES, Site

log = logging.getLogger(__name__)

MULTI, PERF = "uprobe_multi", "perf_event"

_SYS_BPF = 321  # x86-64
_BPF_LINK_CREATE = 28
_BPF_TRACE_UPROBE_MULTI = 48


class _UprobeMulti(ctypes.Structure):
    """``union bpf_attr`` for BPF_LINK_CREATE of a uprobe_multi link (include/uapi/linux/bpf.h); flags 0: entry."""

    _fields_ = [
        ("prog_fd", ctypes.c_uint32),
        ("target_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("link_flags", ctypes.c_uint32),
        ("path", ctypes.c_char_p),
        ("offsets", ctypes.POINTER(ctypes.c_uint64)),
        ("ref_ctr_offsets", ctypes.c_void_p),
        ("cookies", ctypes.POINTER(ctypes.c_uint64)),
        ("count", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pid", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
    ]


@dataclass
class Attachment:
    """What is attached to one inode; `detach` undoes all of it."""

    program: Program
    sites: int
    links: list[int] = field(default_factory=list)
    perf_events: list[tuple[str, int]] = field(default_factory=list)

    def detach(self) -> None:
        """Remove every probe of this attachment; safe to call again."""
        while self.links:
            os.close(self.links.pop())
        while self.perf_events:
            self.program.detach_perf(*self.perf_events.pop())


def attach(program: Program, path: str, sites: list[Site], route: str) -> Attachment:
    """
    Attach each site's program to a file.

    Args:
        program: loaded.
        path: of the binary; below /proc/PID, so that it is the one the process runs.
        sites: of one layer; attached at once by `MULTI`, one after the other by `PERF`.
        route: `MULTI` or `PERF`.

    Raises:
        NotPossible: the kernel refuses one; what was attached is detached.
    """
    attachment = Attachment(program, len(sites))
    try:
        if route == MULTI:
            function = program.function(f"{sites[0].probe.layer}_site", multi=True)
            attachment.links.append(_link(function, path, sites))
        else:
            for site in sites:
                function = program.function(site.program, multi=False)
                attachment.perf_events.append(program.attach_perf(function, path, site.offset))
    except BaseException:
        attachment.detach()
        raise
    return attachment


def route_of(program: Program) -> str:
    """The best way to attach that this kernel has, found by attaching once to this very process's own entry point."""
    try:
        function = program.function("scsi_site", multi=True)
    except NotPossible as error:  # any kernel loads it, whether it has the link or not
        log.warning("%s; attaching function by function, which takes longer", error)
        return PERF
    try:
        os.close(_link(function, "/proc/self/exe", [Site(PROBES[0], PROBES[0].function, _entry_point(), "", "")]))
    except NotPossible:
        return PERF
    return MULTI


def _link(function: int, path: str, sites: list[Site]) -> int:
    array = ctypes.c_uint64 * len(sites)
    attributes = _UprobeMulti(
        prog_fd=function,
        attach_type=_BPF_TRACE_UPROBE_MULTI,
        path=path.encode(),
        offsets=array(*(site.offset for site in sites)),
        cookies=array(*(SITES.index(site.program) for site in sites)),
        count=len(sites),
    )
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.syscall(_SYS_BPF, _BPF_LINK_CREATE, ctypes.byref(attributes), ctypes.sizeof(attributes)))
    if fd < 0:
        raise NotPossible(f"cannot attach to {path}: {os.strerror(ctypes.get_errno())}")
    return fd


def _entry_point() -> int:
    """File offset of this interpreter's ELF entry: run once, before we were."""
    with open_binary("/proc/self/exe") as binary:
        return binary.entry_offset
