"""What a test wants of the machine: where it is absent, the test says so and is not run."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

from caffe_parity.caffe import install
from caffe_parity.caffe.interpreter import Interpreter, find


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


def cpu_caffe() -> Interpreter:
    """The Caffe without CUDA that this project installs; not run where it cannot be installed.

    Such as on a machine with a GPU, which has an unpacked Caffe of its own (docs/gpu.md).
    """
    with pytest.MonkeyPatch.context() as variables:
        variables.delenv("CAFFE_PYTHON", raising=False)
        variables.setenv("PARITY_CAFFE", "cpu")
        if install.installed() is None:
            try:
                install.check_host()
            except install.InstallError as error:
                not_run(error.happened)
        return find()
