# SPDX-License-Identifier: Apache-2.0
"""The Collector is built once for each manifest; a failed build leaves nothing and says why."""

import os
from pathlib import Path

import pytest

from . import collector
from .build import BackendMissing
from .collector import install
from .test_build import GO_VERSION, go, left_in, script

__all__ = ["go"]  # a fixture

# `go install` leaves a builder, which says what it was asked for; `go build -C DIR -v … -o FILE .` has FILE behind -o.
INSTALL = """if [ "$1" = install ]; then printf '#!/bin/sh\\necho "$@" > "$GOBIN/asked"\\n' > "$GOBIN/builder"
chmod +x "$GOBIN/builder"; echo "$2" > "$GOBIN/installed"; exit; fi"""
BUILD = 'while [ "$1" != -o ]; do shift; done; (cat "$GOBIN/installed" "$GOBIN/asked") > "$2"; chmod +x "$2"'


def test_it_is_built_of_the_manifest_once(go: Path, tmp_path: Path) -> None:
    """By the builder of the manifest's version; another manifest is another executable."""
    script(go, GO_VERSION, INSTALL, BUILD)
    cache = tmp_path / "cache"

    built = install(cache, print)

    installed, asked = built.read_text().splitlines()
    assert installed == "go.opentelemetry.io/collector/cmd/builder@v0.159.0"
    assert f"--config={collector.MANIFEST}" in asked
    assert "--skip-compilation" in asked
    assert left_in(cache) == [built.name]
    assert os.access(built, os.X_OK)
    go.unlink()
    assert install(cache, print) == built
    script(go, GO_VERSION, INSTALL, BUILD)
    changed = tmp_path / "builder.yaml"
    changed.write_text(collector.MANIFEST.read_text() + "# changed\n")
    assert install(cache, print, changed) != built
    assert len(left_in(cache)) == 2


def test_a_failed_build_leaves_nothing_and_says_why(go: Path, tmp_path: Path) -> None:
    """Its name and go's last word."""
    script(go, GO_VERSION, INSTALL, "echo x.go: bad >&2; exit 1")
    with pytest.raises(BackendMissing, match=r"Collector 0\.159\.0 could not be built: x\.go: bad$"):
        install(tmp_path / "cache", print)
    assert left_in(tmp_path / "cache") == []
