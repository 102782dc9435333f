"""The port on the compiled layer's own kernels: the fastest one, on the CPU and on a GPU.

Forward reads each input once and keeps d, N*S values; backward writes each gradient once. The same
input gives the same bits every time. The kernels are built on demand (kernels.py); where nothing
can be built, plain PyTorch computes.

Three ways lead to them. A call as a training loop makes it goes straight: on the CPU through C++
(cpu/straight.cpp), else, and where that cannot be built, through an `autograd.Function`. What
traces the call, torch.compile or torch.export, sees one op of `torch.library` instead, with its
shapes and derivatives. torch.func sees plain PyTorch.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch.autograd import Function, forward_ad

from torch_impl.kernels import (
    TYPES,
    NoKernels,
    empty_outputs,
    kernels_of,
    straight,
    with_channels,
)

OP = "caffe_parity::channel_sum_euclidean_loss"
Both = list[torch.Tensor | None]
"""What belongs to x1 and to x2; None where it is not wanted."""


@cache
def _fall_back(reason: str) -> None:
    """Says once that plain PyTorch computes instead."""
    words = f"channel_sum_euclidean_loss is computed by plain PyTorch, not by its kernels: {reason}"
    warnings.warn(words, RuntimeWarning, stacklevel=3)


def _plain_forward(x1: torch.Tensor, x2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    d = x1.sum(1) - x2.sum(1)  # N, S...
    return d.square().sum() / (2 * x1.shape[0]), d


def _plain_backward(
    d: torch.Tensor, weight: torch.Tensor, channels: Sequence[int], wanted: Sequence[bool]
) -> Both:
    gradient = (weight / d.shape[0] * d).unsqueeze(1)  # N, 1, S...
    signed = (gradient, -gradient)
    shapes = [with_channels(d, count) for count in channels]
    return [signed[i].expand(shapes[i]).contiguous() if wanted[i] else None for i in range(2)]


def _compute(
    x1: torch.Tensor, x2: torch.Tensor, expanded: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and d for the backward, of which alone it is whether gradients are expanded."""
    try:
        found = kernels_of(x1)
    except NoKernels as reason:
        _fall_back(str(reason))
        return _plain_forward(x1, x2)
    return found.forward(x1, x2)


def _compute_both(
    d: torch.Tensor, weight: torch.Tensor, channels: Sequence[int], wanted: Sequence[bool]
) -> Both:
    """The gradients of x1 and of x2 that are wanted; `weight` is the gradient of the loss."""
    try:
        found = kernels_of(d)
    except NoKernels as reason:
        _fall_back(str(reason))
        return _plain_backward(d, weight, channels, wanted)
    return found.backward(d, weight, channels, wanted)


def _compute_gradients(
    d: torch.Tensor, weight: torch.Tensor, channels: Sequence[int], wanted: Sequence[bool]
) -> list[torch.Tensor]:
    """The same, without those that are not wanted, for an op must return tensors."""
    return [each for each in _compute_both(d, weight, channels, wanted) if each is not None]


_forward = torch.library.custom_op(OP, _compute, mutates_args=())
_backward = torch.library.custom_op(f"{OP}_backward", _compute_gradients, mutates_args=())

_forward.register_fake(lambda x1, x2, expanded=False: empty_outputs(x1))


@_backward.register_fake
def _backward_shapes(
    d: torch.Tensor, weight: torch.Tensor, channels: Sequence[int], wanted: Sequence[bool]
) -> list[torch.Tensor]:
    return [d.new_empty(with_channels(d, channels[i])) for i in range(2) if wanted[i]]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x1, x2, ctx.expanded = inputs
    ctx.save_for_backward(output[1])
    ctx.channels = [x1.shape[1], x2.shape[1]]
    ctx.set_materialize_grads(False)


def _dispatch_both(
    d: torch.Tensor, weight: torch.Tensor, channels: Sequence[int], wanted: Sequence[bool]
) -> Both:
    """As _compute_both, by the op, which has a derivative."""
    made = iter(_backward(d, weight, channels, wanted))
    return [next(made) if want else None for want in wanted]


