"""What is measured: the same inputs for every variant, and the time of a forward and a backward.

The least that any implementation must move is each input once and each gradient once: as many bytes
as a copy of both inputs. So the time of that copy is the limit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch

from caffe_parity import CaffeNet
from caffe_parity.caffe.client import Op
from caffe_parity.caffe.session import SESSION
from caffe_parity.contract import Array32, Shape
from reference.cases import case_of
from reference.summed import Loss

SHAPES: dict[int, Shape] = {
    10**4: (5, 50, 4, 5),
    10**5: (5, 50, 10, 20),
    10**6: (10, 50, 25, 40),
    10**7: (50, 50, 40, 50),
    10**8: (100, 50, 100, 100),
    10**9: (1000, 50, 100, 100),
}
"""The shape of each input, by the number of elements of both."""


@dataclass
class Timing:
    """The seconds of one way to compute one size.

    Attributes:
        name: the variant, or "copy".
        seconds: of each repeat of a forward and a backward.
        reason: why it did not run; "" if it did.
    """

    name: str
    elements: int
    seconds: list[float] = field(default_factory=list)
    reason: str = ""


def as_data(timing: Timing) -> dict[str, Any]:
    """A timing as JSON data."""
    data: dict[str, Any] = {"variant": timing.name, "elements": timing.elements}
    if not timing.seconds:
        return data | {"not_run": timing.reason}
    low, middle = min(timing.seconds), median(timing.seconds)
    return data | {"least_s": low, "median_s": middle, "repeats": len(timing.seconds)}


def arrays(elements: int) -> tuple[Array32, Array32]:
    """Two inputs; random, since processors and memory may be faster on zeros."""
    shape = SHAPES[elements]
    generator = np.random.default_rng(elements)
    count = int(np.prod(shape))
    piece = generator.standard_normal(min(2 * count, 10**6), dtype=np.float32)
    both = np.resize(piece, 2 * count)
    return both[:count].reshape(shape), both[count:].reshape(shape)


def prepare_caffe(net: CaffeNet, elements: int) -> list[Op]:
    """The ops that make a net and fill its inputs."""
    x1, x2 = arrays(elements)
    case = case_of(f"size-{elements}", SHAPES[elements])
    edits = {"shapes": case.shapes, "force_backward": True}
    libraries = net.libraries(SESSION.running(net.path))
    return [
        *({"op": "load", "library": library} for library in libraries),
        {"op": "net", "text": net.text(case), "edits": edits, "path": net.path},
        {"op": "set", "blob": "x1", "array": x1},
        {"op": "set", "blob": "x2", "array": x2},
    ]


def time_caffe(net: CaffeNet, elements: int, budget: float) -> list[float]:
    """Seconds of as many repeats as fit into `budget` seconds, after two for warming up.

    Raises:
        CaffeError: Caffe refuses the net, or ends.
        CompileError: the compiled layer cannot be built.
    """
    ops = [*prepare_caffe(net, elements), {"op": "time", "budget": budget}]
    seconds: list[float] = SESSION.running(net.path).request(ops)[-1]["seconds"]
    return seconds


def timed(
    run: Callable[[], object],
    clock: Callable[[Callable[[], object]], float],
    budget: float,
    warming_up: int,
) -> list[float]:
    """Seconds of as many calls as fit into the budget, between 3 and 300, by a clock."""
    for _ in range(warming_up):
        run()
    count = int(min(max(budget / max(clock(run), 1e-9), 3), 300))
    return [clock(run) for _ in range(count)]


def forward_and_backward(loss: Loss, x1: torch.Tensor, x2: torch.Tensor) -> Callable[[], None]:
    """One step, as a training loop does it; the gradients are written out, not views."""

    def step() -> None:
        x1.grad = x2.grad = None
        loss(x1, x2).backward()  # type: ignore[no-untyped-call]

    return step
