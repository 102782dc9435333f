"""A port of small_net.prototxt, and the same as a converter might have left it."""

from torch import Tensor, nn
from torch.nn import functional


class SmallNet(nn.Module):
    """Its modules are named like Caffe's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.norm1 = nn.LocalResponseNorm(5, alpha=0.1, beta=0.75)
        self.fc2 = nn.Linear(150, 5)
        self.loss = nn.CrossEntropyLoss()

    def forward(self, data: Tensor, label: Tensor) -> Tensor:
        """The loss."""
        x = self.pool1(functional.relu(self.conv1(data)))
        loss: Tensor = self.loss(self.fc2(self.norm1(x).flatten(1)), label.long())
        return loss


class Converted(SmallNet):
    """Its LRN does not divide alpha by the window: nn.LocalResponseNorm does that already."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1.alpha = 0.1 / 5