def _gradients(
    ctx: Any, d: torch.Tensor, weight: torch.Tensor, compute: Callable[..., Both]
) -> Both:
    """Those of x1 and x2: written for each channel, or for one that all channels share."""
    wanted = list(ctx.needs_input_grad[:2])
    if not ctx.expanded:
        return compute(d, weight, ctx.channels, wanted)
    found = compute(d, weight, [min(count, 1) for count in ctx.channels], wanted)
    shapes = [with_channels(d, count) for count in ctx.channels]
    return [None if x is None else x.expand(to) for x, to in zip(found, shapes, strict=True)]


def _differentiate(
    ctx: Any,
    weight: torch.Tensor | None,
    d_gradient: torch.Tensor | None,
) -> tuple[torch.Tensor | None, ...]:
    """The gradients of x1 and x2, from that of the loss, and of d in a backward of the backward."""
    (d,) = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    gradients: Both = [None, None]
    if weight is not None:
        compute = _plain_backward if _is_transformed(weight) else _dispatch_both
        gradients = _gradients(ctx, d, weight, compute)
    if d_gradient is not None:
        for i, sign in enumerate((1, -1)):
            if wanted[i]:
                spread = sign * d_gradient.unsqueeze(1).expand(with_channels(d, ctx.channels[i]))
                so_far = gradients[i]
                gradients[i] = spread if so_far is None else so_far + spread
    return (*gradients, None)


_forward.register_autograd(_differentiate, setup_context=_remember)


def _remember_backward(ctx: Any, inputs: tuple[Any, ...], output: list[torch.Tensor]) -> None:
    d, weight, _, ctx.wanted = inputs
    ctx.save_for_backward(d, weight)


def _differentiate_backward(
    ctx: Any, gradients: Sequence[torch.Tensor]
) -> tuple[torch.Tensor | None, ...]:
    """The gradients of d and of the loss's gradient; rarely wanted, so in plain PyTorch."""
    d, weight = ctx.saved_tensors
    total = torch.zeros_like(d)
    made = iter(gradients)
    for want, sign in zip(ctx.wanted, (1, -1), strict=True):
        if want:
            total = total + sign * next(made).sum(1)  # N, S...
    total = total / d.shape[0]
    return weight * total, (d * total).sum(), None, None


_backward.register_autograd(_differentiate_backward, setup_context=_remember_backward)


