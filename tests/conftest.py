"""What a user has: the wheel, installed alone, and installed beside other plugins of pytest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from caffe_parity.caffe import drop_in
from caffe_parity.caffe.compile import CompileError
from caffe_parity.caffe.drop_in import Plan

ROOT = Path(__file__).parent.parent
FOLDERS = (
    "caffe_parity",
    "reference",
    "caffe_impl",
    "torch_impl",
    "parity_tests",
    "tests",
    "studies",
    "examples",
)
CROWD = ("pytest-timeout", "pytest-cov", "pytest-randomly", "pytest-html", "pytest-benchmark")


@dataclass(frozen=True)
class Installed:
    """A Python that has the wheel and does not see this checkout.

    Attributes:
        python: the interpreter.
        site: the folder to add to its path, if the wheel is not in its own.
    """

    python: Path
    site: Path | None = None

    def run(self, folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
        """The exit status and the output of a Python command in a folder."""
        environment = {name: each for name, each in os.environ.items() if name != "PYTHONPATH"}
        if self.site:
            environment["PYTHONPATH"] = str(self.site)
        done = subprocess.run(
            [self.python, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**environment, **variables},
            timeout=300,
        )
        return done.returncode, done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this project, made from a copy of its files."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "conftest.py"):
        shutil.copy(ROOT / name, copy)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(copy)],
        check=True,
        capture_output=True,
    )
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The Python that runs the tests, with the wheel and nothing else that it does not have."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*command, "--target", str(folder), str(wheel)], check=True)
    return Installed(Path(sys.executable), folder)


@pytest.fixture(scope="session")
def crowded(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A Python with the wheel and `CROWD`; PyTorch, NumPy and pytest it has from this one."""
    folder = tmp_path_factory.mktemp("crowded")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.check_output([python, "-c", asked], text=True).strip()
    Path(own, "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, *CROWD], check=True)
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    return Installed(python)


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The Caffes that would be built with a user's files; that takes minutes, so it is refused."""
    plans: list[Plan] = []

    def build(plan: Plan) -> Path:
        plans.append(plan)
        raise CompileError("none is built in tests")

    monkeypatch.setattr(drop_in, "build", build)
    return plans
