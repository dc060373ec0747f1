"""
What the service is told, beside the standard ``OTEL_*`` variables.

Each setting has one name: ``--one-in`` on the command line, ``OTEL_QEMU_ONE_IN`` in the environment, ``one-in`` in the
file; the earlier of these wins.  `table` says what there is, `kinds` what each may be, `sources` where it came from,
`printed` shows it.
"""

from otel_qemu.settings.printed import print_config
from otel_qemu.settings.sources import DEFAULT_FILE, Effective, read_settings
from otel_qemu.settings.table import SETTINGS, Setting, Settings

__all__ = ["DEFAULT_FILE", "SETTINGS", "Effective", "Setting", "Settings", "print_config", "read_settings"]
