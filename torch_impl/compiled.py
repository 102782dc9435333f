"""The fast port: the plain one through `torch.compile`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache

import torch

from torch_impl.module import LOSSES

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@cache
def compiled(sum: str) -> Loss:
    """The compiled loss for one choice of summed axes ("none", "channel" or "tail").

    Compiled at the first call with a number of axes, for any extents; some 10 s each on a laptop.

    Raises:
        KeyError: `sum` is none of these.
    """
    loss: Loss = torch.compile(LOSSES[sum], dynamic=True)
    return loss


def no_compiler() -> str | None:
    """Why `torch.compile` cannot make CPU code here, or None where it can."""
    if any(shutil.which(name) for name in ("g++", "c++", "clang++")):
        return None
    return "no C++ compiler (g++ or clang++) for torch.compile"
