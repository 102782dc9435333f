"""Caffe on a GPU, and the proof that it was one.

`set_mode_gpu()` succeeds on every Caffe and every machine, so that it ran says nothing. What does:
the worker saw a device and a Caffe with CUDA (its greeting), a net takes the device's memory, and
kernels are launched, which a library that is loaded before Caffe counts.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from caffe_parity.caffe import compile as plugin
from caffe_parity.caffe import driver
from caffe_parity.caffe.client import Caffe, Op
from caffe_parity.caffe.interpreter import Interpreter, NoCaffe, find
from caffe_parity.caffe.programs import first_error

COUNTER = Path(__file__).with_name("count_launches.cpp")
PROOF_SHAPE = (16, 1, 1024, 1024)
"""64 MiB an input: far more than a CUDA context or another process takes by chance."""

PROOF = """
layer { name: "x1" type: "Input" top: "x1" input_param { shape { dim: 1 } } }
layer { name: "x2" type: "Input" top: "x2" input_param { shape { dim: 1 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "x1" bottom: "x2" top: "loss" }
"""
"""The net of `prove`."""


class NotTheGpu(NoCaffe):
    """Caffe says that it runs on a GPU, and does not; the message says how that is known."""


class GpuCaffe(Caffe):
    """A Caffe in GPU mode that counts the kernels it launches.

    Attributes:
        kernels: how many were launched in all requests that succeeded.
        memory_mb: the device memory that the net of `prove` took; None before that.
    """

    def __init__(self, interpreter: Interpreter, timeout: float = 60.0) -> None:
        super().__init__(interpreter, timeout, mode="gpu")
        self.kernels = 0
        self.memory_mb: int | None = None

    def request(self, ops: Sequence[Op]) -> list[dict[str, Any]]:
        """As `Caffe.request`."""
        *results, count = super().request([*ops, {"op": "launches"}])
        self.kernels += count["launches"]
        return results


@cache
def gpu_caffe() -> GpuCaffe:
    """The one Caffe in GPU mode that the variants share; starts at its first request.

    Raises:
        NoCaffe, InstallError: there is no Caffe with CUDA.
        CompileError: what counts the kernels cannot be built.
    """
    with _caffe_with_cuda():
        found = find()
    settings = {
        **found.environment,
        "PARITY_LAUNCH_COUNTER": str(launch_counter(found)),
        "NVIDIA_TF32_OVERRIDE": "0",  # for cuBLAS; see full_precision for PyTorch
    }
    return GpuCaffe(replace(found, environment=settings))


@contextlib.contextmanager
def _caffe_with_cuda() -> Iterator[None]:
    """Of the Caffes that the project installs, wants the one with CUDA; unless the user said."""
    if os.environ.get("PARITY_CAFFE"):
        yield
        return
    os.environ["PARITY_CAFFE"] = "cuda"
    try:
        yield
    finally:
        del os.environ["PARITY_CAFFE"]


def launch_counter(interpreter: Interpreter) -> Path:
    """The library that counts kernels in the worker, compiled if it is not in the cache.

    It links to nothing, so the host's compiler does for every Caffe; else that Caffe's own.

    Raises:
        CompileError: there is no compiler.
    """
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++", "cc"))), None)
    if compiler is None and interpreter.source.startswith("installed"):
        root = Path(interpreter.command[-1]).parents[2]  # ROOT/usr/bin/python3.9
        compiler = str(plugin.toolchain(root) / "g++")
    if compiler is None:
        raise plugin.CompileError(
            "There is no C++ compiler for what counts the kernels that Caffe launches.\n"
            "  to do: install g++ or clang++."
        )
    flags = ("-shared", "-fPIC", "-O1", "-nostdlib")

    def make(folder: Path) -> None:
        command = [compiler, *flags, str(COUNTER), "-o", str(folder / "counter.so")]
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if ran.returncode:
            raise plugin.CompileError(
                f"What counts kernels could not be built: {first_error(ran.stderr)}\n"
                "  to do: install g++ or clang++."
            )

    return plugin.cached("counter", (COUNTER.read_bytes(), flags), make) / "counter.so"


def prove(caffe: GpuCaffe) -> None:
    """Runs a net that must take device memory and launch kernels.

    Raises:
        NotTheGpu: it did not.
        NoCaffe, NoDevice: there is no Caffe with CUDA, or no device.
    """
    greeting = caffe.start()
    if greeting.get("mode") != "gpu" or not greeting.get("cuda"):
        raise NotTheGpu(f"the worker's greeting says mode {greeting.get('mode')!r}")
    memory: Op = {"op": "memory"}
    launched = caffe.kernels
    values = np.ones(PROOF_SHAPE, np.float32)
    shapes = {"x1": PROOF_SHAPE, "x2": PROOF_SHAPE}
    before, *_, after, loss = caffe.request(
        [
            memory,
            {"op": "net", "text": PROOF, "edits": {"shapes": shapes}},
            {"op": "set", "blob": "x1", "array": values},
            {"op": "set", "blob": "x2", "array": 0 * values},
            {"op": "forward"},
            memory,
            {"op": "loss"},
        ]
    )
    taken = before["free"] - after["free"]
    if taken < 2 * values.nbytes:
        raise NotTheGpu(f"a net with {2 * values.nbytes} bytes of inputs took {taken} of the GPU's")
    if caffe.kernels == launched:
        raise NotTheGpu("a net with an EuclideanLoss launched no kernel")
    expected = values[0].size / 2  # integers and powers of two: nothing is rounded
    if loss["array"].sum() != expected:
        raise NotTheGpu(f"the loss of the net is {loss['array'].sum()}, not {expected}")
    caffe.memory_mb = taken // 2**20
    caffe.kernels = 0  # from here on those of the comparisons


def facts() -> dict[str, Any] | None:
    """The GPU of this run as JSON data; None where there is none."""
    if driver.no_device():
        return None
    import torch

    used = gpu_caffe() if gpu_caffe.cache_info().currsize else None
    cudnn: Any = torch.backends.cudnn
    return {
        "name": driver.devices()[0],
        "driver": _driver_version(),
        "cuda": driver.version(),
        "memory_mb": used.memory_mb if used else None,
        "kernels": used.kernels if used else None,
        "tf32": torch.get_float32_matmul_precision() != "highest" or bool(cudnn.allow_tf32),
    }


def _driver_version() -> str:
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "unknown"
    found = re.search(r"\b(\d{3,}\.\d+(\.\d+)?)\b", text)
    return found[1] if found else "unknown"
