"""The compiled layer's kernels against every peer, on a GPU, all in one run.

    python -m studies.benchmarks.gpu [--largest N] [--no-caffe] [--results DIR]

The kernels run under PyTorch (torch-cuda) and in Caffe (caffe-cuda); beside them Caffe's other
nets, the plain port, and torch.compile. For PyTorch there are two times: "call", as a training loop
makes it, and "graph", the same step replayed as a CUDA graph, which is the GPU's work alone. The
mark is the bandwidth of a device-to-device copy, measured in between. Times are CUDA events'.

Target: from 10^8 elements up at least 85 % of the copy's bandwidth; faster than every peer
everywhere. What was measured goes to results/gpu-DEVICE-DATE.json.
"""

import argparse
import datetime
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from caffe_impl.variants import variants as caffe_variants
from caffe_parity import ParityError
from caffe_parity.caffe.driver import DriverError, devices
from caffe_parity.caffe.session import SESSION
from caffe_parity.engine.port import full_precision, no_cuda
from caffe_parity.report.environment import environment
from reference.summed import Loss
from studies.benchmarks.workloads import (
    SHAPES,
    Timing,
    arrays,
    forward_and_backward,
    table,
    time_caffe,
    timed,
)
from torch_impl.fused import fused_channel_sum_euclidean_loss
from torch_impl.kernels import NoKernels, kernels_of
from torch_impl.module import channel_sum_euclidean_loss
from torch_impl.variants import variants as torch_variants

SCHEMA = "parity-benchmark-1"
BUDGET = 0.5  # seconds of GPU time for each variant and size
KERNELS = "torch-cuda graph"
TARGET = 0.85  # of the copy's bandwidth
LARGE = 10**8
CAFFE_TIMEOUT = 600.0  # seconds; a Python layer takes its time for 10^9 elements
RESULTS = Path(__file__).parents[2] / "results"
Step = Callable[[], object]


def event_seconds(run: Step) -> float:
    """The time between two events on the present stream."""
    start, stop = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    start.record()
    run()
    stop.record()
    stop.synchronize()
    milliseconds: float = start.elapsed_time(stop)
    return milliseconds / 1000


def as_graph(run: Step) -> Step:
    """The step as a CUDA graph; PyTorch wants it run on another stream first."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def ports() -> dict[str, tuple[Loss, str | None]]:
    """The ports to measure, and why one cannot run."""
    obstacles = {name: each.cannot_run() for name, each in torch_variants()["channel_sum"].items()}
    # For the extents at hand alone: torch.compile's best.
    compiled: Loss = torch.compile(channel_sum_euclidean_loss, dynamic=False)
    losses = {
        "torch-cuda": fused_channel_sum_euclidean_loss,
        "torch-module": channel_sum_euclidean_loss,
        "torch-compiled": compiled,
    }
    return {name: (loss, obstacles[name]) for name, loss in losses.items()}


def copy_of(x1: torch.Tensor, x2: torch.Tensor) -> Step:
    """A copy of both inputs, as one piece."""
    source = torch.cat([x1.detach().flatten(), x2.detach().flatten()])
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def time_torch(elements: int) -> list[Timing]:
    """The copy and every port at one size."""
    x1, x2 = (torch.from_numpy(array).cuda().requires_grad_() for array in arrays(elements))
    timings = [Timing("copy", elements, timed(copy_of(x1, x2), event_seconds, BUDGET, 3))]
    for name, (loss, obstacle) in ports().items():
        step = forward_and_backward(loss, x1, x2)
        for how in ("graph", "call"):
            timing = Timing(f"{name} {how}", elements)
            timings.append(timing)
            timing.reason = obstacle or ""
            if obstacle:
                continue
            try:
                if name == "torch-cuda":
                    kernels_of(x1)  # or NoKernels: plain PyTorch must not pass for them
                run = as_graph(step) if how == "graph" else step
                timing.seconds = timed(run, event_seconds, BUDGET, 3)
            except (RuntimeError, NoKernels) as error:  # out of memory; a graph that cannot be made
                timing.reason = str(error).splitlines()[0]
    return timings


def time_nets(elements: int) -> list[Timing]:
    """Caffe's nets at one size."""
    timings = []
    for name, net in caffe_variants()["channel_sum"].items():
        timing = Timing(name, elements)
        timings.append(timing)
        try:
            timing.seconds = time_caffe(net, elements, BUDGET)
        except ParityError as error:
            timing.reason = str(error).splitlines()[0]
    return timings


