"""What a result depends on beside the code: versions, BLAS, processor."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caffe_impl.runtime.client import Caffe
from caffe_impl.variants import shared_caffe
from parity_tests import gpu

ROOT = Path(__file__).parent.parent


def environment(device: str = "cpu", caffe: Caffe | None = None) -> dict[str, Any]:
    """The environment of this run as JSON data; Caffe's part only where one was started.

    Args:
        device: "cpu" or "cuda": where Caffe and PyTorch computed.
        caffe: the Caffe that computed; None for the one that all variants share.
    """
    shared = gpu.gpu_caffe if device == "cuda" else shared_caffe
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "device": device,
        "gpu": gpu.facts() if device == "cuda" else None,
        "commit": _commit(),
        "caffe": _caffe(caffe or _given(shared)),
    }


def _given(used: Any) -> Caffe | None:
    """The Caffe that a cached function gives, if it has given one."""
    return used() if used.cache_info().currsize else None


def _caffe(caffe: Caffe | None) -> dict[str, Any] | None:
    if caffe is None or caffe.pid is None:
        return None
    greeting = caffe.start()
    return {
        "version": greeting["caffe"],
        "python": greeting["python"],
        "numpy": greeting["numpy"],
        "source": caffe.interpreter.source,
        "blas": blas(caffe),
    }


def blas(caffe: Caffe) -> list[str]:
    """The BLAS libraries that a running Caffe has loaded, by folder and file name."""
    libraries = caffe.request([{"op": "maps"}])[0]["libraries"]
    return [
        "/".join(Path(each).parts[-2:])
        for each in libraries
        if any(word in Path(each).name for word in ("blas", "mkl", "atlas"))
    ]


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """The commit of the suite, with "+" when files differ from it; None outside a checkout."""
    if not (ROOT / ".git").exists():
        return None
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        state = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, env=environment
        )
    except OSError:
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+" if state.stdout.strip() else "")
