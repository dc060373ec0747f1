# SPDX-License-Identifier: Apache-2.0
"""A function that is inlined where it matters is noticed by what its other end counts."""

import pytest

from otel_qemu.events import COUNTERS
from otel_qemu.probe.inlined import MANY, inlined_functions


def counters(**counted: int) -> dict[str, int]:
    return dict.fromkeys(COUNTERS, 0) | counted


@pytest.mark.parametrize(
    ("counted", "function"),
    [
        ({"scsi_submitted": MANY}, "scsi_req_complete"),
        ({"scsi_unstarted": MANY}, "scsi_req_enqueue"),
        ({"rbd_submitted": MANY}, "rbd_aio_release"),
        ({"rbd_unstarted": MANY}, "rbd_aio_readv"),
    ],
)
def test_the_end_that_is_never_hit_is_named(counted: dict[str, int], function: str) -> None:
    (told,) = inlined_functions(counters(**counted))
    assert f"{function} " in told
    assert "\n" not in told


@pytest.mark.parametrize(
    "counted",
    [
        {},
        {"scsi_submitted": MANY - 1},
        {"scsi_submitted": MANY, "scsi_completed": 1},
        {"scsi_submitted": 1, "scsi_completed": 1, "scsi_unstarted": MANY},
        {"scsi_unstarted": MANY, "scsi_unproven": MANY},
        {"rbd_submitted": MANY, "rbd_completed": 1, "rbd_unstarted": MANY},
    ],
)
def test_a_few_or_both_ends_say_nothing(counted: dict[str, int]) -> None:
    assert not list(inlined_functions(counters(**counted)))
