"""Every variant of every framework, in the order in which they are reported."""

from __future__ import annotations

from functools import cache

from caffe_impl import variants as caffe_variants
from reference.contract import Variant
from torch_impl import variants as torch_variants


@cache
def registered() -> tuple[Variant, ...]:
    """All variants; a new one is added to its framework's `variants()`."""
    return (*caffe_variants.variants(), *torch_variants.variants())
