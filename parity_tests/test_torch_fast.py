"""The port on the kernels, on the CPU: its build, its threads, and the way that a call takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from caffe_parity.engine.judge import variant_of
from parity_tests.layers import LAYERS
from parity_tests.machine import not_run
from reference import channel_sum
from torch_impl import fused, kernels
from torch_impl.fused import fused_channel_sum_euclidean_loss, on_the_kernels

Tensors = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(autouse=True)
def _can_be_built() -> None:
    if kernels.no_compiler():
        not_run("no C++ compiler")


def integers(*shape: int, channels: int = 0, dtype: torch.dtype = torch.float32) -> Tensors:
    """-2 to 2, of which every sum is exact where N is a power of two; the second has more axes."""
    generator = torch.Generator().manual_seed(5)
    other = (*shape[:-3], shape[-3] + channels, *shape[-2:])
    x1, x2 = (torch.randint(-2, 3, each, generator=generator).to(dtype) for each in (shape, other))
    return x1.requires_grad_(), x2.requires_grad_()


def gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Loss and gradients, at a loss weight of -2."""
    return [loss.detach(), *torch.autograd.grad(-2 * loss, inputs)]


def are_equal(found: Any, expected: Any) -> bool:
    """Whether all are the same numbers."""
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels' functions as they are called."""
    called: list[str] = []
    for name in ("forward", "backward"):
        real: Callable[..., Any] = getattr(kernels.CpuKernels, name)

        def counted(*given: Any, name: str = name, real: Callable[..., Any] = real) -> Any:
            called.append(name)
            return real(*given)

        monkeypatch.setattr(kernels.CpuKernels, name, counted)
    return called


