"""The words of this library as types. NumPy only.

A *layer* is what is computed, a *variant* is one way to compute it, a *case* is one input, and an
*outcome* what was found of one variant on one case. No type here has a field for a tolerance or a
skip: what cannot be written down cannot rot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from caffe_parity.errors import BadRequest as BadRequest
from caffe_parity.errors import ParityError as ParityError

Array32 = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]
Floating = npt.NDArray[np.floating[Any]]
Shape = tuple[int, ...]
Arrays = dict[str, Array32]

UNIT_ROUNDOFF = 2.0**-24
"""u of float32: half the distance from 1 to the next number."""

SMALLEST_SUBNORMAL = 2.0**-149
LARGEST = float(np.finfo(np.float32).max)

GRADIENT = "gradient:"
"""What the names of gradients begin with: a top may be called anything, also "dx1"."""

SHARED_GRADIENT = 0.5
"""The gradient that the second consumer of a `split` case adds to every element of the first input.

A power of two, so that writing it costs no rounding; only its addition does.
"""


PARAM, STATE = "param", "state"
"""The arguments by which a reference asks for parameters, and for what layers write themselves."""


def is_state(tensor: str) -> bool:
    """Whether a tensor is a blob that a layer writes itself in each forward: `state[0]`, ..."""
    return tensor.startswith(f"{STATE}[")


def spoken(tensor: str) -> str:
    """A tensor's name in a sentence: dx1 for the gradient of x1."""
    return tensor.replace(GRADIENT, "d", 1)


@dataclass(frozen=True, eq=False)
class Case:
    """One input of a layer, reproducible from these fields alone.

    Attributes:
        name: a short word of its own, used in test ids and in `-k` expressions.
        shapes: of each input, by name.
        arrays: makes the case's float32 arrays.
        others: makes arrays with other values, for the passes that go before; the number is how
            many samples more (axis 0) each has.
        fill, seed: what the arrays are made of, in words, and the seed of it.
        loss_weight: the top's diff, used as float32, as Caffe stores it, and set where Caffe itself
            sets it; None tries several upstream gradients on the one net.
        gradients: the inputs whose gradient is asked for.
        sharing: "none"; "same-blob", the second input is the blob of the first; "split", the first
            one also feeds a second loss, its sum weighted with `SHARED_GRADIENT`.
        parameters: makes the values of a net's parameter blobs, or others for the passes before.
        independent: whether one input may be another while the rest stays; those of a file may
            belong together.
    """

    name: str
    shapes: Mapping[str, Shape]
    arrays: Callable[[Case], Arrays] = field(repr=False)
    others: Callable[[Case, int], Arrays] = field(repr=False)
    fill: str = ""
    seed: int = 0
    loss_weight: float | None = None
    gradients: tuple[str, ...] = ()
    sharing: str = "none"
    parameters: Callable[[Sequence[Parameter], bool], Arrays] = field(
        default=lambda params, other: {}, repr=False
    )
    independent: bool = True

    @property
    def weight(self) -> float:
        """The loss weight as Caffe holds it: rounded to float32; 1 where none is said."""
        return float(np.float32(1.0 if self.loss_weight is None else self.loss_weight))

    @property
    def elements(self) -> int:
        """Of all inputs."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs, in order."""
        return tuple(self.shapes)

    @property
    def first(self) -> str:
        """The first input, which may be shared; "" where there is none."""
        return next(iter(self.shapes), "")

    @property
    def fed(self) -> tuple[str, ...]:
        """The inputs that are blobs of their own: all but the second of a "same-blob" case."""
        return self.names[:1] + self.names[2:] if self.sharing == "same-blob" else self.names

    @property
    def wanted(self) -> tuple[str, ...]:
        """The blobs whose gradient is asked for."""
        return tuple(name for name in self.fed if name in self.gradients)


@dataclass(frozen=True)
class Bound:
    """How far float32 rounding can carry each tensor from the truth.

    Attributes:
        worst: an a-priori worst case over all summation orders, per element; `error <= worst`.
        typical: what independent rounding errors add up to, per element; far above it (and still
            within `worst`) is reported as suspicious.
        kinks: the elements of a gradient, by tensor, at which several values are right, so that
            none is asked for; a tensor that has none is not in it.
    """

    worst: Mapping[str, Array64]
    typical: Mapping[str, Array64]
    kinks: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(frozen=True)
class Expected:
    """The truth of one pass, in float64, and how far float32 may be from it; by tensor."""

    truth: Mapping[str, Array64]
    bound: Bound


