"""The PyTorch variants: each port under the schedule that every variant runs, in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch

from caffe_parity.caffe.driver import no_device
from caffe_parity.contract import (
    PASSES,
    SHARED_GRADIENT,
    Array32,
    Case,
    Expectation,
    Inputs,
    Pass,
    Result,
    Run,
    VariantFailure,
)
from torch_impl import cuda_op
from torch_impl.compiled import compiled_euclidean_loss, no_compiler
from torch_impl.function import summed_euclidean_loss
from torch_impl.module import SummedEuclideanLoss

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _nothing() -> None:
    """No obstacle."""


SUMMED = {"euclidean": "none", "channel_sum": "channel", "tail_sum": "tail"}


@dataclass(frozen=True)
class TorchVariant:
    """A port in float32; implements `caffe_parity.contract.Variant`.

    Attributes:
        name: `torch-<how>`.
        layer: the layer that it computes.
        loss: maps x1, x2 to the scalar loss.
        obstacle: says why it cannot run here, or None.
        device: "cpu" or "cuda": where its tensors are.
    """

    name: str
    layer: str
    loss: Loss
    obstacle: Callable[[], str | None] = _nothing
    device: str = "cpu"

    def expects(self, case: Case) -> Expectation | None:
        """Nothing: a port computes every case."""
        return None

    def cannot_run(self) -> str | None:
        """Why it cannot run on this machine, or None."""
        return self.obstacle()

    def run(self, case: Case, inputs: Inputs, other: Inputs, larger: Inputs) -> Run:
        """Computes the case as `caffe_parity.contract.Variant.run` says.

        Raises:
            VariantFailure: the port raised.
        """
        if self.device == "cuda":
            full_precision()
        try:
            self._pass(case, Inputs(other.x1[:1], other.x2[:1]), 0.0)  # as in Caffe
            before = self._pass(case, other, 0.0)
            passes = []
            for name, poison in PASSES.items():
                if name == "reshaped":
                    self._pass(case, larger, 0.0)
                passes.append(Pass(name, poison, self._pass(case, inputs, poison)))
            return Run(tuple(passes), before)
        except Exception as error:
            raise VariantFailure("crash", f"{type(error).__name__}: {error}") from error

    def _pass(self, case: Case, inputs: Inputs, poison: float) -> Result:
        same = case.sharing == "same-blob"
        want1, want2 = case.propagate_down
        x1 = self._copied(inputs.x1).requires_grad_(want1)
        x2 = x1 if same else self._copied(inputs.x2).requires_grad_(want2)
        value = self.loss(x1, x2)
        weight = torch.tensor(case.weight, dtype=torch.float32, device=self.device)
        outputs, weights = [value], [weight]
        if case.sharing == "split":
            outputs.append(x1.sum())
            weights.append(torch.tensor(SHARED_GRADIENT, device=self.device))
        wanted = [x for x, want in ((x1, want1), (x2, want2 and not same)) if want]
        grads = list(torch.autograd.grad(outputs, wanted, weights))
        dx1 = grads.pop(0).cpu().numpy() if want1 else None
        dx2 = grads.pop(0).cpu().numpy() if want2 and not same else None
        return Result(np.asarray(value.detach().cpu().numpy()), dx1, dx2)

    def _copied(self, array: Array32) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, copy=True)


def full_precision() -> None:
    """Keeps PyTorch from computing in TF32, which has 10 bits where float32 has 23."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def no_cuda() -> str | None:
    """Why PyTorch cannot compute on a GPU here, or None where it can."""
    if no_device():
        return no_device()
    if not torch.cuda.is_available():
        return f"this PyTorch cannot use the GPU ({torch.__version__})"
    return None


def _no_cuda_compiler() -> str | None:
    """Why `torch.compile` cannot make GPU code here, or None where it can."""
    without = None if find_spec("triton") else "no Triton for torch.compile"
    return no_cuda() or without or no_compiler()


def _no_kernels() -> str | None:
    """Why the compiled layer's kernels cannot run here, or None where they can."""
    return no_cuda() or (None if cuda_op.nvcc() else "no nvcc")


def _never_uncompiled(x1: torch.Tensor, x2: torch.Tensor, sum: str) -> torch.Tensor:
    """The compiled port; what torch.compile gave up on must not be taken for compiled code."""
    import torch._dynamo  # takes a second, which other variants need not wait for

    with torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True):
        return compiled_euclidean_loss(x1, x2, sum)


def variants(device: str = "cpu") -> list[TorchVariant]:
    """Every PyTorch variant of every layer.

    Args:
        device: "cpu" or "cuda": where they run. `torch-cuda` knows no other place than a GPU.
    """
    gpu = device == "cuda"
    obstacle = no_cuda if gpu else _nothing
    compiler = _no_cuda_compiler if gpu else no_compiler
    result = []
    for layer, summed in SUMMED.items():
        module = SummedEuclideanLoss(summed)
        function = partial(summed_euclidean_loss, sum=summed)
        compiled = partial(_never_uncompiled, sum=summed)
        result += [
            TorchVariant("torch-module", layer, module, obstacle, device),
            TorchVariant("torch-function", layer, function, obstacle, device),
            TorchVariant("torch-compiled", layer, compiled, compiler, device),
        ]
        if layer == "channel_sum":
            loss = cuda_op.on_the_kernels
            result.append(TorchVariant("torch-cuda", layer, loss, _no_kernels, "cuda"))
    return result
