# SPDX-License-Identifier: Apache-2.0
"""No program has a private stack: each contains a tail call, in its source and in the loaded instructions."""

import re

import pytest

from otel_qemu.events import AUDIT_SITES, AUDIT_SOURCES, BPF_DIRECTORY, SITES
from otel_qemu.probe.program import Program

CALL, TAIL_CALL = 0x85, 12  # BPF_JMP | BPF_CALL, and the helper's number (include/uapi/linux/bpf.h)
INSTRUCTION_BYTES = 8
ENTRY = re.compile(r"^int (\w+)\(struct pt_regs \*ctx\)\s*\{(.*?)\}$", re.M | re.S)


def entries() -> dict[str, str]:
    """Return the body of every function that the kernel enters, by name."""
    texts = [(BPF_DIRECTORY / f"{name}.bpf.c").read_text() for name in AUDIT_SOURCES]
    return dict(ENTRY.findall("".join(texts)))


def test_every_entry_function_is_guarded() -> None:
    """Each one uses the guard of its way of attaching, and the test finds all of them."""
    bodies = entries()
    layers = {"scsi_site", "rbd_site", "audit_site"}
    assert set(bodies) == {*SITES, *layers}
    unguarded = [
        name for name, body in bodies.items()
        if body.count("guarded_site(ctx)" if name in layers else "guarded(ctx)") != 1
    ]  # fmt: skip
    assert unguarded == []


@pytest.mark.parametrize("audit", [False, True], ids=["default", "audit"])
def test_the_kernel_is_given_a_tail_call_in_each(audit: bool) -> None:
    """The compiled instructions have it, and the kernel accepts each program for its way of attaching."""
    program = Program(audit)
    try:
        for name in entries():
            layer = name.partition("_site")[0]
            if audit or (name not in AUDIT_SITES and layer != "audit"):
                assert tail_calls(program._bpf.dump_func(name.encode())) == 1, name
                assert program.function(name, multi=name.endswith("_site")) > 0
    finally:
        program.close()


def tail_calls(code: bytes) -> int:
    """Return the number of tail calls in a program's instructions (``struct bpf_insn``)."""
    instructions = [code[at : at + INSTRUCTION_BYTES] for at in range(0, len(code), INSTRUCTION_BYTES)]
    return sum(each[0] == CALL and int.from_bytes(each[4:], "little") == TAIL_CALL for each in instructions)
