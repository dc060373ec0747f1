# SPDX-License-Identifier: Apache-2.0
"""Commands run as an ordinary user, with chosen capabilities."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


NOBODY = "65534"


# Wherever the checkout lies, perhaps below a folder that is root's alone: for this command it is at CHECKOUT too.
CHECKOUT = "/mnt/checkout"


WITH_CHECKOUT = (
    'mount -t tmpfs -o mode=755 none /mnt && mkdir /mnt/checkout && mount --bind "$0" /mnt/checkout'
    ' && cd /mnt/checkout && export PYTHONPATH=/mnt/checkout && exec "$@"'
)


PYTHON = sys.executable.replace(str(ROOT), CHECKOUT)


def as_nobody(*capabilities: str) -> list[str]:
    """
    Return a command that runs another one as an ordinary user with these capabilities, in a checkout that this user
    may read.
    """
    plus = ",".join(f"+{name}" for name in capabilities)
    chosen = ["--inh-caps", plus, "--ambient-caps", plus] if plus else []
    seen = ["unshare", "--mount", "sh", "-c", WITH_CHECKOUT, str(ROOT)]
    return [*seen, "setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", *chosen]


def environment(**further: str) -> dict[str, str]:
    return os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)} | further
