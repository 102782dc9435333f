"""Measures error/bound over many random cases: no violation, and how much room there is.

    python -m studies.rounding_study [--cases N] [--seed S] [--variant NAME] [--write]

For every variant, N random cases (shapes, channel counts, distributions, scales, loss weights; many
inputs for each net, since building a net is what takes time). The truth is the closed form in
float64, NumPy only, so that it shares no code with the autograd reference. `--write` keeps the
distributions in docs/rounding_ratios.json, one variant after the other: a run that was stopped
goes on with the variants that are not there yet. `rounding_plot` draws them.
"""

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caffe_parity import Case
from caffe_parity.contract import Array64, Arrays, Pass, Plan, Tensors, Variant, spoken
from caffe_parity.engine.judge import variant_of
from caffe_parity.engine.plan import ONE
from caffe_parity.report.environment import environment
from parity_tests.answers import STRUCTURE
from parity_tests.layers import LAYERS
from reference import rounding
from reference.cases import case_of
from reference.layers import SUMMED
from reference.rounding import DX1, DX2

FILE = Path(__file__).parent.parent / "docs/rounding_ratios.json"
BATCH = 50  # inputs for each net
LOWEST, HIGHEST = -30, 30  # powers of two; what lies beyond is counted with them


@dataclass
class Distribution:
    """How often error/bound fell between two powers of two, and the largest ratio.

    Attributes:
        counts: by the power of two below which the ratio lies; None holds exact results.
        largest: the largest ratio, and the largest multiple of the typical error.
    """

    counts: Counter[int | None] = field(default_factory=Counter)
    largest: float = 0.0
    largest_of_typical: float = 0.0
    violations: int = 0

    def add(self, ratio: float, of_typical: float) -> None:
        """Counts the worst ratio of one tensor of one case."""
        if np.isnan(ratio):
            ratio = np.inf
        power = None
        if ratio != 0:
            power = int(np.clip(np.ceil(np.log2(ratio)), LOWEST, HIGHEST))
        self.counts[power] += 1
        self.largest = max(self.largest, ratio)
        self.largest_of_typical = max(self.largest_of_typical, of_typical)
        self.violations += not ratio <= 1


def random_case(layer: str, rng: np.random.Generator) -> Case:
    """Shapes of up to 4 axes and some 3,000 elements, and a loss weight of either sign."""
    axes = int(rng.integers(0, 3))
    spatial = tuple(int(each) for each in rng.integers(1, 7, size=axes))
    n, c1, c2 = int(rng.integers(1, 9)), *(int(each) for each in 2 ** rng.uniform(0, 6.5, 2))
    if layer == "euclidean":
        c2 = c1
    weight = float(np.float32(rng.choice([1.0, -1.0]) * 2 ** rng.uniform(-8, 8)))
    return case_of("random", (n, c1, *spatial), (n, c2, *spatial), loss_weight=weight)


def random_inputs(case: Case, rng: np.random.Generator) -> Arrays:
    """One of five distributions at a random scale."""
    kind = rng.integers(0, 5)
    scale = 2.0 ** rng.integers(-20, 21)

    def array(shape: tuple[int, ...]) -> Array64:
        values: Array64 = rng.standard_normal(shape)
        if kind == 1:
            values = np.abs(values)
        elif kind == 2:  # neighbours of very different size
            values = values * 2.0 ** rng.integers(-12, 13, size=shape)
        elif kind == 3:  # a large common offset
            values = values + 1000.0
        return values * scale

    x1, x2 = array(case.shapes["x1"]), array(case.shapes["x2"])
    if kind == 4:  # x2 is nearly x1: the sums cancel
        x2 = np.resize(x1, x2.shape) + 1e-4 * x2
    return {"x1": x1.astype(np.float32), "x2": x2.astype(np.float32)}


def closed_form(kind: str, case: Case, inputs: Arrays) -> dict[str, Array64]:
    """The loss and the gradients in float64 from the formula."""
    x1, x2 = (rounding.summed(kind, each.astype(np.float64)) for each in inputs.values())
    d = x1 - x2
    gradient = case.weight / len(d) * d
    return {
        "loss": np.asarray(np.sum(d * d) / (2 * len(d))),
        DX1: np.broadcast_to(gradient, case.shapes["x1"]),
        DX2: np.broadcast_to(-gradient, case.shapes["x2"]),
    }


def computed(variant: Variant, case: Case, batch: list[Arrays]) -> list[Tensors]:
    """What a variant gives for every inputs, all on one net."""
    passes = tuple(
        Pass(str(number), inputs, None, ONE, expected=0) for number, inputs in enumerate(batch)
    )
    seen = variant.observe(Plan(case, STRUCTURE, (passes,)))
    return [seen.tensors[each.name] for each in passes]


