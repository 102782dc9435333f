"""Caffe's layers that move or choose numbers. Plain PyTorch, to be copied with what it calls."""

from collections.abc import Sequence

import torch
from torch import Tensor


def concat(*bottoms: Tensor, axis: int = 1) -> Tensor:
    """One behind the other along an axis."""
    return torch.cat(bottoms, axis)


def slices(x: Tensor, sizes: Sequence[int], axis: int = 1) -> tuple[Tensor, ...]:
    """Pieces of these sizes along an axis."""
    return torch.split(x, list(sizes), axis)


def split(x: Tensor, tops: int = 1) -> tuple[Tensor, ...]:
    """The same for several readers, whose gradients add up."""
    return (x,) * tops


def crop(x: Tensor, like: Tensor, offset: Sequence[int], axis: int = 2) -> Tensor:
    """As large as `like` from this axis on, with an offset for each; `like` has no gradient."""
    for place, begin in enumerate(offset, axis):
        x = x.narrow(place, begin, like.shape[place])
    return x


def reshape(x: Tensor, shape: Sequence[int], axis: int = 0, num_axes: int = -1) -> Tensor:
    """Other extents for `num_axes` axes from this one on: 0 keeps the one there, -1 follows."""
    end = x.dim() if num_axes == -1 else axis + num_axes
    inner = [x.shape[axis + place] if size == 0 else size for place, size in enumerate(shape)]
    return x.reshape(*x.shape[:axis], *inner, *x.shape[end:])


def flatten(x: Tensor, axis: int = 1, end_axis: int = -1) -> Tensor:
    """The axes from `axis` through `end_axis` as one."""
    return x.flatten(axis, end_axis)


def tile(x: Tensor, tiles: int, axis: int = 1) -> Tensor:
    """So many copies, one behind the other along an axis."""
    return torch.cat([x] * tiles, axis)


def batch_reindex(x: Tensor, index: Tensor) -> Tensor:
    """The samples with these numbers, which have no gradient."""
    return x.index_select(0, index.detach().long())


def filtered(*bottoms: Tensor) -> tuple[Tensor, ...]:
    """The samples of which the last bottom, the selector, is not 0; it has no gradient."""
    *kept, selector = bottoms
    chosen = selector.detach().flatten() != 0
    return tuple(each[chosen] for each in kept)


def argmax(x: Tensor, top_k: int = 1, axis: int | None = None, out_max_val: bool = False) -> Tensor:
    """The places of the k largest, of equal ones the *last* first; it has no gradient.

    With an axis along that, places or values. Without, of each sample: places, and with
    `out_max_val` values beside them.
    """
    rows = x.detach() if axis is not None else x.detach().reshape(x.shape[0], -1)
    along = 1 if axis is None else axis
    values, places = rows.flip(along).sort(dim=along, descending=True, stable=True)
    values = values.narrow(along, 0, top_k)
    places = (rows.shape[along] - 1 - places.narrow(along, 0, top_k)).to(x.dtype)
    if axis is not None:
        return values if out_max_val else places
    both = torch.stack([places, values] if out_max_val else [places], 1)
    return both.reshape(*both.shape, *[1] * (x.dim() - 3))


def silence(*bottoms: Tensor) -> tuple[Tensor, ...]:
    """Nothing: it keeps Caffe from printing what nobody reads. Its bottoms' gradients are 0."""
    return ()


def parameter(value: Tensor) -> Tensor:
    """A learned blob as a top."""
    return value


def constants(shapes: Sequence[Sequence[int]], values: Sequence[float]) -> tuple[Tensor, ...]:
    """DummyData with constant fillers."""
    return tuple(torch.full(tuple(s), v) for s, v in zip(shapes, values, strict=True))
