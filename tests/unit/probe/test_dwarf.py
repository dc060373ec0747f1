# SPDX-License-Identifier: Apache-2.0
"""Offsets out of debug information: of every kind that compilers make, of a stranger's files, and within bounds."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from otel_qemu.errors import BadInput
from otel_qemu.probe.debug_information import DebugInformation
from otel_qemu.probe.dwarf import Offsets, Struct
from otel_qemu.probe.dwarf_process import offsets_in
from otel_qemu.probe.layouts import COMPLETION, RBD_TASK, SCSI_REQUEST
from otel_qemu.probe.symbols import open_with_symbols
from tests.support.debug_builds import FILE, SOURCE, built

WANTED = Struct(FILE, "SCSIRequest", ("dev", "tag", "lun", "cmd.buf", "cmd.xfer", "sense"))
OLD = {"SCSIRequest": {"dev": 8, "tag": 0x1C, "lun": 0x20, "cmd.buf": 0x38, "cmd.xfer": 0x50, "sense": 0x70}}
LTO = {"gcc": ("-flto",), "clang": ("-flto=thin", "-fuse-ld=lld")}
FORMS = [
    *((compiler, (f"-gdwarf-{version}",)) for compiler in ("gcc", "clang") for version in (2, 3, 4, 5)),
    *((compiler, ("-g", *options)) for compiler, options in LTO.items()),
    ("gcc", ("-g", "-gz")), ("gcc", ("-g", "-gdwarf64")), ("clang", ("-g", "-gz")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("compiler", "options"), FORMS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_every_form(tmp_path: Path, compiler: str, options: tuple[str, ...]) -> None:
    """DWARF 2 to 5 of gcc and clang, with link-time optimisation, compressed, of 64 bits."""
    assert offsets_in(str(built(tmp_path, SOURCE.format(more=""), *options, compiler=compiler)), [WANTED]) == OLD


def test_what_dwz_has_made_of_it(tmp_path: Path) -> None:
    """As distributions do: what several units share, as by a header, lies in a unit that they import."""
    declarations, functions = SOURCE.format(more="").split("uint32_t scsi_req_enqueue", 1)
    (tmp_path / "scsi.h").write_text(declarations)
    source = tmp_path / FILE
    source.parent.mkdir(parents=True)
    source.write_text(f'#include "scsi.h"\nuint32_t scsi_req_enqueue{functions}')
    others = [tmp_path / f"hw/scsi/other{number}.c" for number in range(3)]
    for other in others:
        other.write_text(f'#include "scsi.h"\nlong {other.stem}(SCSIRequest *req) {{ return req->lun; }}')
    command = ["gcc", "-g", "-w", "-I.", FILE, *(f"hw/scsi/{other.name}" for other in others), "-o", "program"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    subprocess.run(["dwz", "program"], cwd=tmp_path, check=True, timeout=300)
    listed = subprocess.check_output(["readelf", "-wi", "program"], cwd=tmp_path, text=True, timeout=300)
    assert "DW_TAG_imported_unit" in listed
    assert offsets_in(str(tmp_path / "program"), [WANTED]) == OLD


@pytest.mark.parametrize("options", [(), ("-g", "-DSCSIRequest=Other"), ("-g", "-Dsense=other")], ids=" ".join)
def test_what_is_not_there_is_left_out(tmp_path: Path, options: tuple[str, ...]) -> None:
    """No debug information, no such struct, or one that lacks a field."""
    assert offsets_in(str(built(tmp_path, SOURCE.format(more=""), *options)), [WANTED]) == {}


def test_another_file_of_the_same_name_is_not_taken(tmp_path: Path) -> None:
    """Its name has to end as QEMU's does."""
    assert offsets_in(str(built(tmp_path, SOURCE.format(more=""), "-g", file="scsi-bus.c")), [WANTED]) == {}


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_split_debug_information_is_declined(tmp_path: Path, compiler: str) -> None:
    """Its structs lie in a .dwo file; that is said."""
    program = built(tmp_path, SOURCE.format(more=""), "-g", "-gsplit-dwarf", compiler=compiler)
    with pytest.raises(BadInput, match=r"is not used: it is split off into \.dwo files"):
        offsets_in(str(program), [WANTED])


