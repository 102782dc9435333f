"""Every way to compute the channel-summed loss on the CPU, taking turns in one process.

    python -m studies.benchmarks.cpu [--elements N ...] [--only NAME ...] [--budget S]

prints the timings as JSON, for `python -m studies.benchmarks`. Everybody has one thread, since
Caffe's layers compute on one, and is timed by the processor's time of its process: what else the
machine does takes none of it. In every round everybody has a turn.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.utils.benchmark import Timer

from caffe_impl.variants import variants as caffe_variants
from caffe_parity import ParityError
from caffe_parity.caffe.session import SESSION
from reference.summed import Loss
from studies.benchmarks.workloads import (
    SHAPES,
    Timing,
    arrays,
    as_data,
    forward_and_backward,
    time_caffe,
)
from torch_impl.compiled import compiled_euclidean_loss, no_compiler
from torch_impl.fused import fused_channel_sum_euclidean_loss
from torch_impl.kernels import CPU, NoKernels, kernels
from torch_impl.module import channel_sum_euclidean_loss

TURN = 0.05  # seconds
NETS = ("caffe-cuda", "caffe-python", "caffe-convolution")
PORTS: dict[str, Loss] = {
    "torch-fast": fused_channel_sum_euclidean_loss,
    "torch-module": channel_sum_euclidean_loss,
    "torch-compiled": compiled_euclidean_loss,
}
CHAIN = "chain: "
"""What stands before a port whose inputs were computed, so that its gradients flow on."""

CHAINS: dict[str, Loss] = {
    f"{CHAIN}torch-fast": fused_channel_sum_euclidean_loss,
    f"{CHAIN}torch-fast expanded": partial(fused_channel_sum_euclidean_loss, expanded=True),
}
EVERYBODY = ("copy", *NETS, *PORTS, *CHAINS)


def steps(elements: int) -> dict[str, Callable[[], object]]:
    """One forward and backward of each port, and the copy of both inputs, which is the limit."""
    x1, x2 = (torch.from_numpy(each).clone().requires_grad_() for each in arrays(elements))
    source = np.concatenate([x1.detach().numpy().ravel(), x2.detach().numpy().ravel()])
    target = np.empty_like(source)
    made: dict[str, Callable[[], object]] = {"copy": lambda: np.copyto(target, source)}
    losses = PORTS | {name: behind_a_product(loss) for name, loss in CHAINS.items()}
    return made | {name: forward_and_backward(loss, x1, x2) for name, loss in losses.items()}


def behind_a_product(loss: Loss) -> Loss:
    """The loss of both inputs, halved by an op of PyTorch's."""
    return lambda x1, x2: loss(0.5 * x1, 0.5 * x2)


def obstacle(name: str) -> str | None:
    """Why a port cannot run here as what it is, or None."""
    try:
        if "torch-fast" in name:
            kernels(CPU)  # plain PyTorch must not pass for them
    except NoKernels as reason:
        return str(reason)
    return no_compiler() if name == "torch-compiled" else None


def turn(timer: Timer) -> list[float]:
    """The seconds of a step, again and again; of many steps where one is too short for the clock.

    No average over more than that: a step that is interrupted finds the caches empty after it.
    """
    number = max(1, int(1e-4 / max(timer.timeit(1).mean, 1e-7)))
    seconds: list[float] = []
    while sum(seconds) * number < TURN:
        seconds.append(timer.timeit(number).mean)
    return seconds


def measure(elements: int, names: tuple[str, ...], budget: float) -> list[Timing]:
    """Everybody at one size, in as many rounds as fit into `budget` seconds, and at least three.

    Raises:
        ParityError: Caffe cannot take part.
    """
    timings = [Timing(name, elements) for name in names]
    made = steps(elements)
    timers = {
        name: Timer("run()", globals={"run": run}, timer=time.process_time, num_threads=1)
        for name, run in made.items()
    }
    nets, start, rounds = caffe_variants()["channel_sum"], time.time(), 0
    for each in timings:
        each.reason = obstacle(each.name) or ""
        if each.name in made and not each.reason:
            made[each.name]()  # builds, and warms up
    while rounds < 3 or time.time() - start < budget:
        for each in (each for each in timings if not each.reason):
            if each.name in nets:
                each.seconds += time_caffe(nets[each.name], elements, TURN)
            else:
                each.seconds += turn(timers[each.name])
        rounds += 1
    return timings


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints JSON; 2 where there is no Caffe."""
    parser = argparse.ArgumentParser(prog="python -m studies.benchmarks.cpu")
    sizes = [each for each in SHAPES if each <= 10**8]
    parser.add_argument("--elements", type=int, nargs="+", choices=SHAPES, default=sizes)
    parser.add_argument("--only", nargs="+", choices=EVERYBODY, default=EVERYBODY)
    parser.add_argument("--budget", type=float, default=20, help="seconds for each size (20)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    timings = []
    try:
        for elements in options.elements:
            timings += measure(elements, tuple(options.only), options.budget)
            print(f"{elements:.0e} measured", file=sys.stderr, flush=True)
    except ParityError as error:
        print(f"no Caffe to measure.\n{error}", file=sys.stderr)
        return 2
    finally:
        SESSION.close()
    json.dump([as_data(each) for each in timings], sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
