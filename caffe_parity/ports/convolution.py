"""Caffe's convolutions, of 0 to 3 spatial axes. Plain PyTorch, to be copied with what it calls."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (),
    pad: Sequence[int] = (),
    dilation: Sequence[int] = (),
    group: int = 1,
    axis: int = 1,
) -> Tensor:
    """All axes before the channels' are batch; a stride, pad and dilation for each one behind."""
    batch, spatial = x.shape[:axis], len(stride)
    if not spatial:  # a convolution of numbers
        y = functional.conv1d(
            x.reshape(-1, x.shape[axis], 1), weight.unsqueeze(-1), bias, groups=group
        )
        return y.reshape(*batch, -1)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[spatial - 1]
    flat = x.reshape(-1, *x.shape[axis:])
    y = convolve(flat, weight, bias, tuple(stride), tuple(pad), tuple(dilation), group)
    return y.reshape(*batch, *y.shape[1:])


def deconvolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (),
    pad: Sequence[int] = (),
    dilation: Sequence[int] = (),
    group: int = 1,
    axis: int = 1,
) -> Tensor:
    """Convolution's transpose: `pad` takes away, and `group` is that of the convolution."""
    batch, spatial = x.shape[:axis], len(stride)
    if not spatial:
        y = functional.conv_transpose1d(
            x.reshape(-1, x.shape[axis], 1), weight.unsqueeze(-1), bias, groups=group
        )
        return y.reshape(*batch, -1)
    convolve = (
        functional.conv_transpose1d,
        functional.conv_transpose2d,
        functional.conv_transpose3d,
    )[spatial - 1]
    flat = x.reshape(-1, *x.shape[axis:])
    y = convolve(flat, weight, bias, tuple(stride), tuple(pad), 0, group, tuple(dilation))
    return y.reshape(*batch, *y.shape[1:])


def im2col(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
    axis: int = 1,
) -> Tensor:
    """What each place of a kernel sees: channels and kernel places become the channels."""
    spatial = len(kernel)
    y = functional.pad(x, [each for size in reversed(pad) for each in (size, size)])
    for place, (size, step, apart) in enumerate(zip(kernel, stride, dilation, strict=True)):
        y = y.unfold(axis + 1 + place, (size - 1) * apart + 1, step)[..., ::apart]
    y = y.movedim(list(range(-spatial, 0)), list(range(axis + 1, axis + 1 + spatial)))
    return y.flatten(axis, axis + spatial)
