"""Makes the parity plugin known to the project's own tests; what several of their files share."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from caffe_parity.caffe.client import Caffe
from caffe_parity.caffe.interpreter import find

pytest_plugins = ["parity_tests.plugin"]

ROOT = Path(__file__).parent
PACKAGES = (
    "caffe_parity",
    "reference",
    "caffe_impl",
    "torch_impl",
    "parity_tests",
    "studies",
    "tests",
)
MODULE = "pytest_caffe_parity.py"


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Ctrl-C reaches what the tests start: a shell's background job would pass on to ignore it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def caffe() -> Iterator[Caffe]:
    """One Caffe for a file of tests: importing it is most of what a small check costs."""
    with Caffe(find()) as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a copy of the examples in it."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
