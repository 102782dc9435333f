"""A fault of a port, and the edits that make one."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from textwrap import dedent
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

Edit = Callable[[Any], None]


@dataclass(frozen=True)
class Fault:
    """A mistake in a port.

    Attributes:
        net: the net's name.
        name: what is wrong, in a few words.
        edit: breaks a right port.
        layers: those that must be named, and no other ones.
        passes: where it shows: "forward", "backward", "parameter", "wiring".
        words: what the explanation must contain.
        phase: "TEST" or "TRAIN".
    """

    net: str
    name: str
    edit: Edit
    layers: frozenset[str]
    passes: frozenset[str]
    words: str
    phase: str = "TEST"


def changed(path: str, **values: Any) -> Edit:
    """Sets attributes of a module, or of the port itself for ""."""

    def edit(model: nn.Module) -> None:
        target = model.get_submodule(path)
        for name, value in values.items():
            setattr(target, name, value)

    return edit


def put(path: str, make: Callable[[nn.Module], nn.Module]) -> Edit:
    """Puts another module in the place of one."""

    def edit(model: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, make(model.get_submodule(path)))

    return edit


def bound(module: nn.Module, forward: Callable[..., Tensor]) -> None:
    """Gives a module another forward, which a copy of it has as its own; it gets the module."""
    module.forward = MethodType(forward, module)


def after(path: str, function: Callable[[Tensor], Tensor]) -> Edit:
    """Changes what a module gives."""

    def edit(model: nn.Module) -> None:
        kind = type(model.get_submodule(path))
        bound(model.get_submodule(path), lambda self, *args: function(kind.forward(self, *args)))

    return edit


def before(path: str, function: Callable[[Tensor], Tensor]) -> Edit:
    """Changes what a module takes, inside it."""

    def edit(model: nn.Module) -> None:
        kind = type(model.get_submodule(path))
        bound(
            model.get_submodule(path),
            lambda self, x, *more: kind.forward(self, function(x), *more),
        )

    return edit


class _Slope(torch.autograd.Function):
    """The identity, whose gradient is a factor times what it should be."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.factor * grads[0], None


def slope(factor: float) -> Callable[[Tensor], Tensor]:
    """The identity with another gradient."""
    return lambda x: _Slope.apply(x, factor)  # type: ignore[no-untyped-call]


def instead(path: str, function: Callable[..., Tensor]) -> Edit:
    """Computes something else in a module, which the function gets beside what the module takes."""
    return lambda model: bound(model.get_submodule(path), function)


def rewritten(*changes: tuple[str, str]) -> Edit:
    """Changes the text of the port's forward, as who writes it might: old words become new ones.

    Raises:
        ValueError: there are no such words in it.
    """

    def edit(model: nn.Module) -> None:
        text = dedent(inspect.getsource(type(model).forward))
        for old, new in changes:
            if old not in text:
                raise ValueError(f"{type(model).__name__}'s forward has no {old!r}")
            text = text.replace(old, new)
        scope = dict(vars(sys.modules[type(model).__module__]))
        exec(f"from __future__ import annotations\n{text}", scope)  # noqa: S102
        bound(model, scope["forward"])

    return edit


FORWARD, BACKWARD, PARAMETER = "forward", "backward", "parameter"
BOTH = f"{FORWARD} {BACKWARD}"
ALL = f"{FORWARD} {BACKWARD} {PARAMETER}"


def fault(
    net: str, name: str, layers: str, passes: str, words: str, edit: Edit, phase: str = "TEST"
) -> Fault:
    """A fault; its layers with semicolons between, its passes with spaces."""
    return Fault(
        net, name, edit, frozenset(layers.split(";")), frozenset(passes.split()), words, phase
    )
