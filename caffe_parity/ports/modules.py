"""What stands around the functions in the file that `parity port` writes; copied like them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from caffe_parity.ports.normalisation import batch_norm, batch_norm_training


class Layer(nn.Module):
    """A layer of the net: a function, its arguments, and its parameters by the function's names."""

    def __init__(
        self,
        function: Callable[..., Any],
        blobs: Mapping[str, Sequence[int]] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        self.function = function
        self.arguments = arguments
        self.blobs = tuple(blobs or ())  # in Caffe's order
        for name, shape in (blobs or {}).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(tuple(shape))))

    def forward(self, *bottoms: Tensor, **named: Tensor) -> Any:
        blobs = {name: getattr(self, name) for name in self.blobs}
        return self.function(*bottoms, **blobs, **named, **self.arguments)

    def extra_repr(self) -> str:
        given = (f"{name}={value!r}" for name, value in self.arguments.items())
        return ", ".join([getattr(self.function, "__name__", ""), *given])


class BatchNorm(nn.Module):
    """Normalises only; the Scale behind it learns. Its blobs are two sums and their divisor.

    `use_global_stats` says whether the stored statistics are used, None that they are in eval().
    """

    def __init__(
        self,
        channels: int,
        eps: float = 1e-5,
        moving_average_fraction: float = 0.999,
        use_global_stats: bool | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.moving_average_fraction = moving_average_fraction
        self.use_global_stats = use_global_stats
        self.blobs = ("mean", "variance", "factor")  # in Caffe's order
        for name, size in zip(self.blobs, (channels, channels, 1), strict=True):
            self.register_buffer(name, torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        stored = not self.training if self.use_global_stats is None else self.use_global_stats
        mean, variance, factor = (getattr(self, name) for name in self.blobs)
        if stored:
            return batch_norm(x, mean, variance, factor, self.eps)
        y, *kept = batch_norm_training(
            x, mean, variance, factor, self.eps, self.moving_average_fraction
        )
        for buffer, value in zip((mean, variance, factor), kept, strict=True):
            buffer.copy_(value)
        return y


class Hole(nn.Module):
    """A layer that has no counterpart here: it raises, and says which."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def forward(self, *bottoms: Tensor, **named: Tensor) -> Tensor:
        raise NotImplementedError(self.words)


def from_file(file: str, name: str) -> Any:
    """An object of a Python file, whose path begins at this file's folder."""
    path = Path(__file__).parent / file
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def read_safetensors(file: str | Path) -> dict[str, Tensor]:
    """Tensors by name: the length of a header in 8 bytes, the header in JSON, and the numbers."""
    data = Path(file).read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, about in json.loads(data[8:begin]).items():
        if name != "__metadata__":
            first, last = about["data_offsets"]
            piece = bytearray(data[begin + first : begin + last])
            flat = torch.frombuffer(piece, dtype=torch.float32) if piece else torch.zeros(0)
            found[name] = flat.reshape(about["shape"])
    return found