class _Straight(Function):
    """The kernels without the dispatch of torch.library, which costs more than they do."""

    @staticmethod
    def forward(
        ctx: Any, x1: torch.Tensor, x2: torch.Tensor, expanded: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output = _compute(x1, x2)
        _remember(ctx, (x1, x2, expanded), output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        weight, d_gradient = grads
        if weight is None or d_gradient is not None or torch.is_grad_enabled():
            return _differentiate(ctx, weight, d_gradient)  # a backward of the backward
        (d,) = ctx.saved_tensors
        compute = _compute_both
        if not (_is_plain(weight) and _is_plain(d)):
            compute = _plain_backward if _is_transformed(weight) else _dispatch_both
        return (*_gradients(ctx, d, weight, compute), None)


def _is_transformed(x: torch.Tensor) -> bool:
    """Whether this is within vmap, grad, jvp or the like, to which an op is opaque.

    Or x is several at once, as `torch.autograd.grad` with `is_grads_batched` has it.
    """
    return _is_opaque() or torch._C._functorch.is_legacy_batchedtensor(x)


def _is_opaque() -> bool:
    """Whether a transform of torch.func is at work, or tensors have tangents."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _is_plain(x: torch.Tensor) -> bool:
    """Whether memory holds the numbers of a tensor as they are, and nobody traces it."""
    if type(x) not in _PLAIN or torch._C._len_torch_dispatch_stack() or _is_opaque():
        return False
    return not torch._C._dispatch_keys(x).raw_repr() & ~_KEYS


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def _keys() -> int:
    """The dispatch keys of tensors in memory: of no negative, no zero without any, no batch."""
    keys = torch._C._dispatch_keys(torch.empty(0))
    for name in ("CUDA", "AutogradCUDA", "AutocastCUDA"):
        keys = keys.add(getattr(torch._C.DispatchKey, name))
    return keys.raw_repr()


_KEYS = _keys()


def _said(x: torch.Tensor) -> str:
    """The type and the device of a tensor, and its layout if it is not dense."""
    layout = "" if x.layout == torch.strided else f", {x.layout}"
    return f"{x.dtype}{layout} on {x.device}"


def fused_channel_sum_euclidean_loss(
    x1: torch.Tensor, x2: torch.Tensor, *, expanded: bool = False
) -> torch.Tensor:
    """The Euclidean loss of the channel sums: 1/(2N) times the sum of (sum_c x1 - sum_c x2)**2.

    All channels of a gradient are the same. With `expanded` they are the same memory, too, N*S
    numbers in place of N*C*S, as `Tensor.expand` makes it: where an elementwise operation of
    PyTorch's computed x1 or x2, its backward reads that much less, and nothing else differs, to
    the bit. It gains nothing where x1 or x2 is a leaf, or comes from an operation that wants
    its gradient contiguous, as a convolution does: PyTorch writes it out then. It harms where
    the gradient itself is seen, by a hook, `retain_grad` or `torch.autograd.grad`, and changed in
    place or viewed as another shape: both are errors, `.contiguous()` mends them.

    Args:
        x1: (N, C1, S...), float32 or float64; under autocast also float16 or bfloat16, which are
            computed in float32.
        x2: (N, C2, S...), of the same type and on the same device; C2 may differ from C1.
        expanded: whether the channels of a gradient share their memory; torch.func's always do.

    Raises:
        ValueError: the shapes differ in another axis than 1, or the batch is empty.
        TypeError: the types or the devices differ, the type is none of the two, or one is sparse.
        RuntimeError: CUDA refuses.
    """
    eager = not torch.compiler.is_compiling() and not _is_opaque()
    if eager and type(x1) in _PLAIN and type(x2) in _PLAIN and x1.is_cpu:
        in_cpp = straight()
        found = in_cpp and in_cpp(x1, x2, expanded)
        if found is not None:
            return found
    shape1, shape2 = x1.shape, x2.shape
    same = shape1 == shape2 or (shape1[:1], shape1[2:]) == (shape2[:1], shape2[2:])
    fit = len(shape1) >= 2 and same
    if not fit or shape1[0] == 0:
        raise ValueError(f"x1 {tuple(shape1)} and x2 {tuple(shape2)} do not fit, or are empty")
    if x1.dtype not in TYPES or x1.dtype != x2.dtype:
        x1, x2 = _in_full(x1), _in_full(x2)
    alike = x1.dtype == x2.dtype and x1.device == x2.device
    if x1.dtype not in TYPES or not alike or {x1.layout, x2.layout} != {torch.strided}:
        raise TypeError(
            "x1 and x2 must both be float32 or both float64, dense and on one device; got "
            f"{_said(x1)} and {_said(x2)}"
        )
    if _is_opaque():
        return _plain_forward(x1, x2)[0]
    run = _Straight.apply if eager and _is_plain(x1) and _is_plain(x2) else _forward
    loss: torch.Tensor = run(x1, x2, expanded)[0]  # type: ignore[no-untyped-call]
    return loss


def _in_full(x: torch.Tensor) -> torch.Tensor:
    """What autocast has made smaller, in float32."""
    half = x.dtype in (torch.float16, torch.bfloat16)
    return x.float() if half and torch.is_autocast_enabled(x.device.type) else x


def on_the_kernels(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """The same, but never by plain PyTorch: for tests and measurements.

    Raises:
        NoKernels: the kernels cannot be built here.
    """
    kernels_of(x1)
    return fused_channel_sum_euclidean_loss(x1, x2)
