"""Nets of real size as prototxts, and ports of them: ResNet-50, GoogLeNet, VGG-16.

Each net is told once, layer by layer, and written in Caffe's language and in plain PyTorch: blobs
and modules are named alike. They are as published, with BatchNorm, Scale and ReLU in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

HEAD = """
import torch
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    def __init__(self):
        super().__init__()
"""


POOLS = {"MAX": "Max", "AVE": "Avg"}


class Writer:
    """A net that is being written; what makes a blob returns its name.

    Args:
        shape: of its input, `data`.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        dims = " ".join(f"dim: {each}" for each in shape)
        self.layers = [
            self._text("data", "Input", (), "data", f"input_param {{ shape {{ {dims} }} }}")
        ]
        self.modules: list[str] = []
        self.calls: list[str] = []

    def _text(
        self, name: str, kind: str, bottoms: tuple[str, ...], top: str, message: str = ""
    ) -> str:
        read = " ".join(f'bottom: "{each}"' for each in bottoms)
        return f'layer {{ name: "{name}" type: "{kind}" {read} top: "{top}" {message} }}\n'

    def add(
        self, name: str, kind: str, bottoms: tuple[str, ...], top: str, message: str, call: str
    ) -> str:
        """A layer, and the expression of the port that computes it."""
        self.layers.append(self._text(name, kind, bottoms, top, message))
        self.calls.append(f"{_word(top)} = {call}")
        return top

    def module(self, name: str, made: str) -> str:
        """A module of the port, as its forward calls it."""
        self.modules.append(f"self.{_word(name)} = nn.{made}")
        return f"self.{_word(name)}"

    def conv(
        self,
        name: str,
        x: str,
        channels: tuple[int, int],
        kernel: int = 1,
        stride: int = 1,
        pad: int = 0,
        bias: bool = True,
    ) -> str:
        """A convolution from `channels[0]` to `channels[1]` channels."""
        message = (
            f"convolution_param {{ num_output: {channels[1]} kernel_size: {kernel} "
            f"stride: {stride} pad: {pad} bias_term: {str(bias).lower()} "
            f'weight_filler {{ type: "msra" }} bias_filler {{ type: "gaussian" std: 0.1 }} }}'
        )
        made = f"Conv2d({channels[0]}, {channels[1]}, {kernel}, {stride}, {pad}, bias={bias})"
        call = f"{self.module(name, made)}({_word(x)})"
        return self.add(name, "Convolution", (x,), name, message, call)

    def norm(self, name: str, scale: str, x: str, channels: int) -> str:
        """A BatchNorm and a Scale, both in place."""
        self.layers.append(self._text(name, "BatchNorm", (x,), x))
        fillers = (
            'filler { type: "uniform" min: 0.5 max: 1 } bias_filler { type: "gaussian" std: 0.1 }'
        )
        call = f"{self.module(name, f'BatchNorm2d({channels}, momentum=0.001)')}({_word(x)})"
        return self.add(
            scale, "Scale", (x,), x, f"scale_param {{ bias_term: true {fillers} }}", call
        )

    def relu(self, name: str, x: str) -> str:
        """In place."""
        return self.add(name, "ReLU", (x,), x, "", f"functional.relu({_word(x)})")

    def pool(self, name: str, x: str, kind: str, kernel: int, stride: int, pad: int = 0) -> str:
        """MAX or AVE."""
        message = (
            f"pooling_param {{ pool: {kind} kernel_size: {kernel} stride: {stride} pad: {pad} }}"
        )
        made = f"{POOLS[kind]}Pool2d({kernel}, {stride}, {pad}, ceil_mode=True)"
        call = f"{self.module(name, made)}({_word(x)})"
        return self.add(name, "Pooling", (x,), name, message, call)

    def dense(self, name: str, x: str, features: tuple[int, int]) -> str:
        """An inner product."""
        message = (
            f"inner_product_param {{ num_output: {features[1]} "
            'weight_filler { type: "xavier" } bias_filler { type: "gaussian" std: 0.1 } }'
        )
        call = f"{self.module(name, f'Linear{features}')}({_word(x)}.flatten(1))"
        return self.add(name, "InnerProduct", (x,), name, message, call)

    def lrn(self, name: str, x: str, alpha: float) -> str:
        """Across 5 channels."""
        message = f"lrn_param {{ local_size: 5 alpha: {alpha} beta: 0.75 }}"
        made = f"LocalResponseNorm(5, alpha={alpha}, beta=0.75)"
        return self.add(name, "LRN", (x,), name, message, f"{self.module(name, made)}({_word(x)})")

    def add_up(self, name: str, x: str, y: str) -> str:
        """An Eltwise sum."""
        return self.add(name, "Eltwise", (x, y), name, "", f"{_word(x)} + {_word(y)}")

    def concat(self, name: str, *parts: str) -> str:
        """Over the channels."""
        call = f"torch.cat([{', '.join(map(_word, parts))}], 1)"
        return self.add(name, "Concat", parts, name, "", call)

    def softmax(self, x: str) -> str:
        """The net's output, `prob`."""
        return self.add("prob", "Softmax", (x,), "prob", "", f"functional.softmax({_word(x)}, 1)")

    def write(self, prototxt: Path, port: Path) -> None:
        """Both files."""
        prototxt.write_text("".join(self.layers))
        body = "".join(f"        {line}\n" for line in self.modules)
        forward = "".join(f"        {line}\n" for line in self.calls)
        port.write_text(
            f"{HEAD.lstrip()}{body}\n    def forward(self, data):\n{forward}        return prob\n"
        )


