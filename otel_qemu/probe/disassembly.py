# SPDX-License-Identifier: Apache-2.0
"""Decode x86-64 machine code with capstone."""

from collections.abc import Iterator
from typing import Any

import capstone


def decoded(code: bytes, offset: int = 0) -> Iterator[Any]:
    """Return the instructions of some code, with their operands; `offset` is the address of the first one."""
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    return iter(decoder.disasm(code, offset))
