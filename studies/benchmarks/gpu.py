"""The compiled layer's kernels against every peer, on a GPU, for `python -m studies.benchmarks`.

The kernels run under PyTorch (torch-cuda) and in Caffe (caffe-cuda); beside them Caffe's other
nets, the plain port, and torch.compile. For PyTorch there are two times: "call", as a training loop
makes it, and "graph", the same step replayed as a CUDA graph, which is the GPU's work alone. The
limit is a device-to-device copy, measured in between. Times are CUDA events'.
"""

import sys
from collections.abc import Callable

import torch

from caffe_impl.variants import variants as caffe_variants
from caffe_parity import ParityError
from caffe_parity.caffe.session import SESSION
from caffe_parity.engine.port import full_precision
from reference.summed import Loss
from studies.benchmarks.workloads import (
    SHAPES,
    Timing,
    arrays,
    forward_and_backward,
    time_caffe,
    timed,
)
from torch_impl.fused import fused_channel_sum_euclidean_loss
from torch_impl.kernels import NoKernels, kernels_of
from torch_impl.module import channel_sum_euclidean_loss
from torch_impl.variants import variants as torch_variants

BUDGET = 0.5  # seconds of GPU time for each variant and size
CAFFE_TIMEOUT = 600.0  # seconds; a Python layer takes its time for 10^9 elements
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


def measure(largest: float) -> list[Timing]:
    """Everybody at every size up to `largest`; Caffe's nets say why where they cannot run."""
    SESSION.device = "cuda"
    full_precision()
    obstacle = caffe_obstacle()
    timings = []
    for elements in (each for each in SHAPES if each <= largest):
        timings += time_torch(elements)
        torch.cuda.empty_cache()
        if obstacle:
            nets = caffe_variants()["channel_sum"]
            timings += [Timing(name, elements, reason=obstacle) for name in nets]
        else:
            timings += time_nets(elements)
        print(f"{elements:.0e} measured on the GPU", file=sys.stderr, flush=True)
    return timings
