# SPDX-License-Identifier: Apache-2.0
"""
Values that strangers chose, made safe to export.

Names come from a guest's XML and block addresses from the guest itself; neither may break a request that carries other
guests' spans.
"""

import re

MASK = "***"
"""Stands for a secret."""

LONGEST_TEXT = 255
"""Characters kept of a text; RBD image names and libvirt domain names are shorter."""


def printable(text: str) -> str:
    """The text as one printable line: controls and lone surrogates are escaped, a long end is cut."""
    shown = text[: LONGEST_TEXT + 1]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    return shown if len(shown) <= LONGEST_TEXT else shown[: LONGEST_TEXT - 1] + "…"


def without_queries(text: str) -> str:
    """A text without the queries of URLs in it, where people put tokens."""
    return re.sub(r"(?<=\S)\?\S+", f"?{MASK}", text)


def without_secrets(url: str) -> str:
    """A URL or ``host:port``, valid or not, without the parts that people put tokens in: user, password and query."""
    return re.sub(r"\?.*", f"?{MASK}", re.sub(r"(//|^(?!.*//)).*@", rf"\1{MASK}@", url))
