"""
Which functions are probed, and on which instruction of each the trap goes.

The kernel emulates some instructions and single-steps all others, which costs an exception more: on a virtual machine
20 times the hit.  ``endbr64`` is of the dear kind and opens every function of a CET build, so the trap goes behind it:
no register has changed there.
"""

from dataclasses import dataclass

import capstone

from otel_qemu.probe.elf import Binary, Function

_ENDBR64 = b"\xf3\x0f\x1e\xfa"
_LONGEST_INSTRUCTION_BYTES = 15


@dataclass(frozen=True)
class Probe:
    """
    One probed function; its BPF program in ``bpf/trace.bpf.c`` has the same name.

    Attributes:
        function: the symbol.
        layer: ``scsi`` (in QEMU) or ``rbd`` (in librbd).
        required: without it the layer cannot be traced; else the function is newer than some builds, or a rare way out.
    """

    function: str
    layer: str
    required: bool


PROBES = (
    Probe("scsi_req_complete", "scsi", required=True),
    Probe("scsi_req_complete_failed", "scsi", required=False),
    Probe("scsi_req_cancel_complete", "scsi", required=False),
    Probe("scsi_req_retry", "scsi", required=False),
    Probe("scsi_req_enqueue", "scsi", required=True),
    Probe("rbd_aio_release", "rbd", required=True),
    Probe("rbd_aio_readv", "rbd", required=True),
    Probe("rbd_aio_writev", "rbd", required=True),
    Probe("rbd_aio_read", "rbd", required=False),
    Probe("rbd_aio_write", "rbd", required=False),
    Probe("rbd_aio_discard", "rbd", required=False),
    Probe("rbd_aio_write_zeroes", "rbd", required=False),
    Probe("rbd_aio_flush", "rbd", required=False),
)
"""Ends before submits: the order of attaching, so that nothing put in flight can miss its end."""


@dataclass(frozen=True)
class Site:
    """
    Where a probe goes in one file.

    Attributes:
        probe: what it is for.
        offset: in the file, in bytes.
        table: the symbol table that named the function.
        instruction: what stands there, as a disassembler prints it.
        emulated: whether the kernel emulates it (cheap) or single-steps it.
    """

    probe: Probe
    offset: int
    table: str
    instruction: str
    emulated: bool


def sites(binary: Binary, layer: str) -> tuple[list[Site], list[Probe]]:
    """
    The sites of a layer in a file, and the probes whose function the file does not have.

    Raises:
        BadInput: the file cannot be read.
    """
    found: list[Site] = []
    missing: list[Probe] = []
    for probe in PROBES:
        if probe.layer == layer:
            function = binary.function(probe.function)
            if function is None:
                missing.append(probe)
            else:
                found.append(_site(binary, probe, function))
    return found, missing


def _site(binary: Binary, probe: Probe, function: Function) -> Site:
    offset = function.offset
    if binary.code(offset, 4) == _ENDBR64:
        offset += 4
    code = binary.code(offset, _LONGEST_INSTRUCTION_BYTES)
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    instruction = next(decoder.disasm(code, offset, 1), None)
    if instruction is None:
        return Site(probe, offset, function.table, "?", emulated=False)
    text = f"{instruction.mnemonic} {instruction.op_str}".strip()
    return Site(probe, offset, function.table, text, is_emulated(bytes(instruction.bytes)))


def is_emulated(instruction: bytes) -> bool:
    """
    Whether the kernel emulates an instruction under a uprobe.

    Source: Linux arch/x86/kernel/uprobes.c, branch_setup_xol_ops and push_setup_xol_ops: nop, ``push`` of a 64-bit
    register (of the prefixes, only 41), ``jmp``, ``call`` and conditional jumps with an immediate target.  The rarer
    encodings are as Linux 6.18 was seen to treat them.
    """
    if instruction in (b"\x66\x90", b"\x90"):
        return True
    code = instruction.removeprefix(b"\xf2")  # bnd, which changes nothing
    if code[0] == 0x41:
        return len(code) == 2 and 0x50 <= code[1] <= 0x57
    if code[0] == 0x0F:
        return code[1] == 0x1F or 0x80 <= code[1] <= 0x8F
    return code[0] in (0xEB, 0xE9, 0xE8) or 0x50 <= code[0] <= 0x57 or 0x70 <= code[0] <= 0x7F
