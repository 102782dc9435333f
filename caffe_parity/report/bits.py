"""What a report keeps of a tensor: a digest of its bits, a few figures, and some elements whole.

Enough to say later whether another run gave the same bits, and if not, by how many ulps it differs.
Needs NumPy only, so that two reports are compared without waiting for PyTorch.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_parity.contract import Shape
from caffe_parity.report.schema import unexpected

Floating = npt.NDArray[np.floating[Any]]
Bits = npt.NDArray[np.uint32]

WHOLE = 64
"""A tensor of no more elements is kept whole."""

SAMPLE = 32
"""How many elements of a larger one are kept."""

MOST = 2**40
"""Elements of a tensor in a report; no real one has as many, and counting to it stays exact."""


@dataclass(frozen=True, eq=False)
class Kept:
    """What is kept of one tensor that came out of one or several passes with the same bits.

    Attributes:
        passes: the names of these passes.
        shape: of the tensor.
        sha256: of its float32 bits, little-endian, in C order; 64 hexadecimal digits.
        min, max: of the elements that are numbers; NaN where there are none.
        mean_abs: the mean of the absolute values, computed in float64; NaN where one is.
        nan, inf: how many elements are.
        elements: the bits of the elements at `places`.
    """

    passes: tuple[str, ...]
    shape: Shape
    sha256: str
    min: float
    max: float
    mean_abs: float
    nan: int
    inf: int
    elements: Bits

    @property
    def size(self) -> int:
        """How many elements the tensor has."""
        return math.prod(self.shape)

    @property
    def whole(self) -> bool:
        """Whether every element is kept."""
        return self.size <= WHOLE


def places(size: int) -> npt.NDArray[np.int64]:
    """Which elements of a tensor are kept, in C order.

    All of them up to `WHOLE`, else `SAMPLE` at even distances, the first and the last included:
    the same in every run.
    """
    if size <= WHOLE:
        return np.arange(size)
    return np.arange(SAMPLE) * (size - 1) // (SAMPLE - 1)


def digest(*arrays: Floating) -> str:
    """SHA-256 of the float32 bits of some arrays, shapes left out; 64 hexadecimal digits."""
    hashed = hashlib.sha256()
    for each in arrays:
        hashed.update(np.ascontiguousarray(each, "<f4").data)
    return hashed.hexdigest()


def keep(passes: Mapping[str, Floating | None]) -> tuple[Kept, ...]:
    """What is kept of one tensor over all passes: an entry for each that gave other bits.

    Args:
        passes: the tensor by the name of its pass, float32; None where it was not computed.
    """
    groups: list[tuple[list[str], npt.NDArray[np.float32]]] = []
    for name, value in passes.items():
        if value is None:
            continue
        array = np.ascontiguousarray(value, np.float32).reshape(value.shape)
        for names, other in groups:
            if _same_bits(array, other):
                names.append(name)
                break
        else:
            groups.append(([name], array))
    return tuple(_kept(tuple(names), array) for names, array in groups)


def _same_bits(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> bool:
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))


def _kept(passes: tuple[str, ...], array: npt.NDArray[np.float32]) -> Kept:
    flat = array.reshape(-1)
    with np.errstate(all="ignore"):
        least = float(np.fmin.reduce(flat)) if flat.size else math.nan
        most = float(np.fmax.reduce(flat)) if flat.size else math.nan
        total = float(np.abs(flat).sum(dtype=np.float64))
    odd = not math.isfinite(total)  # a sum of float32 in float64 cannot overflow by itself
    return Kept(
        passes=passes,
        shape=array.shape,
        sha256=digest(array),
        min=least,
        max=most,
        mean_abs=total / flat.size if flat.size else math.nan,
        nan=int(np.count_nonzero(np.isnan(flat))) if odd else 0,
        inf=int(np.count_nonzero(np.isinf(flat))) if odd else 0,
        elements=flat[places(flat.size)].view(np.uint32),
    )


def number(value: float) -> float | str:
    """A float for JSON, which has no infinity and no NaN: those become "inf", "-inf" and "nan"."""
    return value if math.isfinite(value) else str(value)


def hexadecimal(elements: Bits) -> str:
    """The kept elements as they stand in a report: eight digits for each."""
    return "".join(f"{each:08x}" for each in elements.tolist())


def from_json(data: Mapping[str, Any]) -> Kept:
    """What was kept, from JSON data that fit the schema.

    Raises:
        Misfit: the shape is no real one, or has another number of elements.
    """
    shape = tuple(data["shape"])
    size = math.prod(shape)
    if size > MOST:
        raise unexpected(f"at most {MOST} elements", list(shape), "shape")
    text, digits = data["elements"], 8 * len(places(size))
    if len(text) != digits:
        raise unexpected(f"{digits} hexadecimal digits", text, "elements")
    numbers = {name: float(data[name]) for name in ("min", "max", "mean_abs")}
    elements = np.frombuffer(bytes.fromhex(text), ">u4").astype(np.uint32)
    parts = {"passes": tuple(data["passes"]), "shape": shape, "elements": elements}
    return Kept(**{**data, **numbers, **parts})


def ulps(before: Bits, after: Bits) -> npt.NDArray[np.float64]:
    """How many float32 numbers lie between two, counted as steps; per element.

    The numbers are counted through in order: 0 and -0 are the same step, infinity is the one
    behind the largest. Two NaN are 0 steps apart, a NaN and a number infinitely many.

    Args:
        before: the bits of float32 numbers.
        after: likewise, of the same shape.
    """
    steps = _steps(before) - _steps(after)
    distances = np.abs(steps.astype(np.float64))
    one, another = np.isnan(before.view(np.float32)), np.isnan(after.view(np.float32))
    distances[one & another] = 0
    distances[one != another] = math.inf
    return distances


def _steps(bits: Bits) -> npt.NDArray[np.int64]:
    """The place of each float32 number in the order of all of them; 0 and -0 are at 0."""
    magnitude = (bits & np.uint32(0x7FFFFFFF)).astype(np.int64)
    return np.where(bits >> np.uint32(31), -magnitude, magnitude)
