# SPDX-License-Identifier: Apache-2.0
"""libvirt's XML, as production has it and as nobody should write it; libvirt itself, as it comes and goes."""

import sys
import time
from types import ModuleType
from xml.etree.ElementTree import ParseError

import pytest

from otel_qemu.probe.domains import Libvirt, parse_domain
from otel_qemu.trace.names import Disk

UUID = "6f0b1f7e-0000-4000-8000-000000000001"
PRODUCTION = f"""
<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>alpha</name>
  <uuid>{UUID.upper()}</uuid>
  <metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>
    <nova:name>a name</nova:name></nova:instance></metadata>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw' cache='writeback' discard='unmap'/>
      <auth username='libvirt'><secret type='ceph' uuid='aaaaaaaa-0000-4000-8000-000000000002'/></auth>
      <source protocol='rbd' name='rbd/alpha-root' index='2'>
        <host name='10.0.0.1' port='6789'/><host name='10.0.0.2' port='6789'/>
        <privateData><nodenames/></privateData>
      </source>
      <backingStore/>
      <target dev='sda' bus='scsi'/>
      <iotune><total_bytes_sec>20971520</total_bytes_sec><total_iops_sec>0</total_iops_sec></iotune>
      <alias name='ua-ceph-root'/>
      <address type='drive' controller='0' bus='0' target='0' unit='0'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <source protocol='rbd' name='rbd/tenant/alpha-data'/>
      <target dev='sdb' bus='scsi'/>
      <iotune><total_bytes_sec> 0 </total_bytes_sec></iotune>
      <alias name='scsi0-0-0-1'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/var/lib/libvirt/images/a.qcow2'/>
      <backingStore type='network'><format type='raw'/><source protocol='rbd' name='rbd/base'/></backingStore>
      <target dev='vda' bus='virtio'/><alias name='virtio-disk0'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sdc' bus='scsi'/><readonly/><alias name='scsi0-0-0-2'/>
    </disk>
  </devices>
</domain>
"""


def one_disk(inside: str) -> Disk:
    (disk,) = parse_domain(f"<domain><devices><disk>{inside}</disk></devices></domain>").disks
    return disk


def test_reads_a_production_domain() -> None:
    """Names, the rbd images behind disks, their formats, and which of them are limited."""
    domain = parse_domain(PRODUCTION)
    assert (domain.uuid, domain.name) == (UUID, "alpha")
    assert domain.disks == (
        Disk("ua-ceph-root", "sda", "rbd", "alpha-root", "raw", throttled=True),
        Disk("scsi0-0-0-1", "sdb", "rbd", "tenant/alpha-data", "raw"),
        Disk("virtio-disk0", "vda", None, None, "qcow2"),
        Disk("scsi0-0-0-2", "sdc"),
    )


@pytest.mark.parametrize(
    ("inside", "disk"),
    [
        ("", Disk("")),
        ("<source protocol='rbd'/>", Disk("")),
        ("<source protocol='rbd' name='pool'/>", Disk("", pool="pool")),
        ("<source protocol='rbd' name='/image'/>", Disk("", image="image")),
        ("<source protocol='nbd' name='a/b'/>", Disk("")),
        ("<iotune/>", Disk("")),
        ("<alias/><target/><driver/>", Disk("")),
    ],
)
def test_what_is_missing_is_not_known(inside: str, disk: Disk) -> None:
    """A disk without the elements or attributes we look for is a disk of which less is known."""
    assert one_disk(inside) == disk


def test_a_group_is_not_a_limit() -> None:
    """A throttle group whose limits are all 0 does not throttle."""
    iotune = "<iotune><total_bytes_sec>0</total_bytes_sec><group_name>drive0</group_name></iotune>"
    assert not one_disk(iotune).throttled


def test_an_empty_domain_has_no_names() -> None:
    """Nothing we look for is there."""
    domain = parse_domain("<domain/>")
    assert (domain.uuid, domain.name, domain.disks) == ("", "", ())


@pytest.mark.parametrize("text", ["", "not XML", "<domain>", "<domain><name>a&b</name></domain>", "<d>&#1;</d>", "\0"])
def test_what_is_not_xml_is_an_error_of_one_kind(text: str) -> None:
    """A ParseError, as documented, whatever is wrong."""
    with pytest.raises(ParseError):
        parse_domain(text)


