"""What is fed to a variant, in which passes, and with which upstream gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from caffe_parity.contract import Arrays, Case, Pass, Plan, Shape, Structure
from caffe_parity.layer import Layer, batched

HUGE, ONE, ODD = 2.0**100, 1.0, 1.328125
"""What diffs are filled with before a backward. The huge value shows an unwritten diff at once;
after 1, a diff that was not written (it still is 1) can be told from one that was added to; so it
can in the passes of another batch, whose value is none that a right gradient would often have.

Not NaN: Caffe's own EuclideanLoss multiplies what its bottom diffs held by 0 (`caffe_cpu_axpby`
without MKL is a scal and an axpy, include/caffe/util/mkl_alternate.hpp), and 0 * NaN is NaN."""

WEIGHTS = (1.0, 2.5, -0.75)
"""The loss weights of a case that has none of its own. One weight is no test: ignoring it is right
at 1."""

LARGE = 2**16
"""Inputs, in elements, beyond which no pass has one of them alone changed."""

FIRST, SECOND, OTHER, AGAIN = "first", "second", "other", "again"


def upstreams(case: Case, structure: Structure, shapes: dict[str, Shape]) -> list[Arrays | None]:
    """The upstream gradients that are tried, of which the first is that of most passes.

    A case with a loss weight of its own has the one that Caffe makes of it. Else a loss gets each
    of `WEIGHTS`, and other tops noise, twice.

    Args:
        case: its loss weight, its name and its seed.
        structure: whether it is a loss.
        shapes: of the tops, by name.
    """
    if case.loss_weight is not None:
        return [None]
    shapes = {name: shapes[name] for name in structure.driven}
    if structure.is_loss:
        return [
            {name: np.full(shape, weight, np.float32) for name, shape in shapes.items()}
            for weight in WEIGHTS
        ]
    rng = np.random.RandomState([case.seed, number_of(case), 7])
    return [
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(2)
    ]


def planned(
    layer: Layer, case: Case, structure: Structure, ups: Sequence[Arrays | None], inputs: Arrays
) -> Plan:
    """The passes of a case.

    Each net first sees other inputs, so that nothing is fresh. One net is asked for every upstream
    gradient and then for the first one again, while its diffs hold something else; in between, one
    of the inputs alone is another, from case to case a different one. One net is made for a single
    sample, and has a larger batch before its last pass. A layer that must allow the latter has all
    on the one net.

    Args:
        layer: what it demands of its variants.
        case: its inputs.
        structure: of the variant.
        ups: of `upstreams`.
        inputs: of the case, parameters included.
    """

    def others(extra: int = 0) -> Arrays:
        made = {**case.others(case, extra), **case.parameters(structure.params, True)}
        return {name: each for name, each in made.items() if name in case.fed or "[" in name}

    first = Pass(FIRST, inputs, ups[0], HUGE, expected=0)
    before = Pass(OTHER, others(), None, HUGE)
    asked = [
        first,
        *(
            Pass(f"upstream {number + 1}", inputs, up, ONE, expected=number)
            for number, up in enumerate(ups)
            if number
        ),
        replace(first, name=SECOND, poison=ONE, adds_up=True, again=True),
    ]
    asked[1:1] = _one_alone(case, structure, first, before, is_last=len(ups) == 1)
    if not batched(case):
        return Plan(case, structure, ((before, *asked),))
    names = set(case.shapes)
    one = {name: each[:1] if name in names else each for name, each in before.inputs.items()}
    sample = Pass("sample", one, None, HUGE)
    larger = Pass("larger", others(1), None, HUGE)
    reshaped = replace(first, name="reshaped", poison=ODD)  # which shows what is added
    if layer.reshapes:
        return Plan(case, structure, ((sample, before, *asked, larger, reshaped),))
    remade = replace(reshaped, name="remade")
    return Plan(case, structure, ((before, *asked), (sample, remade, larger, reshaped)))


def _one_alone(
    case: Case, structure: Structure, first: Pass, before: Pass, is_last: bool
) -> list[Pass]:
    """The inputs of the pass before, then those of the case but for one, or for the parameters.

    A layer that looks at the others only, to see whether it must compute anew, then keeps what it
    has. Not where inputs belong together, nor where parameters must add up in the pass that
    follows; nor for large inputs, which would take as long again and show no more.
    """
    params = [each.name for each in structure.params]
    groups = [*([each] for each in case.fed), *([params] if params else [])]
    large = sum(each.size for each in first.inputs.values()) > LARGE
    if len(groups) < 2 or not case.independent or large or (is_last and params):
        return []
    changed = groups[number_of(case) % len(groups)]
    inputs = {**first.inputs, **{name: before.inputs[name] for name in changed}}
    return [replace(before, name="others"), Pass("one alone", inputs, None, HUGE)]


def number_of(case: Case) -> int:
    """The number of a case, or one that its name makes."""
    return int(case.name) if case.name.isdecimal() else sum(case.name.encode())


def fresh(plan: Plan) -> Plan:
    """Each pass of the first net alone on a fresh one: what is wrong in it is no memory."""
    kept = [each for each in plan.nets[0] if each.expected is not None and each.name != "reshaped"]
    alone = (replace(each, adds_up=False, again=False) for each in kept)
    return replace(plan, nets=tuple((each,) for each in alone))


def shapes_change(before: Pass, after: Pass) -> bool:
    """Whether a net must be reshaped between two passes."""
    return any(before.inputs[name].shape != each.shape for name, each in after.inputs.items())


def reshapes(passes: Sequence[Pass]) -> list[bool]:
    """For each pass of one net, whether it must be reshaped before."""
    return [False, *(shapes_change(one, another) for one, another in pairwise(passes))]
