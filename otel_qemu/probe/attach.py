# SPDX-License-Identifier: Apache-2.0
"""
Attach probes to the sites of one binary; the handle detaches them.  Only function entries can be probed.

The kernel's uprobe_multi link (Linux 6.6 on) is tried first.  It needs only CAP_BPF and CAP_PERFMON, and closing its
file descriptor detaches all its sites.  Older kernels take perf events by perf_event_open or tracefs, as bcc attaches
them, which need CAP_SYS_ADMIN.
"""

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from otel_qemu.errors import NotPossible
from otel_qemu.events import SITES
from otel_qemu.probe.bpf_call import BPF_LINK_CREATE, UPROBE_MULTI, bpf, load_empty_program
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
    """The probes that are attached to one inode."""

    program: Program
    sites: int
    links: list[int] = field(default_factory=list)
    perf_events: list[tuple[str, int]] = field(default_factory=list)

    def detach(self) -> None:
        """Remove every probe of this attachment.  A second call does nothing."""
        while self.links:
            os.close(self.links.pop())
        while self.perf_events:
            self.program.detach_perf(*self.perf_events.pop())


def attach(program: Program, path: str, sites: list[Site], route: str) -> Attachment:
    """
    Attach each site's program to a file.

    Args:
        program: loaded.
        path: of the binary, below /proc/PID, so that it is the file which the process runs.
        sites: of one layer.  `MULTI` attaches them at once, `PERF` one after the other.
        route: `MULTI` or `PERF`.

    Raises:
        NotPossible: the kernel refuses a site; the sites before it are detached.
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
    Return the best route of attaching that this kernel has.

    It is found by attaching an empty program to this process's own entry point: the real programs take the verifier
    seconds, and their refusal would not say why.

    Raises:
        NotPossible: the kernel loads no BPF program, or its only route needs a right that we do not have.
    """
    with _empty_program() as function:
        try:
            os.close(_link(function, "/proc/self/exe", [Site(PROBES[0], PROBES[0].function, _entry_point(), "", "")]))
        except NotPossible:
            require_perf_rights()
            return PERF
    return MULTI


@contextlib.contextmanager
def _empty_program() -> Iterator[int]:
    try:
        function = load_empty_program()
    except OSError as error:
        raise NotPossible(f"the kernel loads no BPF program ({error.strerror}): {_reason(error)}") from error
    try:
        yield function
    finally:
        os.close(function)


def _reason(error: OSError) -> str:
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
    """Return the file offset of this interpreter's ELF entry, which has run before us and will not run again."""
    with open_binary("/proc/self/exe") as binary:
        return binary.entry_offset