def study(layer: str, name: str, cases: int, rng: np.random.Generator) -> dict[str, Distribution]:
    """The distributions of error/bound of one variant, by tensor."""
    kind, variant = SUMMED[layer], variant_of(LAYERS[layer], name)
    result = {tensor: Distribution() for tensor in ("loss", DX1, DX2)}
    done = 0
    while done < cases:
        case = random_case(layer, rng)
        if variant.expects(case):
            continue
        batch = [random_inputs(case, rng) for _ in range(min(BATCH, cases - done))]
        done += len(batch)
        for inputs, found in zip(batch, computed(variant, case, batch), strict=True):
            limit = rounding.bound(kind, case, inputs)
            for tensor, truth in closed_form(kind, case, inputs).items():
                actual = found[tensor]
                assert actual is not None
                error = np.abs(actual.astype(np.float64).reshape(truth.shape) - truth)
                with np.errstate(invalid="ignore"):
                    ratio, of_typical = (
                        float(np.max(np.where(error == 0, 0.0, error / each[tensor])))
                        for each in (limit.worst, limit.typical)
                    )
                result[tensor].add(ratio, of_typical)
    return {spoken(tensor): each for tensor, each in result.items()}


def as_data(distributions: dict[str, Distribution]) -> dict[str, Any]:
    """The distributions of one variant as JSON data."""
    return {
        name: {
            "exact": each.counts[None],
            "below_power_of_two": {
                str(power): each.counts[power]
                for power in range(LOWEST, HIGHEST + 1)
                if each.counts[power]
            },
            "largest": each.largest,
            "largest_of_typical": each.largest_of_typical,
            "violations": each.violations,
        }
        for name, each in distributions.items()
    }


def kept_ratios(cases: int, seed: int) -> dict[str, Any]:
    """What an earlier run with the same cases in the same environment has kept, if any."""
    if not FILE.exists():
        return {}
    content: dict[str, Any] = json.loads(FILE.read_text())
    here = _surroundings() | {"caffe": content["environment"]["caffe"]}  # not started yet
    same = {"cases_for_each": cases, "seed": seed, "environment": here}
    return content["ratios"] if content.items() >= same.items() else {}


def violations_in(ratios: dict[str, Any]) -> int:
    """How often an error was larger than its bound."""
    return sum(each["violations"] for ratio in ratios.values() for each in ratio.values())


def keep(ratios: dict[str, Any], cases: int, seed: int) -> None:
    """Writes the distributions by `layer-variant`, and what they were measured with."""
    content = {
        "cases_for_each": cases,
        "seed": seed,
        "violations": violations_in(ratios),
        "environment": _surroundings(),
        "ratios": ratios,
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n")


def _surroundings() -> dict[str, Any]:
    """What the distributions depend on beside this project, whose own history dates the file."""
    return {key: value for key, value in environment().items() if key != "commit"}


def main(arguments: list[str] | None = None) -> int:
    """Runs the study; 0 without a violation, 1 with one."""
    parser = argparse.ArgumentParser(prog="python -m studies.rounding_study")
    parser.add_argument("--cases", type=int, default=2000, help="for each variant (2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", help="only this variant")
    parser.add_argument("--write", action="store_true", help="keep the result in docs/")
    options = parser.parse_args(arguments)
    ratios = kept_ratios(options.cases, options.seed) if options.write else {}
    print(f"{'layer':12} {'variant':24} {'loss':>8} {'dx1':>8} {'dx2':>8}   largest error/bound")
    for layer, variant in ((each, name) for each in LAYERS for name in LAYERS[each].variants):
        name = f"{layer}-{variant}"
        if options.variant not in (None, variant) or variant == "torch-cuda":  # it is of the CPU
            continue
        if variant_of(LAYERS[layer], variant).cannot_run():
            continue
        words = "kept"
        if name not in ratios:
            start = time.perf_counter()
            torch.compiler.reset()  # the patterns of ones that it has compiled code for are limited
            found = study(layer, variant, options.cases, np.random.default_rng(options.seed))
            ratios[name] = as_data(found)
            words = f"{time.perf_counter() - start:.0f} s"
            if options.write:
                keep(ratios, options.cases, options.seed)
        tensors = ratios[name].values()
        largest = " ".join(f"{each['largest']:8.3f}" for each in tensors)
        if bad := sum(each["violations"] for each in tensors):
            words += f", {bad} violations"
        print(f"{layer:12} {variant:24} {largest}   {words}", flush=True)
    violations = violations_in(ratios)
    print(f"{options.cases * len(ratios)} cases, {violations} violations")
    if options.write:
        print("written: docs/rounding_ratios.json")
    return int(violations > 0)


if __name__ == "__main__":
    sys.exit(main())
