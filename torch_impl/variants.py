"""The PyTorch variants of the three layers: each port under every layer that it computes."""

from functools import partial
from importlib.util import find_spec

import torch

from caffe_parity import Port
from caffe_parity.caffe.session import SESSION
from torch_impl import kernels
from torch_impl.compiled import compiled_euclidean_loss, no_compiler
from torch_impl.function import summed_euclidean_loss
from torch_impl.fused import on_the_kernels
from torch_impl.module import SummedEuclideanLoss

SUMMED = {"euclidean": "none", "channel_sum": "channel", "tail_sum": "tail"}
"""The axes that each layer sums, as the ports call them."""


def _no_compiler() -> str | None:
    """Why `torch.compile` cannot make code for the chosen device here, or None where it can."""
    if SESSION.device == "cuda" and not find_spec("triton"):
        return "no Triton for torch.compile"
    return no_compiler()


def _no_kernels() -> str | None:
    """Why the compiled layer's kernels cannot be built for the chosen device, or None."""
    return kernels.no_nvcc() if SESSION.device == "cuda" else kernels.no_compiler()


def _never_uncompiled(x1: torch.Tensor, x2: torch.Tensor, sum: str) -> torch.Tensor:
    """The compiled port; what torch.compile gave up on must not be taken for compiled code."""
    import torch._dynamo  # takes a second, which other variants need not wait for

    with torch._dynamo.config.patch(recompile_limit=1000, fail_on_recompile_limit_hit=True):
        return compiled_euclidean_loss(x1, x2, sum)


def variants() -> dict[str, dict[str, Port]]:
    """Every PyTorch variant of every layer: by layer and name.

    Their gradients are held against their own forwards in parity_tests/test_ports.py, once, and not
    in each case. `torch-fast` and `torch-cuda` are one port, the latter on a GPU whatever the
    session has chosen.
    """
    found = {}
    for layer, summed in SUMMED.items():
        compiled = partial(_never_uncompiled, sum=summed)
        found[layer] = {
            "torch-module": Port(SummedEuclideanLoss(summed), gradcheck=False),
            "torch-function": Port(partial(summed_euclidean_loss, sum=summed), gradcheck=False),
            "torch-compiled": Port(compiled, gradcheck=False, obstacle=_no_compiler, together=True),
        }
    found["channel_sum"]["torch-fast"] = Port(
        on_the_kernels, gradcheck=False, obstacle=_no_kernels, together=True
    )
    found["channel_sum"]["torch-cuda"] = Port(
        on_the_kernels, gradcheck=False, obstacle=kernels.no_nvcc, device="cuda"
    )
    return found