def caffe_obstacle() -> str | None:
    """Why Caffe cannot take part, or None where it can, proven to run on the GPU."""
    SESSION.timeout = CAFFE_TIMEOUT
    try:
        SESSION.start()
    except ParityError as error:
        return str(error)
    return None


def as_data(timing: Timing) -> dict[str, Any]:
    """A timing as JSON data."""
    data: dict[str, Any] = {"variant": timing.name, "elements": timing.elements}
    data["shape"] = list(SHAPES[timing.elements])
    if not timing.seconds:
        return data | {"not_run": timing.reason}
    return data | {
        "median_s": median(timing.seconds),
        "min_s": min(timing.seconds),
        "repeats": len(timing.seconds),
        "gb_per_s": round(timing.gb_per_s, 2),
    }


RIVALS = {
    KERNELS: ("torch-module graph", "torch-compiled graph"),
    "torch-cuda call": ("torch-module call", "torch-compiled call"),
    "caffe-cuda": ("caffe-python", "caffe-convolution", "caffe-slice-eltwise", "caffe-reduction"),
}
"""What each of the ways to run the kernels is compared with."""


def verdicts(timings: list[Timing]) -> list[str]:
    """How the kernels stand against the target, a line for each size and way to run them."""
    lines = []
    for elements in dict.fromkeys(each.elements for each in timings):
        medians = {
            each.name: median(each.seconds)
            for each in timings
            if each.elements == elements and each.seconds
        }
        for name, rivals in RIVALS.items():
            if name not in medians:
                continue
            share = medians["copy"] / medians[name]
            words = f"{elements:.0e} elements, {name}: {100 * share:.0f} % of the copy"
            if elements >= LARGE:
                words += f", target {100 * TARGET:.0f} % {'met' if share >= TARGET else 'MISSED'}"
            faster = [each for each in rivals if each in medians and medians[each] < medians[name]]
            there = [each for each in rivals if each in medians]
            if faster:
                words += f"; SLOWER than {', '.join(faster)}"
            elif there:
                words += f"; faster than {', '.join(there)}"
            lines.append(words)
    return lines


def write(folder: Path, timings: list[Timing]) -> Path:
    """Writes the results file; returns its path."""
    device = re.sub(r"[^a-z0-9]+", "-", devices()[0].lower()).strip("-")
    path = folder / f"gpu-{device}-{datetime.date.today().isoformat()}.json"
    content = {
        "schema": SCHEMA,
        "environment": environment(),
        "gb_counted": "each input read once, each gradient written once",
        "results": [as_data(each) for each in timings],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and writes; 0 also where there is nothing to measure on, which it says."""
    parser = argparse.ArgumentParser(prog="python -m studies.benchmarks.gpu")
    parser.add_argument("--largest", type=float, default=1e9, help="elements of both inputs (1e9)")
    parser.add_argument("--no-caffe", action="store_true", help="PyTorch alone")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        devices()
    except DriverError as error:
        print(f"nothing can run on the GPU: {error}", file=sys.stderr)
        return 2
    if no_cuda():
        print(f"not run: {no_cuda()}")
        return 0
    SESSION.device = "cuda"
    full_precision()
    obstacle = "not asked for" if options.no_caffe else caffe_obstacle()
    if obstacle:
        print(f"Caffe: not run: {obstacle}")
    timings = []
    for elements in SHAPES:
        if elements <= options.largest:
            timings += time_torch(elements)
            torch.cuda.empty_cache()
            timings += [] if obstacle else time_nets(elements)
            print(f"{elements:.0e} measured", file=sys.stderr, flush=True)
    print(f"{devices()[0]}; PyTorch {torch.__version__}; TF32 off")
    print("\n".join([*table(timings, KERNELS), "", *verdicts(timings)]))
    print(f"\nwritten: {write(options.results, timings)}")
    SESSION.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
