# SPDX-License-Identifier: Apache-2.0
"""
What ``down`` has to undo, kept in ``ROOT/state.json``.

A thing is written down before it is started, so that a lab killed at any moment can still be taken down.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.errors import LabError


@dataclass
class Process:
    """
    A daemon of ours: found by pid and start time once known, and by program and ``token`` until then.
    """

    name: str
    token: str
    pid: int = 0
    start_ticks: int = 0


@dataclass
class Domain:
    """
    A guest, as far as another process needs it to go on with it.
    """

    name: str
    uuid: str
    disks: list[dict[str, Any]]
    suite: str | None = None
    """Of its root; None for a guest of libvirt's."""


@dataclass
class State:
    """
    The state file and what it says.
    """

    root: Path
    root_is_ours: bool = True
    port: int = 0
    kernel: str = ""
    initramfs: str = ""
    leftovers: list[str] = field(default_factory=list)
    processes: dict[str, Process] = field(default_factory=dict)
    domains: dict[str, Domain] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The state file."""
        return self.root / "state.json"

    @classmethod
    def create(cls, root: Path) -> State:
        """Make the root folder, which has to be absent or empty, and the first state file."""
        if not root.parent.is_dir():
            raise LabError(f"no such folder, {root.parent}: create it, or choose another --root")
        if cls(root).path.exists():
            raise LabError(f"a lab is already there, {root}: python3 -m tests.lab down --root {root}")
        if root.exists() and any(root.iterdir()):
            raise LabError(f"folder is not empty, {root}: choose another --root")
        state = cls(root, root_is_ours=not root.exists())
        root.mkdir(mode=0o755, exist_ok=True)
        state.save()
        return state

    @classmethod
    def load(cls, root: Path) -> State | None:
        """Read the state of the lab at `root`; None when there is none."""
        try:
            raw = json.loads(cls(root).path.read_text())
        except FileNotFoundError:
            return None
        raw["processes"] = {key: Process(**value) for key, value in raw["processes"].items()}
        raw["domains"] = {key: Domain(**value) for key, value in raw["domains"].items()}
        return cls(root, **raw)

    def save(self) -> None:
        """Write the file; a reader sees the old or the new one, never half of it."""
        raw = asdict(self)
        del raw["root"]
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps(raw, indent=1))
        os.replace(draft, self.path)

    def remove_leftovers(self) -> None:
        """Remove what others made for us outside the root."""
        for leftover in map(Path, self.leftovers):
            remove(leftover)
        self.leftovers.clear()
        self.save()

    def erase(self) -> None:
        """Remove everything below the root, the state file last, and the root if it is ours."""
        for path in self.root.iterdir():
            if path != self.path:
                remove(path)
        self.path.unlink(missing_ok=True)
        if self.root_is_ours:
            self.root.rmdir()


def remove(path: Path) -> None:
    """Remove a file, socket or tree, if it is there; a control group's files go with their folder."""
    if path.is_relative_to("/sys"):
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
