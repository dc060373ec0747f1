# SPDX-License-Identifier: Apache-2.0
"""Recordings: exact round trips, and every way in which a file can be wrong."""

import json
import os
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otel_qemu.errors import BadInput
from otel_qemu.events import RECORD, Batch, Link, RecordKind
from otel_qemu.probe.tracer import unix_offset_ns
from otel_qemu.trace.chunks import FORMAT, ChunkKind
from otel_qemu.trace.names import Disk, Names
from otel_qemu.trace.recording import Recording, RecordingWriter
from tests.support import builders

HEADER_BYTES = 32
DETAILS = {"kernel": "6.18.0", "command": ["otel-qemu", "record"], "bounds_s": [0.001, 1.0]}


def chunk(kind: int, payload: bytes, payload_bytes: int | None = None) -> bytes:
    """A chunk as anybody could make it, with a right checksum."""
    length = len(payload) if payload_bytes is None else payload_bytes
    header = struct.pack("<IIQqI", int.from_bytes(b"oqr\n", "little"), kind, length, 0, 0)
    return header + struct.pack("<I", zlib.crc32(payload, zlib.crc32(header))) + payload


def json_chunk(kind: int, data: Any) -> bytes:
    text = json.dumps(data).encode()
    return chunk(kind, text + b" " * (-len(text) % 8))


def chunk_ends(data: bytes) -> list[int]:
    """Where each chunk of a whole file ends."""
    ends, at = [], 0
    while at < len(data):
        at += HEADER_BYTES + struct.unpack_from("<Q", data, at + 8)[0]
        ends.append(at)
    return ends


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.oqr"


@pytest.fixture
def small(path: Path) -> Path:
    """Details, names, 2 records, 3 records, counters."""
    with RecordingWriter(path, DETAILS) as writer:
        writer.write_names(builders.names())
        writer.write(builders.batch(2))
        writer.write(builders.batch(3, unix_offset_ns=-7))
        writer.write_counters({"records": 5})
    return path


def append(path: Path, *chunks: bytes) -> Path:
    with path.open("ab") as file:
        file.writelines(chunks)
    return path


