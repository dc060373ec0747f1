# SPDX-License-Identifier: Apache-2.0
"""The name of a SCSI device, read from the memory of its QEMU process, once per disk."""

import os
import struct

_DEVICE_ID = 0x28  # DeviceState.id, char *: the same in QEMU 2.12 to 11 (include/hw/qdev-core.h)
_LONGEST_NAME_BYTES = 256


def device_alias(pid: int, device: int) -> str | None:
    """
    Return QEMU's id of a SCSIDevice, which libvirt calls its alias.

    Args:
        pid: of the QEMU process.
        device: SCSIDevice *, whose first member is the DeviceState.

    Returns:
        None if the device has no id, is gone, or cannot be read.
    """
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        (pointer,) = struct.unpack("<Q", os.pread(memory, 8, device + _DEVICE_ID))
        text = os.pread(memory, _LONGEST_NAME_BYTES, pointer) if pointer else b""
    except (OSError, OverflowError, struct.error):
        return None
    finally:
        os.close(memory)
    name, end, _ = text.partition(b"\0")
    return name.decode(errors="replace") if end and name else None
