"""A learned factor and offset of each channel: the reference of channel_scale_layer.py."""

import torch


def scale(x: torch.Tensor, param: list[torch.Tensor]) -> torch.Tensor:
    """x is (N, C, ...); param[0] and param[1] are (C), the factors and the offsets."""
    factor, offset = (each.reshape(-1, *[1] * (x.ndim - 2)) for each in param)
    return factor * x + offset


class Port(torch.nn.Module):
    """The same with parameters of its own, which `parity check` matches by order."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(channels))
        self.offset = torch.nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x is (N, C, ...)."""
        shape = (-1, *[1] * (x.ndim - 2))
        return torch.addcmul(self.offset.reshape(shape), self.factor.reshape(shape), x)


port = Port(4)
