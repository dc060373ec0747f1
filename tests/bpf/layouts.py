# SPDX-License-Identifier: Apache-2.0
"""Where QEMU and librbd keep what the walk reads, version by version (x86-64)."""

from dataclasses import astuple, dataclass

UNKNOWN_OFFSET = 0xFFFFFFFF
"""An offset that is not known for a build."""


@dataclass(frozen=True)
class Layout:
    """``struct process`` of ``tables.bpf.c`` but for its end: the same fields in the same order, all ``u32``."""

    device: int = 0x08
    tag: int = 0x1C
    sense: int = 0x70
    completion_argument: int = 0x60
    coroutine: int = 8
    through_acb: int = 0
    return_value: int = 24

    def as_words(self) -> tuple[int, ...]:
        return astuple(self)


_NEW_REQUEST = {"tag": 0x24, "sense": 0x78}

QEMU_5_2 = Layout(completion_argument=0xB8, coroutine=0, through_acb=1, return_value=32)
"""RADOSCB, librbd 14.2."""

QEMU_7_2 = Layout()
"""RBDTask with its coroutine second, librbd 16.2."""

QEMU_10_0 = Layout(**_NEW_REQUEST, coroutine=0, return_value=8)
"""SCSIRequest with an AioContext, RBDTask with its coroutine first, librbd 18.2."""

QEMU_11_1 = Layout(**_NEW_REQUEST, completion_argument=0x30, coroutine=0, return_value=8)
"""As 10.0, with librbd 20.2."""

LAYOUTS = {"5.2": QEMU_5_2, "7.2": QEMU_7_2, "10.0": QEMU_10_0, "11.1": QEMU_11_1}
