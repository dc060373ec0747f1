# SPDX-License-Identifier: Apache-2.0
"""The compiler's memory is freed, the program works on, and the kernel's verifier has room."""

import re
from pathlib import Path

import pytest

from otel_qemu.probe.process_memory import release_compiler_memory, resident_bytes
from otel_qemu.probe.program import Program


def test_most_of_what_compiling_took_is_given_back() -> None:
    """Of what loading the program added to resident memory, most is gone afterwards, and its maps can be read."""
    before = resident_bytes()
    program = Program()
    program.function("scsi_site", multi=True)
    loaded = resident_bytes()
    release_compiler_memory()
    released = resident_bytes()

    assert released - before < (loaded - before) / 2
    assert set(program.counters().values()) == {0}
    program.close()


@pytest.mark.parametrize("audit", [False, True], ids=["default", "audit"])
def test_the_verifier_has_room(audit: bool) -> None:
    """It follows at most a million instructions; what it has to follow differs from kernel to kernel."""
    program = Program(audit)
    try:
        for name in ("scsi_site", "rbd_site", *(["audit_site"] if audit else [])):
            info = Path(f"/proc/self/fdinfo/{program.function(name, multi=True)}").read_text()
            (followed,) = re.findall(r"^verified_insns:\s*(\d+)$", info, re.M)
            assert int(followed) < 300_000, name
    finally:
        program.close()
