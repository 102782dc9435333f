"""The fixed layers of each type, and those that nobody may compute."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from studies.layers.example import Example, read

FOLDER = Path(__file__).parent

CORNERS: Mapping[str, tuple[Example, ...]] = {
    kind: tuple(read(kind, line) for line in lines)
    for kind, lines in tomllib.loads((FOLDER / "corners.toml").read_text()).items()
}
"""What each type is tried on whatever the search draws."""
