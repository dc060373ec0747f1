# SPDX-License-Identifier: Apache-2.0
"""
A guest's XML, as production writes it: no ``<qemu:commandline>``, rbd disks on virtio-scsi with an iothread.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from tests.lab.disk import Disk

CHANNEL = "otel-qemu.lab"


@dataclass(frozen=True)
class Machine:
    """
    Everything about a guest that libvirt, or QEMU itself, has to know.
    """

    name: str
    uuid: str
    disks: tuple[Disk, ...]
    kernel: Path
    initramfs: Path
    console: Path
    channel: Path
    ceph_conf: Path
    ceph_port: int
    ceph_pool: str
    memory_mib: int
    vcpus: int
    accelerator: str

    @property
    def kernel_options(self) -> str:
        """The kernel's command line."""
        # edd=off: the BIOS's disk probing would add seconds, and reads of the disks that nobody asked for.
        return f"console=ttyS0 loglevel=4 panic=-1 edd=off random.trust_cpu=on lab.disks={len(self.disks)}"


def domain_xml(machine: Machine) -> str:
    """The domain's XML."""
    # TCG, since a nested lab may have no usable KVM; the storage path is the same.
    domain = Element("domain", type=machine.accelerator)
    _text(domain, "name", machine.name)
    _text(domain, "uuid", machine.uuid)
    _text(domain, "memory", str(machine.memory_mib), unit="MiB")
    _text(domain, "vcpu", str(machine.vcpus))
    _text(domain, "iothreads", "1")
    _boot(domain, machine)
    SubElement(SubElement(domain, "features"), "acpi")
    # A guest that panics or powers off is over: the lab waits for the end of its process.
    for event in ("on_poweroff", "on_reboot", "on_crash"):
        _text(domain, event, "destroy")
    _devices(domain, machine)
    indent(domain)
    return tostring(domain, encoding="unicode")


def _text(parent: Element, tag: str, text: str, **attributes: str) -> Element:
    element = SubElement(parent, tag, attributes)
    element.text = text
    return element


def _boot(domain: Element, machine: Machine) -> None:
    boot = SubElement(domain, "os")
    _text(boot, "type", "hvm", arch="x86_64", machine="q35")
    _text(boot, "kernel", str(machine.kernel))
    _text(boot, "initrd", str(machine.initramfs))
    _text(boot, "cmdline", machine.kernel_options)


def _devices(domain: Element, machine: Machine) -> None:
    devices = SubElement(domain, "devices")
    for unit, disk in enumerate(machine.disks):
        _disk(devices, machine, disk, unit)
    controller = SubElement(devices, "controller", type="scsi", index="0", model="virtio-scsi")
    SubElement(controller, "driver", iothread="1")
    SubElement(devices, "controller", type="usb", model="none")
    serial = SubElement(devices, "serial", type="file")
    SubElement(serial, "source", path=str(machine.console))
    channel = SubElement(devices, "channel", type="unix")
    SubElement(channel, "source", mode="bind", path=str(machine.channel))
    SubElement(channel, "target", type="virtio", name=CHANNEL)
    SubElement(devices, "memballoon", model="none")


def _disk(devices: Element, machine: Machine, disk: Disk, unit: int) -> None:
    element = SubElement(devices, "disk", type="network", device="disk")
    driver = SubElement(element, "driver", name="qemu", type="raw", cache=disk.cache, discard="unmap")
    if disk.error_policy:
        driver.attrib.update(error_policy=disk.error_policy, rerror_policy=disk.error_policy)
    source = SubElement(element, "source", protocol="rbd", name=f"{machine.ceph_pool}/{disk.image}")
    SubElement(source, "host", name="127.0.0.1", port=str(machine.ceph_port))
    SubElement(source, "config", file=str(machine.ceph_conf))
    SubElement(element, "target", dev=f"sd{chr(ord('a') + unit)}", bus="scsi")
    _iotune(element, disk)
    SubElement(element, "alias", name=disk.alias)
    SubElement(element, "address", type="drive", controller="0", bus="0", target="0", unit=str(unit))


def _iotune(element: Element, disk: Disk) -> None:
    limits = {"total_bytes_sec": disk.bytes_per_s, "total_iops_sec": disk.iops}
    given = {name: limit for name, limit in limits.items() if limit}
    if given:
        iotune = SubElement(element, "iotune")
        for name, limit in given.items():
            _text(iotune, name, str(limit))
