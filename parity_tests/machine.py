"""What a test wants of the machine: where it is absent, the test says so and is not run."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def not_run(reason: str) -> NoReturn:
    """Ends a test that this machine lacks the tool or the device for."""
    pytest.skip(f"not run: {reason}")


def tool(*names: str) -> str:
    """The path of the first of these programs that there is; not run where there is none."""
    for name in names:
        path = shutil.which(name)
        if path:
            return path
    not_run(f"no {names[0]}")


def nvcc() -> str:
    """The CUDA compiler, on PATH or in CUDA_HOME."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return tool("nvcc", *([f"{home}/bin/nvcc"] if home else []))
