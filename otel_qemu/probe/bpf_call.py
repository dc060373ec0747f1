# SPDX-License-Identifier: Apache-2.0
"""
The system call bpf(2), for two things that bcc has no call for: a uprobe_multi link, and an empty program.
"""

import ctypes
import os

BPF_PROG_LOAD, BPF_LINK_CREATE = 5, 28
UPROBE_MULTI = 48
"""BPF_TRACE_UPROBE_MULTI of enum bpf_attach_type, Linux 6.6."""

_SYS_BPF = 321  # x86-64
_PROG_TYPE_KPROBE = 2
_RETURN_0 = bytes.fromhex("b7000000000000009500000000000000")  # r0 = 0; exit


class _ProgramLoad(ctypes.Structure):
    """``union bpf_attr`` for BPF_PROG_LOAD, up to the attach type (include/uapi/linux/bpf.h)."""

    _fields_ = [
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_char_p),
        ("license", ctypes.c_char_p),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_void_p),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
    ]


def bpf(command: int, attributes: ctypes.Structure) -> int:
    """
    Make the system call.

    Returns:
        A file descriptor, which the caller closes.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(_SYS_BPF, command, ctypes.byref(attributes), ctypes.sizeof(attributes)))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def load_empty_program() -> int:
    """
    Load a program that returns 0 and may be attached by a uprobe_multi link.

    Returns:
        Its file descriptor, which the caller closes.

    Raises:
        OSError: the kernel refuses.
    """
    attributes = _ProgramLoad(
        prog_type=_PROG_TYPE_KPROBE,
        insn_cnt=len(_RETURN_0) // 8,
        insns=_RETURN_0,
        license=b"GPL",
        prog_name=b"empty",
        expected_attach_type=UPROBE_MULTI,
    )
    return bpf(BPF_PROG_LOAD, attributes)
