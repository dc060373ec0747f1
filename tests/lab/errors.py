# SPDX-License-Identifier: Apache-2.0
"""
What can go wrong in the lab.

LabError
└── GuestError    a command in a guest failed, or the guest never answered
"""


class LabError(Exception):
    """
    One line: what, about which thing: remedy.  Further lines, if any, are the evidence.
    """


class GuestError(LabError):
    """
    A guest's command failed; ``output`` is what it had said by then.
    """

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(f"{message}\n{output.rstrip()}" if output.strip() else message)
        self.output = output
