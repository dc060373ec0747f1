"""
libvirt's view: which domain a QEMU process runs, and what its disks are called.  This module alone imports libvirt.

The XML is untrusted text: it is parsed for a few attributes, and nothing of it is executed, opened or expanded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from otel_qemu.trace.names import Disk

URI = "qemu:///system"


@dataclass(frozen=True)
class Domain:
    """One running domain: its names and disks."""

    uuid: str
    name: str
    disks: tuple[Disk, ...]


class Libvirt:
    """A read-only connection that is opened when first needed, and again after libvirtd was restarted."""

    def __init__(self, uri: str = URI) -> None:
        self._uri = uri
        self._connection: Any = None
        self.problem: str | None = None
        """Why names are missing, with the remedy; None while all is well."""

    def domain(self, uuid: str) -> Domain | None:
        """A running domain; None when there is none, or, with `problem` set, when libvirt cannot be asked."""
        try:
            connection = self._connect()
        except Exception as error:  # libvirt.libvirtError; its class is only there when the module is
            self._connection = None
            self.problem = _problem(error, self._uri)
            return None
        self.problem = None
        try:
            return parse_domain(connection.lookupByUUIDString(uuid).XMLDesc())
        except Exception:  # no such domain, or it has just ended; ParseError cannot be, and would mean the same
            return None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> Any:
        if self._connection is None or not self._connection.isAlive():
            import libvirt

            libvirt.registerErrorHandler(lambda *_: None, None)  # else it prints every error itself
            self._connection = libvirt.openReadOnly(self._uri)
        return self._connection


def _problem(error: Exception, uri: str) -> str:
    if isinstance(error, ImportError):
        return "no Python module libvirt, so guests and disks are given by id: install python3-libvirt"
    return f"libvirt does not answer at {uri} ({error}), so guests and disks are given by id: start libvirtd"


def parse_domain(xml: str) -> Domain:
    """
    A domain out of its live XML (https://libvirt.org/formatdomain.html).

    Raises:
        xml.etree.ElementTree.ParseError: it is not XML.
    """
    root = ElementTree.fromstring(xml)
    disks = tuple(_disk(disk) for disk in root.iterfind("./devices/disk"))
    return Domain((root.findtext("uuid") or "").lower(), root.findtext("name") or "", disks)


def _disk(disk: ElementTree.Element) -> Disk:
    source = _attributes(disk, "source")
    pool, image = None, None
    if source.get("protocol") == "rbd":
        pool, _, image = source.get("name", "").partition("/")
    return Disk(
        alias=_attributes(disk, "alias").get("name", ""),
        target=_attributes(disk, "target").get("dev"),
        pool=pool or None,
        image=image or None,
        format=_attributes(disk, "driver").get("type"),
        throttled=any((limit.text or "0").strip() != "0" for limit in disk.iterfind("./iotune/*")),
    )


def _attributes(element: ElementTree.Element, child: str) -> Mapping[str, str]:
    found = element.find(child)
    return {} if found is None else found.attrib
