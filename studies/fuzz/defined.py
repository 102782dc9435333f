"""Where float32 itself leaves the answer open, so that no bound can be asked of a program."""

from collections.abc import Sequence

import numpy as np

from caffe_parity.contract import LARGEST, Array32, Array64
from reference.rounding import worst_growth
from studies.fuzz.program import Program, Step

SMALLEST_NORMAL = 2.0**-126


def is_defined(summed: Sequence[str], program: Program) -> bool:
    """Whether every right float32 implementation gives one answer, up to rounding.

    `summed` says for each step which axes are: "none", "channel" or "tail".

    Left out, where `size` is the sum of the absolute values behind an element of d and s = |w|/N:

    - 2 * size beyond the largest float32: some orders of summation overflow on the way and others
      do not, and two infinities on the way make a NaN. Twice, because PyTorch squares with 2*d.
    - a loss or a gradient from half to twice the largest float32: it rounds to either side.
    - an infinity or a NaN in the inputs where s is no normal number: whether s rounds to 0 decides
      between 0 * inf, which is NaN, and an infinity; and a BLAS skips what it should multiply with
      0. Where Caffe runs no backward, nothing is compared.
    """
    with np.errstate(all="ignore"):
        return all(
            _is_defined(each, program, step)
            for each, step in zip(summed, program.steps, strict=True)
        )


def _is_defined(summed: str, program: Program, step: Step) -> bool:
    case, x1, x2 = program.case_of(step), step.x1, step.x2
    finite = bool(np.all(np.isfinite(x1)) and np.all(np.isfinite(x2)))
    scale = abs(case.weight) / len(x1)
    if not finite and not program.pruned and not 4 * SMALLEST_NORMAL <= scale <= LARGEST / 4:
        return False
    x1, x2 = (np.where(np.isfinite(x), x, np.float32(0)) for x in (x1, x2))
    size = _sum(summed, np.abs(x1)) + _sum(summed, np.abs(x2))
    if 2 * np.max(size) > LARGEST:
        return False
    d = np.abs(_sum(summed, x1) - _sum(summed, x2))
    error = worst_growth(x1.size // d.size + x2.size // d.size) * size
    loss = np.sum(d * d) / (2 * len(x1))
    gradients = _at_the_end(scale * (d - error), scale * (d + error))
    return not (gradients or _at_the_end(loss, loss))


def _at_the_end(low: Array64, high: Array64) -> bool:
    """Whether some interval meets that from half to twice the largest float32."""
    return bool(np.any((high >= LARGEST / 2) & (low <= 2 * LARGEST)))


def _sum(summed: str, x: Array32) -> Array64:
    """In float64 over the axes of a layer; tail sums of inputs with other axes have one shape."""
    axes = {"none": (), "channel": (1,), "tail": tuple(range(1, x.ndim))}[summed]
    total: Array64 = np.sum(x, axis=axes, dtype=np.float64) if axes else x.astype(np.float64)
    return total
