"""How a port makes one value from others: the operations in between, to be run again without it.

A port that runs tells PyTorch's own dispatch what it does. What it does between two places whose
values are known is taken down, and can be repeated alone, in another precision, on other numbers.
What may not be the same the next time is not taken down: a number that went through Python. Whoever
repeats a recipe holds its result against the port's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from caffe_parity.contract import Shape

Tensors = Mapping[str, torch.Tensor]

LEAKS = frozenset(
    """
    item tolist numpy __array__ __bool__ __complex__ __float__ __index__ __int__ __set__ allclose
    equal is_nonzero
    """.split()  # noqa: SIM905
)
"""Operations after which the numbers of a run may be in the port's own Python, or the reverse."""


@dataclass(frozen=True, eq=False)
class Value:
    """A value of the net, in the shape in which the port has it."""

    name: str
    shape: Shape


@dataclass(frozen=True, eq=False)
class State:
    """A parameter or buffer of the port."""

    name: str


@dataclass(frozen=True, eq=False)
class Fixed:
    """A tensor that is the same in every run, such as the mask of a Dropout."""

    tensor: torch.Tensor


@dataclass(frozen=True, eq=False)
class Made:
    """What an operation gives; `args` and `kwargs` have recipes where it had tensors.

    Attributes:
        pick: which of several results it is; None for the only one.
    """

    func: Callable[..., Any]
    args: Any
    kwargs: Any
    pick: int | None = None


@dataclass(frozen=True)
class Within:
    """An operation that runs without gradients, or under autocast.

    Attributes:
        func: the operation.
        learns: whether it has gradients.
        autocast: the precision of that; None without it.
    """

    func: Callable[..., Any]
    learns: bool
    autocast: torch.dtype | None

    @property
    def __name__(self) -> str:
        return getattr(self.func, "__name__", "")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        is_cast = self.autocast is not None
        with (
            torch.set_grad_enabled(self.learns and torch.is_grad_enabled()),
            torch.autocast("cpu", self.autocast, enabled=is_cast),
        ):
            return self.func(*args, **kwargs)


Recipe = Value | State | Fixed | Made


