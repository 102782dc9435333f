"""Ports of the nets in `nets/`, as people write them, each right; `faults.py` breaks them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

NETS = Path(__file__).parent / "nets"


class LeNet(nn.Module):
    """Modules with the layers' names; Dropout in phase TRAIN; the loss is in the port."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1, groups=2)
        self.pool2 = nn.AvgPool2d(3, 2, padding=1, ceil_mode=True)
        self.ip1 = nn.Linear(72, 10)
        self.relu1 = nn.LeakyReLU(0.1)
        self.drop1 = nn.Dropout(0.3)
        self.ip2 = nn.Linear(10, 5)
        self.loss = nn.CrossEntropyLoss()

    def forward(self, data: Tensor, label: Tensor) -> Tensor:
        """The loss."""
        x = self.pool2(self.conv2(self.pool1(self.conv1(data))))
        x = self.ip2(self.drop1(self.relu1(self.ip1(x.flatten(1)))))
        return self.loss(x, label.long())  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """PyTorch's BatchNorm with weights for Caffe's BatchNorm and Scale; functions between."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.bn_conv1 = nn.BatchNorm2d(4, momentum=1e-3)
        self.res2a_branch1 = nn.Conv2d(4, 6, 1, bias=False)
        self.res2a_branch2a = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.bn2a_branch2a = nn.BatchNorm2d(6, momentum=1e-3)
        self.pool5 = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 4)
        self.coefficient = 0.5

    def forward(self, data: Tensor) -> Tensor:
        """The probabilities."""
        self.train()  # use_global_stats: false, in both phases
        x = functional.relu(self.bn_conv1(self.conv1(data)))
        y = self.bn2a_branch2a(self.res2a_branch2a(x))
        x = functional.relu(self.res2a_branch1(x) + self.coefficient * y)
        return self.fc(self.pool5(x).flatten(1)).softmax(1)  # type: ignore[no-any-return]


class Inception(nn.Module):
    """Two losses with weights; module names that cannot have the layers' slashes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm0 = nn.LocalResponseNorm(3, alpha=0.6, beta=0.75, k=2.0)
        self.inc_1x1 = nn.Conv2d(4, 3, 1)
        self.inc_3x3 = nn.Conv2d(4, 4, 3, padding=1)
        self.inc_pool = nn.MaxPool2d(3, 1, padding=1)
        self.inc_proj = nn.Conv2d(4, 2, 1)
        self.aux_pool = nn.AvgPool2d(5, 3, ceil_mode=True)
        self.aux_fc = nn.Linear(36, 4)
        self.aux_loss = nn.CrossEntropyLoss()
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.fc = nn.Linear(144, 4)
        self.loss = nn.CrossEntropyLoss()

    def forward(self, data: Tensor, label: Tensor) -> Tensor:
        """The weighted sum of the losses."""
        x = self.norm0(data)
        parts = [
            self.inc_1x1(x).relu(),
            self.inc_3x3(x).relu(),
            self.inc_proj(self.inc_pool(x)),
        ]
        x = torch.cat(parts, 1)
        aux = self.aux_loss(self.aux_fc(self.aux_pool(x).flatten(1)), label.long())
        main = self.loss(self.fc(self.pool2(x).flatten(1)), label.long())
        return main + 0.3 * aux  # type: ignore[no-any-return]


class Fcn(nn.Module):
    """Statistics that are stored, a Deconvolution, a Crop, a loss that ignores a label."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(4, affine=False, momentum=1e-3)
        self.prelu1 = nn.PReLU(4)
        self.pool1 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.score = nn.Conv2d(4, 3, 3, padding=2, dilation=2)
        self.upscore = nn.ConvTranspose2d(3, 3, 4, stride=2, groups=3, bias=False)
        self.loss = nn.CrossEntropyLoss(ignore_index=2)
        self.offset = 2

    def forward(self, data: Tensor, label: Tensor) -> Tensor:
        """The loss."""
        x = self.upscore(self.score(self.pool1(self.prelu1(self.bn1(self.conv1(data))))))
        high, wide = data.shape[2:]
        at = self.offset
        x = x[:, :, at : at + high, at : at + wide]
        return self.loss(x, label[:, 0].long())  # type: ignore[no-any-return]


class Contrastive(nn.Module):
    """Caffe's ContrastiveLoss; its backward divides by the distance plus 1e-4."""

    margin = 3.0
    least = 1e-4

    def forward(self, a: Tensor, b: Tensor, sim: Tensor) -> Tensor:
        """The loss."""
        square = (a - b).square().sum(1)
        distance = square.detach().sqrt()
        # The value of the square, and its gradient with 1 / (distance + 1e-4) for 1 / distance.
        scaled = distance + (square - square.detach()) / (2 * (distance + self.least))
        apart = (self.margin - scaled).clamp(min=0)
        return (sim * square + (1 - sim) * apart.square()).sum() / (2 * len(a))


class Siamese(nn.Module):
    """One branch for both inputs: its modules are called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.act = nn.ELU(0.8)
        self.feat = nn.Linear(36, 3)
        self.loss = Contrastive()

    def branch(self, x: Tensor) -> Tensor:
        """The features of one of them."""
        return self.feat(self.act(self.conv(x)).flatten(1))  # type: ignore[no-any-return]

    def forward(self, left: Tensor, right: Tensor, sim: Tensor) -> Tensor:
        """The loss."""
        return self.loss(self.branch(left), self.branch(right), sim)  # type: ignore[no-any-return]


class CrossEntropy(nn.Module):
    """Caffe's SigmoidCrossEntropyLoss: a sum over all elements, over the batch."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """The loss."""
        both = functional.binary_cross_entropy_with_logits(x, target, reduction="sum")
        return both / len(x)