class TestRoundTrip:
    """What is written comes back."""

    def test_gives_back_every_batch_byte_for_byte(self, path: Path) -> None:
        batches = [builders.batch(count, unix_offset_ns=count - 3, lun=count) for count in (1, 7, 500)]
        with RecordingWriter(path, DETAILS) as writer:
            for batch in batches:
                writer.write(batch)

        found = list(Recording.open(path).batches())

        assert [batch.unix_offset_ns for batch in found] == [-2, 4, 497]
        assert [batch.records.tobytes() for batch in found] == [batch.records.tobytes() for batch in batches]

    def test_random_bytes_survive(self, path: Path) -> None:
        rows = np.frombuffer(bytearray(os.urandom(RECORD.itemsize * 23)), RECORD)
        rows["kind"], rows["link"] = RecordKind.REQUEST, Link.WALK
        for name in ("submit_ns", "complete_ns", "call_submit_ns", "call_complete_ns"):
            rows[name] >>= 1
        with RecordingWriter(path, {}) as writer:
            writer.write(Batch(rows[::2], 1))

        (found,) = Recording.open(path).batches()

        assert found.records.tobytes() == rows[::2].tobytes()

    def test_batches_are_views_of_the_file_and_can_be_read_again(self, small: Path) -> None:
        recording = Recording.open(small)
        first, again = next(recording.batches()), next(recording.batches())

        assert np.shares_memory(first.records, again.records)
        assert not first.records.flags.writeable

    def test_names_that_come_after_their_records_count_for_all(self, path: Path) -> None:
        with RecordingWriter(path, DETAILS) as writer:
            writer.write(builders.batch(1))
            writer.write_names(Names(devices={(1, 2): Disk("early"), (3, 4): Disk("kept")}))
            writer.write_names(Names(devices={(1, 2): Disk("late")}))

        names = Recording.open(path).names

        assert [names.disk(1, 2).alias, names.disk(3, 4).alias] == ["late", "kept"]

    def test_names_are_written_once_while_nothing_new_is_known(self, path: Path) -> None:
        with RecordingWriter(path, DETAILS) as writer:
            writer.write_names(builders.names())
            size_bytes = path.stat().st_size
            writer.write_names(builders.names())

        assert path.stat().st_size == size_bytes
        assert Recording.open(path).names == builders.names()

    def test_details_and_counters_come_back(self, small: Path) -> None:
        recording = Recording.open(small)

        assert recording.counters == {"records": 5}
        assert recording.details["command"] == ["otel-qemu", "record"]
        assert recording.details["record_bytes"] == RECORD.itemsize
        assert recording.damage is None

    def test_details_cannot_override_the_layout(self, path: Path) -> None:
        RecordingWriter(path, {"format": 99}).close()

        assert Recording.open(path).details["format"] == FORMAT

    def test_a_recording_of_nothing_is_whole(self, path: Path) -> None:
        with RecordingWriter(path, {}) as writer:
            writer.write(builders.batch(0))

        recording = Recording.open(path)

        assert list(recording.batches()) == []
        assert recording.damage is None
        assert {"kernel", "machine", "command", "clock"} <= recording.details.keys()

    def test_the_header_has_both_clocks_of_one_moment(self, path: Path) -> None:
        """Their difference is the offset that the first batch brings, but for what passed between two readings."""
        with RecordingWriter(path, {}) as writer:
            writer.write(builders.batch(1, unix_offset_ns()))
        recording = Recording.open(path)
        clock, (batch,) = recording.details["clock"], recording.batches()

        assert abs(clock["unix_ns"] - clock["monotonic_ns"] - batch.unix_offset_ns) < 10**9

    def test_processes_come_back_and_add_up(self, small: Path) -> None:
        """Build ids and layouts, by pid; what is said of a process last counts."""
        older, newer = {"pid": 7, "build_ids": {"qemu": "aa"}}, {"pid": 7, "build_ids": {"qemu": "aa", "librbd": "bb"}}
        other = {"pid": 8, "layout": {"device": 8}}
        chunks = (json_chunk(ChunkKind.PROCESSES, {"processes": each}) for each in ([older, other], [newer]))

        assert Recording.open(append(small, *chunks)).processes == {7: newer, 8: other}

    def test_an_older_format_is_read(self, small: Path, path: Path) -> None:
        """Format 1 had the same records, and said less of where it was made."""
        details = Recording.open(small).details
        old = json_chunk(ChunkKind.DETAILS, {**details, "format": 1})
        path.write_bytes(old + small.read_bytes()[chunk_ends(small.read_bytes())[0] :])
        recording = Recording.open(path)

        assert recording.damage is None
        assert sum(map(len, recording.batches())) == 5
        assert recording.processes == {}


class TestWriter:
    """What a writer may replace, and what it says when it cannot write."""

    def test_replaces_a_recording_without_touching_the_one_being_read(self, small: Path) -> None:
        old = Recording.open(small)
        RecordingWriter(small, DETAILS).close()

        assert sum(map(len, old.batches())) == 5
        assert list(Recording.open(small).batches()) == []

    def test_replaces_an_empty_file_and_keeps_it_private(self, path: Path) -> None:
        path.touch()
        RecordingWriter(path, DETAILS).close()

        assert path.stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("make", [lambda path: path.write_bytes(b"disk image"), os.mkfifo, os.mkdir])
    def test_leaves_anything_else_alone(self, path: Path, make: Callable[[Path], object]) -> None:
        make(path)
        before = path.lstat()

        with pytest.raises(BadInput, match="it exists and is not a"):
            RecordingWriter(path, DETAILS)
        assert path.lstat().st_ino == before.st_ino

    def test_does_not_follow_a_link(self, path: Path, tmp_path: Path) -> None:
        path.symlink_to(tmp_path / "elsewhere")

        with pytest.raises(BadInput, match="not a regular file"):
            RecordingWriter(path, DETAILS)

    def test_a_path_that_cannot_be_written_is_one_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"cannot write recording .*: No such file or directory") as caught:
            RecordingWriter(tmp_path / "no" / "a.oqr", DETAILS)
        assert "\n" not in str(caught.value)

    def test_a_full_disk_keeps_the_whole_chunks(self, path: Path) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        with RecordingWriter(path, DETAILS) as writer:
            writer.write(builders.batch(23))
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 1000, limits[1]))
            try:
                with pytest.raises(BadInput, match="File too large: make room"):
                    writer.write(builders.batch(100))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            writer.write(builders.batch(1))

        recording = Recording.open(path)

        assert [len(batch) for batch in recording.batches()] == [23, 1]
        assert recording.damage is None


