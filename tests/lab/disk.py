# SPDX-License-Identifier: Apache-2.0
"""
One disk of a guest: an rbd image, and how libvirt has to attach it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.lab.errors import LabError

ERROR_POLICIES = (None, "report", "stop")
CACHES = ("none", "writeback", "writethrough", "directsync", "unsafe")


@dataclass(frozen=True)
class Disk:
    """
    An rbd image of `size_mib`, throttled by libvirt's ``<iotune>`` where a limit is given.

    `error_policy` is libvirt's, for reads and writes: ``stop`` pauses the guest, and what failed is tried again when it
    goes on; None leaves it to QEMU.
    """

    image: str
    size_mib: int = 64
    bytes_per_s: int | None = None
    iops: int | None = None
    cache: str = "none"
    error_policy: str | None = None

    def __post_init__(self) -> None:
        if self.cache not in CACHES:
            raise LabError(f"no such cache mode, {self.cache}: one of {', '.join(CACHES)}")
        if self.error_policy not in ERROR_POLICIES:
            raise LabError(f"no such error policy, {self.error_policy}: one of report, stop")
        if not re.fullmatch(r"[\w.-]+", self.image) or self.size_mib < 1:
            raise LabError(f"not a disk, {self.image}:{self.size_mib}: give IMAGE:SIZE_MIB[:BYTES_PER_S]")

    @property
    def alias(self) -> str:
        """What libvirt and QEMU call the device, as production does it: ``ua-ceph-…``."""
        return f"ua-ceph-{self.image}"

    @property
    def size_bytes(self) -> int:
        """Size of the image."""
        return self.size_mib << 20

    @classmethod
    def parse(cls, text: str) -> Disk:
        """A disk from the command line's ``IMAGE:SIZE_MIB[:BYTES_PER_S]``."""
        match = re.fullmatch(r"([\w.-]+):(\d+)(?::(\d+))?", text)
        if not match:
            raise LabError(f"not a disk, {text}: give IMAGE:SIZE_MIB[:BYTES_PER_S]")
        return cls(match[1], int(match[2]), int(match[3]) if match[3] else None)
