"""What an implementation of a loss answers to a plan, right or spoilt: judged without a Caffe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from caffe_parity import Case, Layer
from caffe_parity.contract import Array32, Array64, Observation, Plan, Structure, Tensors
from caffe_parity.engine.expected import Question, question
from caffe_parity.engine.plan import planned
from caffe_parity.engine.verdict import Judged, judged

LOSS = Structure(("loss",), is_loss=True)


@dataclass(frozen=True)
class Answered:
    """The answers of an implementation that is right.

    Attributes:
        layer: what it computes.
        plan: what is asked of it.
        asked: the truth and its bound.
        passes: what it gives in each pass that is looked at, rounded to float32 once.
    """

    layer: Layer
    plan: Plan
    asked: Question
    passes: Mapping[str, Mapping[str, Array32]]

    def judged(self, **changes: Mapping[str, Array32 | None]) -> Judged:
        """What is said of it with some tensors of some passes replaced."""
        seen: dict[str, Tensors] = {
            name: {**each, **changes.get(name, {})} for name, each in self.passes.items()
        }
        return judged(self.layer, self.plan, self.asked, Observation(seen, poisoned=True))

    @property
    def compared(self) -> tuple[str, ...]:
        """The passes that are held against the truth."""
        return tuple(each.name for each in self.plan.passes if each.expected is not None)


def right(layer: Layer, case: Case) -> Answered:
    """What a right implementation answers to a case."""
    asked = question(layer, case, LOSS)
    plan = planned(layer, case, LOSS, asked.upstreams, asked.inputs)
    passes = {}
    for each in plan.passes:
        if each.expected is not None:
            passes[each.name] = _rounded(asked.expected[each.expected].truth)
        elif each.name == "other":
            passes[each.name] = _rounded(asked.truth(each.inputs, each.upstream))
    return Answered(layer, plan, asked, passes)


def _rounded(truth: Mapping[str, Array64]) -> dict[str, Array32]:
    return {name: each.astype(np.float32) for name, each in truth.items()}
