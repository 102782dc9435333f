"""What the net computes: Caffe's own Power knows nothing of `gain`."""

import torch


def scaled(x: torch.Tensor) -> torch.Tensor:
    """Shape as x."""
    return x * x * 3 * 5
