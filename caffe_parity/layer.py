"""What a user declares: a layer, its reference, and the variants that must agree with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from caffe_parity.contract import (
    PARAM,
    STATE,
    Array32,
    Array64,
    Arrays,
    BadRequest,
    Bound,
    Case,
    Parameter,
    ParityError,
    Shape,
    Variant,
)
from caffe_parity.engine.data import Kind, fill, parse
from caffe_parity.engine.functions import Function, must_take, takes, takes_params

APART = 1_000_000
"""How far the number of the case that fills the passes before lies from the case's own."""

SPLIT = 2
"""The number of the case whose first input is shared with a second consumer."""


class BadLayer(ParityError):
    """A layer was declared that cannot be compared: what is wrong, and what was expected.

    Where pytest collects it, the plugin shows its message without a traceback.
    """


@dataclass(frozen=True)
class Rival:
    """Another formula that a layer is taken for, as its gradients and its loss show.

    Attributes:
        code, words: of the explanation; `{tensor}` in the words is the tensor's name.
        predicted: what it makes, by tensor, float64.
        rounding: how far float32 may be from that, by tensor.
    """

    code: str
    words: str
    predicted: Mapping[str, Array64]
    rounding: Mapping[str, Array64 | float]


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer that is computed in several ways.

    Args:
        name: the first part of the test ids.
        reference: gets float64 tensors as keyword arguments named like the inputs; returns the
            loss, or the tops of a layer that is no loss (a tensor, a tuple or a dict).
        inputs: the shape of each input; not needed with cases of one's own.
        variants: what must agree with the reference, by name: `python_layer(...)`, `net(...)`, or
            a port, which is a function or a torch.nn.Module that takes the inputs in float32.
        data: what an input holds, such as {"label": "int:0,4"}; "normal" where nothing is said.
        grad: the inputs that get a gradient; by default all but those of integer kinds.
        cases: how many inputs each variant is tried on, or the cases themselves.
        seed: of the inputs; a case has the same ones in every variant.
        bound: the derived rounding bound of a case; by default random rounding finds one.
        rivals: other formulas that a wrong result may be, for explanations.
        mistaken_for: other layers that it is taken for; some variants say that they compute one.
        allows: whether the formula is defined for a case.
        reshapes: whether a net that cannot be given another batch is wrong. By default that is a
            note: many a net fixes its batch.
        allow_nonfinite: whether `data` may ask for NaN or an infinity; what remains is compared.
        sources: the files and folders of Python that alone, with what they import and PyTorch and
            NumPy, decide what `reference` and `bound` give: no data, no variable of the
            environment. With them, `parity run` keeps the truths of small cases.

    Raises:
        BadLayer: it cannot be compared; the message says why.
    """

    name: str
    reference: Function
    inputs: Mapping[str, Shape] = field(default_factory=dict)
    variants: Mapping[str, Variant | Function] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    grad: Sequence[str] | None = None
    cases: int | Sequence[Case] = 8
    seed: int = 0
    bound: Callable[[Case, Arrays], Bound] | None = None
    rivals: Callable[[Case, Arrays], Iterator[Rival]] | None = None
    mistaken_for: Callable[[], Sequence[Layer]] = tuple
    allows: Callable[[Case], bool] = lambda case: True
    reshapes: bool = False
    allow_nonfinite: bool = False
    sources: Sequence[Path] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise BadLayer(f"a layer needs a name, a string; got {self.name!r}")
        if not callable(self.reference):
            raise self._bad(f"reference={self.reference!r} is no function")
        if isinstance(self.sources, str) or not all(isinstance(x, Path) for x in self.sources):
            raise self._bad(f"sources={self.sources!r} are no paths: expected [Path(__file__)]")
        if isinstance(self.cases, int):
            self._check_numbers()
            self._check_inputs()
        self._check_functions()

    def all_cases(self) -> tuple[Case, ...]:
        """Every case, in order."""
        if not isinstance(self.cases, int):
            return tuple(self.cases)
        varied = self.inputs or self.arguments  # else all cases are the same
        return tuple(self.case(number) for number in range(self.cases if varied else 1))

    def case(self, number: int) -> Case:
        """The case of that number, which its inputs depend on alone, beside the layer's seed."""
        split = number == SPLIT and self.gradients[:1] == tuple(self.inputs)[:1] != ()
        return Case(
            name=str(number),
            shapes={name: tuple(shape) for name, shape in self.inputs.items()},
            arrays=partial(self._filled, number),
            others=partial(self._filled, number + APART),
            seed=self.seed,
            gradients=self.gradients,
            sharing="split" if split else "none",
            parameters=partial(self._parameters, number),
        )

    def _filled(self, number: int, case: Case, extra_samples: int = 0) -> Arrays:
        rng = np.random.RandomState([self.seed, number])
        return {
            name: fill(self.kinds[name], longer(shape, extra_samples), number, rng)
            for name, shape in case.shapes.items()
        }

    def _parameters(self, number: int, params: Sequence[Parameter], other: bool) -> Arrays:
        """Of scale 1 in every case, a weight with several inputs by how many they are.

        So what a layer makes of inputs of scale 1 is of scale 1 again, and nothing saturates.
        """
        rng = np.random.RandomState([self.seed, number + APART * other, 11])
        values = {}
        for each in params:
            said = self.data.get(each.name, each.usual)
            kept = _reordered(each.initial, 0) if other and each.saved else each.initial
            values[each.name] = fill(self._kind(said), each.initial.shape, 0, rng) if said else kept
            if said and each.name not in self.data and each.initial.ndim > 1:
                inputs = np.float32(max(1, each.initial[0].size))
                values[each.name] = values[each.name] / np.sqrt(inputs)
        return values

    def with_inputs(self, file: str, arrays: Arrays) -> Layer:
        """The layer with these inputs as its only case; passes before get them in another order.

        Args:
            file: where they come from, for messages.
            arrays: the inputs, and those parameters that are not filled as in other cases.
        """
        inputs = {name: arrays[name] for name in self.inputs}

        def others(case: Case, extra_samples: int) -> Arrays:
            return {name: _reordered(each, extra_samples) for name, each in inputs.items()}

        def parameters(params: Sequence[Parameter], other: bool) -> Arrays:
            found = {**self._parameters(0, params, other)}
            for each in (each for each in params if each.name in arrays):
                given = arrays[each.name]
                if given.shape != each.initial.shape:
                    raise BadRequest(
                        f"--inputs {file}: {each.name} has shape {given.shape}, "
                        f"the net's {each.initial.shape}"
                    )
                found[each.name] = _reordered(given, 0) if other else given
            return found

        case = Case(
            name="given",
            shapes={name: each.shape for name, each in inputs.items()},
            arrays=lambda case: inputs,
            others=others,
            fill="from the file",
            gradients=self.gradients,
            parameters=parameters,
            independent=False,
        )
        return replace(self, cases=(case,))

    @property
    def kinds(self) -> dict[str, Kind]:
        """How each input is filled."""
        return {name: self._kind(self.data.get(name, "normal")) for name in self.inputs}

    def _kind(self, text: str) -> Kind:
        return parse(text, self.allow_nonfinite)

    @property
    def gradients(self) -> tuple[str, ...]:
        """The inputs that get a gradient."""
        if self.grad is not None:
            return tuple(self.grad)
        return tuple(name for name, kind in self.kinds.items() if not kind.is_label)

    @property
    def takes_params(self) -> bool:
        """Whether the reference wants the parameters that the layer learns (docs/check.md)."""
        return PARAM not in self.inputs and takes_params(self.reference)

    @property
    def takes_state(self) -> bool:
        """Whether the reference wants what layers write themselves, such as running statistics."""
        return STATE not in self.inputs and takes(self.reference, STATE)

    @property
    def arguments(self) -> list[str]:
        """What the reference takes beside the inputs: `param`, `state`."""
        return [PARAM] * self.takes_params + [STATE] * self.takes_state

    def _check_numbers(self) -> None:
        if not isinstance(self.cases, int) or isinstance(self.cases, bool) or self.cases < 1:
            raise self._bad(f"cases={self.cases!r}: expected 1 or more")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise self._bad(f"seed={self.seed!r}: expected an integer from 0 to 2**32 - 1")

    def _check_inputs(self) -> None:
        if not self.inputs:
            self._check_no_inputs()
        for name, shape in self.inputs.items():
            fits = isinstance(shape, (tuple, list)) and all(
                isinstance(extent, int) and extent > 0 for extent in shape
            )
            if not fits:
                raise self._bad(f"inputs: {name} is {shape!r}, expected a shape such as (4, 3, 5)")
        if isinstance(self.grad, str):
            raise self._bad(f"grad={self.grad!r}: expected a list, such as [{self.grad!r}]")
        kinds = tuple(f"{each}[" for each in self.arguments)
        of_params = [name for name in self.data if name.startswith(kinds)]
        for name in (*self.data, *(self.grad or ())):
            if name not in self.inputs and name not in of_params:
                known = ", ".join(self.inputs)
                raise self._bad(f"there is no input {name!r}; the inputs are {known}")
        rng = np.random.RandomState(0)
        for name, kind in self.data.items():
            try:
                fill(self._kind(kind), tuple(self.inputs.get(name, (2, 2))), 0, rng)
            except BadRequest as error:
                raise self._bad(f"data of {name}: {error}") from error

    def _check_no_inputs(self) -> None:
        try:
            must_take(self.reference, self.arguments, "reference")
        except BadRequest as error:
            raise self._bad(
                'inputs: expected a shape for each, such as {"x": (4, 3, 5)}; none are given, and '
                "the reference takes some"
            ) from error

    def _check_functions(self) -> None:
        self._must_take(self.reference, "reference", self.arguments)
        for name, variant in self.variants.items():
            if hasattr(variant, "observe"):
                continue
            if inspect.isclass(variant):
                raise self._bad(
                    f"variant {name!r} is the class {variant.__name__}: give an object of it, "
                    f"such as {variant.__name__}()"
                )
            if not callable(variant):
                raise self._bad(
                    f"variant {name!r} is {variant!r}: expected caffe_parity.python_layer(...), "
                    "caffe_parity.net(...), a function or a torch.nn.Module"
                )
            if not self.arguments:  # what takes the parameters' place, only a net says
                self._must_take(variant, f"port {name!r}")

    def _must_take(self, function: Function, what: str, more: Sequence[str] = ()) -> None:
        if not isinstance(self.cases, int):
            return
        try:
            must_take(function, [*self.inputs, *more], what)
        except BadRequest as error:
            raise self._bad(str(error)) from error

    def _bad(self, words: str) -> BadLayer:
        return BadLayer(f"layer {self.name!r}: {words}")


def _reordered(array: Array32, extra_samples: int) -> Array32:
    """Its samples in another order; a single sample's along its last axis."""
    axis = 0 if array.ndim and array.shape[0] > 1 else array.ndim - 1
    moved = np.roll(array, 1, axis) if array.ndim else array
    return np.concatenate([moved, moved[:extra_samples]]) if extra_samples else moved


def batched(case: Case) -> bool:
    """Whether all inputs have as many samples (axis 0), so that the batch can be another one."""
    return all(case.shapes.values()) and len({shape[0] for shape in case.shapes.values()}) == 1


def longer(shape: Shape, extra_samples: int) -> Shape:
    """The shape with so many samples more."""
    return (shape[0] + extra_samples, *shape[1:]) if extra_samples else shape
