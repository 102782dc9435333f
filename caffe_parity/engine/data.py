"""Inputs by kind: what `--data NAME=KIND` and `--inputs FILE.npz` mean."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_parity.contract import (
    PARAM,
    SMALLEST_SUBNORMAL,
    STATE,
    Array32,
    Arrays,
    BadRequest,
    Shape,
)

KINDS = (
    "normal, uniform:A,B, positive, int:A,B (B, too), binary, onehot:K, probabilities, constant:V"
)

ALLOW = "parity check takes it with --allow-nonfinite, a Layer with allow_nonfinite=True"

SCALES = (1.0, 1.0, 0.25, 8.0, 2.0**-6, 1.0, 3.0, 1.0)
"""Factors on a normal input, case by case: some layers are wrong for small or large ones only."""


@dataclass(frozen=True)
class Kind:
    """How an input is filled.

    Attributes:
        name: "normal", "uniform", "positive", "int", "binary", "onehot", "probabilities",
            "constant".
        numbers: what stood behind the colon.
    """

    name: str
    numbers: tuple[float, ...] = ()

    @property
    def is_label(self) -> bool:
        """Whether it is an integer kind: no gradient is asked for."""
        return self.name in ("int", "binary", "onehot")

    def __str__(self) -> str:
        values = ",".join(f"{number:g}" for number in self.numbers)
        return f"{self.name}:{values}" if values else self.name


_COUNTS = {
    "normal": 0,
    "uniform": 2,
    "positive": 0,
    "int": 2,
    "binary": 0,
    "onehot": 1,
    "probabilities": 0,
    "constant": 1,
}
"""How many numbers stand behind the colon of each kind."""


DIFF = "diff["
"""How the name of a top's diff begins in a file of inputs, for `parity net`."""

LARGEST = 2**24
"""Up to it, float32 has every integer."""


def labels_among(shapes: Mapping[str, Shape]) -> tuple[str, int] | None:
    """The one input that is shaped as labels are of another, and how many classes that one has.

    There is a label for each of its elements that differ in more than axis 1.
    """
    found = {
        name: scores[1]
        for name, shape in shapes.items()
        for other, scores in shapes.items()
        if other != name and len(scores) > 1 and scores[1] > 1 and shape[:1] == scores[:1]
        if math.prod(shape) * scores[1] == math.prod(scores)
    }
    return next(iter(found.items())) if len(found) == 1 else None


def label_advice(shapes: Mapping[str, Shape]) -> str:
    """What to do about an input that should hold labels: the option that makes some."""
    name, classes = labels_among(shapes) or ("NAME", 0)
    most = str(classes - 1) if classes else "K"
    return f"--data {name}=int:0,{most} fills {name} with labels"


def parse(text: str, allow_nonfinite: bool = False) -> Kind:
    """A kind from its text.

    Args:
        text: such as "int:0,4".
        allow_nonfinite: whether the number of a constant may be one that float32 has not.

    Raises:
        BadRequest: it is none, or its numbers are wrong.
    """
    name, _, rest = text.partition(":")
    try:
        numbers = tuple(float(each) for each in rest.split(",")) if rest else ()
    except ValueError:
        numbers = (0.0,) * 9
    if name not in _COUNTS or len(numbers) != _COUNTS[name]:
        raise BadRequest(f"data kind {text!r}: expected one of {KINDS}")
    finite = np.all(np.abs(numbers) <= np.finfo(np.float32).max)  # no NaN is
    if not finite and name != "constant":
        raise BadRequest(f"data kind {text!r}: float32 cannot hold that number")
    if not finite and not allow_nonfinite:
        raise BadRequest(f"data kind {text!r}: float32 cannot hold that number; {ALLOW}")
    if any(0 < abs(number) < SMALLEST_SUBNORMAL for number in numbers):
        raise BadRequest(f"data kind {text!r}: in float32 that number is 0")
    if name in ("int", "onehot") and any(each % 1 for each in numbers):
        raise BadRequest(f"data kind {text!r}: expected whole numbers")
    if name == "int" and max(map(abs, numbers)) > LARGEST:
        raise BadRequest(
            f"data kind {text!r}: beyond 2**24 = {LARGEST} float32 does not have every integer"
        )
    if name in ("uniform", "int") and numbers[0] > numbers[1]:
        raise BadRequest(f"data kind {text!r}: the first number must not exceed the second")
    return Kind(name, numbers)