@dataclass(frozen=True)
class Expectation:
    """What a variant claims about a case that it does not simply compute.

    Attributes:
        kind: "refused" (it must refuse, with `text` in its message) or "as-layer" (it must compute
            `layer` instead, and differ from the layer it stands under wherever the two differ).
        text: what the refusal must say.
        layer: the name of the layer that it computes instead.
        reason: one sentence for the report.

    Raises:
        BadRequest: what a kind needs is missing: without a text any crash would be the refusal.
    """

    kind: str
    reason: str
    text: str = ""
    layer: str = ""

    def __post_init__(self) -> None:
        needed = {"refused": ("text", self.text), "as-layer": ("layer", self.layer)}
        if self.kind not in needed:
            raise BadRequest(f"an Expectation is {' or '.join(needed)}, not {self.kind!r}")
        name, value = needed[self.kind]
        if not value.strip():
            words = "what the refusal must say" if name == "text" else "the layer that it computes"
            raise BadRequest(f"Expectation({self.kind!r}) needs {name}=..., {words}")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or, as a note, that is to be known.

    Attributes:
        code: a stable word, such as "ignores-top-diff" or "gradient:x1" (docs/check.md).
        words: what it means.
        tensor: which one, such as "loss" or "gradient:x1"; "" for the layer as a whole.
        cause: the explanation that fits, as a stable word, such as "sign"; "" for none.
    """

    code: str
    words: str
    tensor: str = ""
    cause: str = ""


LITTLE = ("", "few", "value", "elements", "one-of-several", "constant-factor")
"""The causes that say little, least first: that something is wrong; a factor whose cause nobody
knows. "few" is that of too few values, or of too small an error, for a pattern, "one-of-several"
that of a factor with more than one cause."""

NUMBERED = ("one-of-several", "constant-factor", "offset", "one-value", "saturated")
"""The causes that are others where their numbers are."""

PLACED = ("nan", "not-nan", "inf", "finite", "ignores-top-diff")
"""The causes whose words are others where they show elsewhere in a tensor, or at another weight."""

PATTERNS = (
    *("precision", "rolled", "reversed", "swapped-axes", "broadcast", "offset", "one-value"),
    *("saturated", "constant-factor", "per-sample-factor", "per-channel-factor"),
)
"""The causes that are never told of a tensor of few values."""


@dataclass(frozen=True, eq=False)
class Parameter:
    """A parameter blob of a net.

    Attributes:
        name: `param[0]`, `param[1]`, ... in the net's order; blobs that layers share count once.
            The statistics that a BatchNorm keeps for itself are `state[0]`, `state[1]`, ...
        layer, index: where Caffe has it.
        learned: whether Caffe computes its gradient: its lr_mult is not 0.
        initial: what the net's filler, the layer's set-up, or a file of weights wrote into it.
        usual: the kind that it is filled with where nothing is said; "" where it stays as it is.
        role: of the statistics of a BatchNorm, "mean", "variance" or "factor".
        saved: whether it is from a file of weights.
    """

    name: str
    layer: str
    index: int
    learned: bool
    initial: Array32 = field(repr=False)
    usual: str = "normal"
    role: str = ""
    saved: bool = False


@dataclass(frozen=True)
class Outline:
    """What a net says of itself.

    Attributes:
        tops: those that no layer reads, and the losses, in order.
        losses: those that have a loss weight.
        params: its parameter blobs, in order.
        in_place: the inputs that a layer works on in place, so that they may change.
        bare: whether it is a layer alone, around which nobody wrote a net.
        keep_statistics: the layers that write running statistics in each forward.
        running: the exponents `beta` of its LRN layers across channels, which keep running sums.
        undriven: the tops of layers without a backward, beside others.
    """

    tops: tuple[str, ...]
    losses: tuple[str, ...]
    params: tuple[Parameter, ...] = ()
    in_place: frozenset[str] = frozenset()
    bare: bool = False
    keep_statistics: tuple[str, ...] = ()
    running: frozenset[float] = frozenset()
    undriven: frozenset[str] = frozenset()


TOTAL = "total"
"""The name of the sum of all losses with their weights, where the reference gives that."""


@dataclass(frozen=True)
class Structure:
    """What is compared of a variant: its outline as far as the reference speaks of it.

    Attributes:
        outputs: the tops that are compared, in order; `TOTAL` alone for the sum of several losses.
        is_loss: whether its upstream gradient is a loss weight, of one loss or of the total.
        params: its parameter blobs, in order.
        weightless: the compared tops that get no upstream gradient: their loss weight is 0, or
            their layer has no backward.
        untrained: whether the reference gives one number, and no layer of the net a loss weight.
        in_place: the inputs that a layer works on in place, so that they may change.
        unseen: the layers whose running statistics nobody compares.
        running: as in the outline.
    """

    outputs: tuple[str, ...]
    is_loss: bool
    params: tuple[Parameter, ...] = ()
    weightless: frozenset[str] = frozenset()
    untrained: bool = False
    in_place: frozenset[str] = field(default=frozenset(), compare=False)
    unseen: tuple[str, ...] = field(default=(), compare=False)
    running: frozenset[float] = frozenset()

    @property
    def driven(self) -> tuple[str, ...]:
        """The tops that get an upstream gradient."""
        return tuple(name for name in self.outputs if name not in self.weightless)


@dataclass(frozen=True)
class Pass:
    """One forward and backward on a net.

    Attributes:
        name: such as "first"; unique in its plan.
        inputs: what is fed, parameters included.
        upstream: the tops' diffs; None is the case's loss weight, as Caffe itself has it, or 1.
        poison: what every diff is filled with before.
        expected: the number of what it must agree with; None where it is not compared.
        adds_up: whether parameters keep the diffs of the pass before, as with iter_size 2.
        again: whether a second backward without a forward follows, which is looked at only.
    """

    name: str
    inputs: Arrays
    upstream: Arrays | None
    poison: float
    expected: int | None = None
    adds_up: bool = False
    again: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything that is asked of a variant on one case.

    Attributes:
        nets: the passes of each fresh net. What goes wrong on the second is told apart: it is given
            other batches, which not every net can be.
    """

    case: Case
    structure: Structure
    nets: tuple[tuple[Pass, ...], ...]

    @property
    def differentiated(self) -> tuple[str, ...]:
        """The inputs and parameters whose gradients are compared."""
        learned = (each.name for each in self.structure.params if each.learned)
        return (*self.case.wanted, *learned)

    @property
    def passes(self) -> tuple[Pass, ...]:
        """Of all nets, in order."""
        return tuple(each for net in self.nets for each in net)