class Recorder:
    """Takes down what makes each tensor of a run.

    Args:
        named: the value of the net that a tensor is, or "".
        state: the port's parameters and buffers.
        leaky: the operations, by number, that take what is another number on other values; None
            where that is not known, so that all behind a leak may.
    """

    def __init__(
        self,
        named: Callable[[torch.Tensor], str],
        state: Tensors,
        leaky: frozenset[int] | None = None,
    ) -> None:
        self._leaky = leaky
        self.number = 0
        self.signatures: dict[int, str] = {}  # of the operations behind a leak
        self._named = named
        self._state = {id(each): name for name, each in state.items()}
        self._made: dict[int, tuple[torch.Tensor, int, Recipe]] = {}  # keeps them: ids are theirs
        self._leaked = False

    def of(self, tensor: torch.Tensor) -> Recipe | None:
        """What makes a tensor; None where that is not known."""
        if self._leaked and self._leaky is None:
            return None
        found = below = self.made(tensor)
        while isinstance(below, Made) and below.args and keeps(below):
            below = below.args[0]
        if isinstance(below, Made) and (below.func is hooked or stops(below)):
            return found
        name = self._named(tensor)
        if name:
            return Value(name, tuple(tensor.shape))
        if id(tensor) in self._state:
            return State(self._state[id(tensor)])
        return self.made(tensor)

    def made(self, tensor: torch.Tensor) -> Recipe | None:
        """What was taken down of a tensor, whatever else it is."""
        found = self._made.get(id(tensor))
        return found[2] if found and found[1] == version(tensor) else None

    def put(self, tensor: torch.Tensor, recipe: Recipe) -> None:
        """Says what makes a tensor."""
        self._made[id(tensor)] = tensor, version(tensor), recipe

    def before(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Made | None:
        """An operation that is about to run."""
        if getattr(func, "__name__", "") in LEAKS:
            self._leaked = True
        if self._leaked:
            leaves = tree_flatten((args, kwargs))[0]
            given = [each for each in leaves if not isinstance(each, torch.Tensor)]
            self.signatures[self.number] = f"{getattr(func, '__name__', '')} {given}"
            if self._leaky is None or self.number in self._leaky:
                return None
        made = tree_map(
            lambda each: (self.of(each) or _UNKNOWN) if isinstance(each, torch.Tensor) else each,
            (args, kwargs),
        )
        if any(each is _UNKNOWN for each in tree_flatten(made)[0]):
            return None
        learns = torch.is_grad_enabled()
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        return Made(func if learns and dtype is None else Within(func, learns, dtype), *made)

    def after(self, made: Made | None, result: Any) -> None:
        """What it has given."""
        several = type(result) in (tuple, list)
        for number, each in enumerate(result if several else [result]):
            if not isinstance(each, torch.Tensor):
                continue
            self._made.pop(id(each), None)
            if made is not None:
                recipe = Made(made.func, made.args, made.kwargs, number if several else None)
                self.put(each, recipe)

    @contextmanager
    def functions(self, instead: Callable[[Recipe, Recipe], None]) -> Iterator[None]:
        """Meanwhile an autograd.Function is taken down as one operation, with its own backward.

        Args:
            instead: is told what its last operation made, and what stands for that then.
        """
        plain = torch.autograd.Function.__dict__["apply"]

        def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            func = plain.__get__(None, cls)
            made = self.before(func, args, kwargs)
            result = func(*args, **kwargs)
            several = type(result) in (tuple, list)
            made_inside = []
            for each in result if several else [result]:
                inside = self.made(each) if isinstance(each, torch.Tensor) else None
                if made is None or inside is None or not _is_made_of(inside, made):
                    return result  # which the operations inside may tell, or nothing does
                made_inside.append((each, inside))
            self.after(made, result)
            for each, inside in made_inside:
                if (whole := self.made(each)) is not None:
                    instead(inside, whole)
            return result

        torch.autograd.Function.apply = classmethod(apply)  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            torch.autograd.Function.apply = plain  # type: ignore[method-assign]

    def hook(self, tensor: torch.Tensor, hook: Callable[[torch.Tensor], Any]) -> None:
        """Takes down that the port has a hook on the gradient of a tensor."""
        recipe = self.of(tensor)
        if recipe is not None:
            self.put(tensor, Made(hooked, (recipe, hook), {}))


def _is_made_of(inside: Recipe, whole: Made) -> bool:
    """Whether a Function's result is made of its arguments alone, in any precision."""
    taken, given = (
        {(type(each), each.name) for each in ingredients(one)} for one in (inside, whole)
    )
    names_float32 = any(
        in_precision(each.func, torch.float32, torch.float64) != (each.func, torch.float64)
        or torch.float32 in tree_flatten((each.args, each.kwargs))[0]
        for each in steps_of(inside)
    )
    return taken <= given and not names_float32


SHAPES = ("flatten", "reshape", "unsqueeze", "squeeze", "view")
"""The operations that change a tensor's shape alone."""


def keeps(recipe: Made, more: Sequence[str] = ()) -> bool:
    """Whether an operation gives the numbers that it takes, in their order, with their gradient.

    Args:
        recipe: what it makes.
        more: further operations that count as such.
    """
    return getattr(recipe.func, "__name__", "") in (*SHAPES, "clone", "contiguous", *more)


def writes(recipe: Made) -> bool:
    """Whether an operation writes into the first of what it takes, as add_ and += do."""
    name = getattr(recipe.func, "__name__", "")
    return name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))


def hooked(tensor: torch.Tensor, hook: Callable[[torch.Tensor], Any]) -> torch.Tensor:
    """A tensor with a hook on its gradient, which what reads the tensor elsewhere has not."""
    made = tensor.view_as(tensor)
    if made.requires_grad:
        made.register_hook(hook)  # type: ignore[no-untyped-call]
    return made


def stops(made: Made) -> bool:
    """Whether no gradient goes through an operation."""
    if isinstance(made.func, Within) and not made.func.learns:
        return True
    is_data = getattr(made.func, "__self__", None) is torch.Tensor.data
    return is_data or getattr(made.func, "__name__", "") in ("detach", "detach_")