class Euclidean(nn.Module):
    """Caffe's EuclideanLoss: half the sum of squares over the batch."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss."""
        return (x - y).square().sum() / (2 * len(x))


class Autoencoder(nn.Module):
    """A net in V1 syntax with two losses."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Linear(7, 4)
        self.squash = nn.Sigmoid()
        self.decode = nn.Linear(4, 7)
        self.entropy = CrossEntropy()
        self.out = nn.Tanh()
        self.l2 = Euclidean()
        self.shift = 2.0

    def forward(self, data: Tensor, target: Tensor) -> Tensor:
        """The weighted sum of the losses."""
        decoded = self.decode(self.squash(self.code(data.flatten(1))))
        entropy = self.entropy(decoded, target.flatten(1))
        power = (self.shift + 0.5 * self.out(decoded)) ** 2
        return entropy + 0.25 * self.l2(power, data.flatten(1))  # type: ignore[no-any-return]


class Lstm(nn.Module):
    """Caffe's LSTM: a sequence begins where `cont` is 0."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(size, hidden)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The next output and cell."""
        made: tuple[Tensor, Tensor] = self.cell(x, (h, c))
        return made

    def forward(self, data: Tensor, cont: Tensor) -> Tensor:
        """The outputs (T, N, D)."""
        h = c = data.new_zeros(data.shape[1], self.cell.hidden_size)
        outputs = []
        for x, keep in zip(data, cont.unsqueeze(-1), strict=True):
            h, c = self.step(x, keep * h, keep * c)
            outputs.append(h)
        return torch.stack(outputs)


class Rnn(nn.Module):
    """Caffe's RNN, whose outputs are those of another layer on the hidden states."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.cell = nn.RNNCell(size, hidden)
        self.out = nn.Linear(hidden, hidden)

    def forward(self, data: Tensor, cont: Tensor) -> Tensor:
        """The outputs (T, N, D)."""
        h = data.new_zeros(data.shape[1], self.cell.hidden_size)
        outputs = []
        for x, keep in zip(data, cont.unsqueeze(-1), strict=True):
            h = self.cell(x, keep * h)
            outputs.append(self.out(h).tanh())
        return torch.stack(outputs)


class Recurrent(nn.Module):
    """An LSTM and an RNN with `cont`, a Dropout as a function, a loss of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = Lstm(5, 4)
        self.rnn = Rnn(4, 3)
        self.fc = nn.Linear(3, 4)
        self.ratio = 0.2

    def forward(self, data: Tensor, cont: Tensor, label: Tensor) -> Tensor:
        """The loss."""
        x = self.rnn(self.lstm(data, cont), cont)
        x = functional.dropout(x, self.ratio, self.training)
        return functional.cross_entropy(self.fc(x).flatten(0, 1), label.flatten().long())


class CaffeNet(nn.Module):
    """What has no parameters is a function; the loss has a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, stride=2)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.conv3 = nn.Conv2d(6, 6, 3, padding=1)
        self.conv4 = nn.Conv2d(6, 6, 3, padding=1)
        self.fc6 = nn.Linear(96, 10)
        self.fc7 = nn.Linear(10, 10)
        self.fc8 = nn.Linear(10, 5)

    def forward(self, data: Tensor, label: Tensor) -> Tensor:
        """The loss, with its weight."""
        x = functional.relu(self.conv1(data))
        x = functional.local_response_norm(x, 5, alpha=0.1, beta=0.75)
        x = functional.relu(self.conv2(x))
        x = functional.relu(self.conv3(x))
        x = functional.relu(self.conv4(x))
        x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
        x = functional.relu(self.fc6(x.flatten(1)))
        x = functional.dropout(x, 0.3, self.training)
        x = functional.relu(self.fc7(x))
        x = self.fc8(x)
        return 0.7 * functional.cross_entropy(x, label.long())


class Block(nn.Module):
    """Branches that meet in sums, a concatenation, and a slice; statistics by phase."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6, momentum=1e-3)
        self.conv2a = nn.Conv2d(6, 6, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(6, eps=1e-3, momentum=1e-3)
        self.prelu2 = nn.PReLU(6)
        self.conv3 = nn.Conv2d(8, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, data: Tensor, label: Tensor) -> Tensor:
        """The loss."""
        x = functional.relu(self.bn1(self.conv1(data)))
        x = functional.avg_pool2d(x, 3, 2, padding=1, ceil_mode=True)
        y = self.prelu2(self.bn2(self.conv2a(x)))
        both = torch.cat([0.5 * x - y, x], 1)
        one, other = both[:, :4], both[:, 4:]
        x = torch.maximum(one, functional.elu(self.conv3(other), 0.7)).mean((2, 3))
        return functional.cross_entropy(self.fc(x), label.long())


PORTS: dict[str, Callable[[], nn.Module]] = {
    "lenet": LeNet,
    "resnet": ResNet,
    "inception": Inception,
    "fcn": Fcn,
    "siamese": Siamese,
    "autoencoder": Autoencoder,
    "lstm": Recurrent,
    "caffenet": CaffeNet,
    "block": Block,
}
"""By the name of the net."""

DATA: dict[str, dict[str, str]] = {
    "lenet": {"label": "int:0,4"},
    "block": {"label": "int:0,4"},
    "caffenet": {"label": "int:0,4"},
    "inception": {"label": "int:0,3"},
    "fcn": {"label": "int:0,2"},
    "siamese": {"sim": "int:0,1"},
    "autoencoder": {"target": "uniform:0,1"},
    "lstm": {"cont": "binary", "label": "int:0,3"},
}
"""What inputs hold that are not normal."""
