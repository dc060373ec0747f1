# SPDX-License-Identifier: Apache-2.0
"""Names for pointers: of devices by their alias in the process's memory, of images by the disks that use them."""

import ctypes
import os
from dataclasses import replace

import pytest

from otel_qemu.probe.naming import Naming
from otel_qemu.trace.names import Disk, Guest, Names
from otel_qemu.trace.traces import REQUEST, Table
from tests.support.builders import ALPHA, IMAGE, ROOT, table

ME = replace(ALPHA, pid=os.getpid())


class Device:
    """Imitates QEMU's SCSIDevice in this process's memory: DeviceState.id, a char *, lies at 0x28."""

    def __init__(self, alias: bytes | None) -> None:
        self._text = ctypes.create_string_buffer(alias, 256) if alias is not None else None
        pointer = ctypes.addressof(self._text) if self._text else 0
        self._memory = (ctypes.c_uint64 * 8)(*[0] * 5, pointer)
        self.address = ctypes.addressof(self._memory)


class Asked:
    """Imitates Selection.describe: what libvirt says of a process now, and how often it was asked."""

    def __init__(self, guest: Guest | None = None) -> None:
        self.guest = guest
        self.times = 0

    def __call__(self, pid: int) -> Guest | None:
        self.times += 1
        return self.guest


def requests(*devices: int, pid: int = ME.pid) -> Table:
    """A request of each device."""
    found: Table = table(REQUEST, [{"pid": pid, "device": device} for device in devices])
    return found


def test_a_device_is_the_disk_with_its_alias() -> None:
    """The alias in QEMU's memory leads to what libvirt says of the disk; libvirt is not asked again."""
    device, asked = Device(b"ua-ceph-root"), Asked()
    naming = Naming(asked)
    assert naming.learn_guests({ME.pid: ME})
    assert naming.learn_devices(requests(device.address, device.address))
    assert naming.names.disk(ME.pid, device.address) == ROOT
    assert not naming.learn_devices(requests(device.address))
    assert asked.times == 0


def test_a_disk_that_was_plugged_in_is_asked_for() -> None:
    """An alias that is new asks libvirt once, and then the disk has its names."""
    device, other = Device(b"scsi0-0-0-7"), Disk("scsi0-0-0-7", "sdh", "rbd", "more")
    asked = Asked(replace(ME, disks=(ROOT, other)))
    naming = Naming(asked)
    naming.learn_guests({ME.pid: ME})
    naming.learn_devices(requests(device.address))
    naming.learn_devices(requests(device.address))
    assert naming.names.disk(ME.pid, device.address) == other
    assert asked.times == 1


@pytest.mark.parametrize(
    ("alias", "name"), [(b"disk of nobody", "disk of nobody"), (b"\xff\xfe", "\ufffd\ufffd"), (b"", None), (None, None)]
)
def test_an_unknown_disk_has_its_alias_or_its_pointer(alias: bytes | None, name: str | None) -> None:
    """Nothing is guessed: the alias that QEMU has, or the pointer where it has none."""
    device = Device(alias)
    naming = Naming(Asked())
    naming.learn_devices(requests(device.address))
    assert naming.names.disk(ME.pid, device.address).alias == (name or f"0x{device.address:x}")


@pytest.mark.parametrize("address", [0, 8, 2**47, 2**63, 2**64 - 1])
def test_memory_that_cannot_be_read_has_no_name(address: int) -> None:
    """A pointer into nowhere is shown as the pointer."""
    naming = Naming(Asked())
    naming.learn_devices(requests(address))
    assert naming.names.disk(ME.pid, address).alias == f"0x{address:x}"


def test_an_alias_ends_somewhere() -> None:
    """Memory without a zero byte within reach is no name."""
    device = Device(b"x" * 256)
    naming = Naming(Asked())
    naming.learn_devices(requests(device.address))
    assert naming.names.disk(ME.pid, device.address).alias == f"0x{device.address:x}"


def test_a_process_that_ended_has_no_names() -> None:
    """Its memory is gone; its disks go by their pointers."""
    naming = Naming(Asked())
    naming.learn_devices(requests(0x1000, pid=2**22 + 1))
    assert naming.names.disk(2**22 + 1, 0x1000).alias == "0x1000"


def test_an_image_is_called_by_the_disk_that_uses_it() -> None:
    """What the correlator saw joins the image's handle to the disk's names."""
    device = Device(b"ua-ceph-root")
    naming = Naming(Asked())
    naming.learn_guests({ME.pid: ME})
    naming.learn_devices(requests(device.address))
    assert naming.learn_images({(ME.pid, device.address): IMAGE})
    assert naming.names.image(ME.pid, IMAGE) == ROOT
    assert not naming.learn_images({(ME.pid, device.address): IMAGE})


def test_a_handle_that_another_disk_has_now_is_called_by_that() -> None:
    """After a hot-plug librbd may open another image at the address of one that was closed."""
    first, second = Device(b"ua-ceph-root"), Device(b"ua-data")
    data = Disk("ua-data", "sdb", "rbd", "data")
    naming = Naming(Asked())
    naming.learn_guests({ME.pid: replace(ME, disks=(ROOT, data))})
    naming.learn_devices(requests(first.address, second.address))
    naming.learn_images({(ME.pid, first.address): IMAGE})
    assert naming.learn_images({(ME.pid, second.address): IMAGE})
    assert naming.names.image(ME.pid, IMAGE) == data


def test_a_process_is_forgotten_when_all_is_said() -> None:
    """A service that runs for months meets more guests than it needs to know."""
    device = Device(b"ua-ceph-root")
    naming = Naming(Asked())
    naming.learn_guests({ME.pid: ME})
    naming.learn_devices(requests(device.address))
    naming.learn_images({(ME.pid, device.address): IMAGE})
    naming.forget(ME.pid)
    assert naming.names == Names()


def test_a_guest_that_changed_is_learnt_again() -> None:
    """A process id that another guest has now, or other disks: what was known of it is forgotten."""
    device = Device(b"ua-ceph-root")
    naming = Naming(Asked())
    naming.learn_guests({ME.pid: ME})
    naming.learn_devices(requests(device.address))
    assert not naming.learn_guests({ME.pid: ME})
    assert naming.learn_guests({ME.pid: replace(ME, name="beta", disks=())})
    assert naming.names.disk(ME.pid, device.address).alias == f"0x{device.address:x}"


def test_an_image_waits_for_its_disk() -> None:
    """After a guest changed, an idle disk's image gets its name when the disk has one again."""
    device = Device(b"ua-ceph-root")
    naming = Naming(Asked())
    naming.learn_guests({ME.pid: replace(ME, name=None)})
    naming.learn_devices(requests(device.address))
    naming.learn_guests({ME.pid: ME})
    naming.learn_images({(ME.pid, device.address): IMAGE})
    naming.learn_devices(requests(device.address))
    naming.learn_images({(ME.pid, device.address): IMAGE})
    assert naming.names.image(ME.pid, IMAGE) == ROOT


def test_no_requests_teach_nothing() -> None:
    """An empty batch is a batch."""
    naming = Naming(Asked())
    assert not naming.learn_devices(requests())
    assert not naming.learn_images({})
    assert not naming.learn_guests({})
