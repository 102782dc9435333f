"""What a user declares: a layer, its reference, and the variants that must agree with it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from caffe_parity.contract import BadRequest, Shape
from caffe_parity.engine import sources
from caffe_parity.engine.data import Kind, fill, parse
from caffe_parity.engine.parameters import ARGUMENT, taken_by

Function = Callable[..., Any]


class BadLayer(pytest.Collector.CollectError):
    """A layer was declared that cannot be compared: what is wrong, and what was expected.

    While pytest collects, its message is shown without a traceback.
    """


@dataclass(frozen=True)
class PythonLayer:
    """A Caffe Python layer; made by `python_layer`."""

    spec: str
    param_str: str | None
    path: tuple[str, ...]
    load: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaffeNet:
    """A net with Input layers; made by `net`."""

    spec: str
    path: tuple[str, ...]
    load: tuple[str, ...]
    param_str: None = None


CaffeVariant: TypeAlias = PythonLayer | CaffeNet


def python_layer(
    spec: str, *, param_str: str | None = None, path: Sequence[str] = ()
) -> PythonLayer:
    """A variant: a Caffe Python layer, whose bottoms are the layer's inputs in their order.

    Args:
        spec: "FILE.py:CLASS", or "MODULE:CLASS" for a module in one of the folders of `path`.
        param_str: the layer's own, if it takes one.
        path: folders with modules that it imports, beside its own.

    Relative paths start at the folder of the test file.
    """
    return PythonLayer(spec, param_str, _several(path, "path"))


def net(file: str, *, path: Sequence[str] = (), load: Sequence[str] = ()) -> CaffeNet:
    """A variant: a net with Input layers named like the layer's inputs; they get its shapes.

    Args:
        file: a .prototxt file.
        path: folders with its Python layers; by default its own folder.
        load: compiled layers, as plug-ins.

    Relative paths start at the folder of the test file.
    """
    return CaffeNet(str(file), _several(path, "path"), _several(load, "load"))


def _several(names: Sequence[str], what: str) -> tuple[str, ...]:
    if isinstance(names, str):
        raise BadLayer(f"{what}={names!r}: expected a list, such as [{names!r}]")
    return tuple(str(each) for each in names)


@dataclass(frozen=True)
class Layer:
    """A layer that is computed in several ways.

    Args:
        name: the first part of the test ids.
        reference: gets float64 tensors as keyword arguments named like the inputs; returns the
            loss, or the tops of a layer that is no loss (a tensor, a tuple or a dict).
        inputs: the shape of each input.
        variants: what must agree with the reference, by name: `python_layer(...)`, `net(...)`, or
            a port, which is a function or a torch.nn.Module that takes the inputs in float32.
        data: what an input holds, such as {"label": "int:0,4"}; "normal" where nothing is said.
        grad: the inputs that get a gradient; by default all but those of integer kinds.
        cases: how many inputs each variant is tried on.
        seed: of the inputs; a case has the same ones in every variant.

    Raises:
        BadLayer: it cannot be compared; the message says why.
    """

    name: str
    reference: Function
    inputs: Mapping[str, Shape]
    variants: Mapping[str, CaffeVariant | Function]
    data: Mapping[str, str] = field(default_factory=dict)
    grad: Sequence[str] | None = None
    cases: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise BadLayer(f"a layer needs a name, a string; got {self.name!r}")
        self._check_numbers()
        self._check_inputs()
        self._check_functions()

    @property
    def kinds(self) -> dict[str, Kind]:
        """How each input is filled."""
        return {name: parse(self.data.get(name, "normal")) for name in self.inputs}

    @property
    def gradients(self) -> tuple[str, ...]:
        """The inputs that get a gradient."""
        if self.grad is not None:
            return tuple(self.grad)
        return tuple(name for name, kind in self.kinds.items() if not kind.is_label)

    @property
    def _takes_params(self) -> bool:
        """Whether the reference wants the parameters that the layer learns (docs/check.md)."""
        return ARGUMENT not in self.inputs and taken_by(self.reference)

    def _check_numbers(self) -> None:
        if not isinstance(self.cases, int) or self.cases < 1:
            raise self._bad(f"cases={self.cases!r}: expected 1 or more")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise self._bad(f"seed={self.seed!r}: expected an integer from 0 to 2**32 - 1")

    def _check_inputs(self) -> None:
        if not self.inputs:
            raise self._bad('inputs: expected a shape for each, such as {"x": (4, 3, 5)}')
        for name, shape in self.inputs.items():
            fits = isinstance(shape, (tuple, list)) and all(
                isinstance(extent, int) and extent > 0 for extent in shape
            )
            if not fits:
                raise self._bad(f"inputs: {name} is {shape!r}, expected a shape such as (4, 3, 5)")
        known = ", ".join(self.inputs)
        of_params = [name for name in self.data if name.startswith(f"{ARGUMENT}[")]
        for name in (*self.data, *self._names_of_grad()):
            if name not in self.inputs and not (name in of_params and self._takes_params):
                raise self._bad(f"there is no input {name!r}; the inputs are {known}")
        rng = np.random.RandomState(0)
        for name, kind in self.data.items():
            try:
                fill(parse(kind), tuple(self.inputs.get(name, (2, 2))), 0, rng)
            except BadRequest as error:
                raise self._bad(f"data of {name}: {error}") from error

    def _names_of_grad(self) -> Sequence[str]:
        if isinstance(self.grad, str):
            raise self._bad(f"grad={self.grad!r}: expected a list, such as [{self.grad!r}]")
        return self.grad or ()

    def _check_functions(self) -> None:
        if not callable(self.reference):
            raise self._bad(f"reference={self.reference!r} is no function")
        self._must_take(self.reference, "reference", [ARGUMENT] * self._takes_params)
        if not self.variants:
            raise self._bad("it has no variants, so there is nothing to compare")
        for name, variant in self.variants.items():
            if isinstance(variant, (PythonLayer, CaffeNet)):
                continue
            if inspect.isclass(variant):
                raise self._bad(
                    f"variant {name!r} is the class {variant.__name__}: give an object of it, "
                    f"such as {variant.__name__}()"
                )
            if not callable(variant):
                raise self._bad(
                    f"variant {name!r} is {variant!r}: expected caffe_parity.python_layer(...), "
                    "caffe_parity.net(...), a function or a torch.nn.Module"
                )
            if self._takes_params:
                raise self._bad(
                    f"the reference takes `{ARGUMENT}`, and only a net says what that is: compare "
                    f"the port {name!r} by `parity check NET --port`"
                )
            self._must_take(variant, f"port {name!r}")

    def _must_take(self, function: Function, what: str, more: Sequence[str] = ()) -> None:
        try:
            sources.must_take(function, [*self.inputs, *more], what)
        except BadRequest as error:
            raise self._bad(str(error)) from error

    def _bad(self, words: str) -> BadLayer:
        return BadLayer(f"layer {self.name!r}: {words}")


def located(variant: CaffeVariant, inputs: Sequence[str], folder: Path) -> CaffeVariant:
    """The variant with absolute paths.

    Args:
        variant: as the user wrote it.
        inputs: the names of the layer's inputs.
        folder: of the test file, where relative paths start.

    Raises:
        BadRequest: a file or a folder is not there, a net has other inputs, or a class is not
            named.
    """
    path = tuple(str(folder / each) for each in variant.path)
    for each in path:
        _must_exist(each, Path(each).is_dir(), "folder")
    load = tuple(str(folder / each) for each in variant.load)
    for each in load:
        _must_exist(each, Path(each).is_file(), "file")
    if isinstance(variant, CaffeNet):
        file = str(folder / variant.spec)
        _must_exist(file, Path(file).is_file(), "file")
        _must_have(file, inputs)
        return CaffeNet(file, path, load)
    module, colon, name = variant.spec.rpartition(":")
    if not colon or not module or not name:
        raise BadRequest(f"{variant.spec!r}: expected FILE.py:CLASS or MODULE:CLASS")
    if module.endswith(".py"):
        module = str(folder / module)
        _must_exist(module, Path(module).is_file(), "file")
    return PythonLayer(f"{module}:{name}", variant.param_str, path)


def _must_exist(name: str, exists: bool, what: str) -> None:
    if not exists:
        raise BadRequest(
            f"there is no {what} {name} (relative paths start at the folder of the test file)"
        )


def _must_have(file: str, inputs: Sequence[str]) -> None:
    """Compares the names of a net's inputs as far as they can be read without Caffe."""
    text = re.sub("#.*", "", Path(file).read_text(errors="replace"))
    layers = re.split(r"\blayer\s*:?\s*{", text)[1:]
    found = [
        name
        for each in layers
        if re.search(r"""\btype\s*:\s*["']Input["']""", each)
        for name in re.findall(r"""\btop\s*:\s*["'](.*?)["']""", each)
    ]
    if found and set(found) != set(inputs):
        raise BadRequest(
            f"the inputs of {file} are {', '.join(found)}; the layer's are {', '.join(inputs)}"
        )
