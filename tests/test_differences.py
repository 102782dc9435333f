"""Whether a gradient is that of its own value: what is found, and what is no false alarm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from caffe_parity import Layer
from caffe_parity.contract import GRADIENT, BadRequest, Case, Structure
from caffe_parity.engine.differences import misfits, rounds_to_float32
from caffe_parity.engine.functions import Evaluation
from caffe_parity.engine.judge import judge
from caffe_parity.engine.random_rounding import as_inputs
from caffe_parity.report.record import Record

NAMES = ("x", "y")


def evaluation(function: Callable[..., Any]) -> Evaluation:
    """A function of x and y with one top."""
    case = Layer("mine", lambda x, y: x, dict.fromkeys(NAMES, (2,))).case(0)
    return Evaluation(function, "port", case, ("top",), NAMES)


def inputs(scale: float, seed: int = 0, size: int = 60) -> dict[str, torch.Tensor]:
    """Numbers of some size, of both signs."""
    rng = np.random.RandomState(seed)
    arrays = {n: (scale * rng.standard_normal((size // 6, 6))).astype(np.float32) for n in NAMES}
    return as_inputs(arrays)


FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "squares": lambda x, y: ((x - y) ** 2).sum(),
    "softmax": lambda x, y: torch.softmax(x, 1) * y,
    "relu": lambda x, y: torch.relu(x) - y.abs(),
    "sort": lambda x, y: torch.sort(x, 1)[0] * torch.maximum(x, y),
    "cancels": lambda x, y: (x + 1e6) - 1e6 + y,
    "quotient": lambda x, y: x / (1 + y * y),
    "power": lambda x, y: (x * y) ** 5,
    "norm": lambda x, y: x / x.norm(dim=1, keepdim=True) + y,
    "product": lambda x, y: x.prod(1) * torch.exp(torch.tanh(y)).sum(1),
    "constant": lambda x, y: 0 * x + 0 * y,
    "one of them": lambda x, y: torch.sinh(torch.tanh(y)),
}


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**-6, 1.0, 8.0, 2.0**10])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_gradients_are_no_misfits(name: str, scale: float) -> None:
    """Smooth or not, large or small, where rounding is amplified, too; ten seeds each."""
    for seed in range(10):
        assert misfits(evaluation(FUNCTIONS[name]), inputs(scale, seed)) == []


def wrong_by(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Half the squares of x times the sum of y, whose gradient of x alone is changed."""

    class Squares(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return 0.5 * x * x

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return change(grads[0] * ctx.saved_tensors[0])

    return lambda x, y: Squares.apply(x) * y.sum(1, keepdim=True)  # type: ignore[no-untyped-call]


def _one(gradient: torch.Tensor) -> torch.Tensor:
    changed = gradient.clone()
    changed[3, 2] *= 1.001
    return changed


WRONG: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sign": lambda g: -g,
    "nothing": torch.zeros_like,
    "a part in ten million": lambda g: g * (1 + 1e-7),
    "float32": lambda g: g.float().double(),
    "one element": _one,
    "not a number": lambda g: g * torch.nan,
}


@pytest.mark.parametrize("size", [60, 6000, 600_000])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_gradient_is_found_at_any_size(name: str, size: int) -> None:
    """And told apart from that of another input; below the rounding of float32, too."""
    if name == "float32" and size > 60:
        return  # as many independent errors as there are terms: those of the sum itself are larger
    of = evaluation(wrong_by(WRONG[name]))
    assert misfits(of, inputs(1.0, size=size)) == ["x"]


@pytest.mark.parametrize(
    ("function", "rounds"),
    [
        (lambda x, y: (x.float() * y.float()).double(), True),
        (lambda x, y: x.float() * y.float(), True),
        (lambda x, y: x * y, False),
        (lambda x, y: torch.round(x) * 3, True),
        (lambda x, y: torch.sqrt(x), False),  # NaN where x is negative
    ],
)
def test_what_rounds_to_float32_is_told(function: Callable[..., Any], rounds: bool) -> None:
    """Also of inputs at which every function's results are float32 numbers."""
    for scale in (1.0, 0.0):
        whole = {name: torch.round(each) + 1 for name, each in inputs(scale).items()}
        assert rounds_to_float32(evaluation(function), whole) is rounds


# What a check makes of it.


