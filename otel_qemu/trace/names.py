# SPDX-License-Identifier: Apache-2.0
"""
The names of guests, their disks and images, for the numbers that records carry.

libvirt, a recording or a test fill it in.  A name that is not known is never guessed: the process id or the pointer
stands for it.
"""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Disk:
    """
    One disk of a guest.

    Attributes:
        alias: QEMU's device id, libvirt's alias: ``ua-ceph-root``, ``scsi0-0-0-0``.
        target: the name libvirt gives it in the guest: ``sda``.
        pool, image: the RBD image behind it; None when it is not on RBD or not known.
        format: of the data in the image: ``raw``, ``qcow2``; None when not known.
        throttled: whether the domain limits it with ``<iotune>``.
    """

    alias: str
    target: str | None = None
    pool: str | None = None
    image: str | None = None
    format: str | None = None
    throttled: bool = False


@dataclass(frozen=True)
class Guest:
    """
    One QEMU process, and the libvirt domain it runs, if any.

    Attributes:
        pid: of the QEMU process.
        executable: its path.
        uuid, name: of the domain; None when libvirt does not know the process.
        disks: as libvirt describes them.
    """

    pid: int
    executable: str
    uuid: str | None = None
    name: str | None = None
    disks: tuple[Disk, ...] = ()

    @property
    def label(self) -> str:
        """The domain's name, or the process id."""
        return self.name or f"pid {self.pid}"


@dataclass
class Names:
    """
    Guests by pid, disks by (pid, SCSIDevice *), disks by (pid, rbd_image_t).

    An image's disk is learnt from the first call joined to a request of that disk (`correlate`).
    """

    guests: dict[int, Guest] = field(default_factory=dict)
    devices: dict[tuple[int, int], Disk] = field(default_factory=dict)
    images: dict[tuple[int, int], Disk] = field(default_factory=dict)

    def guest(self, pid: int) -> Guest:
        """The guest of a process; an unnamed one when nothing is known of it."""
        return self.guests.get(pid) or Guest(pid, "")

    def disk(self, pid: int, device: int) -> Disk:
        """The disk of a SCSIDevice; its alias is the pointer when nothing is known of it."""
        return self.devices.get((pid, device)) or Disk(f"0x{device:x}")

    def image(self, pid: int, image: int) -> Disk:
        """The disk whose image this handle is; its image name is the handle when nothing is known of it."""
        return self.images.get((pid, image)) or Disk("", image=f"0x{image:x}")

    def update(self, other: "Names") -> None:
        """Learn what `other` knows; it wins where both know."""
        self.guests.update(other.guests)
        self.devices.update(other.devices)
        self.images.update(other.images)

    def copy(self) -> "Names":
        """A copy, which later knowledge does not change."""
        return Names(dict(self.guests), dict(self.devices), dict(self.images))

    def to_json(self) -> dict[str, Any]:
        """Plain data for a recording; `from_json` gives it back."""
        return {
            "guests": [asdict(guest) for guest in self.guests.values()],
            "devices": [[pid, device, asdict(disk)] for (pid, device), disk in self.devices.items()],
            "images": [[pid, image, asdict(disk)] for (pid, image), disk in self.images.items()],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Names":
        """
        Names out of what `to_json` made.

        Raises:
            KeyError, TypeError, ValueError: it is not what `to_json` makes.
        """
        guests = [Guest(**{**row, "disks": tuple(Disk(**disk) for disk in row["disks"])}) for row in data["guests"]]
        return cls(
            {guest.pid: guest for guest in guests},
            {(pid, device): Disk(**disk) for pid, device, disk in data["devices"]},
            {(pid, image): Disk(**disk) for pid, image, disk in data["images"]},
        )
