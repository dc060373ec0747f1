# SPDX-License-Identifier: Apache-2.0
"""
``python3 -m tests.lab up | guest | down``: the lab by hand.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.lab import preflight
from tests.lab.disk import Disk
from tests.lab.errors import LabError
from tests.lab.roots import PACKAGES

try:
    from tests.lab.lab import DEFAULT_ROOT, Lab, down
except ModuleNotFoundError as missing:
    sys.exit(f"error: Python module missing, {missing.name}: apt-get install python3-libvirt")


def main() -> int:
    """Run one command; an error is one line on stderr and exit code 1."""
    try:
        arguments = _parser().parse_args()
        preflight.root_user()
        arguments.run(arguments)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tests.lab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="bring up Ceph and libvirt; they stay until `down`")
    up.add_argument("--port", type=int, help="the Ceph monitor's port; any free one by default")
    up.set_defaults(run=_up)
    guest = commands.add_parser("guest", help="start a guest, or use the one of that name, and run a command in it")
    guest.add_argument("name")
    guest.add_argument("--disk", type=Disk.parse, action="append", default=[], metavar="IMAGE:SIZE_MIB[:BYTES_PER_S]")
    guest.add_argument("--suite", choices=PACKAGES, help="of the Debian whose QEMU runs it; this machine's by default")
    guest.add_argument("--run", dest="script", metavar="COMMAND", help="a shell command to run inside")
    guest.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="for the command; 120")
    guest.set_defaults(run=_guest)
    take_down = commands.add_parser("down", help="end everything and remove it")
    take_down.set_defaults(run=lambda arguments: down(arguments.root))
    for command in (up, guest, take_down):
        command.add_argument("--root", type=Path, default=DEFAULT_ROOT, help=f"the lab's folder; {DEFAULT_ROOT}")
    return parser


def _up(arguments: argparse.Namespace) -> None:
    Lab.up(arguments.root, port=arguments.port)


def _guest(arguments: argparse.Namespace) -> None:
    lab = Lab.attach(arguments.root)
    guest = lab.guests.get(arguments.name)
    if guest is None or not guest.is_running():
        guest = lab.guest(arguments.name, arguments.disk, suite=arguments.suite)
    elif arguments.disk or arguments.suite:
        raise LabError(f"already running, guest {arguments.name}: leave out --disk and --suite, or destroy it first")
    if arguments.script:
        print(guest.run(arguments.script, arguments.timeout), end="")


if __name__ == "__main__":
    sys.exit(main())
