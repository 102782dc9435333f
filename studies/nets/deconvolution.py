"""deconvolution.prototxt in PyTorch."""

from torch import Tensor
from torch.nn import functional


def net(x: Tensor, like: Tensor, param: list[Tensor]) -> Tensor:
    bilinear, weight, bias = param
    up = functional.conv_transpose2d(x, bilinear, stride=2, groups=3)
    crop = up[:, :, 1 : 1 + like.shape[2], 1 : 1 + like.shape[3]]
    return functional.conv_transpose2d(crop, weight, bias, stride=2, padding=1)
