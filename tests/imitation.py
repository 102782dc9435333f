"""A Python layer in a net of its own, run in this process as Caffe runs it; for tests without one.

Only what a layer sees of Caffe: blobs with data and diffs, its calls and their order. What it finds
in a layer, a real Caffe must find as well; `test_check_alone` runs the same layers in both.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np

from caffe_parity import Case, Expectation
from caffe_parity.contract import (
    GRADIENT,
    SHARED_GRADIENT,
    Array32,
    Observation,
    Outline,
    Parameter,
    Pass,
    Plan,
    Shape,
    VariantFailure,
)
from caffe_parity.engine.plan import AGAIN, FIRST, ONE, OTHER

STANDS_FOR = ModuleType("caffe")
"""The module of that name that a layer imports."""
STANDS_FOR.Layer = object  # type: ignore[attr-defined]


class Blob:
    """Values and diffs of one shape."""

    def __init__(self, *shape: int) -> None:
        self.reshape(*shape)

    def reshape(self, *shape: int) -> None:
        """Keeps what it holds where the shape stays."""
        if getattr(self, "data", None) is None or self.data.shape != shape:
            self.data: Array32 = np.zeros(shape, np.float32)
            self.diff: Array32 = np.zeros(shape, np.float32)

    @property
    def shape(self) -> Shape:
        """The shape."""
        return self.data.shape


class Blobs(list[Blob]):
    """A layer's parameters."""

    def add_blob(self, *shape: int) -> None:
        """One more."""
        self.append(Blob(*shape))


@dataclass(frozen=True)
class Imitation:
    """A layer's source; its class is `Layer`. Implements `caffe_parity.contract.Variant`.

    Attributes:
        source: of the module.
        tops: their names, in order.
    """

    source: str
    tops: tuple[str, ...] = ("top",)

    def expects(self, case: Case) -> Expectation | None:
        return None

    def cannot_run(self) -> str | None:
        return None

    def outline(self, case: Case, with_params: bool) -> Outline:
        made = _Net(self, {name: case.shapes[name] for name in case.fed})
        params = (
            Parameter(f"param[{number}]", "mine", number, True, each.data.copy())
            for number, each in enumerate(made.params)
        )
        return Outline(self.tops, (), tuple(params) if with_params else (), bare=True)

    def observe(self, plan: Plan) -> Observation:
        seen = Observation(poisoned=True)
        for number, passes in enumerate(plan.nets):
            try:
                net = _Net(self, {k: passes[0].inputs[k].shape for k in plan.case.fed})
                for each in passes:
                    net.run(plan, each, seen)
            except Exception as error:
                failure = VariantFailure("crash", f"a layer raised: {error}")
                if not number:
                    raise failure from error
                seen.trouble = failure
        return seen


class _Net:
    """A layer with its blobs."""

    def __init__(self, of: Imitation, shapes: Mapping[str, Shape]) -> None:
        space: dict[str, Any] = {}
        with patch.dict(sys.modules, caffe=STANDS_FOR):
            exec(of.source, space)  # noqa: S102  # a test's own
        self.layer = space["Layer"]()
        self.params = self.layer.blobs = Blobs()
        self.bottoms = {name: Blob(*shape) for name, shape in shapes.items()}
        self.tops = {name: Blob() for name in of.tops}
        self.layer.setup(*self.both)
        self.layer.reshape(*self.both)

    @property
    def both(self) -> tuple[list[Blob], list[Blob]]:
        return list(self.bottoms.values()), list(self.tops.values())

    def run(self, plan: Plan, each: Pass, seen: Observation) -> None:
        """One pass, with what is read of it."""
        bottoms, tops = self.both
        names = [param.name for param in plan.structure.params]
        inputs = {name: value for name, value in each.inputs.items() if name not in names}
        for name, value in inputs.items():
            self.bottoms[name].reshape(*value.shape)
            self.bottoms[name].data[...] = value
        for name, blob in zip(names, self.params, strict=False):
            blob.data[...] = each.inputs[name]
        self._poison(each.poison)
        self.layer.reshape(bottoms, tops)
        self.layer.forward(bottoms, tops)
        read = {name: self.tops[name].data.copy() for name in plan.structure.outputs}
        if each.name == FIRST:
            self._changed(plan, each, seen, "forward")
        for blob in self.params if not each.adds_up else ():
            blob.diff[...] = 0
        gradients = self._backward(plan, each)
        if each.expected is not None or each.name == OTHER:
            seen.tensors[each.name] = {**read, **gradients}
        if each.again:
            self._poison(ONE)
            seen.tensors[AGAIN] = self._backward(plan, each)
        if each.expected is not None:
            self._changed(plan, each, seen, "backward")

    def _poison(self, value: float) -> None:
        for blob in (*self.bottoms.values(), *self.tops.values()):
            blob.diff[...] = value

    def _backward(self, plan: Plan, each: Pass) -> dict[str, Array32]:
        bottoms, tops = self.both
        for name, blob in self.tops.items():
            blob.diff[...] = 1 if each.upstream is None else each.upstream[name].reshape(blob.shape)
        self.layer.backward(tops, [True] * len(bottoms), bottoms)
        found = {name: self.bottoms[name].diff.copy() for name in plan.case.wanted}
        if plan.case.sharing == "split":  # Caffe's Split adds the diffs of its copies
            found[plan.case.first] += np.float32(SHARED_GRADIENT)
        for param, blob in zip(plan.structure.params, self.params, strict=False):
            found[param.name] = blob.diff.copy()
        return {GRADIENT + name: value for name, value in found.items()}

    def _changed(self, plan: Plan, each: Pass, seen: Observation, when: str) -> None:
        names = [param.name for param in plan.structure.params]
        blobs = {**self.bottoms, **dict(zip(names, self.params, strict=False))}
        for name, blob in blobs.items():
            if not np.array_equal(blob.data, each.inputs[name], equal_nan=True):
                seen.changed.setdefault(name, when)
