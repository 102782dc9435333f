"""The fast port: one fused kernel for each direction, through `torch.compile`."""

import math
import shutil
from functools import cache
from typing import Protocol

import torch


class _Core(Protocol):
    def __call__(self, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor: ...


def _core(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """The sum of (sum_k x1 - sum_k x2)**2; x1: (N, K1, M), x2: (N, K2, M)."""
    d = x1.sum(1) - x2.sum(1)  # N, M
    return d.square().sum()


@cache
def _compiled() -> _Core:
    """The compiled core, for any extents; one for all layers, so that it is compiled few times."""
    core: _Core = torch.compile(_core, dynamic=True)
    return core


def compiled_euclidean_loss(
    x1: torch.Tensor, x2: torch.Tensor, sum: str = "channel"
) -> torch.Tensor:
    """The Euclidean loss of two inputs that are summed over some axes first.

    Every choice of axes is a view (N, what is summed, what is kept) of the inputs. The first call
    with a new pattern of extents that are 1 compiles, for some seconds; after
    `torch._dynamo.config.recompile_limit` patterns PyTorch runs the rest uncompiled, with a line in
    its log.

    Args:
        x1: (N, C1, S...).
        x2: (N, C2, S...).
        sum: "none", "channel" (axis 1) or "tail" (axis 1 to the last).

    Raises:
        ValueError: the shapes do not fit, or `sum` is unknown.
    """
    shape1, shape2 = tuple(x1.shape), tuple(x2.shape)
    n = shape1[0] if shape1 else 0
    fits = {
        "none": shape1 == shape2,
        "channel": (n, shape1[2:]) == (*shape2[:1], shape2[2:]),
        "tail": (n,) == shape2[:1],
    }
    if sum not in fits:
        raise ValueError(f"sum must be one of {', '.join(fits)}, got {sum!r}")
    if not fits[sum] or n == 0 or min(len(shape1), len(shape2)) < 2:
        raise ValueError(f"x1 {shape1} and x2 {shape2} do not fit, or are empty")
    kept = math.prod(shape1[2:])
    views = {
        "none": ((1, 1, -1), (1, 1, -1)),
        "channel": ((n, shape1[1], kept), (n, shape2[1], kept)),
        "tail": ((n, -1, 1), (n, -1, 1)),
    }
    view1, view2 = views[sum]
    return _compiled()(_shaped(x1, view1), _shaped(x2, view2)) / (2 * n)


def _shaped(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The same elements in another shape, not known to be a view.

    What is compiled for a view is compiled anew for each number of axes that the input itself has.
    """
    shaped: torch.Tensor = torch.ops.aten._unsafe_view(x.contiguous(), shape)
    return shaped


def no_compiler() -> str | None:
    """Why `torch.compile` cannot make CPU code here, or None where it can."""
    if any(shutil.which(name) for name in ("g++", "c++", "clang++")):
        return None
    return "no C++ compiler (g++ or clang++) for torch.compile"
