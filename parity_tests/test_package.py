"""The package is whole: what is not Python code is in the wheel, too."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("reference", "caffe_impl", "torch_impl", "parity_tests")
KINDS = {".py", ".prototxt", ".json", ".h", ".hpp", ".cpp", ".cu", ".sh", ".txt", ".npz"}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What a wheel made from a copy of the tracked files holds."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(copy)],
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def tracked() -> list[str]:
    """The files of the packages and what the build needs."""
    files = [
        file
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]
    names = [str(file.relative_to(ROOT)) for file in files]
    return [*names, "pyproject.toml", "README.md", "LICENSE"]


def test_every_file_of_the_packages_is_in_the_wheel(names: set[str]) -> None:
    """Nets, layers, the worker, the compiled layer's sources, schemas: none is left behind."""
    ours = {name for name in tracked() if name.split("/")[0] in PACKAGES}
    wanted = {name for name in ours if Path(name).suffix in KINDS}
    assert wanted - names == set()


def test_command_is_installed(names: set[str]) -> None:
    """The console script `parity` is declared."""
    assert any(name.endswith("entry_points.txt") for name in names)
