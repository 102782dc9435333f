"""An image as a net's input, step by step as pycaffe's `Transformer` makes it one.

Resize, channels first, channel order, raw scale, mean, input scale: in this order, as deploy code
names them. Both sides of a comparison get the result, so it is pycaffe's to the last step, but for
the resizing, which is Pillow's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_parity.contract import Array32, BadRequest, Shape

KINDS = (".png", ".jpg", ".jpeg", ".bmp")

HOW = "--raw-scale 255 --channel-swap 2,1,0 --mean 104,117,123"


@dataclass(frozen=True)
class Transform:
    """How deploy code makes an image an input.

    Attributes:
        mean: is subtracted: a number for each channel, or for each pixel of each; () for none.
        raw_scale: is multiplied before, where 1 leaves 0 to 1.
        channel_swap: the order of the channels, red, green, blue in the file; () as they are.
        input_scale: is multiplied at the end.
    """

    mean: Any = ()
    raw_scale: float = 1.0
    channel_swap: tuple[int, ...] = ()
    input_scale: float = 1.0


def of_net(said: Mapping[str, Any], mean: Array32 | None) -> Transform:
    """What a data layer's `transform_param` says; it reads blue, green, red, from 0 to 255."""
    values = mean if mean is not None else said["mean_value"]
    return Transform(values, 255.0, (2, 1, 0), said["scale"])


def image(file: str, shape: Shape, how: Transform) -> Array32:
    """An input from an image.

    Args:
        file: the image.
        shape: of the input: samples, which all get the image, channels, height, width.
        how: what is done with its numbers.

    Raises:
        BadRequest: it cannot be read, or does not fit.
    """
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise BadRequest(f"--inputs {file}: an image has 1 or 3 channels, the input shape {shape}")
    try:
        from PIL import Image
    except ImportError:
        raise BadRequest(
            f"--inputs {file}: images need Pillow: pip install pillow; .npz and .npy do not"
        ) from None
    try:
        with Image.open(file) as opened:
            read = opened.convert("L" if shape[1] == 1 else "RGB")
            pixels = read.resize((shape[3], shape[2]), Image.Resampling.BILINEAR)
    except OSError as error:
        raise BadRequest(f"--inputs {file} is no image: {error}") from error
    values = np.asarray(pixels, np.float32).reshape(shape[2], shape[3], -1) / np.float32(255)
    values = values.transpose(2, 0, 1)
    if how.channel_swap:
        if sorted(how.channel_swap) != list(range(shape[1])):
            swap = ",".join(map(str, how.channel_swap))
            raise BadRequest(f"--channel-swap {swap}: expected each of 0 to {shape[1] - 1} once")
        values = values[list(how.channel_swap)]
    values = values * np.float32(how.raw_scale)
    mean = np.asarray(how.mean, np.float32)
    if mean.size:
        mean = mean.reshape(-1, 1, 1) if mean.ndim < 3 else mean
        if mean.shape not in ((1, 1, 1), (shape[1], 1, 1), shape[1:]):
            raise BadRequest(
                f"--mean has shape {mean.shape}: expected {shape[1]} numbers, or {shape[1:]}"
            )
        values = values - mean
    values = values * np.float32(how.input_scale)
    return np.ascontiguousarray(np.broadcast_to(values, shape), np.float32)


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between.

    Raises:
        ValueError: there are none.
    """
    return tuple(float(each) for each in text.split(","))


def mean_of(text: str) -> Any:
    """A value of --mean: numbers, or a .npy file; a .binaryproto is Caffe's to read.

    Raises:
        BadRequest: it is neither.
    """
    try:
        if Path(text).suffix == ".npy":
            return np.load(text, allow_pickle=False)
        return numbers(text)
    except (OSError, ValueError) as error:
        raise BadRequest(
            f"--mean {text}: expected numbers such as 104,117,123, a .npy or a .binaryproto file "
            f"({error})"
        ) from error
