"""A rounding bound for a reference of which nothing is known: round it at random and look.

The reference runs in float64 while its inputs, and the output of every floating-point operation
of its forward and its backward, are changed by a random relative amount of up to u = 2**-24, as
float32 rounding would (Monte Carlo arithmetic: Parker, UCLA CSD-970002, 1997). What the results
spread by is what float32 may do to them.

A sum rounds more than once. With independent errors its n terms' walk is up to sqrt(n) * u *
sum |terms| whatever the order (Higham and Mary, SIAM J. Sci. Comput. 41(5), 2019), so reductions
and matrix products are changed by that times a random number. Terms that are alike are rounded
alike, and a float32 sum of them, one after the other, drifts: a reduction is changed by as much as
such a sum of its very terms is off, where that is more. Composite operations (softmax, losses,
norms) are taken apart by PyTorch's own decompositions first, so that each step is rounded. So are
sums that indices make, such as the gradient of an embedding or of overlapping pools.

Caffe's LRN across channels (lrn_layer.cpp) adds the square that comes into its window to a running
sum and subtracts the one that leaves it, over all C channels, in the backward as well. Each of the
2C operations rounds what the sum then is, and nothing takes that out again: sqrt(2C) * u times its
largest value over the channels. A net that has one is judged by that, wherever the reference raises
something to that LRN's exponent, or adds up a gradient over windows.

At a kink (|x| at 0, the edge of a hinge, a tie of a maximum) several gradients are right. Such
elements are found by moving the inputs by 2**-30 of their size: a smooth gradient hardly changes,
one at a kink jumps. They get an infinite bound.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from caffe_parity.contract import GRADIENT, SMALLEST_SUBNORMAL, UNIT_ROUNDOFF, Bound, Expected
from caffe_parity.progress import PROGRESS

RUNS = 16

MARGIN = 4.0
"""The bound as a multiple of the largest deviation of the runs. A sum of many independent errors is
close to normal, and the largest of 16 lies below 0.7 of its standard deviation once in 1e5 times; 4
times that is still 2.8 of them, and the floor below (`_usual`) makes up for such an unlucky
element. A wrong formula is off by thousands."""

JUMP = 2.0**-12
"""A gradient that changes by more than this part of its largest value when the inputs move by
2**-30 of theirs has a kink there: a smooth one would need a curvature of 2**18."""

KINK_RUNS = 8

CANCELS = 2.0**-16
"""A tensor whose largest value is below this part of what rounding makes of it cancels: it is 0 but
for what float64 rounds (2**-29 of that), or as good as 0 (a saturated layer). That it changes by
much more than itself is no kink then."""

NOTHING = 2.0**-24
"""Below this part of what float32 makes of it a value is nothing but what float64 rounds (2**-29 of
that for each operation): it is 0, and all of it cancelled."""

ELSEWHERE = 4
"""With how many other inputs a tensor that cancels is tried: is it 0 whatever they are?"""

Tensors = dict[str, torch.Tensor]
Evaluate = Callable[[Tensors], Tensors]
"""Maps inputs by name to results by name; gradients are among them, under GRADIENT + name."""

aten = torch.ops.aten
_SUMS = {
    aten.sum.dim_IntList,
    aten.sum.default,
    aten.mean.dim,
    aten.mean.default,
    aten.cumsum.default,
}
_PRODUCTS = {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.convolution.default}
_BACKWARD = aten.convolution_backward.default
_ADDED = {
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten.scatter_add.default,
    aten.scatter_add_.default,
    aten.max_pool2d_with_indices_backward.default,
    aten.max_pool3d_with_indices_backward.default,
    aten.avg_pool2d_backward.default,
    aten.avg_pool3d_backward.default,
    aten._adaptive_avg_pool2d_backward.default,
    aten.upsample_bilinear2d_backward.default,
    aten.upsample_nearest1d_backward.default,
    aten.upsample_nearest2d_backward.default,
    aten.upsample_nearest3d_backward.default,
    aten._upsample_nearest_exact1d_backward.default,
    aten._upsample_nearest_exact2d_backward.default,
    aten._upsample_nearest_exact3d_backward.default,
}
"""Operations that may add up several elements of an argument in one of the result."""

_TAKEN_APART: tuple[Any, ...] = (
    aten._softmax,
    aten._log_softmax,
    aten.native_layer_norm,
    aten.native_group_norm,
    aten.native_batch_norm,
    aten._native_batch_norm_legit,
    aten._native_batch_norm_legit_functional,
    aten.batch_norm_backward,
    aten.linalg_vector_norm,
)
"""Composite operations that core_aten_decompositions() leaves whole."""

_SCALED_SUMS = {aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.sub_.Tensor}
_EXACT = set(
    """
    abs alias amax amin arange as_strided cat ceil clamp clamp_max clamp_min clone
    constant_pad_nd copy copy_ detach diagonal diagonal_copy empty empty_like empty_strided eq
    expand fill fill_ flatten flip floor full full_like gather ge gt index
    index_select le lift_fresh lift_fresh_copy lt masked_fill max maximum min minimum ne neg
    new_empty new_empty_strided new_full new_ones new_zeros ones ones_like permute relu repeat
    reshape resize round scalar_tensor scatter select select_backward select_scatter sgn sign
    slice slice_backward slice_scatter sort split split_with_sizes squeeze stack t to topk
    transpose tril triu trunc unbind unfold unsqueeze upsample_nearest1d upsample_nearest2d
    upsample_nearest3d view where zero_ zeros zeros_like _reshape_alias _to_copy _unsafe_view
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    """.split()  # noqa: SIM905  # 80 names one below the other are no easier to read
)
"""Operations that move or choose numbers, or that are exact: nothing to round."""

_SMOOTH = set(
    """
    add add_ addmm alias as_strided avg_pool2d avg_pool2d_backward bmm cat clone convolution
    convolution_backward detach empty expand fill_ lift_fresh mean mm mul neg new_zeros permute
    select split squeeze slice sub sum t transpose unsqueeze view zero_ zeros zeros_like
    _reshape_alias _to_copy _unsafe_view
    """.split()  # noqa: SIM905
)
"""Operations of which the results are polynomials: they have neither kinks nor poles."""


@cache
def _decompositions() -> Mapping[Any, Callable[..., Any]]:
    """What PyTorch knows of composite operations; making the table takes a tenth of a second."""
    table = dict(torch._decomp.core_aten_decompositions())
    known = torch._decomp.decomposition_table
    for packet in _TAKEN_APART:
        overloads = [getattr(packet, each) for each in packet.overloads()]
        table |= {each: known[each] for each in overloads if each in known}
    return table | {
        aten.var.correction: lambda *args, **kwargs: _variance(*args, **kwargs)[0],
        aten.var_mean.correction: _variance,
        aten.std.correction: lambda *args, **kwargs: _variance(*args, **kwargs)[0].sqrt(),
    }


def _variance(
    x: torch.Tensor, dim: Any = None, *, correction: Any = 1, keepdim: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """A variance and a mean, from the sums that they are."""
    dims = list(range(x.dim())) if dim is None else list(dim)
    mean = x.mean(dims, keepdim=True)
    squares = (x - mean).square()
    count = math.prod(x.shape[each] for each in dims)
    variance = squares.sum(dims, keepdim=keepdim) / max(count - correction, 0)
    return variance, mean.reshape(variance.shape)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks whether what runs has no kink: it only adds, multiplies, and moves numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.smooth = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.smooth &= func.overloadpacket.__name__ in _SMOOTH
        return func(*args, **(kwargs or {}))


class RandomRounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Changes the output of every floating-point operation by a random rounding."""

    def __init__(
        self,
        source: Source,
        running: frozenset[float] = frozenset(),
        known: Known | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.source = source
        self.known = known or Known(())
        self.exponents = {np.float32(sign * b - less) for b in running for sign, less in _POWERS}
        self.decompositions = _decompositions()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: nothing is compiled here, and saying so to torch.compile would import it (1 s)."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in _EXACT:
            result = func(*args, **kwargs)
            self.known.passed_on(func, args, result)
            return result
        if self.exponents and func in _WINDOWS:
            sums = _channels_of(_WINDOWS[func], args, func(*tree_map(_absolute, args), **kwargs))
            return self._rounded(func(*args, **kwargs), sums, False)
        if func is aten.pow.Tensor_Scalar and np.float32(args[1]) in self.exponents:
            result = func(*args, **kwargs)
            base = _running(args[0].abs(), 1) / args[0].abs()
            return self._rounded(result, (args[1] * result * base).abs(), False)
        if func in self.decompositions and func not in _SUMS and func not in _PLAIN:
            with self:
                result = self.decompositions[func](*args, **kwargs)
            if result is not NotImplemented:
                return result
        if func in _ADDED:
            added = _spread_of_added(func, args, kwargs)  # before: it may work in place
            return self._rounded(func(*args, **kwargs), added, func._schema.is_mutable)
        result = func(*args, **kwargs)
        if func is _BACKWARD:
            spreads = self.known.of(func, args, lambda: _spreads_of_convolution_backward(args))
            return [
                self._rounded(each, spread, True)
                for each, spread in zip(result, spreads, strict=True)
            ]
        plain = _PLAIN.get(func)
        if func in _PRODUCTS:
            spread = self.known.of(func, args, lambda: _spread_of_sum(func, args, kwargs))
        else:
            spread = plain(*args, **kwargs) if plain else _spread_of_sum(func, args, kwargs)
        if func in _SCALED_SUMS and kwargs.get("alpha", 1) != 1:
            spread = _spread_of_product(result, args[1], kwargs["alpha"])
        in_place = func._schema.is_mutable or func in _PRODUCTS  # whose results are new
        return tree_map(lambda each: self._rounded(each, spread, in_place), result)

    def _rounded(self, value: Any, spread: torch.Tensor | None, in_place: bool) -> Any:
        if not _is_float(value):
            return value
        if spread is None or spread.shape != value.shape:
            return _moved_by(value, [], _itself, self.source, UNIT_ROUNDOFF, in_place)
        return _moved_by(value, [spread], _size_and, self.source, 1.0, in_place)


class Source:
    """Random numbers: SFC64, which takes a tenth of the time of PyTorch's generator."""

    def __init__(self) -> None:
        self._bits = np.random.SFC64(0)

    def whole(self, shape: torch.Size) -> torch.Tensor:
        """Whole numbers from -2**15 to 2**15 - 1, all of them alike often; int16."""
        count = shape.numel()
        words = np.asarray(self._bits.random_raw(-(-count // 4)))
        return torch.from_numpy(words.view(np.int16)[:count]).reshape(shape)


class Known:
    """What was known of sums from the first of several runs, whose inputs differ by rounding alone.

    The terms of a sum of what was fed are the same to a few parts in 2**24 in all of them, and so
    is the sum of their magnitudes: it is computed once. An operation is known by the shapes of what
    it takes, and by how many such came before.

    Args:
        fed: the tensors that a run begins with.
    """

    def __init__(self, fed: Iterable[torch.Tensor]) -> None:
        self._sizes: dict[Any, Any] = {}
        self.begin(fed)

    def begin(self, fed: Iterable[torch.Tensor]) -> Known:
        """The next run begins."""
        self._fed = {each.data_ptr(): each for each in fed}  # keeps them: the places are theirs
        self._counts: Counter[Any] = Counter()
        return self

    def passed_on(self, func: Any, args: Any, result: Any) -> None:
        """What has the numbers of what was fed, in another order or shape, is as well known."""
        if func.overloadpacket.__name__ in _MOVES and self._has(args):
            for each in result if isinstance(result, (list, tuple)) else [result]:
                self._fed[each.data_ptr()] = each

    def _has(self, args: Any) -> bool:
        return all(each.data_ptr() in self._fed for each in _floats(args))

    def of(self, func: Any, args: Any, size: Callable[[], Any]) -> Any:
        """What `size` says of an operation's arguments, or said in the first run."""
        if not self._has(args):
            return size()
        shapes = tuple(each.shape for each in args if isinstance(each, torch.Tensor))
        self._counts[func, shapes] += 1
        key = func, shapes, self._counts[func, shapes]
        if key not in self._sizes:
            self._sizes[key] = size()
        return self._sizes[key]


_MOVES = set(
    """
    alias clone detach lift_fresh permute reshape squeeze t to transpose unsqueeze view
    _reshape_alias _to_copy _unsafe_view
    """.split()  # noqa: SIM905
)
"""Operations that give the numbers that they take."""


BLOCK = 1 << 18
"""Elements of a large tensor that are worked on at once: what is made on the way is no larger."""


def _stretches(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Tensors of one shape, stretch by stretch, each a view; those of few elements in one."""
    if tensors[0].numel() <= BLOCK or not all(each.is_contiguous() for each in tensors):
        yield tensors
        return
    flat = [each.view(-1) for each in tensors]
    for start in range(0, len(flat[0]), BLOCK):
        yield tuple(each[start : start + BLOCK] for each in flat)


def _moved_by(
    value: torch.Tensor,
    more: list[torch.Tensor],
    size: Callable[..., torch.Tensor],
    source: Source,
    factor: float = 1.0,
    in_place: bool = False,
) -> torch.Tensor:
    """A value changed by up to `factor * size(value, *more)`, uniformly."""
    made = value if in_place else None
    if made is None and value.is_contiguous() and value.numel() > BLOCK:
        made = torch.empty_like(value)
    for to, *taken in _stretches(value if made is None else made, value, *more):
        random = source.whole(to.shape).to(value.dtype)
        changed = torch.addcmul(taken[0], random, size(*taken), value=factor * 2.0**-15)
        if made is None:
            return changed
        to.copy_(changed)
    return value if made is None else made


def _itself(value: torch.Tensor) -> torch.Tensor:
    return value


def _size_and(value: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    return value.abs().mul_(UNIT_ROUNDOFF).add_(spread)


def _ulps(value: torch.Tensor) -> torch.Tensor:
    """What float32 rounds off."""
    return value.abs().mul_(UNIT_ROUNDOFF).masked_fill_(~value.isfinite(), 0.0)


def _spread_of_sum(func: Any, args: Any, kwargs: Any) -> torch.Tensor | None:
    """sqrt(n) * u * sum |terms| of a reduction or a product of matrices; None for others."""
    if func not in _SUMS and func not in _PRODUCTS:
        return None
    absolute = tree_map(_absolute, args)
    size: torch.Tensor = func(*absolute, **kwargs)
    if func in _SUMS:
        terms = args[0].numel() / max(size.numel(), 1)
    elif func is aten.convolution.default:
        terms = args[1][0].numel()
    else:
        terms = args[-1].shape[-2]
    spread = _walk(max(terms, 1), size)
    return torch.maximum(spread, _drift(func, args, kwargs)) if func in _SUMS else spread


def _walk(terms: float, size: torch.Tensor) -> torch.Tensor:
    """What a sum of terms, of these magnitudes together, may be off by.

    Below float32's smallest normal number each addition rounds to a multiple of the smallest
    subnormal one, however small the terms are.
    """
    walk: torch.Tensor = UNIT_ROUNDOFF * terms**0.5 * size
    return walk.add_(terms * SMALLEST_SUBNORMAL / 2)


def _drift(func: Any, args: Any, kwargs: Any) -> torch.Tensor:
    """What a float32 sum of a reduction's terms, one after the other, is off by; 0 if it is inf."""
    exact: torch.Tensor = func(*args, **kwargs)
    terms, *rest = args
    if not terms.numel():
        return torch.zeros_like(exact)
    if func is aten.cumsum.default:
        sums = np.add.accumulate(terms.float().numpy(), axis=rest[0])
    else:
        given = rest[0] if rest and rest[0] is not None else ()
        axes = [each % terms.dim() for each in given] or list(range(terms.dim()))
        count = max(terms.numel() // max(exact.numel(), 1), 1)
        rows = torch.movedim(terms, axes, list(range(len(axes)))).reshape(count, -1)
        sums = _one_after_the_other(rows.float().numpy())
        sums = sums / count if func.overloadpacket is aten.mean else sums
    drift = (torch.from_numpy(sums).to(exact.dtype).reshape(exact.shape) - exact).abs()
    return drift.nan_to_num(nan=0.0, posinf=0.0)


def _one_after_the_other(rows: np.ndarray) -> np.ndarray:
    """The sums of columns, term by term in the order of the rows."""
    if rows.shape[1] == 1:  # NumPy would add in pairs
        last: np.ndarray = np.add.accumulate(rows, axis=0)[-1]
        return last
    return np.asarray(np.add.reduce(np.ascontiguousarray(rows), axis=0))


_POWERS = ((1, 0), (-1, 0), (1, 1), (-1, 1))
"""Of an LRN's exponent b: b and -b are those of a forward, b - 1 and -b - 1 of its derivative."""


def _running(sums: torch.Tensor, axis: int) -> torch.Tensor:
    """How far running sums along an axis may be off, where these are the sums."""
    if sums.dim() <= axis:
        return torch.zeros_like(sums)
    largest: torch.Tensor = sums.amax(axis, keepdim=True).expand(sums.shape)
    return largest * (UNIT_ROUNDOFF * math.sqrt(2 * sums.shape[axis]))


def _unfolded(args: Any) -> int:
    axis: int = args[2]
    return axis


def _pooled(args: Any) -> int:
    kernel = args[2]
    longest = max(range(len(kernel)), key=kernel.__getitem__)
    return longest - len(kernel)


_WINDOWS: dict[Any, Callable[[Any], int]] = {
    aten.unfold_backward.default: _unfolded,
    aten.avg_pool2d_backward.default: _pooled,
    aten.avg_pool3d_backward.default: _pooled,
}
"""Operations that add up a gradient over windows, with the axis that these move along."""


def _channels_of(axis: Callable[[Any], int], args: Any, sums: torch.Tensor) -> torch.Tensor:
    return _running(sums, axis(args) % sums.dim())


def _spread_of_elu(
    x: torch.Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1
) -> torch.Tensor:
    """alpha * (exp(x) - 1) for x < 0, as Caffe has it: exp(x) is rounded before 1 is subtracted."""
    slope = UNIT_ROUNDOFF * abs(alpha * scale)
    return slope * (x * input_scale).clamp(max=0).exp() * (x * input_scale < 0)


def _spread_of_elu_backward(
    grad: torch.Tensor, alpha: float, scale: float, input_scale: float, _: bool, x: torch.Tensor
) -> torch.Tensor:
    """Dy * (y + alpha) for x < 0, as Caffe has it: y was rounded, to u * alpha near -alpha."""
    return UNIT_ROUNDOFF * abs(alpha * scale * input_scale) * grad.abs() * (x * input_scale < 0)


def _spread_of_expm1(x: torch.Tensor) -> torch.Tensor:
    return UNIT_ROUNDOFF * x.exp()


def _spread_of_window(
    pool: Any, axes: int, x: torch.Tensor, kernel: list[int], *rest: Any, **more: Any
) -> torch.Tensor:
    """Of an average over windows: that of a sum of as many terms, also one after the other."""
    terms = math.prod(kernel) ** (axes // len(kernel))
    size: torch.Tensor = pool(x.abs(), kernel, *rest, **more)
    float32 = pool(x.float(), kernel, *rest, **more).to(x.dtype)
    drift = (float32 - pool(x, kernel, *rest, **more)).abs()
    drift = drift.nan_to_num(nan=0.0, posinf=0.0)
    return torch.maximum(UNIT_ROUNDOFF * terms**0.5 * size, drift)


_PLAIN: dict[Any, Callable[..., torch.Tensor]] = {
    aten.avg_pool2d.default: partial(_spread_of_window, aten.avg_pool2d.default, 2),
    aten.avg_pool3d.default: partial(_spread_of_window, aten.avg_pool3d.default, 3),
    aten.elu.default: _spread_of_elu,
    aten.elu_backward.default: _spread_of_elu_backward,
    aten.expm1.default: _spread_of_expm1,
}
"""Operations whose formula rounds in more places than their result, with what that makes."""


def _spread_of_added(func: Any, args: Any, kwargs: Any) -> torch.Tensor:
    """The same where indices say what is added up: they say how many terms each sum has, too."""
    size = func(*tree_map(_absolute, args), **kwargs)
    counts = func(*tree_map(_ones, args), **kwargs)
    spread: torch.Tensor = UNIT_ROUNDOFF * counts.clamp(min=1).sqrt() * size
    return spread


def _spreads_of_convolution_backward(args: Any) -> list[torch.Tensor | None]:
    """The same for the gradients of a convolution's input, weight and bias, where they are asked.

    An element of the input's is a sum over the outputs that it reaches, one of the weight's over
    batch and places, one of the bias's over all of its channel.
    """
    output, _, weight, *_, groups, _ = args
    places = output.numel() / max(output.shape[1], 1)
    transposed = args[7]
    reached = weight[0].numel() if transposed else weight.shape[0] / groups * weight[0, 0].numel()
    terms = (reached, places, places)
    sizes = _BACKWARD(*tree_map(_absolute, args))
    spreads: list[torch.Tensor | None] = [
        None if size is None else _walk(max(count, 1), size)
        for count, size in zip(terms, sizes, strict=True)
    ]
    if spreads[2] is not None:  # a plain sum, of terms that are alike behind an average
        axes = [each for each in range(output.dim()) if each != 1]
        drift = _drift(aten.sum.dim_IntList, (output, axes), {})
        spreads[2] = torch.maximum(spreads[2], drift)
    return spreads


def _spread_of_product(result: torch.Tensor, other: Any, factor: float) -> torch.Tensor:
    """The rounding of factor * other, which is added in the same operation (`add` with `alpha`)."""
    size = UNIT_ROUNDOFF * abs(factor) * torch.as_tensor(other).abs()
    return size.expand(result.shape)


def _absolute(value: Any) -> Any:
    return value.abs() if _is_float(value) else value


def _ones(value: Any) -> Any:
    return torch.ones_like(value) if _is_float(value) else value


def _floats(args: Any) -> Iterator[torch.Tensor]:
    """Those among arguments, and in lists of them; a pytree takes seven times as long."""
    for each in args:
        if isinstance(each, (list, tuple)):
            yield from _floats(each)
        elif _is_float(each):
            yield each


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def expect(
    evaluate: Evaluate,
    inputs: Mapping[str, torch.Tensor],
    fixed: set[str],
    running: frozenset[float] = frozenset(),
    runs: int = RUNS,
    signed: Callable[[Source], Evaluate] | None = None,
) -> Expected:
    """Runs a reference as it is, under random rounding, and with its inputs moved a little.

    Fewer runs than usual are the first of the usual ones, and the usual bound is no smaller: the
    largest of more deviations is as large at least, and so are their mean and their median. But not
    of a tensor that cancels, whose truth and kinks are told by what all runs make of it.

    Args:
        evaluate: the reference with its gradients, for float64 tensors.
        inputs: float64 tensors by name.
        fixed: inputs that are labels, which nothing rounds.
        running: the exponents of the net's LRN layers across channels.
        runs: how many times it is rounded.
        signed: makes the reference for gradients from above of the same size and other signs.

    Returns:
        truth and bound by result; what is at a kink has no finite bound.
    """
    used = _Operations()
    with used:
        truth = evaluate(dict(inputs))
    source, known = Source(), Known(())
    deviations = {name: torch.zeros_like(value) for name, value in truth.items()}
    rooms: Rooms = dict.fromkeys((name for name in inputs if name not in fixed), _ulps)
    for run in range(runs):
        PROGRESS.tell(f"rounding the reference, {run} of {runs} times")
        moved = _moved(inputs, rooms, source)
        with RandomRounding(source, running, known.begin(moved.values())):
            results = evaluate(moved)
        _widen(deviations, results, truth)
        del moved, results
    del known
    has_gradients = any(name.startswith(GRADIENT) for name in truth)
    searched = has_gradients and not used.smooth
    jumps = {name: torch.zeros_like(value) for name, value in truth.items()} if searched else {}
    rooms = {name: _a_little(inputs[name]) for name in (rooms if searched else ())}
    for run in range(max(KINK_RUNS * runs // RUNS, 1) if searched else 0):
        PROGRESS.tell(f"looking for kinks of the reference, {run} of {KINK_RUNS} times")
        _widen(jumps, evaluate(_moved(inputs, rooms, source)), truth)
    cancelling = {
        name
        for name, value in truth.items()
        if value.numel() and value.abs().max() <= CANCELS * deviations[name].max() < torch.inf
    }
    nothing = {name for name in cancelling if _is_nothing(truth[name], deviations[name])}
    zero = _zero_elsewhere(evaluate, inputs, fixed, source, nothing, deviations)
    for name in zero:
        truth[name] = torch.zeros_like(truth[name])
    rest = {name for name in truth.keys() - zero if _is_rounding(truth[name], deviations[name])}
    others = {name: deviations[name].clone() for name in rest if name.startswith(GRADIENT)}
    several = range(runs) if others else ()
    for other in (signed(source) for _ in several) if signed else ():
        exact = other(dict(inputs))
        with RandomRounding(source, running, Known(inputs.values())):
            results = other(dict(inputs))
        _widen(others, {name: results[name] for name in others}, exact)
    bound, kinks = {}, {}
    for name, value in truth.items():
        deviation = torch.maximum(deviations[name], _usual(deviations[name], runs < RUNS))
        deviation = torch.maximum(deviation, others.get(name, deviation))
        limit = deviation.mul_(MARGIN)
        limit.add_(value.abs().mul_(2 * UNIT_ROUNDOFF)).add_(SMALLEST_SUBNORMAL)
        if name in jumps and name.startswith(GRADIENT):
            largest = _largest(value)
            if not largest and any(not _largest(inputs[k]) for k in inputs if k not in fixed):
                largest = torch.ones_like(largest)  # moved by 2**-30 of 1, it may change as much
            steep = deviations[name] > 2.0**-8 * largest
            kink = (jumps[name] > JUMP * largest) | steep
            if (name in cancelling and deviations[name].any()) or steep.all():
                # all of it is rounding; moves 64 times smaller make smooth changes as much smaller
                kink = jumps[name] > deviations[name] / 8
            if kink.any():
                limit[kink] = torch.inf
                kinks[name] = kink.numpy()
        bound[name] = limit.numpy()
    return Expected({k: each.numpy() for k, each in truth.items()}, Bound(bound, bound, kinks))


def _zero_elsewhere(
    evaluate: Evaluate,
    inputs: Mapping[str, torch.Tensor],
    fixed: set[str],
    source: Source,
    names: set[str],
    deviations: Tensors,
) -> set[str]:
    """Those of the results that are 0 for other, smaller inputs as well, which saturate nothing.

    So is the gradient of a bias before a normalisation: what a float64 reference gives there is the
    rounding of a sum of terms that cancel, and the truth is 0.
    """
    zero = set(names)
    for _ in range(ELSEWHERE if zero else 0):
        other = {
            name: value if name in fixed else value * _fractions(value, source)
            for name, value in inputs.items()
        }
        for name, value in evaluate(other).items():
            if name in zero and not _is_nothing(value, deviations[name]):
                zero.discard(name)
    return zero


def _is_nothing(value: torch.Tensor, deviation: torch.Tensor) -> bool:
    return bool(torch.all(value.abs() <= NOTHING * deviation.max()))


def _is_rounding(value: torch.Tensor, deviation: torch.Tensor) -> bool:
    """Whether all that is left of a tensor is rounding, so that nothing of it will be proved.

    What cancels in it depends on how the formula is written, and on the gradients from above. That
    of two numbers, made to -1 and 1, is 0: Caffe's MVN rounds either by itself, and autograd, which
    subtracts a mean at the end, by what both add to, as good as 0 where these gradients are a and
    -a. With all signs of them the bound is that of either form.
    """
    return bool(deviation.any()) and not any(
        bool(torch.any(each.abs() > MARGIN * most)) for each, most in _stretches(value, deviation)
    )


def other_signs(tensors: Tensors, source: Source) -> Tensors:
    """The tensors with random signs."""
    return {
        name: each.where(source.whole(each.shape).ge(0), -each) for name, each in tensors.items()
    }


def _fractions(like: torch.Tensor, source: Source) -> torch.Tensor:
    """Uniform over [0, 1/8]."""
    return (source.whole(like.shape).to(like.dtype) + 2.0**15) / 2.0**19


def _usual(deviations: torch.Tensor, at_most: bool) -> torch.Tensor:
    """The mean deviation of a tensor's elements, yet no more than half of those that are not 0.

    A few huge elements make the mean huge, and would hide what is wrong with all others. What more
    runs would say is at least what all elements say, those that are still 0 among them (`at_most`).
    """
    some = deviations if at_most else deviations[deviations > 0]
    mean = deviations.mean()
    return torch.minimum(mean, some.median()) if some.numel() else mean


Rooms = dict[str, Callable[[torch.Tensor], torch.Tensor]]
"""By input, how far a stretch of it may be moved."""


def _moved(inputs: Mapping[str, torch.Tensor], rooms: Rooms, source: Source) -> Tensors:
    """The inputs, each changed by as much as there is room."""
    return {
        name: _moved_by(value, [], rooms[name], source) if name in rooms else value
        for name, value in inputs.items()
    }


def _largest(values: torch.Tensor) -> torch.Tensor:
    """The largest magnitude among those that are finite; 0 where none is."""
    return values.abs().nan_to_num_(nan=0.0, posinf=0.0).max() if values.numel() else values.sum()


def _a_little(values: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """2**-30 of an input's largest magnitude, or of 1 where all of it is 0."""
    largest = _largest(values)
    room = 2.0**-30 * torch.where(largest > 0, largest, torch.ones_like(largest))
    return lambda stretch: torch.where(stretch.isfinite(), room, 0.0)


def _widen(deviations: Tensors, results: Tensors, truth: Tensors) -> None:
    """A result of another shape, which the data decide, says that none of its elements is known."""
    for name, value in results.items():
        if value.shape != truth[name].shape:
            deviations[name] = torch.full_like(deviations[name], torch.inf)
            continue
        for most, one, exact in _stretches(deviations[name], value, truth[name]):
            torch.maximum(most, (one - exact).abs_().nan_to_num_(nan=0.0), out=most)


def as_inputs(arrays: Mapping[str, np.ndarray]) -> Tensors:
    """Float64 tensors of float32 arrays."""
    return {name: torch.from_numpy(array.astype(np.float64)) for name, array in arrays.items()}
