r"""Caffe's own SoftmaxWithLoss over pixels, some of them ignored, and a port that seems right.

    parity check examples/segmentation.prototxt --data label=int:-1,3 \
        --reference examples/segmentation.py:loss --port examples/segmentation.py:port
    sed -i 's|reduction="none").mean()|reduction="mean")|' examples/segmentation.py

The first command finds that the port divides by all pixels, where Caffe divides by those that are
not ignored (loss_param's normalization VALID, its default): the same only without ignored ones.
The second mends it.
"""

import torch
from torch.nn import functional


def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Logits are (N, C, H, W), labels (N, H, W); label -1 is ignored."""
    kept = (label != -1).to(logits.dtype)
    chosen = label.clamp(min=0).long().unsqueeze(1)
    log_prob = functional.log_softmax(logits, 1).gather(1, chosen).squeeze(1)
    return -(kept * log_prob).sum() / kept.sum().clamp(min=1)


def port(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The same in one call."""
    target = label.long()
    return functional.cross_entropy(logits, target, ignore_index=-1, reduction="none").mean()
