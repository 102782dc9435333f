"""The compiled layer against the other nets and the ports, on the CPU, all in one run.

    python -m studies.benchmarks.cpu [--largest N] [--rounds N] [--threads N]

Caffe's layers compute on one thread, so PyTorch gets one thread as well, unless --threads says
otherwise. Every variant takes its turn in every round: what else the machine does hits them all.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from caffe_impl.variants import variants as caffe_variants
from caffe_parity import ParityError
from caffe_parity.caffe.session import SESSION
from caffe_parity.report.environment import environment
from studies.benchmarks.workloads import (
    SHAPES,
    Timing,
    arrays,
    forward_and_backward,
    table,
    time_caffe,
    timed,
)
from torch_impl.compiled import compiled_euclidean_loss, no_compiler
from torch_impl.function import summed_euclidean_loss
from torch_impl.module import channel_sum_euclidean_loss

BUDGET = 0.25  # seconds of a variant in a round
COMPILED_LAYER = "caffe-cuda"


def host_seconds(run: Callable[[], object]) -> float:
    """The time that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def torch_steps(elements: int) -> dict[str, Callable[[], object]]:
    """One forward and backward for each port, and the copy that no port can beat."""
    x1, x2 = (torch.from_numpy(array).requires_grad_() for array in arrays(elements))
    source = np.concatenate([x1.detach().numpy().ravel(), x2.detach().numpy().ravel()])
    target = np.empty_like(source)
    losses = {"torch-module": channel_sum_euclidean_loss, "torch-function": summed_euclidean_loss}
    if not no_compiler():
        losses["torch-compiled"] = compiled_euclidean_loss
    steps: dict[str, Callable[[], object]] = {"copy": lambda: np.copyto(target, source)}
    steps |= {name: forward_and_backward(loss, x1, x2) for name, loss in losses.items()}
    return steps


def measure(elements: int, rounds: int) -> list[Timing]:
    """All variants at one size.

    Raises:
        ParityError: Caffe cannot take part.
    """
    steps = torch_steps(elements)
    nets = caffe_variants()["channel_sum"]
    timings = {name: Timing(name, elements) for name in ("copy", COMPILED_LAYER, *nets, *steps)}
    for _ in range(rounds):
        for name, timing in timings.items():
            if name in nets:
                timing.seconds += time_caffe(nets[name], elements, BUDGET)
            else:
                timing.seconds += timed(steps[name], host_seconds, BUDGET, 1)
    return list(timings.values())


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints; 2 where there is no Caffe."""
    parser = argparse.ArgumentParser(prog="python -m studies.benchmarks.cpu")
    parser.add_argument("--largest", type=float, default=1e7, help="elements of both inputs (1e7)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (1)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    timings = []
    try:
        for elements in SHAPES:
            if elements <= options.largest:
                timings += measure(elements, options.rounds)
                print(".", end="", file=sys.stderr, flush=True)
    except ParityError as error:
        print(f"no Caffe to measure.\n{error}", file=sys.stderr)
        return 2
    print(file=sys.stderr)
    used = environment()
    SESSION.close()
    blas = ", ".join(used["caffe"]["blas"]) if used["caffe"] else "unknown"
    print(f"{used['processor']}; PyTorch {used['torch']}, {options.threads} thread(s); BLAS {blas}")
    print("caffe-reduction computes tail_sum: it stands here for its speed.\n")
    print("\n".join(table(timings, COMPILED_LAYER)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
