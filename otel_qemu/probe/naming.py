# SPDX-License-Identifier: Apache-2.0
"""Names for the pointers in records, from libvirt and from the process's memory, looked up once for each new disk."""

from collections.abc import Callable

from otel_qemu.probe.device_alias import device_alias
from otel_qemu.trace.arrays.columns import TableLike
from otel_qemu.trace.arrays.groups import grouped
from otel_qemu.trace.names import Disk, Guest, Names


class Naming:
    """A store of names, which looks up each pointer that is new."""

    def __init__(self, describe: Callable[[int], Guest | None]) -> None:
        """
        Begin with nothing.

        Args:
            describe: asks libvirt about the guest of a process, when a trace has a disk that is new.
        """
        self._describe = describe
        self.names = Names()
        """All names that are known so far."""

    def learn_guests(self, guests: dict[int, Guest]) -> bool:
        """Take libvirt's description of the guest of each process; returns whether any was new."""
        changed = {pid: guest for pid, guest in guests.items() if self.names.guests.get(pid) != guest}
        for pid, guest in changed.items():
            self._forget(pid)
            self.names.guests[pid] = guest
        return bool(changed)

    def learn_devices(self, rows: TableLike) -> bool:
        """Name the disks of rows that have ``pid`` and ``device``; returns whether any was new."""
        firsts = grouped(rows["pid"], rows["device"]).firsts
        pairs = zip(*(rows[name][firsts].tolist() for name in ("pid", "device")), strict=True)
        fresh = [key for key in sorted(pairs) if key[1] and key not in self.names.devices]
        for pid, device in fresh:
            self.names.devices[pid, device] = self._disk(pid, device)
        return bool(fresh)

    def learn_images(self, image_of: dict[tuple[int, int], int]) -> bool:
        """Name images by the disks that use them: (pid, SCSIDevice *) → rbd_image_t; returns whether any was new."""
        known = {(key[0], image): self.names.devices.get(key) for key, image in image_of.items()}
        fresh = {key: disk for key, disk in known.items() if disk and self.names.images.get(key) != disk}
        self.names.images.update(fresh)
        return bool(fresh)

    def forget(self, pid: int) -> None:
        """Forget all names of a process that has ended."""
        self.names.guests.pop(pid, None)
        self._forget(pid)

    def _disk(self, pid: int, device: int) -> Disk:
        alias = device_alias(pid, device) or f"0x{device:x}"
        return self._known(pid, alias) or self._plugged_in(pid, alias) or Disk(alias)

    def _known(self, pid: int, alias: str) -> Disk | None:
        return next((disk for disk in self.names.guest(pid).disks if disk.alias == alias), None)

    def _plugged_in(self, pid: int, alias: str) -> Disk | None:
        guest = self._describe(pid)
        if guest:
            self.names.guests[pid] = guest
        return self._known(pid, alias)

    def _forget(self, pid: int) -> None:
        """Forget a guest's disks and images: they have changed, or another guest has its process id."""
        for table in (self.names.devices, self.names.images):
            for key in [key for key in table if key[0] == pid]:
                del table[key]
