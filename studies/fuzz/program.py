"""What is searched: a `Target`; and over what: a `Program`, inputs fed one after another. Data."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from caffe_parity import Case, Layer
from caffe_parity.contract import Array32, Arrays, Variant
from caffe_parity.engine.judge import variant_of
from parity_tests.answers import computed_layer
from parity_tests.layers import LAYERS


@dataclass(frozen=True)
class Target:
    """A variant, by the name that the layer has for it."""

    layer: Layer
    name: str

    @property
    def id(self) -> str:
        """`<layer>-<variant>`."""
        return f"{self.layer.name}-{self.name}"

    @property
    def variant(self) -> Variant:
        """The variant itself."""
        return variant_of(self.layer, self.name)

    def computed(self, case: Case) -> Layer:
        """The layer that it says it computes."""
        return computed_layer(self.layer, self.name, case)


def targets() -> tuple[Target, ...]:
    """Every variant of every layer of the suite."""
    return tuple(Target(layer, name) for layer in LAYERS.values() for name in layer.variants)


def _swapped(array: Array32) -> Array32:
    return np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2)


def _every_second(array: Array32) -> Array32:
    """Between the elements lies NaN, which whoever ignores the strides reads."""
    wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan, np.float32)
    view = wide[..., ::2]
    view[...] = array
    return view


def _offset(array: Array32) -> Array32:
    """Four bytes behind where an allocation starts, so that no vector load is aligned."""
    view = np.full(array.size + 1, np.nan, np.float32)[1:].reshape(array.shape)
    view[...] = array
    return view


LAYOUTS: dict[str, Callable[[Array32], Array32]] = {
    "C": np.ascontiguousarray,
    "offset": _offset,
    "every-second": _every_second,
    "swapped": _swapped,
    "F": np.asfortranarray,
}
"""The same values in other places of memory. No negative strides: PyTorch itself refuses them."""


@dataclass(frozen=True)
class Step:
    """One input of the net, and what is done with it.

    The net is reshaped first where the shapes are not those of the step before.

    Attributes:
        x1, x2: the values, C order; x2 is x1 itself where the program says "same-blob".
        layouts: for each, the key of `LAYOUTS` in which it is handed over.
        forwards: how many times the net runs forward, at least once.
        poisons: a backward for each, with what every diff holds before it.
    """

    x1: Array32
    x2: Array32
    layouts: tuple[str, str] = ("C", "C")
    forwards: int = 1
    poisons: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class Program:
    """Some inputs fed to one net, one after another.

    Attributes:
        case: the loss weight, which gradients are asked for, and what is shared; its shapes are
            those of the first step.
        gradients: how a Caffe net is asked for gradients: "asked", for those of the case;
            "forced", by its own switch `force_backward`, where that is all of them; or "none".
            PyTorch is always asked for those of the case.
        steps: at least one.
    """

    case: Case
    gradients: str
    steps: tuple[Step, ...]

    def case_of(self, step: Step) -> Case:
        """The case that a step is."""
        return replace(self.case, shapes={"x1": step.x1.shape, "x2": step.x2.shape})

    def inputs_of(self, step: Step) -> Arrays:
        """The arrays of a step, in its layouts."""
        x1, x2 = (LAYOUTS[key](x) for key, x in zip(step.layouts, (step.x1, step.x2), strict=True))
        return {"x1": x1, "x2": x1 if self.case.sharing == "same-blob" else x2}

    @property
    def wanted(self) -> tuple[str, ...]:
        """The inputs whose gradients are compared."""
        return () if self.gradients == "none" else self.case.wanted

    @property
    def pruned(self) -> bool:
        """Whether Caffe runs no backward, since nothing below a loss of weight 0 needs one."""
        used = self.case.sharing == "split" or self.gradients == "forced"
        return self.case.weight == 0 and not used
