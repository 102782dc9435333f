"""The PyTorch variants: each port under the schedule that every variant runs, in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from reference.contract import (
    PASSES,
    SHARED_GRADIENT,
    Case,
    Expectation,
    Inputs,
    Pass,
    Result,
    Run,
    VariantFailure,
)
from torch_impl.compiled import compiled_euclidean_loss, no_compiler
from torch_impl.function import summed_euclidean_loss
from torch_impl.module import SummedEuclideanLoss

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

SUMMED = {"euclidean": "none", "channel_sum": "channel", "tail_sum": "tail"}


@dataclass(frozen=True)
class TorchVariant:
    """A port in float32 on the CPU; implements `reference.contract.Variant`.

    Attributes:
        name: `torch-<how>`.
        layer: the layer that it computes.
        loss: maps x1, x2 to the scalar loss.
        obstacle: says why it cannot run here, or None.
    """

    name: str
    layer: str
    loss: Loss
    obstacle: Callable[[], str | None] = lambda: None

    def expects(self, case: Case) -> Expectation | None:
        """Nothing: a port computes every case."""
        return None

    def cannot_run(self) -> str | None:
        """Why it cannot run on this machine, or None."""
        return self.obstacle()

    def run(self, case: Case, inputs: Inputs, other: Inputs, larger: Inputs) -> Run:
        """Computes the case as `reference.contract.Variant.run` says.

        Raises:
            VariantFailure: the port raised.
        """
        try:
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
        x1 = torch.from_numpy(inputs.x1).clone().requires_grad_(want1)
        x2 = x1 if same else torch.from_numpy(inputs.x2).clone().requires_grad_(want2)
        value = self.loss(x1, x2)
        weight = torch.tensor(case.weight, dtype=torch.float32)
        outputs, weights = [value], [weight]
        if case.sharing == "split":
            outputs.append(x1.sum())
            weights.append(torch.tensor(SHARED_GRADIENT))
        wanted = [x for x, want in ((x1, want1), (x2, want2 and not same)) if want]
        grads = list(torch.autograd.grad(outputs, wanted, weights))
        dx1 = grads.pop(0).numpy() if want1 else None
        dx2 = grads.pop(0).numpy() if want2 and not same else None
        return Result(np.asarray(value.detach().numpy()), dx1, dx2)


def _never_uncompiled(x1: torch.Tensor, x2: torch.Tensor, sum: str) -> torch.Tensor:
    """The compiled port; what torch.compile gave up on must not be taken for compiled code."""
    import torch._dynamo  # takes a second, which other variants need not wait for

    with torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True):
        return compiled_euclidean_loss(x1, x2, sum)


def variants() -> list[TorchVariant]:
    """Every PyTorch variant of every layer."""
    result = []
    for layer, summed in SUMMED.items():
        result += [
            TorchVariant("torch-module", layer, SummedEuclideanLoss(summed)),
            TorchVariant("torch-function", layer, partial(summed_euclidean_loss, sum=summed)),
            TorchVariant(
                "torch-compiled",
                layer,
                partial(_never_uncompiled, sum=summed),
                no_compiler,
            ),
        ]
    return result
