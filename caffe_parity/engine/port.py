"""Carries out a plan with a port in PyTorch; runs also where no Caffe can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from caffe_parity.caffe.driver import no_device
from caffe_parity.caffe.session import SESSION
from caffe_parity.contract import (
    GRADIENT,
    STATE,
    Arrays,
    BadRequest,
    Case,
    Expectation,
    Observation,
    Outline,
    Plan,
    VariantFailure,
    is_state,
)
from caffe_parity.engine.functions import Evaluation, Function, takes, with_params


@dataclass(frozen=True)
class Port:
    """A port in PyTorch, in float32; implements `contract.Variant`.

    Attributes:
        function: takes the inputs by name: a function or a torch.nn.Module.
        gradcheck: whether its backward is held against its own forward as well.
        obstacle: says why it cannot run here, or None.
        device: "cpu" or "cuda"; "" for the one that the session has chosen.
        together: whether its cases are better run in one process: what one compiles, others need.
    """

    function: Function
    gradcheck: bool = True
    obstacle: Callable[[], str | None] = lambda: None
    device: str = ""
    together: bool = False

    def expects(self, case: Case) -> Expectation | None:
        """Nothing: a port computes every case."""
        return None

    def cannot_run(self) -> str | None:
        """Why it cannot run on this machine, or None."""
        return (no_cuda() if self._device == "cuda" else None) or self.obstacle()

    @property
    def _device(self) -> str:
        return self.device or SESSION.device

    def outline(self, case: Case, with_params: bool) -> Outline | None:
        """None: what the reference returns names its tops."""
        return None

    def observe(self, plan: Plan) -> Observation:
        """Carries out a plan.

        Raises:
            VariantFailure: the port raised.
            BadRequest: it returns something else than the tops, or takes no parameters.
        """
        if self._device == "cuda":
            full_precision()
        function = with_params(self.function, plan.structure.params, "port")
        names = plan.structure.outputs
        if not takes(self.function, STATE):  # as a module with buffers of its own
            names = tuple(each for each in names if not is_state(each))

        def there(arrays: Arrays) -> dict[str, torch.Tensor]:
            return {k: torch.from_numpy(v).to(self._device, copy=True) for k, v in arrays.items()}

        seen = Observation()

        def watched(**given: torch.Tensor) -> Any:
            were = {name: each.detach().clone() for name, each in given.items()}
            result = function(**given)
            for name, each in given.items():
                kept = each.shape == were[name].shape and bool(
                    ((each == were[name]) | (each.isnan() & were[name].isnan())).all()
                )
                if not (kept or name in plan.structure.in_place or is_state(name)):
                    seen.changed.setdefault(name, "forward")
            return result

        port = Evaluation(watched, "port", plan.case, names, plan.differentiated)
        before: dict[str, torch.Tensor] = {}
        for each in plan.passes:
            upstream = None if each.upstream is None else there(each.upstream)
            try:
                results = port(there(each.inputs), upstream)
            except (BadRequest, RuntimeError) as error:
                raise VariantFailure("crash", str(error)) from error
            if each.adds_up:  # as a second backward() adds to a parameter's .grad
                there_are = [name for name in _params(plan) if name in results]
                results |= {name: results[name] + before[name] for name in there_are}
            before = results
            seen.tensors[each.name] = {name: each.cpu().numpy() for name, each in results.items()}
        return seen


def _params(plan: Plan) -> list[str]:
    """The gradients of the parameters."""
    return [GRADIENT + each.name for each in plan.structure.params if each.learned]


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