class TestDamage:
    """Files cut off, flipped, or made to hurt."""

    def test_a_cut_at_every_byte_keeps_every_chunk_before_it(self, small: Path) -> None:
        data = small.read_bytes()
        ends = chunk_ends(data)
        records = [0, 0, 2, 5, 5]
        for size_bytes in range(len(data)):
            small.write_bytes(data[:size_bytes])
            if size_bytes < ends[0]:
                with pytest.raises(BadInput):
                    Recording.open(small)
                continue
            recording = Recording.open(small)
            whole = max(index for index, end in enumerate(ends) if end <= size_bytes)
            assert sum(map(len, recording.batches())) == records[whole]
            assert bool(recording.names.guests) == (whole >= 1)
            assert (recording.damage is None) == (size_bytes in ends)
            assert recording.damage is None or f"byte {size_bytes}" in recording.damage

    def test_says_how_much_of_the_last_chunk_is_there(self, small: Path) -> None:
        data = small.read_bytes()
        end = chunk_ends(data)[2]
        small.write_bytes(data[: end - 100])

        said = f"cut off at byte {end - 100}: the last chunk says {2 * RECORD.itemsize} bytes, "
        assert Recording.open(small).damage == f"{said}{2 * RECORD.itemsize - 100} are there"

    def test_a_flipped_bit_anywhere_is_found_and_what_was_before_it_is_read(self, small: Path) -> None:
        data = small.read_bytes()
        ends = chunk_ends(data)
        records = [0, 0, 2, 5, 5]
        for at in range(len(data)):
            broken = bytearray(data)
            broken[at] ^= 1 << (at % 8)
            small.write_bytes(broken)
            hit = sum(end <= at for end in ends)
            if hit == 0:
                with pytest.raises(BadInput):
                    Recording.open(small)
                continue
            recording = Recording.open(small)
            assert recording.damage
            assert sum(map(len, recording.batches())) == records[hit - 1]

    @pytest.mark.parametrize(
        ("piece", "said"),
        [
            (b"\0" * 64, "a chunk should begin here"),
            (chunk(ChunkKind.RECORDS, b"", 2**64 - 1), "says 18446744073709551615 bytes, 0 are there"),
            (chunk(ChunkKind.RECORDS, b"\0" * 8), "are not records of"),
            (chunk(ChunkKind.NAMES, b"{}   "), "not a multiple of 8"),
            (chunk(ChunkKind.NAMES, b""), "is not JSON"),
            (chunk(ChunkKind.NAMES, b"\xff" * 8), "is not JSON"),
            (chunk(ChunkKind.NAMES, b"[" * 200_000), "is not JSON"),
            (chunk(ChunkKind.NAMES, b"[1, 2]  "), "is not a JSON object"),
            (json_chunk(ChunkKind.NAMES, {}), "does not hold names"),
            (json_chunk(ChunkKind.NAMES, {"guests": [3], "devices": [], "images": []}), "does not hold names"),
            (
                json_chunk(
                    ChunkKind.NAMES, {"guests": [], "devices": [], "images": [[1, 2, {"alias": ["a"], "target": 3}]]}
                ),
                "does not hold names",
            ),
            (
                json_chunk(ChunkKind.NAMES, {"guests": [], "devices": [["1", 2, {"alias": "a"}]], "images": []}),
                "does not hold names",
            ),
            (json_chunk(ChunkKind.COUNTERS, {"records": "many"}), "does not hold counters"),
            (json_chunk(ChunkKind.PROCESSES, {"processes": [{"name": "x"}]}), "does not hold processes"),
            (json_chunk(ChunkKind.PROCESSES, {"processes": [{"pid": float("inf")}]}), "does not hold processes"),
            (chunk(ChunkKind.RECORDS, builders.records(1, kind=9).tobytes()), "holds records of no kind"),
            (chunk(ChunkKind.RECORDS, builders.records(1, link=103).tobytes()), "holds links of no kind"),
            (chunk(ChunkKind.RECORDS, builders.records(1, complete_ns=1 << 63).tobytes()), "times that no clock shows"),
            (json_chunk(77, {}), "of unknown kind 77"),
            (json_chunk(ChunkKind.DETAILS, {}), "does not belong here"),
        ],
    )
    def test_hostile_chunks_are_damage(self, small: Path, piece: bytes, said: str) -> None:
        whole_bytes = small.stat().st_size
        recording = Recording.open(append(small, piece))

        assert said in (recording.damage or "")
        assert str(whole_bytes) in (recording.damage or "") or "cut off" in (recording.damage or "")
        assert sum(map(len, recording.batches())) == 5

    @pytest.mark.parametrize(("told", "taken"), [(7, 7), (0, 0), (-1, 1), ("7", 1), (float("inf"), 1), (2**70, 2**70)])
    def test_what_it_says_of_sampling_is_a_number_or_nothing(self, path: Path, told: Any, taken: int) -> None:
        RecordingWriter(path, {"one_in": told}).close()
        assert Recording.open(path).one_in == taken

    def test_a_batch_of_nothing_is_no_damage(self, small: Path) -> None:
        recording = Recording.open(append(small, chunk(ChunkKind.RECORDS, b"")))

        assert recording.damage is None
        assert len(list(recording.batches())) == 2


