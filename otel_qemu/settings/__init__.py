"""
The settings of `run`, beside the standard ``OTEL_*`` variables.

Each setting has one name: ``--one-in`` on the command line, ``OTEL_QEMU_ONE_IN`` in the environment, ``one-in`` in the
file.  The first of these three that gives a value wins.  `types` reads and shows values, `file` gives
keys their lines, `option` tells click of both, and `table` lists the settings.
"""

from otel_qemu.settings.table import SETTINGS, Effective, Settings, settings_in_force

__all__ = ["SETTINGS", "Effective", "Settings", "settings_in_force"]
