# SPDX-License-Identifier: Apache-2.0
"""
Read the text format that Prometheus scrapes.
"""

import re

_LINE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>(?:[^\"}]|\"(?:[^\"\\]|\\.)*\")*)\})? \S+", re.M)
_LABEL = re.compile(r"(\w+)=\"(?:[^\"\\]|\\.)*\"")


def labels_by_series(text: str) -> dict[str, set[str]]:
    """
    Return the labels that each metric has anywhere, by the metric's name.
    """
    found: dict[str, set[str]] = {}
    for line in _LINE.finditer(text):
        found.setdefault(line["name"], set()).update(_LABEL.findall(line["labels"] or ""))
    return found
