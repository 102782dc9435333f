"""The PyTorch ports outside float32 training, which is test_parity's.

Double backward, other types, layouts and devices, no gradient at all, and errors. With integers of
which no sum is large, nothing is rounded in any type, so that all answers are compared to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from unittest.mock import patch

import pytest
import torch
from torch import nn

from reference import channel_sum, euclidean, tail_sum
from torch_impl import compiled, fused
from torch_impl.compiled import compiled_euclidean_loss
from torch_impl.function import summed_euclidean_loss
from torch_impl.fused import fused_channel_sum_euclidean_loss
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


Tensors = tuple[torch.Tensor, torch.Tensor]

FUSED = ("fused", "fused-in-python")
EVERY = [*product((*PORTS, "compiled"), LOSSES), *product(FUSED, ["channel"])]
"""Every port with every sum that it knows."""

each_port = pytest.mark.parametrize(("port", "sum"), EVERY)
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def fused_in_python(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """The fused port where its eager calls cannot be built in C++."""
    with patch.object(fused, "straight", lambda: None):
        return fused_channel_sum_euclidean_loss(x1, x2)


def loss_of(port: str, sum: str) -> Loss:
    """The port; of the compiled one what it compiles, since compiling takes seconds."""
    if port in FUSED:
        return fused_channel_sum_euclidean_loss if port == "fused" else fused_in_python
    return partial(compiled_euclidean_loss, sum=sum) if port == "compiled" else PORTS[port](sum)


@pytest.fixture(autouse=True)
def _uncompiled() -> Iterator[None]:
    with patch.object(compiled, "_compiled", lambda: compiled._core):
        yield


def integers(shape: tuple[int, ...] = (4, 2, 2, 2), dtype: torch.dtype = torch.float64) -> Tensors:
    """-1, 0 and 1, of which bfloat16 holds every square, sum and gradient."""
    generator = torch.Generator().manual_seed(7)
    x1, x2 = (torch.randint(-1, 2, shape, generator=generator).to(dtype) for _ in range(2))
    return x1.requires_grad_(), x2.requires_grad_()


def answer(loss: Loss, x1: torch.Tensor, x2: torch.Tensor) -> list[torch.Tensor]:
    """The loss, and both gradients at a loss weight of -2."""
    value = loss(x1, x2)
    return [value.detach(), *torch.autograd.grad(-2 * value, (x1, x2))]


def truth(sum: str, x1: torch.Tensor, x2: torch.Tensor) -> list[torch.Tensor]:
    """The same of the reference, for contiguous float64 copies."""
    copies = [x.detach().double().contiguous().clone().requires_grad_() for x in (x1, x2)]
    return answer(FORMULAS[sum], *copies)


def are_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    """Whether all are the same numbers, in any type."""
    return all(torch.equal(a.double(), b) for a, b in zip(found, expected, strict=True))


@each_port
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_type_is_kept(port: str, sum: str, dtype: torch.dtype) -> None:
    """Loss and gradients are right and of the inputs' type; the kernels' port refuses half ones."""
    x1, x2 = integers(dtype=dtype)
    if port in FUSED and dtype not in (torch.float64, torch.float32):
        with pytest.raises(TypeError, match=str(dtype)):
            loss_of(port, sum)(x1, x2)
        return
    found = answer(loss_of(port, sum), x1, x2)
    assert {each.dtype for each in found} == {dtype}
    assert found[0].shape == ()
    assert are_equal(found, truth(sum, x1, x2))


@each_port
def test_float64_is_not_rounded_to_float32(port: str, sum: str) -> None:
    """Differences that float32 cannot hold arrive: nothing passes through a smaller type."""
    x1, x2 = (x.detach() * (1 + 2.0**-40) for x in integers())
    found = answer(loss_of(port, sum), x1.requires_grad_(), x2.requires_grad_())
    # Small integers times 1 + 2**-40, and their sums, have at most 53 bits: only squares, all of
    # one sign, their sum in some order, and divisions round, which takes less than 32 units.
    for each, right in zip(found, truth(sum, x1, x2), strict=True):
        torch.testing.assert_close(each, right, rtol=32 * 2.0**-53, atol=0)


@each_port
def test_without_gradients(port: str, sum: str) -> None:
    """Under no_grad, in inference mode, for detached inputs: the loss alone; of one, its own."""
    loss, (x1, x2) = loss_of(port, sum), integers()
    value, dx1, dx2 = truth(sum, x1, x2)
    with torch.no_grad():
        alone = loss(x1, x2)
    with torch.inference_mode():
        inferred = loss(x1.detach(), x2.detach())
    for each in (alone, inferred, loss(x1.detach(), x2.detach())):
        assert not each.requires_grad
        assert torch.equal(each, value)
    assert loss(x1, x2).requires_grad
    for one, another, x, gradient in ((x1, x2.detach(), x1, dx1), (x1.detach(), x2, x2, dx2)):
        (found,) = torch.autograd.grad(-2 * loss(one, another), x)
        assert torch.equal(found, gradient)


@pytest.mark.parametrize("sum", LOSSES)
def test_module_has_one_mode(sum: str) -> None:
    """eval() and train() change nothing, nor does a module hold anything to save or to learn."""
    module, (x1, x2) = SummedEuclideanLoss(sum), integers()
    for mode in (module.eval(), module.train(), nn.Sequential(module).eval()[0]):
        assert are_equal(answer(mode, x1, x2), truth(sum, x1, x2))
    assert not module.state_dict()
    assert not list(module.parameters())


def _rows(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x.new_full(x.shape, 99)], 1)[:, : x.shape[1]]


def _every_second_sample(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x, x.new_full(x.shape, 99)], 1).flatten(0, 1)[::2]


def _expanded(x: torch.Tensor) -> torch.Tensor:
    return x[:1].expand(x.shape)


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT.contiguous().mT,
    "batch-last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "channels-of-more": _rows,
    "every-second-sample": _every_second_sample,
    "one-sample-repeated": _expanded,
}
"""The same values elsewhere in memory; what lies between them is 99. The last has one sample."""


@each_port
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", ["x1", "x2", "both"])
def test_any_layout(port: str, sum: str, layout: str, which: str) -> None:
    """Views and other orders in memory give the same bits, also in what they are views of."""
    leaves = integers((4, 3, 2, 3))
    names = ("x1", "x2")
    chosen = names if which == "both" else (which,)
    moved = [LAYOUTS[layout](x) if n in chosen else x for n, x in zip(names, leaves, strict=True)]
    assert layout == "one-sample-repeated" or not all(x.is_contiguous() for x in moved)
    expected = truth(sum, *moved)
    assert are_equal(answer(loss_of(port, sum), *moved), expected)
    (-2 * loss_of(port, sum)(*moved)).backward()  # type: ignore[no-untyped-call]
    for leaf, x, gradient in zip(leaves, moved, expected[1:], strict=True):
        assert leaf.grad is not None
        repeated = x is not leaf and layout == "one-sample-repeated"
        summed = torch.zeros_like(leaf)
        summed[:1] = gradient.sum(0, keepdim=True)
        assert torch.equal(leaf.grad, summed if repeated else gradient)


@each_port
def test_meta_device(port: str, sum: str) -> None:
    """Where there are only shapes, the loss has none and each gradient its input's."""
    other = (4, 5, 2, 3) if sum != "none" else (4, 3, 2, 3)
    x1, x2 = (torch.empty(s, device="meta", requires_grad=True) for s in ((4, 3, 2, 3), other))
    found = answer(loss_of(port, sum), x1, x2)
    assert [each.shape for each in found] == [(), x1.shape, x2.shape]
    assert {each.device.type for each in found} == {"meta"}