class TestStrangers:
    """A file that anybody may have made: one sentence, and soon."""

    def test_a_file_that_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=f"cannot read {tmp_path}/gone: No such file"):
            offsets_in(str(tmp_path / "gone"), [WANTED])

    def test_one_that_takes_too_long(self, tmp_path: Path) -> None:
        """Its reader is ended."""
        program = built(tmp_path, SOURCE.format(more=""), "-g")
        with pytest.raises(BadInput, match=r"is not used: reading it takes over 0\.001 s"):
            offsets_in(str(program), [WANTED], timeout_s=0.001)

    def test_one_that_takes_too_much_memory(self, tmp_path: Path) -> None:
        """A section of 8 GiB, of zeros that take no room in the file: its reader is refused the memory."""
        program = built(tmp_path, SOURCE.format(more=""), "-g")
        data = bytearray(program.read_bytes())
        spoil_size(data, b".debug_info", 8 << 30)
        program.write_bytes(data)
        with program.open("r+b") as file:
            file.truncate(9 << 30)
        with pytest.raises(BadInput, match="is not used: reading it takes over 1,024 MiB"):
            offsets_in(str(program), [WANTED])

    def test_its_reader_has_no_rights(self) -> None:
        """Neither root's nor what a service was given; and limits of memory and time."""
        text = "from otel_qemu.probe.dwarf_process import _limit_this_process as limit; limit()\n"
        text += "print(open('/proc/self/status').read())"
        done = subprocess.run(
            [sys.executable, "-P", "-c", text], capture_output=True, text=True, check=True, timeout=300
        )
        status = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
        assert [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh")] == [0, 0, 0]
        assert "0" not in status["Uid"].split()

    def test_root_that_cannot_become_another_user(self, tmp_path: Path) -> None:
        """As in a container that drops these two rights: nothing is read, and the reason is not the file."""
        program = built(tmp_path, SOURCE.format(more=""), "-g")
        text = "import sys; from otel_qemu.probe.dwarf_process import offsets_in; offsets_in(sys.argv[1], [])"
        lacking = ["setpriv", "--inh-caps=-setuid,-setgid", "--bounding-set=-setuid,-setgid"]
        done = subprocess.run(
            [*lacking, sys.executable, "-P", "-c", text, program], capture_output=True, text=True, timeout=300
        )
        assert done.stderr.endswith(
            f"of {program} is not used: its reader cannot become nobody: give root CAP_SETUID and CAP_SETGID\n"
        )

    def test_one_that_was_spoilt(self, tmp_path: Path) -> None:
        """Bytes overwritten, or the end cut off: BadInput, nothing, or what was not spoilt; and never another error."""
        program = built(tmp_path, SOURCE.format(more=""), "-g")
        data = program.read_bytes()
        begin = len(data) // 3
        for at in range(begin, len(data), (len(data) - begin) // 24):
            program.write_bytes(data[:at] + b"\xff" * 8 + data[at + 8 :] if at % 2 else data[:at])
            with contextlib.suppress(BadInput):
                assert set(offsets_in(str(program), [WANTED])) <= {"SCSIRequest"}


def spoil_size(data: bytearray, name: bytes, size: int) -> None:
    """Write another size into a section's header."""
    headers = int.from_bytes(data[40:48], "little")
    count, names = int.from_bytes(data[60:62], "little"), int.from_bytes(data[62:64], "little")
    strings = int.from_bytes(data[headers + 64 * names + 24 :][:8], "little")
    for at in range(headers, headers + 64 * count, 64):
        start = strings + int.from_bytes(data[at : at + 4], "little")
        if data[start : data.index(b"\0", start)] == name:
            data[at + 32 : at + 40] = size.to_bytes(8, "little")


TASK = "struct RBDTask {{ {before} void *co; {between} long ret; }} task; int main() {{ return 0; }}"
CALLBACKS = """
namespace librbd {{ namespace io {{ struct AioCompletion; }} struct Other {{ long complete_arg; }}; }}
namespace librbd {{ namespace io {{ struct AioCompletion {{ char before[{offset}]; void *complete_arg; }}; }} }}
librbd::io::AioCompletion completion;
int main() {{ return 0; }}
"""


def evidence(program: Path, struct: str, source: DebugInformation | None = None) -> dict[str, int] | list[str]:
    """What is found in a program, or what is wrong with it."""
    with open_with_symbols(str(program), []) as binary:
        found = (source or DebugInformation()).evidence(binary, struct)
        return found[0].offsets if found else binary.problems


class TestEvidence:
    """Offsets in the words of our layouts."""

    def test_scsi_request(self, tmp_path: Path) -> None:
        """Before QEMU 10.0 and from there on."""
        expected = {"device": 8, "tag": 0x1C, "sense": 0x70}
        assert evidence(built(tmp_path, SOURCE.format(more=""), "-g"), SCSI_REQUEST) == expected
        expected = {"device": 8, "tag": 0x24, "sense": 0x78}
        assert evidence(built(tmp_path, SOURCE.format(more="void *ctx;"), "-g"), SCSI_REQUEST) == expected

    def test_a_scsi_request_that_the_probes_cannot_read(self, tmp_path: Path) -> None:
        """Its fields lie otherwise beside each other than in any QEMU: not used, and reported."""
        program = built(tmp_path, SOURCE.format(more="").replace("tag, lun", "tag, between, lun"), "-g")
        with pytest.raises(BadInput, match="has an unknown layout of SCSIRequest"):
            evidence(program, SCSI_REQUEST)

    @pytest.mark.parametrize(
        ("before", "between", "expected"),
        [
            ("void *bs;", "_Bool complete;", {"coroutine": 8, "through_acb": 0, "return_value": 0x18}),
            ("", "", {"coroutine": 0, "through_acb": 0, "return_value": 8}),
        ],
    )
    def test_rbd_task(self, tmp_path: Path, before: str, between: str, expected: dict[str, int]) -> None:
        text = TASK.format(before=before, between=between)
        assert evidence(built(tmp_path, text, "-g", file="block/rbd.c"), RBD_TASK) == expected

    def test_rados_callback(self, tmp_path: Path) -> None:
        """QEMU 6.0 and older."""
        text = "struct RADOSCB { void *acb, *s; long size; char *buf; long ret; } callback; int main() { return 0; }"
        expected = {"coroutine": 0, "through_acb": 1, "return_value": 0x20}
        assert evidence(built(tmp_path, text, "-g", file="block/rbd.c"), RBD_TASK) == expected

    @pytest.mark.parametrize(
        "options", [("-gdwarf-4",), ("-gdwarf-5",), ("-g", "-flto=thin", "-fuse-ld=lld")], ids=" ".join
    )
    def test_completion(self, tmp_path: Path, options: tuple[str, ...]) -> None:
        """In its namespaces, past its declaration."""
        program = built(
            tmp_path, CALLBACKS.format(offset=0x60), *options, compiler="clang", file="librbd/io/AioCompletion.cc"
        )
        assert evidence(program, COMPLETION) == {"completion_argument": 0x60}

    def test_a_file_is_read_once(self, tmp_path: Path) -> None:
        """Though it is asked for three structs by a hundred processes; a bad one as well."""
        read: list[str] = []

        def noted(path: str, _structs: object) -> Offsets:
            read.append(path)
            return {}

        source = DebugInformation(noted)
        program = built(tmp_path, SOURCE.format(more=""), "-g")
        for struct in (SCSI_REQUEST, RBD_TASK, COMPLETION) * 2:
            assert evidence(program, struct, source) == []
        assert read == [str(program)]