class TestNotOurs:
    """Files that this version does not read."""

    @pytest.mark.parametrize("data", [b"", b"o", b"oqr", b"\x7fELF" + b"\0" * 100])
    def test_another_file_is_refused_by_name(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)

        with pytest.raises(BadInput, match=f"{path.name} is not a recording: .*otel-qemu record"):
            Recording.open(path)

    def test_a_missing_file_a_folder_and_a_pipe_are_refused(self, path: Path, tmp_path: Path) -> None:
        os.mkfifo(path)
        for wrong in (tmp_path / "none", tmp_path, path):
            with pytest.raises(BadInput, match=str(wrong)):
                Recording.open(wrong)

    def test_another_format_is_refused_with_both_numbers(self, path: Path) -> None:
        path.write_bytes(json_chunk(ChunkKind.DETAILS, {"format": 3}))

        with pytest.raises(BadInput, match="format 3, this reads 1 and 2: replay it with the version"):
            Recording.open(path)

    def test_another_layout_is_refused_by_its_first_field_that_differs(self, small: Path, path: Path) -> None:
        details = Recording.open(small).details
        details["fields"][3][0] = "colour"
        path.write_bytes(json_chunk(ChunkKind.DETAILS, details))

        with pytest.raises(BadInput, match=r"field 3 is .'colour'"):
            Recording.open(path)

    @pytest.mark.parametrize("fields", [None, 5, [], {"a": 1}, [[]]])
    def test_a_nonsense_layout_is_refused(self, path: Path, fields: Any) -> None:
        path.write_bytes(json_chunk(ChunkKind.DETAILS, {"format": 1, "record_bytes": 128, "fields": fields}))

        with pytest.raises(BadInput, match="another layout"):
            Recording.open(path)

    def test_a_first_chunk_of_another_kind_is_refused(self, path: Path) -> None:
        path.write_bytes(json_chunk(ChunkKind.NAMES, {}))

        with pytest.raises(BadInput, match="first chunk does not say its format"):
            Recording.open(path)
