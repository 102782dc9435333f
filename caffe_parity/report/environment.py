"""What a result depends on beside the code: versions, BLAS, processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caffe_impl.variants import shared_caffe
from caffe_parity.caffe import gpu
from caffe_parity.caffe.client import Caffe
from caffe_parity.report.host import host


def environment(device: str = "cpu", caffe: Caffe | None = None) -> dict[str, Any]:
    """The environment of this run as JSON data; Caffe's part only where one was started.

    Args:
        device: "cpu" or "cuda": where Caffe and PyTorch computed.
        caffe: the Caffe that computed; None for the one that all variants share.
    """
    shared = gpu.gpu_caffe if device == "cuda" else shared_caffe
    return {
        **host(),
        "device": device,
        "gpu": gpu.facts() if device == "cuda" else None,
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