@each_port
def test_backward_of_backward(port: str, sum: str) -> None:
    """Hessian-vector products are the reference's; no gradient comes without one of its own.

    gradgradcheck passes over a gradient that requires none, silently.
    """
    x1, x2 = integers()
    along1, along2 = x1.detach().roll(1, 0), x2.detach().roll(2, 0)
    products = []
    for loss in (loss_of(port, sum), FORMULAS[sum]):
        weight = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
        first = torch.autograd.grad(loss(x1, x2), (x1, x2), weight, create_graph=True)
        assert all(each.requires_grad for each in first)
        along = (first[0] * along1).sum() + (first[1] * along2).sum()
        products.append(torch.autograd.grad(along, (x1, x2, weight)))
    assert all(each.any() for each in products[1])
    assert are_equal(list(products[0]), list(products[1]))


def test_compiled_is_compiled_once_for_inputs_of_any_number_of_axes() -> None:
    """What is compiled does not know how many axes the inputs had that it is given a view of."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph

    core = torch.compile(compiled._core, dynamic=True, backend=backend)
    many = torch._dynamo.config.patch(recompile_limit=1000)  # whatever was compiled before
    with patch.object(compiled, "_compiled", lambda: core), many:
        for sum in LOSSES:
            before = len(graphs)
            for shape in ((3, 4), (5, 4, 3), (2, 3, 5, 4), (3, 5, 2, 4, 2), (2, 3, 2, 3, 2, 3)):
                x1, x2 = (torch.ones(shape).requires_grad_() for _ in range(2))
                compiled_euclidean_loss(x1, x2, sum)
            # "channel" of two axes keeps one number, and an extent of 1 is a pattern of its own.
            assert len(graphs) - before <= (2 if sum == "channel" else 1)
    assert graphs


def test_compiled_refuses_a_backward_of_backward() -> None:
    """torch.compile has none, and says so: no gradient comes out that lacks a part."""
    x1, x2 = integers((3, 2, 5))
    core = torch.compile(compiled._core, dynamic=True, backend="aot_eager")

    def twice() -> None:
        (first,) = torch.autograd.grad(compiled_euclidean_loss(x1, x2), x1, create_graph=True)
        first.sum().backward()  # type: ignore[no-untyped-call]

    refused = pytest.raises(RuntimeError, match=r"create_graph|double backward")
    many = torch._dynamo.config.patch(recompile_limit=1000)  # whatever was compiled before
    with patch.object(compiled, "_compiled", lambda: core), many, refused:
        twice()


@each_port
def test_second_call_is_like_the_first(port: str, sum: str) -> None:
    """A port keeps nothing: other shapes and values between two calls change no bit."""
    loss, (x1, x2) = loss_of(port, sum), integers()
    expected = truth(sum, x1, x2)
    for shape in ((4, 2, 2, 2), (2, 3, 5), (4, 2, 2, 2)):
        others = integers(shape) if len(shape) == 3 else (x1, x2)
        found = answer(loss, *others)
        assert are_equal(found, expected if len(shape) == 4 else truth(sum, *others))


@each_port
def test_inputs_are_left_alone(port: str, sum: str) -> None:
    """Neither direction writes into what it was given."""
    x1, x2 = integers()
    before = x1.detach().clone(), x2.detach().clone()
    answer(loss_of(port, sum), x1, x2)
    assert torch.equal(x1, before[0])
    assert torch.equal(x2, before[1])


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


@pytest.mark.parametrize("sum", LOSSES)
def test_extents_that_are_missing_or_nothing(sum: str) -> None:
    """The compiled port refuses one axis alone; a sum over no channels is 0."""
    for axes1, axes2 in (((3,), (3,)), ((2, 3), (2,)), ((), ())):
        with pytest.raises(ValueError, match="do not fit"):
            compiled_euclidean_loss(torch.ones(axes1), torch.ones(axes2), sum)
    x2 = torch.ones(2, 0 if sum == "none" else 3, 5)
    found = compiled_euclidean_loss(torch.ones(2, 0, 5), x2, sum)
    assert torch.equal(found, FORMULAS[sum](torch.ones(2, 0, 5), x2))


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
