# SPDX-License-Identifier: Apache-2.0
"""The ``error.type`` of a request or a call: a text of low cardinality, or none for a success."""

import errno
from collections.abc import Mapping

from otel_qemu.events import RETURN_UNKNOWN, Ending
from otel_qemu.export import semconv
from otel_qemu.trace.scsi import SENSE_KEYS, STATUS_NAMES

CHECK_CONDITION = 0x02
GOOD = (0x00, 0x04)
"""Statuses of a success, as in bpf/ring.bpf.c: GOOD, CONDITION MET."""
_OTHER_ENDINGS: dict[int, str] = {
    Ending.CANCELLED: semconv.CANCELLED,
    Ending.LOST: semconv.END_LOST,
    Ending.HUNG: semconv.TIMEOUT,
}


def request_error(row: Mapping[str, int]) -> str | None:
    """``CHECK_CONDITION.MEDIUM_ERROR``, ``BUSY``, ``SCSI_HOST_TIME_OUT``, ``cancelled``, ...; None for a success."""
    ending = row["ending"]
    if ending == Ending.COMPLETED:
        return _status_error(row["status"], row["sense_key"])
    if ending == Ending.FAILED:
        return semconv.HOST_STATUSES.get(row["host_status"], semconv.OTHER)
    return _OTHER_ENDINGS.get(ending, semconv.OTHER)


def call_error(row: Mapping[str, int]) -> str | None:
    """The name of the errno that librbd returned, such as ``EIO``; None for a success or an unseen result."""
    value = row["return_value"]
    if value >= 0 or value == RETURN_UNKNOWN:
        return None
    return errno.errorcode.get(-value, semconv.OTHER)


def _status_error(status: int, sense_key: int) -> str | None:
    if status in GOOD:
        return None
    name = STATUS_NAMES.get(status, semconv.OTHER)
    if status != CHECK_CONDITION:
        return name
    return f"{name}.{SENSE_KEYS[sense_key] if sense_key < len(SENSE_KEYS) else semconv.OTHER}"
