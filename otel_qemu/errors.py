# SPDX-License-Identifier: Apache-2.0
"""
The errors that a person can do something about.

    OtelQemuError
    ├── NothingToTrace   exit 3: no QEMU process, or none that can be traced
    ├── NotPossible      exit 4: rights or parts are missing here
    └── BadInput         exit 2: a setting, a file or an argument is invalid

Only `cli.main` prints them: one line, ``error: what, about which thing: what to do``.
"""


class OtelQemuError(Exception):
    """An error whose text is written for the person at the terminal; `exit_code` is the command's."""

    exit_code = 1


class BadInput(OtelQemuError):
    """A setting, a file or an argument is invalid."""

    exit_code = 2


class NothingToTrace(OtelQemuError):
    """There is no QEMU process here, or none of them can be traced."""

    exit_code = 3


class NotPossible(OtelQemuError):
    """Rights or parts that tracing needs are missing on this machine."""

    exit_code = 4
