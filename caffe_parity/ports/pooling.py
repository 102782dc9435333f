"""Caffe's pooling. Plain PyTorch, to be copied with what it calls."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def pooled_size(size: int, kernel: int, stride: int, pad: int, padded: bool, floor: bool) -> int:
    """Caffe rounds up where PyTorch rounds down, and drops a window behind the input if padded.

    `padded` is whether any axis has padding: without, the last window may lie behind the input.
    """
    span = size + 2 * pad - kernel
    out = (span // stride if floor else -(-span // stride)) + 1
    return out - 1 if padded and (out - 1) * stride >= size + pad else out


def pooling(
    x: Tensor,
    method: str = "MAX",
    kernel: tuple[int, ...] = (1, 1),
    stride: tuple[int, ...] = (1, 1),
    pad: tuple[int, ...] = (0, 0),
    floor: bool = False,
) -> Tensor:
    """MAX or AVE over windows of the last two axes, as many as `pooled_size` says.

    A window of AVE is divided by its size with the padding that it covers, and without what lies
    behind the padding.
    """
    padded = any(pad)
    sizes = [
        pooled_size(size, k, s, p, padded, floor)
        for size, k, s, p in zip(x.shape[2:], kernel, stride, pad, strict=True)
    ]
    room = _room(x, kernel, stride, pad, sizes)
    if method == "MAX":
        return torch.max_pool2d(functional.pad(x, room, value=-torch.inf), kernel, stride)
    sums = functional.avg_pool2d(functional.pad(x, room), kernel, stride, divisor_override=1)
    rows, columns = (
        torch.tensor([min(i * s + k, size + 2 * p) - i * s for i in range(out)], dtype=x.dtype)
        for size, k, s, p, out in zip(x.shape[2:], kernel, stride, pad, sizes, strict=True)
    )
    return sums / (rows.unsqueeze(1) * columns).to(x.device)


def global_pooling(x: Tensor, method: str = "MAX") -> Tensor:
    """MAX or AVE over the whole of the last two axes, however large they are."""
    return pooling(x, method, tuple(x.shape[2:]))


def pooling_mask(
    x: Tensor,
    kernel: tuple[int, ...] = (1, 1),
    stride: tuple[int, ...] = (1, 1),
    pad: tuple[int, ...] = (0, 0),
    floor: bool = False,
) -> Tensor:
    """The second top of MAX: where in its channel each maximum lies, of equal ones the first."""
    sizes = [
        pooled_size(size, k, s, p, any(pad), floor)
        for size, k, s, p in zip(x.shape[2:], kernel, stride, pad, strict=True)
    ]
    room = _room(x, kernel, stride, pad, sizes)
    wide = functional.pad(x.detach(), room, value=-torch.inf)
    place: Tensor
    _, place = functional.max_pool2d_with_indices(wide, kernel, stride)
    row, column = place // wide.shape[3] - pad[0], place % wide.shape[3] - pad[1]
    return (row * x.shape[3] + column).to(x.dtype)


def _room(
    x: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pad: tuple[int, ...],
    sizes: Sequence[int],
) -> list[int]:
    """Padding for functional.pad with which exactly these windows fit."""
    room: list[int] = []
    for size, k, s, p, out in zip(x.shape[2:], kernel, stride, pad, sizes, strict=True):
        room = [p, (out - 1) * s + k - size - p, *room]
    return room


def spatial_pyramid(x: Tensor, height: int = 1, method: str = "MAX") -> Tensor:
    """Pools into 1, 4, 16, ... bins, and puts all of them one behind the other."""
    levels = []
    for bins in (2**level for level in range(height)):
        kernel = tuple(-(-size // bins) for size in x.shape[2:])
        pad = tuple((k * bins - n + 1) // 2 for k, n in zip(kernel, x.shape[2:], strict=True))
        levels.append(pooling(x, method, kernel, kernel, pad).flatten(1))
    return torch.cat(levels, 1)
