"""x86-64 machine code into capstone's instructions; this module alone makes a decoder."""

from collections.abc import Iterator
from typing import Any

import capstone


def decoded(code: bytes, offset: int = 0) -> Iterator[Any]:
    """The instructions of some code, with their operands; `offset` is the address of the first."""
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    return iter(decoder.disasm(code, offset))