def fill(kind: Kind, shape: Shape, case: int, rng: np.random.RandomState) -> Array32:
    """An array of a kind.

    Args:
        kind: how it is filled.
        shape: its shape.
        case: the number of the case, which varies the scale.
        rng: where the numbers come from.

    Raises:
        BadRequest: the kind needs another shape.
    """
    values: np.ndarray
    if kind.name == "normal":
        values = rng.standard_normal(shape) * SCALES[case % len(SCALES)]
    elif kind.name == "uniform":
        values = rng.uniform(kind.numbers[0], kind.numbers[1], size=shape)
    elif kind.name == "positive":
        values = rng.uniform(0.05, 2.0, size=shape)
    elif kind.name == "int":
        values = rng.randint(int(kind.numbers[0]), int(kind.numbers[1]) + 1, size=shape)
    elif kind.name == "binary":
        values = rng.randint(0, 2, size=shape)
    elif kind.name == "constant":
        values = np.full(shape, kind.numbers[0])
    else:
        values = _over_axis_1(kind, shape, rng)
    with np.errstate(over="ignore"):  # where it is allowed
        return np.asarray(values).astype(np.float32)


def _over_axis_1(kind: Kind, shape: Shape, rng: np.random.RandomState) -> np.ndarray:
    if len(shape) < 2:
        raise BadRequest(f"{kind} needs a shape with an axis 1, got {shape}")
    if kind.name == "probabilities":
        weights = np.exp(rng.standard_normal(shape))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))
    if shape[1] != kind.numbers[0]:
        raise BadRequest(f"{kind} needs axis 1 of that length, got the shape {shape}")
    chosen = rng.randint(0, shape[1], size=(shape[0], 1, *shape[2:]))
    places = np.arange(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2))
    return np.asarray(chosen == places)


def load(file: str, shapes: Mapping[str, Shape], allow_nonfinite: bool = False) -> Arrays:
    """The inputs of a net from an .npz file, and the parameters that it has (`param[0]`, ...).

    Args:
        file: the file; arrays of objects are refused, so that loading runs no code.
        shapes: the net's inputs.
        allow_nonfinite: whether NaN, infinity, and what float32 makes infinite, may be in it.

    Raises:
        BadRequest: the file cannot be read, lacks an input or has something else, or float32 cannot
            hold what it has: not only rounds it, but makes it infinite, or 0, or another integer.
    """
    try:
        content = np.load(Path(file), allow_pickle=False)
        if isinstance(content, np.ndarray):  # of a .npy file
            names = ", ".join(f"{name}=..." for name in shapes)
            raise BadRequest(
                f"--inputs {file} holds one array, and not its name: expected what "
                f"np.savez(FILE, {names}) writes"
            )
        with content:
            arrays = {name: np.asarray(content[name]) for name in content.files}
    except OSError as error:
        raise BadRequest(f"--inputs {file}: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        names = ", ".join(f"{name}=..." for name in shapes)
        raise BadRequest(
            f"--inputs {file} is no file of numbers: expected what np.savez(FILE, {names}) writes"
        ) from error
    missing = [name for name in shapes if name not in arrays]
    if missing:
        raise BadRequest(
            f"--inputs {file} lacks {', '.join(missing)}; it has {', '.join(arrays) or 'nothing'}"
        )
    of_params = f"{PARAM}[", f"{STATE}[", DIFF
    others = [name for name in arrays if name not in shapes and not name.startswith(of_params)]
    if others:
        raise BadRequest(
            f"--inputs {file} also has {', '.join(others)}; "
            f"the net's inputs are {', '.join(shapes)}"
        )
    return {name: _held(file, name, array, allow_nonfinite) for name, array in arrays.items()}


def of_array(file: str, name: str) -> Array32:
    """One input from an .npy file.

    Raises:
        BadRequest: it cannot be read, or float32 cannot hold what it has.
    """
    try:
        return _held(file, name, np.asarray(np.load(file, allow_pickle=False)), False)
    except (OSError, ValueError, EOFError) as error:
        raise BadRequest(f"--inputs {file} is no array: {error}") from error


def _held(file: str, name: str, array: np.ndarray, allow_nonfinite: bool) -> Array32:
    """An array in float32.

    Raises:
        BadRequest: float32 cannot hold it.
    """
    if array.dtype.kind not in "fiub":
        raise BadRequest(f"--inputs {file}: {name} is {array.dtype}, not numbers")
    trouble = _lost(array, allow_nonfinite)
    if trouble:
        raise BadRequest(f"--inputs {file}: {name} has {trouble}")
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _lost(array: np.ndarray, allow_nonfinite: bool) -> str:
    """What float32 does not hold of an array, in words; "" where it only rounds."""
    with np.errstate(over="ignore", under="ignore"):
        held = array.astype(np.float32)
    finite = np.isfinite(held)
    if not finite.all() and not allow_nonfinite:
        first, count = array[~finite].flat[0], np.count_nonzero(~finite)
        which = "which float32 cannot hold" if np.isfinite(first) else "which is not finite"
        return f"{first:g}, {which} ({count} of {array.size} elements); {ALLOW}"
    gone = (held == 0) & (array != 0)
    if gone.any():
        return f"{array[gone].flat[0]:g}, which is 0 in float32"
    if array.dtype.kind in "iu":
        large = array[np.abs(held) >= 2.0**24]
        changed = [each for each in large.flat if int(np.float32(each)) != int(each)]
        if changed:
            return f"{changed[0]}, which float32 rounds to another integer"
    return ""
