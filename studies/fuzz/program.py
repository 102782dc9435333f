"""What is searched over: a `Program`, some inputs fed to one net one after another. Data only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_parity.contract import Array32, Case, Inputs

GRADIENTS = ("asked", "forced", "none")
"""How a Caffe net is asked for gradients: for those of `propagate_down`; by its own switch
`force_backward`, where that is all of them; or not at all. PyTorch is always asked for those of
`propagate_down`."""

SHARINGS = ("none", "same-blob", "split")


def _fortran(array: Array32) -> Array32:
    return np.asfortranarray(array)


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
    "F": _fortran,
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
        gradients: a member of `GRADIENTS`.
        steps: at least one.
    """

    case: Case
    gradients: str
    steps: tuple[Step, ...]

    @property
    def elements(self) -> int:
        """How many numbers are fed in all steps together."""
        return sum(step.x1.size + step.x2.size for step in self.steps)

    def case_of(self, step: Step) -> Case:
        """The case that a step is."""
        return replace(self.case, x1_shape=step.x1.shape, x2_shape=step.x2.shape)

    def inputs_of(self, step: Step) -> Inputs:
        """The arrays of a step, in its layouts."""
        x1, x2 = (LAYOUTS[key](x) for key, x in zip(step.layouts, (step.x1, step.x2), strict=True))
        return Inputs(x1, x1 if self.case.sharing == "same-blob" else x2)

    def wanted(self) -> tuple[str, ...]:
        """The names of the gradients that are compared."""
        if self.gradients == "none":
            return ()
        want1, want2 = self.case.propagate_down
        if self.case.sharing == "same-blob":
            want2 = False
        return tuple(name for name, want in (("dx1", want1), ("dx2", want2)) if want)

    def described(self) -> dict[str, Any]:
        """Everything but the arrays' values, as JSON data."""
        return {
            "loss_weight": self.case.loss_weight,
            "propagate_down": list(self.case.propagate_down),
            "sharing": self.case.sharing,
            "gradients": self.gradients,
            "steps": [
                {
                    "x1": list(step.x1.shape),
                    "x2": list(step.x2.shape),
                    "layouts": list(step.layouts),
                    "forwards": step.forwards,
                    "poisons": list(step.poisons),
                }
                for step in self.steps
            ],
        }

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """The values, by the names that they have in a folder's arrays.npz."""
        named = {}
        for index, step in enumerate(self.steps):
            named[f"step{index}_x1"] = step.x1
            if self.case.sharing != "same-blob":
                named[f"step{index}_x2"] = step.x2
        return named

    def digest(self) -> str:
        """The same for two programs that are the same to the bit."""
        digest = hashlib.sha256(repr(self.described()).encode())
        for array in self.arrays().values():
            digest.update(array.tobytes())
        return digest.hexdigest()
