"""The PyTorch ports in float64: gradcheck, gradgradcheck, and errors; float32 is test_parity's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from reference import channel_sum, euclidean, tail_sum
from torch_impl.compiled import compiled_euclidean_loss
from torch_impl.function import summed_euclidean_loss
from torch_impl.module import LOSSES, SummedEuclideanLoss

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

FORMULAS = {"none": euclidean.loss, "channel": channel_sum.loss, "tail": tail_sum.loss}
PORTS: dict[str, Callable[[str], Loss]] = {
    "module": SummedEuclideanLoss,
    "function": lambda sum: partial(summed_euclidean_loss, sum=sum),
}
SHAPES = [(3, 2), (2, 3, 2), (2, 2, 3, 2), (1, 2, 2, 1, 3)]


def inputs(shape: tuple[int, ...], channels: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two float64 inputs; `channels` more of them in the second."""
    generator = torch.Generator().manual_seed(len(shape))
    other = (shape[0], shape[1] + channels, *shape[2:])
    x1 = torch.randn(shape, generator=generator, dtype=torch.float64)
    x2 = torch.randn(other, generator=generator, dtype=torch.float64)
    return x1.requires_grad_(), x2.requires_grad_()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sum", LOSSES)
@pytest.mark.parametrize("port", PORTS)
def test_backward_is_the_gradient_of_forward(port: str, sum: str, shape: tuple[int, ...]) -> None:
    """gradcheck accepts the port's backward."""
    assert torch.autograd.gradcheck(PORTS[port](sum), inputs(shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sum", LOSSES)
@pytest.mark.parametrize("port", PORTS)
def test_backward_has_a_backward(port: str, sum: str, shape: tuple[int, ...]) -> None:
    """gradgradcheck accepts the port's double backward."""
    assert torch.autograd.gradgradcheck(PORTS[port](sum), inputs(shape))


@pytest.mark.parametrize("port", PORTS)
def test_unequal_channels(port: str) -> None:
    """C1 != C2 is differentiated as well."""
    assert torch.autograd.gradcheck(PORTS[port]("channel"), inputs((2, 3, 2, 2), channels=4))


@pytest.mark.parametrize("sum", LOSSES)
def test_one_gradient_is_enough(sum: str) -> None:
    """The hand-written backward gives None for an input that wants no gradient."""
    x1, x2 = (x.detach().mul(8).round().requires_grad_() for x in inputs((2, 3, 2)))
    loss = summed_euclidean_loss(x1.detach(), x2, sum)
    loss.backward()  # type: ignore[no-untyped-call]
    expected = FORMULAS[sum](x1.detach(), x2)
    (gradient,) = torch.autograd.grad(expected, x2)
    assert x2.grad is not None
    assert torch.equal(x2.grad, gradient)  # integers, and N is 2: nothing is rounded


@pytest.mark.parametrize("sum", LOSSES)
def test_wrong_shapes_are_named(sum: str) -> None:
    """Every port names both shapes where they do not fit."""
    x1, x2 = torch.zeros(4, 3, 5), torch.zeros(5, 3, 7)
    losses: list[Loss] = [LOSSES[sum]]
    losses += [partial(port, sum=sum) for port in HAND_CHECKED]
    for loss in losses:
        with pytest.raises(ValueError, match=r"\(4, 3, 5\).*\(5, 3, 7\)"):
            loss(x1, x2)
        with pytest.raises(ValueError, match="empty"):
            loss(torch.zeros(0, 3, 5), torch.zeros(0, 3, 5))


HAND_CHECKED = (summed_euclidean_loss, compiled_euclidean_loss)


def test_unknown_sum_is_named() -> None:
    """Every port names the choices where the sum is none of them."""
    x = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="one of none, channel, tail, got 'spatial'"):
        SummedEuclideanLoss("spatial")
    for port in HAND_CHECKED:
        with pytest.raises(ValueError, match="one of none, channel, tail, got 'spatial'"):
            port(x, x, sum="spatial")


def test_mse_loss_is_another_loss() -> None:
    """What people reach for first differs by 2/(C*H*W), as the docstring says."""
    x1, x2 = (x.detach().mul(8).round() for x in inputs((2, 4, 2, 2)))
    ours = LOSSES["none"](x1, x2)
    theirs = torch.nn.functional.mse_loss(x1, x2)
    assert theirs == ours * 2 / (4 * 2 * 2)  # integers and powers of two: nothing is rounded


def test_module_shows_its_sum() -> None:
    """A printed model says what is summed."""
    assert repr(SummedEuclideanLoss("tail")) == "SummedEuclideanLoss(sum='tail')"