def test_entities_do_not_blow_up() -> None:
    """A billion laughs are stopped by the parser, at once."""
    levels = "".join(f"<!ENTITY l{i} '{f'&l{i - 1};' * 10}'>" for i in range(1, 12))
    begun = time.monotonic()
    with pytest.raises(ParseError):
        parse_domain(f"<!DOCTYPE d [<!ENTITY l0 'ha'>{levels}]><domain><name>&l11;</name></domain>")
    assert time.monotonic() - begun < 60  # of the hours that it would take


def test_external_entities_are_not_opened() -> None:
    """A name never holds the contents of a file."""
    with pytest.raises(ParseError):
        parse_domain("<!DOCTYPE d [<!ENTITY f SYSTEM 'file:///etc/hostname'>]><domain><name>&f;</name></domain>")


def test_names_are_given_as_they_are() -> None:
    """Control and direction characters that XML allows arrive unchanged: who shows names makes them harmless."""
    name = "a\tb\n\x7f\x85\u202egnol\u200b"
    assert parse_domain(f"<domain><name>{name}</name></domain>").name == name


class NoDomainError(Exception):
    """Imitates libvirt.libvirtError with VIR_ERR_NO_DOMAIN."""

    def get_error_code(self) -> int:
        return 42


class FakeLibvirtModule(ModuleType):
    """Imitates the module `libvirt`: openReadOnly(), and a connection that can die or know no domain."""

    def __init__(self) -> None:
        super().__init__("libvirt")
        self.up = True
        self.opened = 0
        self.failing: Exception | None = None
        self.xml = PRODUCTION

    def registerErrorHandler(self, *_: object) -> None:  # noqa: N802
        """Accepts what silences the real one."""

    def openReadOnly(self, uri: str) -> "FakeLibvirtModule":  # noqa: N802
        if not self.up:
            raise RuntimeError(f"Failed to connect to {uri}")
        self.opened += 1
        return self

    def isAlive(self) -> bool:  # noqa: N802
        return self.up

    def lookupByUUIDString(self, uuid: str) -> "FakeLibvirtModule":  # noqa: N802
        if self.failing:
            raise self.failing
        if uuid != UUID:
            raise NoDomainError
        return self

    def XMLDesc(self) -> str:  # noqa: N802
        return self.xml

    def close(self) -> None:
        self.up = False


class TestConnection:
    """The connection to libvirtd."""

    @pytest.fixture
    def module(self, monkeypatch: pytest.MonkeyPatch) -> FakeLibvirtModule:
        module = FakeLibvirtModule()
        monkeypatch.setitem(sys.modules, "libvirt", module)
        return module

    def test_opens_once(self, module: FakeLibvirtModule) -> None:
        """One connection serves all questions; a domain that is not there is no problem."""
        libvirt = Libvirt()
        domains = [libvirt.domain(uuid) for uuid in (UUID, "another", UUID)]
        assert [domain and domain.name for domain in domains] == ["alpha", None, "alpha"]
        assert (module.opened, libvirt.problem) == (1, None)

    def test_comes_back_after_a_restart(self, module: FakeLibvirtModule) -> None:
        """While libvirtd is down there is a problem with a remedy, and none when it is back."""
        libvirt = Libvirt()
        module.up = False
        assert libvirt.domain(UUID) is None
        assert libvirt.problem is not None
        assert "start libvirtd" in libvirt.problem
        module.up = True
        assert libvirt.domain(UUID) is not None
        assert libvirt.problem is None

    def test_says_when_the_module_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The remedy is the distribution's package."""
        monkeypatch.setitem(sys.modules, "libvirt", None)
        libvirt = Libvirt()
        assert libvirt.domain(UUID) is None
        assert "install python3-libvirt" in (libvirt.problem or "")

    def test_unreadable_xml_is_no_domain(self, module: FakeLibvirtModule) -> None:
        """A domain whose XML is not XML has no names, and hides nobody else's."""
        module.xml = "<domain>"
        assert Libvirt().domain(UUID) is None

    def test_an_answer_that_failed_is_a_problem(self, module: FakeLibvirtModule) -> None:
        """The connection broke while libvirt was asked: that does not mean that there is no such domain."""
        module.failing = OSError("client socket is closed")
        libvirt = Libvirt()
        assert libvirt.domain(UUID) is None
        assert libvirt.problem is not None
