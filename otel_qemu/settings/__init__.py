# SPDX-License-Identifier: Apache-2.0
"""
The settings of `run`, beside the standard ``OTEL_*`` variables.

Each setting has one name: ``--one-in`` on the command line, ``OTEL_QEMU_ONE_IN`` in the environment, ``one-in`` in the
file.  The first of these three that gives a value wins.  `types` reads and shows values, `file` finds the line of each
key, `option` is what click takes values from, and `table` lists the settings.
"""

from otel_qemu.settings.table import SETTINGS, Settings

__all__ = ["SETTINGS", "Settings"]
