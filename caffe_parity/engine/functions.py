"""A reference or a port as a function of tensors by name: what it takes, what it gives."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from typing import Any

import torch

from caffe_parity.contract import (
    GRADIENT,
    PARAM,
    SHARED_GRADIENT,
    STATE,
    BadRequest,
    Case,
    Parameter,
    is_state,
)
from caffe_parity.engine.compare import alike
from caffe_parity.engine.data import label_advice, labels_among
from caffe_parity.guest import ends_the_run, running

Function = Callable[..., Any]
Tensors = dict[str, torch.Tensor]


def takes_params(function: Function) -> bool:
    """Whether a function has an argument `param`."""
    return takes(function, PARAM)


def takes(function: Function, argument: str) -> bool:
    """Whether a function has an argument of that name."""
    signature = _signature(function)
    return signature is not None and argument in signature.parameters


def must_take(function: Function, names: Sequence[str], what: str) -> None:
    """Checks that a function takes keyword arguments of these names.

    Raises:
        BadRequest: it does not; the message names both sides.
    """
    signature = _signature(function)
    if signature is None:
        return
    try:
        signature.bind(**dict.fromkeys(names))
    except TypeError as error:
        known = ", ".join(signature.parameters)
        inputs = f"the net's inputs {', '.join(names)} as keyword arguments"
        if not names:
            inputs = "nothing, since the net has no inputs"
        odd = [name for name in names if not name.isidentifier() or iskeyword(name)]
        advice = ""
        if odd:
            argument = f"{PARAM}, " * (PARAM in names)
            advice = (
                f"; {odd[0]!r} is no name in Python: write `def f({argument}**inputs)`, and "
                f"inputs[{odd[0]!r}] there"
            )
        raise BadRequest(
            f"the {what} must take {inputs}, it takes ({known}): {error}{advice}"
        ) from error


def _signature(function: Function) -> inspect.Signature | None:
    try:
        return inspect.signature(getattr(function, "forward", function))
    except (TypeError, ValueError):
        return None


def with_params(function: Function, params: Sequence[Parameter], what: str) -> Function:
    """The function with one keyword argument for each parameter, by name.

    They are handed to it as the list `param`; a module without that argument gets them in place of
    its own parameters, matched by order: with all of the net's, or with the learned ones only.
    What layers write themselves is handed to it as the list `state`, if it takes that.

    Raises:
        BadRequest: it takes no parameters, or a module has others.
    """
    lists = {
        PARAM: [each.name for each in params if not is_state(each.name)],
        STATE: [each.name for each in params if is_state(each.name)],
    }
    if not params:
        return function
    if not lists[PARAM] or takes_params(function):
        wanted = [each for each, names in lists.items() if names and takes(function, each)]

        def call(**tensors: torch.Tensor) -> Any:
            values = {key: [tensors.pop(name) for name in names] for key, names in lists.items()}
            return function(**tensors, **{key: values[key] for key in wanted})

        return call
    if not isinstance(function, torch.nn.Module):
        raise BadRequest(
            f"the reference takes `{PARAM}`, so the {what} must take it as well, or be an "
            "nn.Module with parameters of its own, which are matched by order"
        )
    return _loaded(function, params, what)


def _loaded(module: torch.nn.Module, params: Sequence[Parameter], what: str) -> Function:
    own = dict(module.named_parameters())
    learned = [each for each in params if each.learned]
    blobs = [each for each in params if not is_state(each.name)]
    matched = learned if len(own) == len(learned) else blobs
    shapes = [tuple(each.shape) for each in own.values()]
    if len(own) != len(matched) or not all(
        alike(shape, each.initial.shape) for shape, each in zip(shapes, matched, strict=True)
    ):
        theirs = ", ".join(f"{name} {tuple(each.shape)}" for name, each in own.items()) or "none"
        raise BadRequest(
            f"the {what}'s own parameters ({theirs}) are not those of the net "
            f"({described(blobs)}) in order and shape: give its forward an argument "
            f"`{PARAM}`, a list of them"
        )

    def call(**tensors: torch.Tensor) -> Any:
        given = {each.name: tensors.pop(each.name) for each in params}
        dtype = next(iter(given.values())).dtype
        state = {
            name: each.to(dtype) if each.is_floating_point() else each
            for name, each in module.named_buffers()
        }
        state |= _statistics(state, params, given)
        for (name, each), source in zip(own.items(), matched, strict=True):
            state[name] = given[source.name].reshape(each.shape)
        return torch.func.functional_call(module, state, kwargs=tensors)

    return call


def _statistics(buffers: Tensors, params: Sequence[Parameter], given: Tensors) -> Tensors:
    """The running statistics of a module, by buffer, where the net's BatchNorm layers use theirs.

    Caffe keeps a mean and a variance times a factor, PyTorch the quotients.
    """
    by_role = {
        role: [given[each.name] for each in params if each.role == role]
        for role in ("mean", "variance", "factor")
    }
    found: Tensors = {}
    for role, end in (("mean", "running_mean"), ("variance", "running_var")):
        names = [name for name in buffers if name.rpartition(".")[2] == end]
        if len(names) == len(by_role["factor"]):
            quotients = zip(names, by_role[role], by_role["factor"], strict=True)
            found |= {name: sums / factor for name, sums, factor in quotients}
    return found


def described(params: Sequence[Parameter]) -> str:
    """The parameters in a line: name, shape, and where Caffe has it."""
    parts = [f"{each.name} {each.initial.shape} of {each.layer}" for each in params]
    return ", ".join(parts) or "none"


def result_of(function: Function, inputs: Tensors, what: str) -> Any:
    """What a function returns.

    Raises:
        BadRequest: it raises.
    """
    try:
        with running(f"the {what}"):
            return function(**inputs)
    except BaseException as error:  # also sys.exit(), pytest.skip(): neither may end a comparison
        if ends_the_run(error):
            raise
        shapes = {name: tuple(each.shape) for name, each in inputs.items()}
        said = f"{place_of(error)}{type(error).__name__}: {error}"
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        advice = ""
        if isinstance(error, KeyError) and error.args == (PARAM,):
            advice = f"; `{PARAM}` must be an argument of its own: `def f({PARAM}, **inputs)`"
        if _LABEL.search(str(error)) or (_INDEX.search(str(error)) and labels_among(shapes)):
            advice = f"; {label_advice(shapes)}"
        raise BadRequest(
            f"the {what} cannot be evaluated: {said} (inputs {given or 'none'}){advice}"
        ) from (error)


_LABEL = re.compile(r"^Target -?\d+ is out of bounds|Class values must be")
_INDEX = re.compile(r"^index.* out of (bounds|range)")
"""What PyTorch says of labels that are none, and of an index, which may be one."""

_INSTALLED = re.compile(r"/(site|dist)-packages/|/lib\w*/python[\d.]+/|^<")


def place_of(error: BaseException) -> str:
    """`file:line: ` of the innermost frame that is neither this tool's nor a library's, or ""."""
    frames = traceback.extract_tb(error.__traceback__)
    here = str(Path(__file__).parents[1])
    own = [
        each
        for each in frames
        if not each.filename.startswith(here) and not _INSTALLED.search(each.filename)
    ]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}: " if own else ""


def tops_of(function: Function, inputs: Tensors, outputs: Sequence[str], what: str) -> Tensors:
    """What a function returns, by top.

    Raises:
        BadRequest: it raises, or returns something else than the loss or the tops.
    """
    result = result_of(function, inputs, what)
    if isinstance(result, torch.Tensor):
        result = (result,)
    if isinstance(result, Mapping):
        missing = [name for name in outputs if name not in result]
        if missing:
            raise BadRequest(f"the {what} returns no {missing}; the net's tops are {outputs}")
        result = [result[name] for name in outputs]
    if not isinstance(result, (tuple, list)) or len(result) != len(outputs):
        returned = f"a {type(result).__name__}"
        if isinstance(result, (tuple, list)):
            returned = f"{len(result)} value{'s' * (len(result) != 1)}"
        count = f"{len(outputs)} top{'s' * (len(outputs) != 1)}"
        raise BadRequest(
            f"the {what} must return the net's {count} ({', '.join(outputs)}) as a tensor, a tuple "
            f"or a dict of tensors; it returned {returned}"
        )
    for name, each in zip(outputs, result, strict=True):
        if not isinstance(each, torch.Tensor):
            raise BadRequest(
                f"the {what} must return tensors; for {name} it returned {type(each).__name__}"
            )
        odd = _oddity(each)
        if odd:
            raise BadRequest(
                f"the {what} must return real numbers in dense tensors; for {name} it returned a "
                f"{odd} one"
            )
    kinds = [each.dtype for each in inputs.values() if each.is_floating_point()] or [torch.float64]
    return {  # an index, as of an argmax, or a mask: numbers to Caffe, which has no others
        name: each if each.is_floating_point() else each.to(kinds[0])
        for name, each in zip(outputs, result, strict=True)
    }


def _gradients(
    sources: Sequence[torch.Tensor],
    blobs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    what: str,
) -> Sequence[torch.Tensor | None]:
    """What `torch.autograd.grad` gives, through a backward that may be the user's own.

    Raises:
        BadRequest: it raises.
    """
    try:
        with running(f"the {what}"):
            return torch.autograd.grad(sources, blobs, weights, allow_unused=True)
    except BaseException as error:
        if ends_the_run(error):
            raise
        raise BadRequest(
            f"the {what}'s gradient cannot be computed: {type(error).__name__}: {error}"
        ) from error


def _oddity(tensor: torch.Tensor) -> str:
    """What keeps a tensor from being compared, or ""."""
    if tensor.is_complex():
        return "complex"
    if tensor.is_nested or tensor.layout != torch.strided:
        return "nested or sparse"
    if tensor.is_meta or tensor.is_quantized:
        return "meta or quantized"
    return ""


@dataclass(frozen=True)
class Evaluation:
    """A function with its gradients.

    Attributes:
        function: takes the inputs, and the parameters, by name.
        what: "reference" or "port", for messages.
        case: what is shared, and its loss weight.
        outputs: the names of the tops.
        wanted: the inputs and parameters whose gradients are asked for.
    """

    function: Function
    what: str
    case: Case
    outputs: tuple[str, ...]
    wanted: tuple[str, ...]

    def tops(self, inputs: Tensors) -> Tensors:
        """The tops alone.

        Raises:
            BadRequest: the function raises, or returns something else.
        """
        return tops_of(self.function, inputs, self.outputs, self.what)

    def __call__(self, inputs: Tensors, upstream: Mapping[str, torch.Tensor] | None) -> Tensors:
        """Tops and gradients; the tops alone where the upstream gradients do not fit them.

        Args:
            inputs: none of them is changed.
            upstream: the gradient of each top; None for the case's loss weight.

        Raises:
            BadRequest: the function raises, or returns something else than the tops.
        """
        leaves = {
            name: value.detach().clone().requires_grad_(name in self.wanted)
            for name, value in inputs.items()
        }
        first = self.case.first
        if self.case.sharing == "same-blob":
            leaves[self.case.names[1]] = leaves[first]
        tops = self.tops({name: leaves[name] for name in (*self.case.names, *leaves)})
        if upstream and not all(
            alike(tuple(tops[k].shape), tuple(each.shape)) for k, each in upstream.items()
        ):
            return {name: top.detach().clone() for name, top in tops.items()}
        driven = tops if upstream is None else upstream
        linked = {name: tops[name] for name in driven if tops[name].requires_grad}
        sources = list(linked.values())
        weights = [
            torch.full_like(top, self.case.weight)
            if upstream is None
            else upstream[name].reshape(top.shape).to(top.dtype)
            for name, top in linked.items()
        ]
        if self.case.sharing == "split" and first in self.wanted:
            sources.append(leaves[first].sum())
            weights.append(torch.full_like(sources[-1], SHARED_GRADIENT))
        blobs = [leaves[name] for name in self.wanted]
        grads: Sequence[torch.Tensor | None] = [None] * len(blobs)
        if sources and blobs:
            grads = _gradients(sources, blobs, weights, self.what)
        results = {name: top.detach().clone() for name, top in tops.items()}
        for name, blob, grad in zip(self.wanted, blobs, grads, strict=True):
            results[GRADIENT + name] = torch.zeros_like(blob) if grad is None else grad.clone()
        return results