def learns(recipe: Recipe, inputs: Container[str], learned: Container[str]) -> bool:
    """Whether a gradient goes on from what a recipe makes.

    Args:
        recipe: the recipe.
        inputs: the values without one.
        learned: the state that has one.
    """
    done: dict[int, bool] = {}

    def known(each: Any) -> bool:
        if isinstance(each, Value):
            return each.name not in inputs
        if isinstance(each, State):
            return each.name in learned
        return done.get(id(each), False)

    for each in steps_of(recipe):
        leaves = tree_flatten((each.args, each.kwargs))[0]
        done[id(each)] = not stops(each) and any(map(known, leaves))
    return known(recipe)


def in_precision(func: Callable[..., Any], inputs: Any, dtype: torch.dtype) -> Any:
    """An operation, and what it takes: where it names float32, the precision of the run."""
    if dtype == torch.float32:
        return func, inputs
    if func is torch.Tensor.float:
        func = torch.Tensor.double
    if isinstance(func, Within) and func.func is torch.Tensor.float:
        func = replace(func, func=torch.Tensor.double)
    return func, tree_map(lambda each: dtype if each is torch.float32 else each, inputs)


def of_run(result: Any, inputs: Any, dtype: torch.dtype) -> Any:
    """What an operation makes of no tensor, such as zeros, in the precision of the run."""
    made = isinstance(result, torch.Tensor) and result.dtype == torch.float32
    if not made or dtype == torch.float32:
        return result
    fed = any(isinstance(each, torch.Tensor) for each in tree_flatten(inputs)[0])
    return result if fed else result.to(dtype)


def version(tensor: torch.Tensor) -> int:
    """Another number once somebody has written into it; of inference mode PyTorch counts none."""
    return 0 if tensor.is_inference() else tensor._version


_UNKNOWN = object()

RAISED = (IndexError, RuntimeError, TypeError, ValueError)
"""What an operation of PyTorch's raises on tensors that it does not take."""


def followed(
    recipe: Recipe, values: Tensors, state: Tensors, done: dict[int, torch.Tensor]
) -> torch.Tensor:
    """The tensor that a recipe makes.

    Args:
        recipe: the recipe.
        values: the net's; an operation may work on a copy of them in place.
        state: the port's parameters and buffers.
        done: what was made before, by recipe; what is made here is put there.
    """
    floats = (each.dtype for some in (values, state) for each in some.values())
    dtype = torch.float64 if torch.float64 in floats else torch.float32

    def tensor(each: Any) -> Any:  # which does not call itself: a cycle would keep the tensors
        if isinstance(each, Value):
            return values[each.name].reshape(each.shape).clone()
        if isinstance(each, State):
            return state[each.name]
        if isinstance(each, Fixed):
            return each.tensor
        return done[id(each)] if isinstance(each, Made) else each

    for each in steps_of(recipe):
        if id(each) not in done:
            inputs = tree_map(tensor, (each.args, each.kwargs))
            func, (args, kwargs) = in_precision(each.func, inputs, dtype)
            result = of_run(func(*args, **kwargs), inputs, dtype)
            done[id(each)] = result if each.pick is None else result[each.pick]
    made: torch.Tensor = tensor(recipe)
    return made


def ingredients(recipe: Recipe) -> Iterator[Value | State]:
    """The values and the state that a recipe takes."""
    if isinstance(recipe, (Value, State)):
        yield recipe
    for made in steps_of(recipe):
        for each in tree_flatten((made.args, made.kwargs))[0]:
            if isinstance(each, (Value, State)):
                yield each


def steps_of(recipe: Recipe) -> list[Made]:
    """The operations of a recipe, each once, in an order in which they can run."""
    found: dict[int, Made] = {}
    waiting: list[tuple[Any, bool]] = [(recipe, False)]  # a loop over time is deep
    while waiting:
        each, is_known = waiting.pop()
        if not isinstance(each, Made) or id(each) in found:
            continue
        if is_known:
            found[id(each)] = each
            continue
        waiting.append((each, True))
        inside = tree_flatten((each.args, each.kwargs))[0]
        waiting += [(one, False) for one in reversed(inside) if isinstance(one, Made)]
    return list(found.values())
