"""The compiler's memory is given back, and the program works on."""

from otel_qemu.probe.footprint import release_compiler_memory, resident_bytes
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
