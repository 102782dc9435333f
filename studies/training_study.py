"""How near right trainings come to their bound: the figures of docs/training.md.

    python -m studies.training_study [SEEDS]

Each seed makes weights, batches and a loss weight for each layer; every variant takes 20 steps.
What needs seconds to compile for each case (`torch-compiled`) is left to the tests.
"""

import sys

from caffe_parity import Case
from caffe_parity.engine.judge import variant_of
from caffe_parity.training.divergence import against
from caffe_parity.training.truth import truth_of
from parity_tests import training_nets as nets
from parity_tests.layers import LAYERS
from reference.cases import case_of

STEPS = 20
LOSS_WEIGHTS = (1.0, 2.5, -0.75, 0.1)


def seeded(layer: str, seed: int) -> Case:
    """Shapes with spatial axes; the loss weight changes with the seed."""
    channels = 3 if layer == "euclidean" else 5
    weight = LOSS_WEIGHTS[seed % len(LOSS_WEIGHTS)]
    return case_of("study", (4, 3, 2, 3), (4, channels, 2, 3), seed=seed, loss_weight=weight)


def fractions(layer: str, seed: int) -> dict[str, float]:
    """The largest error over its bound of each variant that computes the layer on these shapes."""
    case = seeded(layer, seed)
    recipe = nets.recipe(LAYERS[layer].reference, case)
    truth = truth_of(recipe, nets.initial(case), nets.batches(case, STEPS))
    found = {}
    for name in LAYERS[layer].variants:
        variant = variant_of(LAYERS[layer], name)
        if name == "torch-compiled" or variant.expects(case) or variant.cannot_run():
            continue
        found[name] = against(truth, nets.trained(variant, case, truth)).largest
    return found


def main() -> None:
    """Prints a line for each layer and variant."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    for layer in LAYERS:
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