def _word(name: str) -> str:
    return name.replace("/", "_")


def resnet(width: int = 64, blocks: tuple[int, ...] = (3, 4, 6, 3), size: int = 224) -> Writer:
    """ResNet-50, or one that is narrower or shallower."""
    net = Writer((1, 3, size, size))
    x = net.conv("conv1", "data", (3, width), 7, 2, 3)
    x = net.relu("conv1_relu", net.norm("bn_conv1", "scale_conv1", x, width))
    x, channels = net.pool("pool1", x, "MAX", 3, 2), width

    def branch(name: str, x: str, channels: tuple[int, int], kernel: int, stride: int) -> str:
        made = net.conv(f"res{name}", x, channels, kernel, stride, kernel // 2, bias=False)
        return net.norm(f"bn{name}", f"scale{name}", made, channels[1])

    for stage, count in enumerate(blocks):
        inner = width << stage
        for number in range(count):
            name, stride = f"{stage + 2}{chr(97 + number)}", 2 if stage and not number else 1
            short = x if number else branch(f"{name}_branch1", x, (channels, 4 * inner), 1, stride)
            y = branch(f"{name}_branch2a", x, (channels, inner), 1, stride)
            y = net.relu(f"res{name}_branch2a_relu", y)
            y = branch(f"{name}_branch2b", y, (inner, inner), 3, 1)
            y = net.relu(f"res{name}_branch2b_relu", y)
            y = branch(f"{name}_branch2c", y, (inner, 4 * inner), 1, 1)
            x = net.relu(f"res{name}_relu", net.add_up(f"res{name}", short, y))
            channels = 4 * inner
    x = net.pool("pool5", x, "AVE", size >> len(blocks) + 1, 1)
    net.softmax(net.dense("fc1000", x, (channels, 1000)))
    return net


def googlenet() -> Writer:
    """Its deploy net."""
    net = Writer((1, 3, 224, 224))

    def conv(
        name: str, x: str, channels: tuple[int, int], kernel: int = 1, stride: int = 1, pad: int = 0
    ) -> str:
        made = net.conv(name, x, channels, kernel, stride, pad)
        return net.relu(name.replace("/", "/relu_"), made)

    x = net.pool("pool1/3x3_s2", conv("conv1/7x7_s2", "data", (3, 64), 7, 2, 3), "MAX", 3, 2)
    x = conv("conv2/3x3_reduce", net.lrn("pool1/norm1", x, 1e-4), (64, 64))
    x = net.lrn("conv2/norm2", conv("conv2/3x3", x, (64, 192), 3, 1, 1), 1e-4)
    x, channels = net.pool("pool2/3x3_s2", x, "MAX", 3, 2), 192
    table = {
        "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
        "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64),
        "4c": (128, 128, 256, 24, 64, 64), "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128), "5a": (256, 160, 320, 32, 128, 128),
        "5b": (384, 192, 384, 48, 128, 128),
    }  # fmt: skip
    for name, (one, reduce3, three, reduce5, five, pooled) in table.items():
        at = f"inception_{name}"
        parts = [
            conv(f"{at}/1x1", x, (channels, one)),
            conv(
                f"{at}/3x3",
                conv(f"{at}/3x3_reduce", x, (channels, reduce3)),
                (reduce3, three),
                3,
                1,
                1,
            ),
            conv(
                f"{at}/5x5",
                conv(f"{at}/5x5_reduce", x, (channels, reduce5)),
                (reduce5, five),
                5,
                1,
                2,
            ),
            conv(f"{at}/pool_proj", net.pool(f"{at}/pool", x, "MAX", 3, 1, 1), (channels, pooled)),
        ]
        x, channels = net.concat(f"{at}/output", *parts), one + three + five + pooled
        if name in ("3b", "4e"):
            x = net.pool(f"pool{int(name[0])}/3x3_s2", x, "MAX", 3, 2)
    x = net.pool("pool5/7x7_s1", x, "AVE", 7, 1)
    net.softmax(net.dense("loss3/classifier", x, (1024, 1000)))
    return net


def vgg() -> Writer:
    """VGG-16, without its Dropouts."""
    net = Writer((1, 3, 224, 224))
    x, channels = "data", 3
    for stage, (count, width) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        for number in range(1, count + 1):
            x = net.conv(f"conv{stage}_{number}", x, (channels, width), 3, 1, 1)
            x, channels = net.relu(f"relu{stage}_{number}", x), width
        x = net.pool(f"pool{stage}", x, "MAX", 2, 2)
    x = net.relu("relu6", net.dense("fc6", x, (512 * 49, 4096)))
    x = net.relu("relu7", net.dense("fc7", x, (4096, 4096)))
    net.softmax(net.dense("fc8", x, (4096, 1000)))
    return net


NETS: Mapping[str, Callable[[], Writer]] = {
    "resnet50": resnet,
    "googlenet": googlenet,
    "vgg16": vgg,
}
