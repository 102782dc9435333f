"""The package is whole: what is not Python code is in the wheel, too."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from conftest import MODULE, PACKAGES, tracked

SOURCES = {".py", ".h", ".hpp", ".cpp", ".cu", ".sh"}
KINDS = SOURCES | {".prototxt", ".json", ".txt", ".npz", ".typed"}


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """What the wheel holds."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_file_of_the_packages_is_in_the_wheel(names: set[str]) -> None:
    """Nets, layers, the worker, the compiled layer's sources, schemas: none is left behind."""
    ours = {name for name in tracked() if name.split("/")[0] in PACKAGES}
    wanted = {name for name in ours if Path(name).suffix in KINDS}
    assert (wanted | {MODULE}) - names == set()


def test_command_is_installed(names: set[str]) -> None:
    """The console script `parity` and the plugin of pytest are declared."""
    assert any(name.endswith("entry_points.txt") for name in names)
