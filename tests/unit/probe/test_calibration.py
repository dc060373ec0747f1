# SPDX-License-Identifier: Apache-2.0
"""A layout out of samples: one place is left, or none is believed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from otel_qemu.probe.calibration import ENOUGH_SAMPLES, EXPECTED, REQUEST_BYTES, calibrated
from otel_qemu.probe.layouts import BESIDE_TAG, NEW_SCSI_REQUEST, OLD_SCSI_REQUEST, UNKNOWN_OFFSET

DEVICES = (0x5581_0000_1000, 0x5581_0000_9000)
Samples = tuple[NDArray[np.void], NDArray[np.uint8]]


def samples(count: int, device: int = 0x08, tag: int = 0x1C, seed: int = 1) -> Samples:
    """Reads of two disks and the SCSIRequests that they are, with whatever else lies in these."""
    random = np.random.default_rng(seed)
    made, submitted = np.zeros(count, EXPECTED), random.integers(0, 256, (count, REQUEST_BYTES), dtype=np.uint8)
    made["device"], made["tag"], made["lun"] = random.choice(DEVICES, count), random.integers(0, 1 << 32, count), 1
    made["cdb"][:, :6] = random.integers(0, 256, (count, 6))
    made["cdb"][:, 0] = 0x28
    for of, request in zip(made, submitted, strict=True):
        put(request, device, of["device"])
        put(request, tag, of["tag"])
        put(request, tag + BESIDE_TAG["lun"], of["lun"])
        request[tag + BESIDE_TAG["cdb"] :][:6] = of["cdb"][:6]
    return made, submitted


def put(request: NDArray[np.uint8], offset: int, value: np.generic) -> None:
    data = np.frombuffer(value.tobytes(), np.uint8)
    request[offset : offset + len(data)] = data


@pytest.mark.parametrize("layout", [OLD_SCSI_REQUEST, NEW_SCSI_REQUEST])
def test_layouts_that_are_known(layout: dict[str, int]) -> None:
    """Where their sense data are is known, too."""
    assert calibrated(*samples(ENOUGH_SAMPLES, layout["device"], layout["tag"])) == layout


@given(device=st.integers(0, 10), tag=st.integers(0, 50), seed=st.integers(0, 1 << 30))
def test_any_other_layout(device: int, tag: int, seed: int) -> None:
    """Wherever device and tag are, as long as they do not lie on each other."""
    device, tag = 8 * device, 4 * tag
    covered = [*range(tag, tag + 8), *range(tag + BESIDE_TAG["cdb"], tag + BESIDE_TAG["cdb"] + 6)]
    if set(covered) & set(range(device, device + 8)) or (device, tag) in ((8, 0x1C), (8, 0x24)):
        return
    expected = {"device": device, "tag": tag, "sense": UNKNOWN_OFFSET}
    assert calibrated(*samples(ENOUGH_SAMPLES, device, tag, seed)) == expected


def test_fewer_are_not_believed() -> None:
    """Nor none at all."""
    made, submitted = samples(ENOUGH_SAMPLES)
    assert calibrated(made[1:], submitted[1:]) is None
    assert calibrated(made[:0], submitted[:0]) is None


def test_the_two_sides_may_be_of_other_requests_as_well() -> None:
    """Made before we looked, not submitted yet, and in another order: what is on both sides counts."""
    made, submitted = samples(ENOUGH_SAMPLES + 8)
    assert calibrated(made[4:][::-1], submitted[:-4]) == OLD_SCSI_REQUEST
    assert calibrated(made[5:], submitted[:-4]) is None


def test_a_pointer_that_is_twice_there_is_ruled_out_by_others() -> None:
    """Some requests have their device in another field, too; not all."""
    made, submitted = samples(2 * ENOUGH_SAMPLES)
    submitted[:ENOUGH_SAMPLES, 0xF0:0xF8] = submitted[:ENOUGH_SAMPLES, 0x08:0x10]
    assert calibrated(made, submitted) == OLD_SCSI_REQUEST
    assert calibrated(made[:ENOUGH_SAMPLES], submitted[:ENOUGH_SAMPLES]) is None


def test_requests_that_contradict_each_other_show_nothing() -> None:
    """As if two builds were mixed up."""
    old, new = samples(ENOUGH_SAMPLES), samples(ENOUGH_SAMPLES, tag=0x24, seed=2)
    assert calibrated(np.concatenate((old[0], new[0])), np.concatenate((old[1], new[1]))) is None


@pytest.mark.parametrize("field", ["device", "tag", "lun", "cdb"])
def test_every_field_has_to_be_right(field: str) -> None:
    """One that reads otherwise than it was made is found nowhere."""
    made, submitted = samples(ENOUGH_SAMPLES)
    made[field] += 1
    assert calibrated(made, submitted) is None