@dataclass(frozen=True)
class Asked:
    """A reference and a port of x1 and x2."""

    reference: Callable[..., Any]
    port: Callable[..., Any]
    shape: tuple[int, ...] = (4, 3)

    def judged(self, structure: Structure | None = None) -> Record:
        """What is said of the port in the first case."""
        made = Layer(
            "mine", self.reference, {"x1": self.shape, "x2": self.shape}, {"torch-port": self.port}
        )
        case: Case = made.case(0)
        return judge(made, "torch-port", case, structure)


def loss(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """Half the squared distance."""
    return 0.5 * ((x1 - x2) ** 2).sum()


def slightly(factor: float) -> Callable[..., Any]:
    """The same with a gradient of x2 that is off by a factor."""

    class Off(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return grads[0] * factor

    return lambda x1, x2: loss(x1, Off.apply(x2))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("shape", [(4, 3), (40, 30, 7)])
def test_what_float32_cannot_show_differences_do(shape: tuple[int, ...]) -> None:
    """A part of 2^-22: no tensor is wrong, and yet that gradient's own port is; at any size."""
    record = Asked(loss, slightly(1 + 2.0**-22), shape).judged()
    assert [(each.code, each.tensor) for each in record.findings] == [
        ("port-gradient:x2", "gradient:x2")
    ]
    assert record.verdict == "fail" and not any(each.wrong for each in record.tensors.values())
    assert Asked(loss, slightly(1), shape).judged().verdict == "pass"


def test_a_top_that_gets_no_gradient_is_asked_about_too() -> None:
    """Its backward is driven by no loss weight; a later change of it would be."""
    both = Structure(("loss", "beside"), True, weightless=frozenset({"beside"}))
    right, wrong = (
        Asked(lambda x1, x2: (loss(x1, x2), x2), port).judged(both)
        for port in (
            lambda x1, x2: (loss(x1, x2), x2 * 1),
            lambda x1, x2: (loss(x1, x2), 2 * x2.detach() - x2),
        )
    )
    assert right.verdict == "pass"
    assert [each.tensor for each in wrong.findings] == ["gradient:x2"]


def test_a_port_in_float32_is_not_asked_and_that_is_said() -> None:
    """Differences of what is rounded say nothing of a backward."""
    record = Asked(loss, lambda x1, x2: loss(x1.float(), x2.float())).judged()
    assert record.verdict == "pass"
    assert [each.code for each in record.notes] == ["port-float32"]
    assert not Asked(loss, loss).judged().notes


def test_a_surrogate_gradient_that_the_reference_has_is_deliberate() -> None:
    """It is the port's as well, and no finding."""
    surrogate = wrong_by(lambda g: 3 * g)
    asked = Asked(lambda x1, x2: surrogate(x1, x2), lambda x1, x2: surrogate(x1, x2))
    assert asked.judged().verdict == "pass"


DETACHED: dict[str, Callable[..., Any]] = {
    "detach": lambda x1, x2: loss(x1.detach(), x2),
    "half of it": lambda x1, x2: ((x1.detach() - x2) * (x1 - x2)).sum() / 2,
    "data": lambda x1, x2: loss(x1.data, x2),
    "numpy": lambda x1, x2: loss(torch.from_numpy(x1.detach().numpy()), x2),
}


@pytest.mark.parametrize("name", DETACHED)
def test_a_detached_reference_is_told(name: str) -> None:
    """The port is said to differ, as it does; and the reference to differ from its own value."""
    record = Asked(DETACHED[name], loss).judged()
    off = {each.tensor for each in record.findings}
    assert {"gradient:x1"} <= off and record.verdict == "fail"
    notes = {each.tensor: each for each in record.notes}
    assert set(notes) == off and {each.code for each in notes.values()} == {"reference-gradient"}
    assert "of x1 is not that of its value" in notes[GRADIENT + "x1"].words


def test_a_reference_that_is_detached_from_all_is_refused() -> None:
    """It has no gradient at all, so nothing can be held against it."""
    with pytest.raises(BadRequest, match="the reference is detached"):
        Asked(lambda x1, x2: loss(x1.detach(), x2.detach()), loss).judged()


def test_a_right_reference_is_not_suspected() -> None:
    """Where the port alone is wrong, nothing is said of the reference."""
    record = Asked(loss, lambda x1, x2: loss(x1, x2.detach())).judged()
    assert [each.tensor for each in record.findings][:1] == ["gradient:x2"]
    assert not record.notes


def test_shared_inputs_are_not_asked_about() -> None:
    """A second consumer's share is in the gradient and not in the value."""
    made = Layer("mine", loss, {"x1": (4, 3), "x2": (4, 3)}, {"torch-port": loss})
    case = replace(made.case(0), sharing="split")
    assert judge(made, "torch-port", case).verdict == "pass"
