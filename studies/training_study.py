"""How near right trainings come to their bound: the figures of docs/training.md.

    python -m studies.training_study [SEEDS]

Each seed makes weights, batches and a loss weight for each layer; every variant takes 20 steps.
What needs seconds to compile for each case (`torch-compiled`) is left to the tests.
"""

from __future__ import annotations

import sys

import torch

from caffe_impl.variants import CaffeVariant, shared_caffe
from caffe_parity.contract import Case
from caffe_parity.training.bound import truth_of
from caffe_parity.training.compare import against
from caffe_parity.training.in_caffe import train_in_caffe
from caffe_parity.training.recipe import train
from parity_tests import training_nets as variants
from parity_tests.registry import registered
from torch_impl.variants import TorchVariant

STEPS = 20
LOSS_WEIGHTS = (1.0, 2.5, -0.75, 0.1)


def case_of(layer: str, seed: int) -> Case:
    """Shapes with spatial axes; the loss weight changes with the seed."""
    channels = 3 if layer == "euclidean" else 5
    weight = LOSS_WEIGHTS[seed % len(LOSS_WEIGHTS)]
    return Case("study", (4, 3, 2, 3), (4, channels, 2, 3), seed=seed, loss_weight=weight)


def fractions(layer: str, seed: int) -> dict[str, float]:
    """The largest error over its bound of each variant that computes the layer on these shapes."""
    case = case_of(layer, seed)
    recipe = variants.recipe(variants.FORMULAS[layer], case)
    truth = truth_of(recipe, variants.initial(case), variants.batches(case, STEPS))
    found = {}
    for variant in registered():
        left_out = variant.name == "torch-compiled" or variant.layer != layer
        if left_out or variant.expects(case) or variant.cannot_run():
            continue
        if isinstance(variant, CaffeVariant):
            training = variants.caffe_training(variant, case)
            seen = train_in_caffe(shared_caffe(), training, truth.initial, truth.batches)
        else:
            assert isinstance(variant, TorchVariant)
            mine = variants.recipe(variant.loss, case)
            seen = train(mine, truth.initial, truth.batches, torch.float32)
        found[variant.name] = against(truth, seen).largest
    return found


def main() -> None:
    """Prints a line for each layer and variant."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    for layer in variants.FORMULAS:
        found = [fractions(layer, seed) for seed in range(seeds)]
        for name in found[0]:
            values = [each[name] for each in found]
            beyond = sum(not value <= 1 for value in values)
            print(
                f"{layer:12} {name:24} {seeds} trainings of {STEPS} steps, {beyond} beyond the "
                f"bound, largest error {max(values):.2g} of it"
            )


if __name__ == "__main__":
    main()