Tensors = Mapping[str, Floating | None]
"""Tops and gradients (GRADIENT + input) by name; None for a gradient that was not computed."""


@dataclass
class Observation:
    """What a variant did on a plan.

    Attributes:
        tensors: by pass; a pass that is not compared may lack some. "again" is the second backward.
        changed: the inputs and parameters that were overwritten, and when ("forward", "backward").
        weights: the losses whose own diff, the loss weight, a backward overwrote.
        trouble: what ended the second net, if something did.
        poisoned: whether diffs held what the plan says before each backward; a port has none.
    """

    tensors: dict[str, Tensors] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    weights: tuple[str, ...] = ()
    trouble: VariantFailure | None = None
    poisoned: bool = False


class VariantFailure(ParityError):
    """A variant did not deliver a result.

    Attributes:
        verdict: "crash" or "hang".
        message: what happened, in one line or a few.
        output: what the process printed meanwhile.
    """

    def __init__(self, verdict: str, message: str, output: str = "") -> None:
        super().__init__(message)
        self.verdict = verdict
        self.message = message
        self.output = output


class Variant(Protocol):
    """One way to compute a layer. A framework adds its own by implementing this."""

    def expects(self, case: Case) -> Expectation | None:
        """What it claims about a case that it does not simply compute; None for all others."""

    def cannot_run(self) -> str | None:
        """Why it cannot run on this machine ("no C++ compiler"), or None."""

    def outline(self, case: Case, with_params: bool) -> Outline | None:
        """What it says of itself; None where only the reference can tell.

        Raises:
            BadRequest: it cannot be built, or lacks an input.
        """

    def observe(self, plan: Plan) -> Observation:
        """Carries out a plan.

        Raises:
            VariantFailure: it crashed, hung or refused.
            BadRequest: it cannot be run on these inputs at all.
        """


@dataclass(frozen=True)
class Excerpt:
    """A little of a tensor that is wrong, to draw a picture of the error.

    Attributes:
        shape: of the tensor.
        along: for each axis, the mean of error / bound at each place along it; the places of a
            longer axis in `STRETCHES` groups. inf where a bound of 0 is not met.
        plane: the same over the last two axes, by rows, at most `PLANE` by `PLANE`; () for a
            tensor of fewer than three axes.
        places: the elements that are kept, in C order: the worst, and others at even distances.
        actual, expected, bound: at these places.
    """

    shape: Shape
    along: tuple[tuple[float, ...], ...]
    plane: tuple[tuple[float, ...], ...]
    places: tuple[int, ...]
    actual: tuple[float, ...]
    expected: tuple[float, ...]
    bound: tuple[float, ...]


@dataclass(frozen=True)
class Agreement:
    """How far one tensor lies from the truth, at the place where it lies farthest.

    Attributes:
        fraction: the error as a fraction of its bound; at most 1 when the tensor agrees.
        error, bound, actual, expected: at the worst place.
        worst_index: the worst place, () for a scalar.
        wrong, size: how many elements are beyond their bound, of how many.
        compared: how many a wrong value would show at: they are numbers, 0 or larger than their
            bound, and at no kink; the others prove nothing.
        times_typical: the largest error as a multiple of what rounding typically does.
        proves: whether an all-zero tensor would be found wrong, or is right; where it is neither,
            that the tensor agrees says nothing.
        note: what is wrong beside the numbers, such as a shape; "" when nothing is.
        excerpt: some of its numbers where it is wrong, else None.
    """

    fraction: float
    error: float
    bound: float
    actual: float
    expected: float
    worst_index: tuple[int, ...]
    wrong: int
    size: int
    compared: int
    times_typical: float
    proves: bool
    note: str = ""
    excerpt: Excerpt | None = None

    @property
    def agrees(self) -> bool:
        """Whether every element lies within its bound."""
        return self.wrong == 0 and not self.note

    @property
    def suspicious(self) -> bool:
        """Within the worst case, yet far above what rounding typically does."""
        return self.agrees and self.times_typical > 1
