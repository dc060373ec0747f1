# SPDX-License-Identifier: Apache-2.0
"""
Domains and their disks, as libvirt names them.  No other module imports libvirt.

The XML is untrusted.  It is parsed for a few attributes; nothing in it is executed, opened or expanded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from otel_qemu.trace.names import Disk

URI = "qemu:///system"
_NO_DOMAIN = 42  # VIR_ERR_NO_DOMAIN


@dataclass(frozen=True)
class Domain:
    """One running domain: its names and disks."""

    uuid: str
    name: str
    disks: tuple[Disk, ...]


class Libvirt:
    """A read-only connection to libvirt, opened when it is first needed, and again after libvirtd has restarted."""

    def __init__(self, uri: str = URI) -> None:
        self._uri = uri
        self._connection: Any = None
        self.problem: str | None = None
        """The reason why names are missing, with the remedy; None if libvirt answers."""

    def domain(self, uuid: str) -> Domain | None:
        """Return a running domain; None if there is no such domain.  If libvirt does not answer, `problem` is set."""
        try:
            found = parse_domain(self._connect().lookupByUUIDString(uuid).XMLDesc())
        except Exception as error:  # libvirt.libvirtError, which can only be named if libvirt is installed
            found = None
            if not _is_absence(error):
                self._connection = None
                self.problem = _problem(error, self._uri)
                return None
        self.problem = None
        return found

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


def _is_absence(error: Exception) -> bool:
    """Whether libvirt has answered that there is no such domain."""
    code = getattr(error, "get_error_code", None)
    return code is not None and code() == _NO_DOMAIN


def _problem(error: Exception, uri: str) -> str:
    if isinstance(error, ImportError):
        return "no Python module libvirt, so guests and disks have ids for names: install python3-libvirt"
    return f"libvirt does not answer at {uri} ({error}), so guests and disks have ids for names: start libvirtd"


def parse_domain(xml: str) -> Domain:
    """
    Parse a domain's live XML (https://libvirt.org/formatdomain.html).

    Raises:
        xml.etree.ElementTree.ParseError: the text is not XML.
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
        throttled=any(_is_limit(setting) for setting in disk.iterfind("./iotune/*")),
    )


def _is_limit(setting: ElementTree.Element) -> bool:
    """Whether a child of ``<iotune>`` is a limit: a number above 0.  A ``group_name`` of digits is no limit."""
    text = (setting.text or "").strip()
    return setting.tag != "group_name" and text.isdecimal() and int(text) > 0


def _attributes(element: ElementTree.Element, child: str) -> Mapping[str, str]:
    found = element.find(child)
    return {} if found is None else found.attrib
