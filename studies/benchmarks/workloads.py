"""What is measured: the same inputs for every variant, and the time of a forward and a backward.

The least that any implementation must move is each input once and each gradient once: as many bytes
as a copy of both inputs. So the time of that copy is the mark to reach, and GB/s count these bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

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

    @property
    def gb_per_s(self) -> float:
        """The least bytes that must be moved, by the median time."""
        return 2 * 4 * self.elements / median(self.seconds) / 1e9


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


def table(timings: Sequence[Timing], of: str) -> list[str]:
    """A block of lines for each size; the ratios are those of the medians and of the minima.

    Args:
        timings: of all sizes.
        of: the variant that all others are compared with.
    """
    lines = []
    for elements in dict.fromkeys(each.elements for each in timings):
        group = [each for each in timings if each.elements == elements]
        base = next((each for each in group if each.name == of and each.seconds), None)
        copy = next((each for each in group if each.name == "copy"), None)
        shape = "x".join(map(str, SHAPES[elements]))
        lines += [
            "",
            f"{elements:.0e} elements, both inputs {shape}",
            f"  {'variant':28} {'min ms':>10} {'median ms':>10} {'GB/s':>8} {'of copy':>8}"
            f" {'times ' + of:>16}",
        ]
        lines += [_line(each, base, copy) for each in group]
    return lines[1:]


def _line(each: Timing, base: Timing | None, copy: Timing | None) -> str:
    if not each.seconds:
        return f"  {each.name:28} not run: {each.reason}"
    low, middle = min(each.seconds), median(each.seconds)
    of_copy = f"{100 * median(copy.seconds) / middle:.0f} %" if copy else ""
    ratio = ""
    if base is not None:
        ratio = f"{low / min(base.seconds):.2f} / {middle / median(base.seconds):.2f}"
    return (
        f"  {each.name:28} {1e3 * low:10.3f} {1e3 * middle:10.3f} {each.gb_per_s:8.1f}"
        f" {of_copy:>8} {ratio:>16}"
    )