@pytest.fixture(params=["through C++", "through Python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way that an eager call takes."""
    if request.param == "through Python":
        monkeypatch.setattr(fused, "straight", lambda: None)
    elif kernels.straight() is None:
        not_run("PyTorch's headers are not taken")
    way: str = request.param
    return way


each_way = pytest.mark.usefixtures("way")


class Ops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The suite's own ops that PyTorch dispatches."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Notes it, and goes on."""
        if func.namespace == "caffe_parity":
            self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


def test_a_plain_call_goes_straight_to_the_kernels(
    count: list[str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Neither direction is dispatched as an op; nor is one of Python's steps taken in C++.

    Where its gradient is differentiated, Python's is dispatched, and C++'s is plain PyTorch.
    """
    called: list[str] = []
    for name in ("_forward", "_backward"):
        real = getattr(fused, name)

        def noted(*given: Any, name: str = name, real: Callable[..., Any] = real) -> Any:
            called.append(name)
            return real(*given)

        monkeypatch.setattr(fused, name, noted)
    in_cpp = way == "through C++"
    x1, x2 = integers(4, 3, 2, 5)
    with torch.inference_mode():
        fused_channel_sum_euclidean_loss(torch.ones(2, 3), torch.nn.Parameter(torch.ones(2, 3)))
    loss = fused_channel_sum_euclidean_loss(x1, x2)
    torch.autograd.grad(loss, (x1, x2), retain_graph=True)
    assert (called, count) == ([], [] if in_cpp else ["forward", "forward", "backward"])
    assert loss.grad_fn is not None and ("CppNode" in loss.grad_fn.name()) == in_cpp
    torch.autograd.grad(loss, (x1, x2), create_graph=True)
    assert called == ([] if in_cpp else ["_backward"])


def test_memory_of_a_gradient_is_taken_again_when_nobody_has_it() -> None:
    """And never while a view, an array or its storage is left."""
    if kernels.straight() is None:
        not_run("PyTorch's headers are not taken")
    x1, x2 = integers(4, 3, 2, 5)

    def gradient(factor: int) -> torch.Tensor:
        loss = factor * fused_channel_sum_euclidean_loss(x1, x2)
        found: torch.Tensor = torch.autograd.grad(loss, x1)[0]
        return found

    def address() -> int:
        return gradient(1).data_ptr()

    expected = gradient(1).clone()
    assert len({address() for _ in range(8)}) == 1
    holders: list[Callable[[torch.Tensor], object]] = [
        lambda x: x[1:],
        lambda x: x.detach(),
        lambda x: x.numpy(),
        lambda x: x.untyped_storage(),
    ]
    for hold in holders:
        first = gradient(1)
        at, kept = first.data_ptr(), hold(first)
        del first
        assert gradient(-3).data_ptr() != at, kept
    assert torch.equal(gradient(1), expected)


@each_way
def test_whoever_watches_pytorch_sees_the_ops() -> None:
    """A dispatch mode, such as a counter of operations, and make_fx, whose graph computes it."""
    x1, x2 = integers(4, 3, 2, 5)
    with Ops() as ops:
        gradients(fused_channel_sum_euclidean_loss(x1, x2), x1, x2)
    assert ops.seen == [fused.OP, f"{fused.OP}_backward"]

    def traced(x1: torch.Tensor, x2: torch.Tensor) -> list[torch.Tensor]:
        return gradients(fused_channel_sum_euclidean_loss(x1, x2), x1, x2)

    graph = make_fx(traced)(x1, x2)
    x1, x2 = (torch.flip(x, (0,)) + 1 for x in (x1, x2))
    assert are_equal(graph(x1, x2), gradients(channel_sum.loss(x1, x2), x1, x2))


def test_compiled_and_exported_without_a_break(count: list[str]) -> None:
    """torch.compile and torch.export take it into one graph, whose code is the kernels."""
    x1, x2 = integers(4, 3, 2, 5)
    expected = gradients(channel_sum.loss(x1 + 1, x2), x1, x2)

    def around(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        return fused_channel_sum_euclidean_loss(x1 + 1, x2)

    compiled = torch.compile(around, fullgraph=True, backend="aot_eager")
    assert are_equal(gradients(compiled(x1, x2), x1, x2), expected)
    assert count == ["forward", "backward"]

    class Net(torch.nn.Module):
        def forward(self, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
            return around(x1, x2)

    exported = torch.export.export(Net(), (x1.detach(), x2.detach()))
    targets = [str(node.target).replace(".", "::") for node in exported.graph.nodes]
    ours = [target for target in targets if fused.OP in target]
    assert len(ours) == 1
    assert torch.equal(exported.module()(x1.detach(), x2.detach()), expected[0])


@pytest.mark.parametrize("compiled", [False, True], ids=["called", "compiled"])
@pytest.mark.parametrize("in_dims", [(0, 0), (1, None), (None, 2)], ids=str)
def test_vmap(in_dims: tuple[int | None, int | None], compiled: bool) -> None:
    """A vmap of the loss, and of its gradient, is the loop over it."""
    inputs = integers(3, 4, 3, 2, 5, channels=1)
    parts: list[Iterator[torch.Tensor]] = []
    given: list[torch.Tensor] = []
    for x, dim in zip(inputs, in_dims, strict=True):
        given.append(x[0] if dim is None else x.detach().movedim(0, dim))
        parts.append(iter([x[0]] * 3) if dim is None else iter(x.detach().unbind(0)))
    pairs = list(zip(*parts, strict=True))
    loss = fused_channel_sum_euclidean_loss
    of_all, of_gradients = vmap(loss, in_dims), vmap(grad(loss, (0, 1)), in_dims)
    if compiled:
        of_all, of_gradients = (
            torch.compile(each, fullgraph=True, dynamic=False, backend="aot_eager")
            for each in (of_all, of_gradients)
        )
    many = of_all(*given)
    assert torch.equal(many, torch.stack([channel_sum.loss(*pair) for pair in pairs]))
    many = of_gradients(*given)
    alone = [grad(channel_sum.loss, (0, 1))(*pair) for pair in pairs]
    assert are_equal(many, [torch.stack(each) for each in zip(*alone, strict=True)])


@each_way
def test_several_weights_at_once() -> None:
    """A vmap of the backward alone is that of each weight."""
    x1, x2 = integers(4, 3, 2, 5)
    weights = torch.tensor([1.0, -2.0, 0.5])
    loss = fused_channel_sum_euclidean_loss(x1, x2)

    def backward(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(loss, (x1, x2), weight, retain_graph=True)

    for inputs in ((x1, x2), (torch._neg_view(x1), x2)):
        loss = fused_channel_sum_euclidean_loss(*inputs)
        alone = [backward(weight) for weight in weights]
        for differentiable in (False, True):
            many = torch.autograd.grad(
                *(loss, (x1, x2), weights),
                retain_graph=True,
                create_graph=differentiable,
                is_grads_batched=True,
            )
            for found in (vmap(backward)(weights), many):
                assert are_equal(found, [torch.stack(each) for each in zip(*alone, strict=True)])


@each_way
@pytest.mark.parametrize("compiled", [False, True], ids=["called", "compiled"])
def test_autocast(compiled: bool) -> None:
    """What autocast made bfloat16 is computed in float32; the gradients arrive in its type."""
    x1, x2 = integers(4, 3, 2, 5)
    loss = fused_channel_sum_euclidean_loss
    if compiled:
        loss = torch.compile(loss, fullgraph=True, backend="aot_eager")
    halves = [x.detach().bfloat16().requires_grad_() for x in (x1, x2)]
    expected = gradients(channel_sum.loss(x1, x2), x1, x2)
    for given in (halves, (x1, halves[1]), (x1, x2)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(*given)
        assert value.dtype == torch.float32
        found = gradients(value, *given)
        assert [each.dtype for each in found[1:]] == [x.dtype for x in given]
        assert are_equal([each.float() for each in found], expected)
    with pytest.raises(TypeError, match="bfloat16"):
        fused_channel_sum_euclidean_loss(*halves)


@each_way
def test_a_negative_view_is_read_as_what_it_is() -> None:
    """PyTorch may hold a tensor as the negative of what is in memory."""
    x1, x2 = (x.detach() for x in integers(4, 3, 2, 5))
    found = fused_channel_sum_euclidean_loss(torch._neg_view(x1), x2)
    assert torch.equal(found, channel_sum.loss(-x1, x2))


@each_way
def test_a_zero_without_memory_is_read_as_zero() -> None:
    """PyTorch may hold a tensor of zeros as its shape alone; its address is none."""
    x1, x2 = integers(4, 3, 2, 5)
    zero = torch._efficientzerotensor(x1.shape)
    assert torch.equal(fused_channel_sum_euclidean_loss(zero, x2), channel_sum.loss(0 * x1, x2))
    loss = fused_channel_sum_euclidean_loss(x1, x2)
    for found in torch.autograd.grad(loss, (x1, x2), torch._efficientzerotensor(())):
        assert not found.any()


@each_way
def test_saved_tensors_may_come_back_in_another_order_or_type() -> None:
    """As hooks on saved tensors give them: with other strides, or as float32 of a float64."""
    x1, x2 = integers(4, 3, 2, 5, dtype=torch.float64)
    expected = gradients(channel_sum.loss(x1, x2), x1, x2)
    for hooks in ((lambda x: x.mT.contiguous(), lambda x: x.mT), (torch.Tensor.float, lambda x: x)):
        with torch.autograd.graph.saved_tensors_hooks(*hooks):
            loss = fused_channel_sum_euclidean_loss(x1, x2)
        assert are_equal(gradients(loss, x1, x2), expected)


@each_way
def test_tangents_are_carried_on() -> None:
    """Forward-mode derivatives: of the loss, and of a gradient by that of the loss's weight."""
    x1, x2 = integers(4, 3, 2, 5, channels=2, dtype=torch.float64)
    check = partial(torch.autograd.gradcheck, check_forward_ad=True, check_backward_ad=False)
    assert check(fused_channel_sum_euclidean_loss, (x1, x2))
    loss, one = fused_channel_sum_euclidean_loss(x1, x2), torch.ones((), dtype=torch.float64)
    with forward_ad.dual_level():
        weight = forward_ad.make_dual(one, 3 * one)  # type: ignore[no-untyped-call]
        found = torch.autograd.grad(loss, (x1, x2), weight)
        for each in found:
            primal, tangent = forward_ad.unpack_dual(each)  # type: ignore[no-untyped-call]
            assert tangent is not None and torch.equal(tangent, 3 * primal)


@each_way
@pytest.mark.parametrize("shape", [(2, 3, 0), (2, 0, 3), (2, 0, 0)], ids=str)
def test_nothing_has_a_gradient_of_its_shape(shape: tuple[int, ...]) -> None:
    """No positions, or no channels, written or expanded."""
    for expanded in (False, True):
        x1, x2 = (torch.ones(shape, requires_grad=True) for _ in range(2))
        loss = fused_channel_sum_euclidean_loss(x1, x2, expanded=expanded)
        assert [x.shape for x in gradients(loss, x1, x2)] == [(), shape, shape]


@each_way
def test_a_sparse_tensor_is_refused() -> None:
    """By its name, and not by what PyTorch says of its memory."""
    with pytest.raises(TypeError, match="sparse_coo"):
        fused_channel_sum_euclidean_loss(torch.ones(2, 3).to_sparse(), torch.ones(2, 3))


def chained(expanded: bool, compiled: bool, dtype: torch.dtype) -> list[torch.Tensor]:
    """The gradients behind an elementwise operation and a convolution, and of what came before.

    With double backward: the last is the gradient of the first's sum of squares.
    """
    generator = torch.Generator().manual_seed(3)
    shapes = ((4, 3, 6, 5), (4, 7, 6, 5), (5, 7, 3, 3))
    x1, x2, weight = (
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes
    )
    wide = torch.nn.functional.conv2d(x2, weight, padding=1)
    of_loss: list[torch.Tensor] = []
    scaled = x1 * x1
    for each in (scaled, wide):
        each.register_hook(of_loss.append)  # type: ignore[no-untyped-call]
    loss: Callable[..., torch.Tensor] = partial(fused_channel_sum_euclidean_loss, expanded=expanded)
    if compiled:
        loss = torch.compile(loss, fullgraph=True, backend="aot_eager")
    value = -2 * loss(scaled, wide)
    found = torch.autograd.grad(value, (x1, x2, weight), retain_graph=True)
    assert [x.stride(1) == 0 for x in of_loss] == [expanded, expanded]
    assert sum(x.untyped_storage().nbytes() for x in of_loss) == sum(
        x.itemsize * x.numel() // (x.shape[1] if expanded else 1) for x in of_loss
    )
    if compiled:  # aot_autograd has no double backward
        return [*of_loss, *found]
    (again,) = torch.autograd.grad(value, x1, create_graph=True)
    return [*of_loss, *found, *torch.autograd.grad(again.square().sum(), (x1, x2, weight))]


@each_way
@pytest.mark.parametrize("compiled", [False, True], ids=["called", "compiled"])
@pytest.mark.parametrize("dtype", kernels.TYPES, ids=str)
def test_an_expanded_gradient_is_the_written_one(dtype: torch.dtype, compiled: bool) -> None:
    """N*S numbers in place of N*C*S; in a chain every gradient has the same bits."""
    assert are_equal(chained(True, compiled, dtype), chained(False, compiled, dtype))


@each_way
@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 1, 3)], ids=str)
def test_an_expanded_gradient_is_the_gradient(shape: tuple[int, ...]) -> None:
    """gradcheck and gradgradcheck accept it, also of one input alone; a leaf's is written out."""
    generator = torch.Generator().manual_seed(4)
    other = (shape[0], shape[1] + 1, *shape[2:])
    x1, x2 = (
        torch.randn(each, generator=generator, dtype=torch.float64).requires_grad_()
        for each in (shape, other)
    )
    loss = partial(fused_channel_sum_euclidean_loss, expanded=True)
    for given in ((x1, x2), (x1, x2.detach()), (x1.detach(), x2)):
        assert torch.autograd.gradcheck(loss, given)
        assert torch.autograd.gradgradcheck(loss, given)
    loss(x1, x2).backward()  # type: ignore[no-untyped-call]
    assert x1.grad is not None and x1.grad.is_contiguous()


@each_way
@pytest.mark.parametrize("shape", [(7, 48, 50, 70), (2, 1, 1050, 1000), (3, 400000), (2, 3, 5)])
def test_threads_change_no_bit(shape: tuple[int, ...]) -> None:
    """One thread, two, and more than there are samples make the same bits."""
    generator = torch.Generator().manual_seed(1)
    x1, x2 = (torch.randn(shape, generator=generator).requires_grad_() for _ in range(2))
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            made.append(gradients(on_the_kernels(x1, x2), x1, x2))
    finally:
        torch.set_num_threads(before)
    assert are_equal(made[1], made[0])
    assert are_equal(made[2], made[0])


def test_torch_fast_is_the_kernels_or_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variant is no plain PyTorch where there is no compiler."""
    fast = variant_of(LAYERS["channel_sum"], "torch-fast")
    assert fast.cannot_run() is None
    monkeypatch.setattr(kernels, "compiler", lambda: None)
    kernels._kernels.cache_clear()
    kernels.straight.cache_clear()
    fused._fall_back.cache_clear()
    x1, x2 = integers(4, 3, 2, 5)
    try:
        assert fast.cannot_run() == "no C++ compiler (g++ or clang++)"
        with pytest.raises(kernels.NoKernels, match="no C"):
            on_the_kernels(x1, x2)
        with pytest.warns(RuntimeWarning, match="by plain PyTorch.*no C"):
            loss = fused_channel_sum_euclidean_loss(x1, x2)
        found = gradients(loss, x1, x2)
    finally:
        kernels._kernels.cache_clear()
        kernels.straight.cache_clear()
        fused._fall_back.cache_clear()
    assert are_equal(found, gradients(channel_sum.loss(x1, x2), x1, x2))


@pytest.mark.parametrize("fault", ["refused", "broken"])
def test_a_call_through_python_says_why(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, where the C++ of the calls is refused or cannot be loaded; the numbers are the same."""
    source = tmp_path / "straight.cpp"
    source.write_text("int broken = undefined_name;\n")
    if fault == "broken":
        monkeypatch.setattr(kernels, "build", lambda target: source)
    assert isinstance(kernels._kernels("cpu"), kernels.CpuKernels)
    monkeypatch.setattr(kernels, "STRAIGHT_SOURCE", source)
    kernels.straight.cache_clear()
    x1, x2 = integers(4, 3, 2, 5)
    why = "undefined_name" if fault == "refused" else "straight.cpp.*delete it"
    try:
        with pytest.warns(RuntimeWarning, match=f"through Python, not C.*{why}"):
            fused_channel_sum_euclidean_loss(x1, x2)
        with warnings.catch_warnings(action="error"):
            loss = fused_channel_sum_euclidean_loss(x1, x2)
    finally:
        kernels.straight.cache_clear()
    assert are_equal(gradients(loss, x1, x2), gradients(channel_sum.loss(x1, x2), x1, x2))


def test_built_once_and_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library is kept by its content; what the compiler refuses is told, and not tried again."""
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    library = kernels.build("cpu")
    assert [library] == list((tmp_path / "cache").iterdir())
    made = library.stat().st_mtime_ns
    assert (kernels.build("cpu"), library.stat().st_mtime_ns) == (library, made)
    broken = tmp_path / "run.cpp"
    broken.write_text(f"{kernels.CPU_SOURCE.read_text()}\nint broken = undefined_name;\n")
    monkeypatch.setattr(kernels, "CPU_SOURCE", broken)
    kernels._kernels.cache_clear()
    try:
        for _ in range(2):
            with pytest.raises(kernels.NoKernels, match="undefined_name"):
                kernels.kernels("cpu")
        assert kernels._kernels.cache_info().misses == 1
    finally:
        kernels._kernels.cache_clear()
    assert [library] == list((tmp_path / "cache").iterdir())
