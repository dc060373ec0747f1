# SPDX-License-Identifier: Apache-2.0
"""Files of settings that no parser gets through."""

from pathlib import Path

import pytest

from otel_qemu.errors import BadInput
from otel_qemu.settings.file import entries


def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    """In a line: tomllib ends in a RecursionError, which is no ValueError."""
    file = tmp_path / "settings.toml"
    file.write_text(f"bounds = {'[' * 3000}{']' * 3000}")
    with pytest.raises(BadInput, match=f"^{file} is nested too deeply"):
        entries(file)
