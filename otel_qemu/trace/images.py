# SPDX-License-Identifier: Apache-2.0
"""Which image each disk uses, learnt from the calls under its requests."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from otel_qemu.trace.arrays.columns import TableLike
from otel_qemu.trace.arrays.groups import grouped

Key = tuple[int, int]
"""Process and SCSIDevice *."""

SILENT_NS = 2_000_000_000
"""A disk whose image has been silent for this long takes over the next image that it calls: it was swapped."""

MOST_DISKS = 65_536
"""Disks that are remembered; of more, those used last."""


class _Used(NamedTuple):
    image: int
    last_ns: int


class Images:
    """
    The image of each disk: the first that it was seen to use, until that is silent and another is not.

    Args:
        most_disks: that are remembered; up to twice as many, until the older half is forgotten.
    """

    def __init__(self, most_disks: int = MOST_DISKS) -> None:
        self._most_disks = most_disks
        self._of: dict[Key, _Used] = {}

    def fit(self, disks: list[Key], own: NDArray[np.int64], calls: TableLike) -> NDArray[np.bool_]:
        """
        Whether each call went to the image of its request's disk; shape (n,).

        Args:
            disks: some, among them those of the calls.
            own: index of each call's disk.
            calls: dtype `CALL`.
        """
        images, begun_ns = calls["image"], calls["submit_ns"]
        groups = grouped(own, images)
        first_ns = np.full(len(groups), np.iinfo("u8").max, dtype="u8")
        last_ns = np.zeros(len(groups), dtype="u8")
        np.minimum.at(first_ns, groups.codes, begun_ns)
        np.maximum.at(last_ns, groups.codes, begun_ns)
        of, image = own[groups.firsts].tolist(), images[groups.firsts].tolist()
        fits = np.zeros(len(groups), dtype=bool)
        for row in np.argsort(first_ns, kind="stable").tolist():
            fits[row] = self._learn(disks[of[row]], image[row], int(first_ns[row]), int(last_ns[row]))
        self._forget()
        return fits[groups.codes]

    def _learn(self, key: Key, image: int, first_ns: int, last_ns: int) -> bool:
        """Take in the calls between two times, after all earlier ones; whether they went to the disk's image."""
        used = self._of.get(key)
        if used is None or used.last_ns + SILENT_NS < first_ns:
            self._of[key] = _Used(image, last_ns)
        elif used.image == image:
            self._of[key] = _Used(image, max(last_ns, used.last_ns))
        else:
            return False
        return True

    def _forget(self) -> None:
        if len(self._of) > 2 * self._most_disks:
            newest = sorted(self._of.items(), key=lambda item: item[1].last_ns)[-self._most_disks :]
            self._of = dict(newest)

    def known(self) -> dict[Key, int]:
        """The image of each disk; a handle that was another disk's before is of who used it last."""
        by_age = sorted(self._of.items(), key=lambda item: item[1].last_ns)
        users = {(pid, used.image): (pid, device) for (pid, device), used in by_age}
        return {key: image for (_, image), key in users.items()}
