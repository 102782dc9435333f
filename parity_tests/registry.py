"""Every variant of every framework, in the order in which they are reported."""

from __future__ import annotations

from functools import cache

from caffe_impl import variants as caffe_variants
from caffe_parity.caffe import gpu
from caffe_parity.contract import Variant
from torch_impl import variants as torch_variants


@cache
def registered(device: str = "cpu") -> tuple[Variant, ...]:
    """All variants; a new one is added to its framework's `variants()`.

    Args:
        device: "cpu" or "cuda": where Caffe and PyTorch compute.
    """
    caffe = caffe_variants.variants()
    if device == "cuda":
        caffe = [gpu.on_gpu(variant) for variant in caffe]
    return (*caffe, *torch_variants.variants(device))
