"""Makes the parity plugin known to the project's own tests, and packs what they install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["parity_tests.plugin"]

ROOT = Path(__file__).parent.parent
PACKAGES = ("caffe_parity", "reference", "caffe_impl", "torch_impl", "parity_tests")
MODULE = "pytest_caffe_parity.py"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this project, made from a copy of its files."""
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
    (made,) = folder.glob("*.whl")
    return made


def tracked() -> list[str]:
    """The files of the packages and what the build needs."""
    files = [
        file
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]
    names = [str(file.relative_to(ROOT)) for file in files]
    return [*names, MODULE, "pyproject.toml", "README.md", "LICENSE"]
