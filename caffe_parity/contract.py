"""The words of the suite as types: `Case`, `Result`, `Layer`, `Variant`. NumPy only.

A *layer* is what is computed, a *variant* is one way to compute it, a *case* is one input, a
*result* is what came out. A `Case` reproduces from its fields alone. No type here has a field for a
tolerance or a skip: what cannot be written down cannot rot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array32 = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]
Shape = tuple[int, ...]


class ParityError(Exception):
    """The root of every error of this library; the message says what is wrong and what to do."""


class BadRequest(ParityError):
    """What was asked cannot be carried out; the message says why and what to do."""


TENSORS = ("loss", "dx1", "dx2")
"""The names of the compared tensors, in the order in which they are reported."""

SHARED_GRADIENT = 0.5
"""The gradient that the second consumer of a `split` case adds to every element of x1.

A power of two, so that writing it costs no rounding; only its addition does.
"""


PASSES = {"first": 2.0**100, "second": 1.0, "reshaped": 2.0**100}
"""The compared passes over one net, in order, each with the value that every diff is filled with
before its backward: the huge one shows an unwritten diff at once; after 1, a diff that was not
written (it still is 1) can be told from one that was added to.

Not NaN: Caffe's own EuclideanLoss multiplies what its bottom diffs held by 0 (`caffe_cpu_axpby`
without MKL is a scal and an axpy, include/caffe/util/mkl_alternate.hpp), and 0 * NaN is NaN.

Before "first", and with a larger batch before "reshaped", runs a pass with other inputs; before all
of them one with a single sample, for which the net is made.
"""


@dataclass(frozen=True)
class Case:
    """One input of a loss layer, reproducible from these fields alone.

    Attributes:
        name: a short word of its own, used in test ids and in `-k` expressions.
        x1_shape, x2_shape: (N, C, S...), any number of spatial axes, also none.
        fill: the name of a generator in `reference.fills`.
        seed: the seed of that generator.
        loss_weight: the top's diff; used as float32, as Caffe stores it.
        propagate_down: whether dx1 and dx2 are asked for.
        sharing: "none"; "same-blob", both inputs are the one blob x1; "split", x1 also feeds a
            second loss, the sum of x1 weighted with `SHARED_GRADIENT`.
    """

    name: str
    x1_shape: Shape
    x2_shape: Shape
    fill: str = "bell"
    seed: int = 0
    loss_weight: float = 1.0
    propagate_down: tuple[bool, bool] = (True, True)
    sharing: str = "none"

    @property
    def weight(self) -> float:
        """The loss weight as Caffe holds it: rounded to float32."""
        return float(np.float32(self.loss_weight))

    @property
    def spatial(self) -> Shape:
        """The extents behind the channel axis of x1."""
        return self.x1_shape[2:]


@dataclass(frozen=True)
class Inputs:
    """The float32 arrays of a case, exactly as every variant gets them.

    x2 is x1 itself when the case's sharing is "same-blob".
    """

    x1: Array32
    x2: Array32


@dataclass(frozen=True)
class Result:
    """What a variant computed for one case.

    Attributes:
        loss: scalar, shape (), unscaled: without the loss weight.
        dx1, dx2: shaped like the inputs, scaled with the loss weight; None when no gradient was
            asked for, or when Caffe pruned the backward pass because the loss weight is 0.
    """

    loss: npt.NDArray[np.floating]
    dx1: npt.NDArray[np.floating] | None
    dx2: npt.NDArray[np.floating] | None

    def tensors(self) -> dict[str, npt.NDArray[np.floating] | None]:
        """The result by the names in `TENSORS`."""
        return {"loss": self.loss, "dx1": self.dx1, "dx2": self.dx2}


@dataclass(frozen=True)
class Pass:
    """One forward and backward of a schedule, and what it stands for.

    Attributes:
        name: a key of `PASSES`.
        poison: the value that every diff held before the backward.
        result: what came out.
    """

    name: str
    poison: float
    result: Result


@dataclass(frozen=True)
class Run:
    """All passes of one variant over one case, and the pass that went before them.

    Attributes:
        passes: the passes that must each agree with the reference.
        before: the result of a pass with *other* inputs on the same net, run first; the
            explanation of a stale result is looked for here.
    """

    passes: tuple[Pass, ...]
    before: Result | None = None


@dataclass(frozen=True)
class Bound:
    """How far float32 rounding can carry each tensor of a result from the truth.

    Attributes:
        worst: an a-priori worst case over all summation orders, per element; `error <= worst`.
        typical: what independent rounding errors add up to, per element; far above it (and still
            within `worst`) is reported as suspicious.
    """

    worst: Mapping[str, Array64]
    typical: Mapping[str, Array64]


@dataclass(frozen=True)
class Layer:
    """What is computed: the formula and the rounding bound that belongs to it.

    Attributes:
        name: "euclidean", "channel_sum", "tail_sum".
        summed: "none", "channel" or "tail": the axes summed before the difference is squared.
        evaluate: the float64 truth of a case.
        bound: the rounding bound of a case.
        refuses: why this layer is not defined for two shapes, or None where it is.
    """

    name: str
    summed: str
    evaluate: Callable[[Case, Inputs], Result]
    bound: Callable[[Case, Inputs], Bound]
    refuses: Callable[[Shape, Shape], str | None]


class VariantFailure(Exception):
    """A variant did not deliver a result.

    Attributes:
        verdict: "crash", "hang", "refused", or "fail" where its results are worth nothing.
        message: what happened, in one line or a few.
        output: what the process printed meanwhile.
    """

    def __init__(self, verdict: str, message: str, output: str = "") -> None:
        super().__init__(message)
        self.verdict = verdict
        self.message = message
        self.output = output


@dataclass(frozen=True)
class Expectation:
    """What a variant claims about a case that it does not simply compute.

    Attributes:
        kind: "refused" (it must refuse, with `text` in its message) or "as-layer" (it must compute
            `layer` instead, and differ from the layer it stands under wherever the two differ).
        text: what the refusal must say.
        layer: the layer that it computes instead.
        reason: one sentence for the report.
    """

    kind: str
    reason: str
    text: str = ""
    layer: str = ""


class Variant(Protocol):
    """One way to compute a layer. A framework adds its own by implementing this."""

    @property
    def name(self) -> str:
        """`<framework>-<how>`, such as "caffe-python"."""

    @property
    def layer(self) -> str:
        """The name of the layer that it computes."""

    def expects(self, case: Case) -> Expectation | None:
        """What it claims about a case it does not simply compute; None for all others."""

    def cannot_run(self) -> str | None:
        """Why it cannot run on this machine ("no C++ compiler"), or None."""

    def run(self, case: Case, inputs: Inputs, other: Inputs, larger: Inputs) -> Run:
        """Computes the case: `other`, then every pass of `PASSES`, `larger` before the last.

        Args:
            case: what to compute.
            inputs: its arrays.
            other: arrays of the same shapes with other values, for the pass that goes before.
            larger: arrays of a larger batch, for the reshape up and down.

        Raises:
            VariantFailure: it crashed, hung or refused.
        """
