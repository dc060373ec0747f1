"""
Attaching: one binary, some sites, a handle that detaches.  Entry probes only; there is no way here to ask for another.

The kernel's uprobe_multi link (6.6 on) is tried first: it needs CAP_BPF and CAP_PERFMON only, and closing its file
descriptor detaches atomically.  Below it lies bcc's own way: perf_event_open, then tracefs, with CAP_SYS_ADMIN.
"""

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from otel_qemu.errors import NotPossible
from otel_qemu.events import SITES
from otel_qemu.probe.bpf_call import BPF_LINK_CREATE, UPROBE_MULTI, bpf, load_nothing
from otel_qemu.probe.elf import open_binary
from otel_qemu.probe.program import Program
from otel_qemu.probe.rights import require_perf_rights
from otel_qemu.probe.sites import PROBES, Site

MULTI, PERF = "uprobe_multi", "perf_event"


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


def usable_route() -> str:
    """
    The best way to attach that this kernel has, found by linking a program of two instructions to this very process's
    own entry point: one of ours takes a verifier seconds, and would not say why it is refused.

    Raises:
        NotPossible: the kernel loads no program, or its only way needs a right that we do not have.
    """
    with _nothing() as function:
        try:
            os.close(_link(function, "/proc/self/exe", [Site(PROBES[0], PROBES[0].function, _entry_point(), "", "")]))
        except NotPossible:
            require_perf_rights()
            return PERF
    return MULTI


@contextlib.contextmanager
def _nothing() -> Iterator[int]:
    try:
        function = load_nothing()
    except OSError as error:
        raise NotPossible(f"the kernel loads no BPF program ({error.strerror}): {_because(error)}") from error
    try:
        yield function
    finally:
        os.close(function)


def _because(error: OSError) -> str:
    if error.errno == errno.ENOSYS:
        return "it needs CONFIG_BPF_SYSCALL"
    if error.errno == errno.EPERM:
        return "lockdown or a container's filter of system calls forbids bpf(2), whatever our capabilities"
    return "it needs CONFIG_BPF_EVENTS"


def _link(function: int, path: str, sites: list[Site]) -> int:
    array = ctypes.c_uint64 * len(sites)
    attributes = _UprobeMulti(
        prog_fd=function,
        attach_type=UPROBE_MULTI,
        path=path.encode(),
        offsets=array(*(site.offset for site in sites)),
        cookies=array(*(SITES.index(site.program) for site in sites)),
        count=len(sites),
    )
    try:
        return bpf(BPF_LINK_CREATE, attributes)
    except OSError as error:
        raise NotPossible(f"cannot attach to {path}: {error.strerror}") from error


def _entry_point() -> int:
    """File offset of this interpreter's ELF entry: run once, before we were."""
    with open_binary("/proc/self/exe") as binary:
        return binary.entry_offset
