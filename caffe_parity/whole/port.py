"""A port, part by part: what each of its modules makes of what Caffe has computed before it.

The port runs as it is written. Where the output of one of its modules, or an input of one, is a
value of the net, it is taken down, and the port goes on with Caffe's own value in its place. So
each part is judged alone, and autograd's graph ends at these places: the gradient that a part
sends back for Caffe's own top diff is that of the part alone as well.
"""

from __future__ import annotations

import copy
import inspect
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, is_dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch._C._functorch import is_functorch_wrapped_tensor as is_wrapped
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from caffe_parity.contract import BadRequest, Shape
from caffe_parity.engine.compare import alike
from caffe_parity.engine.functions import place_of, result_of
from caffe_parity.guest import ends_the_run, running
from caffe_parity.whole import recipe as recipes
from caffe_parity.whole.recipe import (
    Fixed,
    Recipe,
    Recorder,
    Value,
    ingredients,
    keeps,
    steps_of,
    version,
)

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Call:
    """One call of a module that takes tensors and gives one.

    Attributes:
        module: its name in the port.
        number: how many calls of it came before.
    """

    module: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.module} (call {self.number + 1})" if self.number else self.module


@dataclass(frozen=True)
class Place:
    """Which values of the net a call takes and gives: `bottoms` by position, and its top.

    Its top is "" where what it gives is none, since the port goes on to it from there, or makes it
    within. Of a sum the bottoms may come in any order.
    """

    bottoms: tuple[str, ...]
    top: str
    any_order: bool = False


@dataclass(frozen=True)
class Made:
    """What an operation between modules makes.

    Attributes:
        value: the value of the net.
        name: of the operation.
        factor: how often it is that value, where the port weighs a loss before it is whole.
    """

    value: str
    name: str
    factor: float = 1.0


@dataclass(frozen=True)
class Layout:
    """Where the port's tensors are values of the net.

    Attributes:
        calls: which values the calls of modules take and give.
        ends: the value that each result is, by the result's name or number.
        ops: what the operations between modules make, by an operation's number in a run.
        through: the calls that go on with what the port made of the values that they take.
        partial: whether there may be more of those operations, which a run has to show yet.
    """

    calls: Mapping[Call, Place]
    ends: Mapping[str | int, str]
    ops: Mapping[int, Made]
    through: frozenset[Call] = frozenset()
    partial: bool = False


@dataclass(frozen=True)
class Node:
    """An operation of the port that has a recipe.

    Attributes:
        op: its number in a run, and its name.
        size: how many numbers it made.
        alike: the values of the net that these are but for rounding, of those that were asked for.
        recipe: how it was made.
        inside: whether a module made it that computes a layer.
    """

    op: tuple[int, str]
    size: int
    alike: frozenset[str]
    recipe: Recipe
    inside: bool = False


@dataclass(frozen=True)
class Number:
    """An operation of the port that made one number, such as a loss.

    Attributes:
        op: its number in a run, and its name.
        value: the number.
        behind: the values of the net that it was made of.
        of: the operations of other such numbers that it was made of.
    """

    op: tuple[int, str]
    value: float
    behind: frozenset[str]
    of: frozenset[int] = frozenset()


@dataclass
class Seen:
    """What a run of the port has shown.

    Attributes:
        own: what the port made at each value of the net, before Caffe's took its place.
        calls: of modules that gave a tensor, in order.
        ops: the operations between modules whose results the calls took, as in `Layout`.
        results: what the port returned, by name, or by number.
        named: which value of the net each result is; "" for none.
        recipes: how the port makes each of them of others, where that can be repeated.
        failed: what the port raised; None where it came to its end.
        numbers: the operations that made a number each, in order.
        lengths: of what each call was given first, along the batch.
        reads: of the calls without a place, the values that lie near what they take.
        near: how many of the results lie near a value.
        around: the calls of modules that do more behind a module inside, which has the same
            parameters, with the call of that one; of a cell that takes the same.
        drops: the tops of Dropouts that drop though they are idle in Caffe; "" for none.
        masked: the Dropouts that took Caffe's mask, by their tops.
        wired: which call took something else than the value that Caffe's layer reads: the call in
            words, the value that it took, "" for one that is none, and the one that Caffe reads.
        made_of: by call that took what the port made of the value that Caffe's layer reads, and of
            nothing else: the operations that did, in order.
        changed: the same, also where the port's own parameters come in.
        changes: the value of which a call takes that.
        mixed: by call that took what the port made of other values: how, in words.
        without: the values that it made without gradients, as under torch.no_grad().
        nodes: the operations, by the id of the recipe of what they made.
        hooks: how often it asked for the gradient of a tensor on the way.
        autocast: the values that it made under torch.autocast, and the precision of that.
        again: the calls that made nothing that was returned, of what another one of the same module
            took as well, as of a forward that runs twice.
        signatures: what each operation took beside tensors, behind one that gives Python numbers.
    """

    own: Tensors = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    ops: dict[int, Made] = field(default_factory=dict)
    results: dict[str | int, torch.Tensor] = field(default_factory=dict)
    named: dict[str | int, str] = field(default_factory=dict)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    failed: BadRequest | None = None
    numbers: list[Number] = field(default_factory=list)
    lengths: dict[Call, int] = field(default_factory=dict)
    reads: dict[Call, set[str]] = field(default_factory=dict)
    near: int = 0
    around: dict[Call, Call] = field(default_factory=dict)
    drops: set[str] = field(default_factory=set)
    masked: set[str] = field(default_factory=set)
    wired: list[tuple[str, str, str]] = field(default_factory=list)
    made_of: dict[Call, list[str]] = field(default_factory=dict)
    changed: dict[Call, list[str]] = field(default_factory=dict)
    changes: dict[Call, str] = field(default_factory=dict)
    mixed: dict[Call, str] = field(default_factory=dict)
    without: set[str] = field(default_factory=set)
    nodes: dict[int, Node] = field(default_factory=dict)
    hooks: int = 0
    autocast: dict[str, str] = field(default_factory=dict)
    again: frozenset[Call] = frozenset()
    signatures: dict[int, str] = field(default_factory=dict)


RECURRENT = (torch.nn.RNNBase, torch.nn.RNNCellBase)
"""The modules whose call may be a step of what the module around it does."""


RECOMPUTES = (
    "the port's backward computes its forward again (torch.utils.checkpoint), which cannot be "
    "watched: call the function itself"
)


class Port:
    """A model that is watched.

    Args:
        model: takes the net's inputs by name or in their order; it is copied, never changed.
        inputs: the names of those that it gets.
        backward: by module, its backward hooks: before its gradient, and behind that.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        inputs: Sequence[str],
        backward: Mapping[str, tuple[list[Any], list[Any]]] | None = None,
    ) -> None:
        self.model = model
        self.inputs = _taken(model, inputs)
        self.unused: frozenset[Call] = frozenset()  # as in `Seen.again`
        self.modules: dict[str, torch.nn.Module] = dict(model.named_modules())
        self.leaky: frozenset[int] | None = None
        self.backward = backward or {
            name: ([*each._backward_pre_hooks.values()], [*each._backward_hooks.values()])
            for name, each in self.modules.items()
            if each._backward_pre_hooks or (each._backward_hooks and each._is_full_backward_hook)
        }

    def in_precision(self, dtype: torch.dtype) -> Port:
        """A copy in another precision, in which no module changes its input."""
        made = copy.deepcopy(self.model).to(dtype)
        for module in made.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
        for name in self.backward:  # which see no gradient where Caffe's values are put in
            module = made.get_submodule(name)
            module._backward_pre_hooks.clear()
            module._backward_hooks.clear()
        copied = Port(made, self.inputs, self.backward)
        copied.leaky = self.leaky
        copied.unused = self.unused
        return copied

    def run(self, inputs: Tensors, state: Tensors | None = None) -> Any:
        """What the port returns; what torch.compile has made of it runs as it is written.

        Raises:
            BadRequest: it raises.
        """

        def call(**tensors: torch.Tensor) -> Any:
            given = (tensors[name] for name in self.inputs)
            named = dict(zip(self.arguments, given, strict=True)) if self.arguments else None
            args = () if named is not None else tuple(tensors[name] for name in self.inputs)
            if state is None:
                return self.model(*args, **(named or {}))
            return torch.func.functional_call(self.model, state, args, named or {})

        compiles = "torch._dynamo" in sys.modules  # which torch.compile loads
        eagerly = torch.compiler.set_stance("force_eager") if compiles else nullcontext()
        with torch.autograd.graph.disable_saved_tensors_hooks(RECOMPUTES), eagerly:
            return result_of(call, {name: inputs[name] for name in self.inputs}, "port")

    def total_of(self, results: Mapping[str | int, torch.Tensor]) -> torch.Tensor:
        """What its method `total` makes of what it returned.

        Raises:
            BadRequest: it raises, or gives no number.
        """
        total: Any = self.model.total
        named = {str(key): each for key, each in results.items()}
        made = result_of(lambda **tops: total(tops), named, "port's total")
        if not isinstance(made, torch.Tensor) or made.numel() != 1:
            raise BadRequest(f"the port's total gives {type(made).__name__}, not one number")
        return made

    @cached_property
    def nested(self) -> Mapping[str, frozenset[str]]:
        """By module, those inside that have the same parameters; of modules of which one is."""
        own = {name: frozenset(map(id, each.parameters())) for name, each in self.modules.items()}
        inside = {
            name: frozenset(
                other
                for other in own
                if other.startswith(f"{name}.") and own[other] == own[name] and own[name]
            )
            for name in own
        }
        some = {each for names in inside.values() for each in names}
        return {name: names for name, names in inside.items() if names or name in some}

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of its arguments, where it takes the inputs by name; () for by order."""
        known = inspect.signature(self.model.forward).parameters
        return tuple(self.inputs) if all(name in known for name in self.inputs) else ()

    def _steps_first(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """What a recurrent module takes or gives as Caffe has it, (T, N, ...), or back again."""
        swapped = getattr(self.modules[name], "batch_first", False) and tensor.ndim > 2
        return tensor.transpose(0, 1) if swapped else tensor

    def _states(self, name: str, made: torch.Tensor, rest: tuple[Any, ...]) -> tuple[Any, ...]:
        """The states that a recurrent module gives: its last output is that of Caffe's value."""
        module = self.modules[name]
        if not isinstance(module, torch.nn.RNNBase) or module.num_layers > 1 or len(rest) != 1:
            return rest
        last = made[-1:]
        return ((last, *rest[0][1:]) if isinstance(rest[0], tuple) else last,)

    @contextmanager
    def _hooked(
        self,
        before: Callable[[str, Any], Any] | None,
        after: Callable[[str, Any, Any], Any],
    ) -> Iterator[None]:
        handles = []
        for name, module in self.modules.items():
            if not name:
                continue
            if before is not None:
                handles.append(
                    module.register_forward_pre_hook(lambda _, args, name=name: before(name, args))
                )
            handles.append(
                module.register_forward_hook(
                    lambda _, args, result, name=name: after(name, args, result)
                )
            )
        try:
            yield
        finally:
            for each in handles:
                each.remove()

    def forced(
        self,
        layout: Layout,
        inputs: Tensors,
        values: Tensors | None,
        shapes: Mapping[str, Shape],
        state: Tensors,
        masks: Tensors | None = None,
        looking: bool = False,
        behind: Mapping[str, frozenset[str]] = MappingProxyType({}),
        wanted: Sequence[str] = (),
        idle: Mapping[str, str] = MappingProxyType({}),
    ) -> Seen:
        """Runs the port with Caffe's values in the places of its own.

        Args:
            layout: where its tensors are values of the net.
            inputs: what it is fed.
            values: the net's, by name; None lets the port go on with its own.
            shapes: of the net's values.
            state: its parameters and buffers; it may write into them.
            masks: by the top of a Dropout of the net's, which elements that keeps.
            looking: whether what is no value of the net is compared with all of them.
            behind: by value of the net, those that it is made of.
            wanted: the values with which the results of operations are compared.
            idle: the tops of Dropouts that pass everything on, and their bottoms.
        """
        seen = Seen()
        given, raw = _Names(), _Names()  # what the port goes on with, and what it made itself
        fed = {name: each.clone() for name, each in inputs.items()}
        for name, each in fed.items():
            given.put(each, name)
        counts: dict[str, int] = {}
        open_calls: list[Call] = []
        takes: dict[Call, Any] = {}
        gives: dict[Call, tuple[torch.Tensor, int]] = {}  # with its version: it may be written into
        made_by: dict[Call, Recipe | None] = {}

        def known(value: str, like: torch.Tensor) -> torch.Tensor:
            """Caffe's value; a copy of its own, since the port may work on it in place."""
            if values is None:
                return like
            with torch.inference_mode(mode=False), torch.enable_grad():
                of_run = like.dtype.itemsize < 8  # also what names float32, or has fewer bits
                dtype = values[value].dtype if of_run else like.dtype
                made = shaped(values[value], like.shape)
                if made.numel() != like.numel() and 1 < like.ndim < made.ndim:
                    made = made.flatten(like.ndim - 1)  # in a port whose own has another size
                made = made.to(dtype).clone()
            given.put(made, value)
            return made

        def placed(value: str, made: torch.Tensor) -> torch.Tensor:
            base = made._base
            is_flat = base is not None and base.numel() == made.numel()
            if base is not None and is_flat and made.numel() != math.prod(shapes[value]):
                put(value, base if base.ndim == len(shapes[value]) else made)
            else:
                put(value, made)
            return known(value, made)

        def put(value: str, made: torch.Tensor) -> None:
            """Takes down what the port makes of a value."""
            own = as_wide(shaped(made, shapes[value]))
            if not torch.is_grad_enabled():
                seen.without.add(value)
            if torch.is_autocast_enabled("cpu"):
                dtype = str(torch.get_autocast_dtype("cpu")).removeprefix("torch.")
                seen.autocast[value] = dtype
            seen.own[value] = own.clone() if values is None else own  # the port may write into it
            recipe = ops.recorder.of(made)
            if recipe:
                seen.recipes[value] = recipe
            raw.put(made, value)
            if values is None:
                given.put(made, value)

        def taken(
            what: str, value: str, tensor: torch.Tensor, call: Call | None = None
        ) -> torch.Tensor:
            """What a call gets where Caffe's layer reads a value, and the port has this tensor."""
            if given.name(tensor) == value:
                return tensor
            if raw.name(tensor) == value:
                return known(value, tensor)
            came = given.name(tensor)
            is_new = value not in seen.own and value not in inputs
            if is_new and tensor.numel() != math.prod(shapes[value]):
                within = ops.within(tensor, math.prod(shapes[value]), value)
                if within and call:
                    seen.ops.update(within)
                    seen.made_of[call] = []
                    return tensor
            same = tensor.numel() == math.prod(shapes[value])
            if is_new and (not came or (same and came in behind.get(value, frozenset()))):
                seen.ops.update(ops.of(tensor, value))
                return placed(value, tensor)
            if values is None or _equal(tensor, values[value]):  # a copy of it
                return tensor
            if value in seen.own and _equal(tensor, seen.own[value]):
                return known(value, tensor)
            came = came or _as_an_image(tensor, values[value], value)
            recipe = recorder.of(tensor)
            if call and not came and recipe and _values_in(recipe) == {value}:
                seen.changed[call] = _written(recipe)
                seen.changes[call] = value
            if call and not came and recipe and _names_in(recipe) == {value}:
                seen.made_of[call] = _written(recipe)
                if call in layout.through or tensor.numel() != values[value].numel():
                    return tensor
            place = layout.calls.get(call) if call else None
            names = _names_in(recipe) if recipe else set()
            joined = place and value in names <= set(place.bottoms)  # of several, side by side
            if joined and tensor.numel() != math.prod(shapes[value]):
                return tensor
            if not came and call not in seen.changed:
                came = next(iter(sorted(close_to(tensor, values) - {value})), "")
            read = sorted(_values_in(recipe)) if call and not came and recipe else []
            if call and recipe and read and read != [value]:
                seen.mixed[call] = f"{', '.join(_written(recipe))} of {' and '.join(read)}"
            seen.wired.append((what, came, value))
            return known(value, tensor)

        def mask_for(tensor: torch.Tensor) -> torch.Tensor | None:
            """That of the layer which an open call computes; else the next that no call does."""
            known = masks or {}
            if not self.unused.isdisjoint(open_calls):
                return None
            inside = {place.top for each in open_calls if (place := layout.calls.get(each))}
            others = {place.top for place in layout.calls.values()} | seen.masked
            free = [each for each in known if each in inside] or [
                each for each in known if each not in others
            ]
            for top in free:
                if known[top].numel() == tensor.numel():
                    seen.masked.add(top)
                    return known[top].reshape(tensor.shape)
            for top in inside & known.keys():  # in a port whose own has another size
                flat = known[top].flatten()
                return flat[torch.arange(tensor.numel()) % len(flat)].reshape(tensor.shape)
            return None

        def is_idle(tensor: torch.Tensor) -> bool:
            """Whether a Dropout must pass a tensor on; which one it may be, is taken down."""
            free = [top for top in idle if top not in seen.drops]
            sizes = [top for top in free if math.prod(shapes[top]) == tensor.numel()]
            near = [top for top in sizes if values and close_to(tensor, {top: values[top]})]
            if masks is not None and not masks:
                seen.drops.add(next(iter(near or sizes), ""))
            return masks is not None and not masks

        learned = {name for name, each in self.model.named_parameters() if each.requires_grad}

        def learns(tensor: torch.Tensor) -> bool:
            """Whether a tensor would have a gradient in a training: this run may have none."""
            recipe = recorder.of(tensor) if torch.is_grad_enabled() else None
            return recipe is not None and recipes.learns(recipe, inputs, learned)

        recorder = Recorder(given.name, state, self.leaky)
        asked = {name: values[name] for name in wanted} if values else {}
        dtypes = {each.dtype for each in state.values()}
        dtype = torch.float64 if torch.float64 in dtypes else torch.float32
        ops = _Operations(layout.ops, placed, mask_for, given.name, recorder, asked, dtype)
        ops.looks = layout.partial or not layout.ops
        ops.is_idle = is_idle
        ops.learns = learns
        ops.is_inside = lambda: any(each in layout.calls for each in open_calls)
        seen.numbers, seen.nodes, seen.signatures = ops.numbers, ops.nodes, recorder.signatures

        sent: dict[str, torch.Tensor] = {}  # by module with hooks, the last gradient to its result

        def hooked(name: str, tensor: Any, is_result: bool) -> Any:
            """A tensor whose gradient goes through a module's backward hooks, as in PyTorch."""
            if name not in self.backward or not _is_float(tensor):
                return tensor
            module, (first, last) = self.modules[name], self.backward[name]

            def of_result(grad: torch.Tensor) -> torch.Tensor:
                for each in first:
                    grad = _first(each(module, (grad,)), grad)
                sent[name] = grad
                return grad

            def of_input(grad: torch.Tensor) -> torch.Tensor:
                above = sent.pop(name, None)
                for each in last:
                    grad = _first(each(module, (grad,), (above,)), grad)
                return grad

            hook = of_result if is_result else of_input
            recipe = recorder.of(tensor)
            made = recipes.hooked(tensor, hook)
            ops.hooks += 1
            if recipe is not None:
                recorder.put(made, recipes.Made(recipes.hooked, (recipe, hook), {}))
            return made

        def before(name: str, args: Any) -> Any:
            with ops.paused():
                found = looked_at(name, args)
                taken_in = args if found is None else found
                if name not in self.backward or not taken_in:
                    return found
                return hooked(name, taken_in[0], is_result=False), *taken_in[1:]

        def looked_at(name: str, args: Any) -> Any:
            call = Call(name, counts.get(name, 0))
            counts[name] = call.number + 1
            open_calls.append(call)
            place = layout.calls.get(call)
            if any(isinstance(each, torch.Tensor) and is_wrapped(each) for each in args):
                raise RuntimeError(
                    f"the port calls {call} inside of torch.func (vmap, grad), where nothing can "
                    "be watched: call it on the whole batch"
                )
            if args and _is_float(args[0]) and args[0].ndim:
                seen.lengths[call] = len(args[0])
            if name in self.nested:
                takes[call] = args[0] if args else None
            if place is None:
                is_used = looking and call not in self.unused
                if is_used and values is not None and args and _is_float(args[0]):
                    seen.reads[call] = close_to(self._steps_first(name, args[0]), values)
                return None
            changed = list(args)
            is_step = isinstance(self.modules[name], torch.nn.RNNCellBase)  # its state is no bottom
            bottoms = place.bottoms
            came = tuple(map(given.name, filter(_is_float, changed)))
            if place.any_order and sorted(came) == sorted(bottoms):
                bottoms = came
            for position, value in enumerate(bottoms[: 1 if is_step else len(changed)]):
                if _is_float(changed[position]):
                    steps_first = self._steps_first(name, changed[position])
                    made = taken(f"the port's {call}", value, steps_first, call)
                    changed[position] = self._steps_first(name, made)
            if call in takes:
                takes[call] = changed[0]
            return tuple(changed)

        def after(name: str, args: Any, result: Any) -> Any:
            call = open_calls.pop()
            if name in self.backward:
                with ops.paused():
                    result = hooked(name, result, is_result=True)
            for inside, (made, before) in gives.items():
                does_more = made is not result or version(made) != before
                whole = not isinstance(self.modules[inside.module], RECURRENT)
                if (
                    inside.module in self.nested.get(name, ())
                    and (whole or takes[inside] is takes[call])
                    and does_more
                ):
                    seen.around[call] = inside
            changed = replaced(call, name, result)
            goes_on = result if changed is None else changed
            if name in self.nested and isinstance(goes_on, torch.Tensor):
                gives[call] = goes_on, version(goes_on)
            return goes_on if name in self.backward else changed

        def replaced(call: Call, name: str, result: Any) -> Any:
            first = result[0] if type(result) is tuple and result else result  # of an nn.LSTM
            if isinstance(first, torch.Tensor) and call not in self.unused:
                seen.calls.append(call)
                made_by[call] = recorder.of(first)
            place = layout.calls.get(call)
            with ops.paused():
                if place is None or not place.top or not _is_float(first):
                    return None
                if given.name(first) == place.top:
                    return None
                made = placed(place.top, self._steps_first(name, first))
                if first is result:
                    return made
                return self._steps_first(name, made), *self._states(name, made, result[1:])

        with self._hooked(before, after), ops.recorder.functions(ops.done), ops:
            try:
                result = self.run(fed, state)
            except BadRequest as error:
                seen.failed = error
                seen.calls += open_calls[-1:]  # which may go on with Caffe's values
                return seen
            finally:
                seen.hooks = ops.hooks
        seen.results = results_of(result)
        seen.again = _again(made_by, [recorder.of(each) for each in seen.results.values()])
        for key, each in [*seen.results.items()]:
            seen.named[key] = given.name(each) or raw.name(each)
            seen.near += bool(looking and values is not None and close_to(each, values))
            end = layout.ends.get(key, "")
            if end and (not seen.named[key] or seen.named[key] in behind.get(end, ())):
                is_new = end not in seen.own
                made = taken(f"the port's result {key}", end, each)
                seen.results[key] = made if is_new else each
                seen.named[key] = end
        return seen


def _again(
    made_by: Mapping[Call, Recipe | None], results: Sequence[Recipe | None]
) -> frozenset[Call]:
    """The calls whose result is in none of these, while one that is made of the same is."""
    several = {call.module for call in made_by if call.number}
    recipes = {call: each for call, each in made_by.items() if each and call.module in several}
    known = [each for each in results if each]
    if not recipes or not known or len(known) < len(results):
        return frozenset()
    used = {id(one) for each in known for one in steps_of(each)}
    left = [call for call, each in recipes.items() if id(each) not in used]
    twins = {
        call: [
            other
            for other in recipes
            if other.module == call.module and other not in left
            if _names_in(recipes[other]) == _names_in(recipes[call])
        ]
        for call in left
    }
    return frozenset(call for call, others in twins.items() if others)


class _Operations(TorchFunctionMode):
    """Counts what is computed with tensors, and puts Caffe's values in the place of some results.

    Whatever reads the result of a function between modules, another function too, gets it so.
    """

    def __init__(
        self,
        at: Mapping[int, Made],
        placed: Callable[[str, torch.Tensor], torch.Tensor],
        mask_for: Callable[[torch.Tensor], torch.Tensor | None],
        name_of: Callable[[torch.Tensor], str],
        recorder: Recorder,
        wanted: Tensors,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self._dtype = dtype
        self.hooks = 0
        self.looks = True  # for what operations make that no place is known of
        self.is_inside: Callable[[], bool] = lambda: False
        self.is_idle: Callable[[torch.Tensor], bool] = lambda _: False
        self.learns: Callable[[torch.Tensor], bool] = lambda _: False
        self.recorder = recorder
        self.nodes: dict[int, Node] = {}
        self._wanted = wanted
        self._name_of = name_of
        self.numbers: list[Number] = []
        self._behind: dict[int, frozenset[str]] = {}  # of the tensors in `_kept`
        self._of_numbers: dict[int, frozenset[int]] = {}  # the same
        self._kept: list[torch.Tensor] = []
        self._mask_for = mask_for
        self._at = at
        self._placed = placed
        self._count = 0
        self._paused = False
        self._made: dict[int, tuple[torch.Tensor, int, str]] = {}  # keeps them: an id is no other's

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._paused or _called_by() == APPLY:  # which only runs with gradients have
            return func(*args, **kwargs)
        if getattr(func, "__self__", None) is torch.Tensor.requires_grad:
            if _called_by().startswith("torch."):
                return func(*args, **kwargs)
            known = func(*args, **kwargs)
            return self.learns(*args) if known is False else known
        if func is functional.dropout:
            func, args, kwargs = self._with_mask(*args, **kwargs)
        if func in (torch.Tensor.register_hook, torch.Tensor.retain_grad):
            return self._hooked(func, *args)
        func, (args, kwargs) = recipes.in_precision(func, (args, kwargs), self._dtype)
        self.recorder.number += 1
        made = self.recorder.before(func, args, kwargs)
        result = recipes.of_run(func(*args, **kwargs), (args, kwargs), self._dtype)
        self.recorder.after(made, result)
        return result if self.recorder.inside else self.done(func, result, args, kwargs)

    def done(self, func: Any, result: Any, args: Any, kwargs: Any = MappingProxyType({})) -> Any:
        """What an operation has made, or Caffe's values in the place of that."""
        name = getattr(func, "__name__", "")
        if self.looks:
            self._follow(name, result, args, kwargs)
        several = type(result) in (tuple, list)  # of chunk, split, unbind
        same = {id(each) for each in tree_leaves((args, kwargs))}  # which it wrote into
        floats = [each for each in (result if several else [result]) if _is_float(each)]
        for number, each in enumerate(floats, self._count):
            recipe = self.recorder.made(each)
            if recipe and id(each) not in same:
                alike = frozenset(close_to(each, self._wanted))
                inside = self.is_inside()
                self.nodes[id(recipe)] = Node((number, name), each.numel(), alike, recipe, inside)
        if several:
            return type(result)(self._looked_at(each, name) for each in result)
        return self._looked_at(result, name)

    def _hooked(self, func: Any, tensor: torch.Tensor, *hook: Any) -> Any:
        """What a port does with a tensor's gradient, which not every run has."""
        self.hooks += 1
        for each in hook:
            self.recorder.hook(tensor, each)
        return func(tensor, *hook) if tensor.requires_grad else RemovableHandle(OrderedDict())

    def _follow(self, name: str, result: Any, args: Any, kwargs: Any) -> None:
        """Takes down which values of the net, and which numbers, a result was made of."""
        behind: frozenset[str] = frozenset()
        of: frozenset[int] = frozenset()
        for each in tree_leaves((args, kwargs)):
            if isinstance(each, torch.Tensor):
                known = self._name_of(each)
                behind |= frozenset([known]) if known else self._behind.get(id(each), frozenset())
                of |= self._of_numbers.get(id(each), frozenset())
        is_number = _is_float(result) and result.numel() == 1
        if is_number:
            self.numbers.append(Number((self._count, name), float(result.detach()), behind, of))
            of |= {self._count}
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor):
                self._kept.append(each)
                self._behind[id(each)], self._of_numbers[id(each)] = behind, of

    def _with_mask(
        self, x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """What a Dropout does, with Caffe's mask where there is one: a call, not yet made."""
        mask = self._mask_for(x) if training and 0 < p < 1 else None
        if mask is None:
            drops = training and 0 < p < 1 and not self.is_idle(x)
            return functional.dropout, (x, p, drops, inplace), {}
        self.recorder.put(mask, Fixed(mask))
        scaled = self._recorded(torch.div, self._recorded(torch.Tensor.type_as, mask, x), 1 - p)
        return torch.Tensor.mul_ if inplace else torch.mul, (x, scaled), {}

    def _recorded(self, func: Callable[..., Any], *args: Any) -> Any:
        """What an operation of this module's own gives, taken down as if it were the port's."""
        made = self.recorder.before(func, args, {})
        result = func(*args)
        self.recorder.after(made, result)
        return result

    def _looked_at(self, result: Any, name: str) -> Any:
        """A result, or Caffe's value in its place."""
        if not _is_float(result):
            return result
        number = self._count
        self._count += 1
        made = self._at.get(number)
        if made and made.name == name:
            if made.factor == 1:
                return self._placed(made.value, result)
            own = self._recorded(torch.div, result, made.factor)
            placed = self._placed(made.value, own)
            return result if placed is own else self._recorded(torch.mul, placed, made.factor)
        if self.looks:
            self._made[id(result)] = result, number, name
        return result

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is computed meanwhile is not the port's."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def within(self, tensor: torch.Tensor, size: int, value: str) -> dict[int, Made]:
        """The last operation behind a tensor that made so many numbers, as in `Layout`; or {}."""
        recipe = self.recorder.of(tensor)
        nodes = [self.nodes.get(id(each)) for each in steps_of(recipe)] if recipe else []
        known = [each for each in nodes if each and each.size == size]
        return {known[-1].op[0]: Made(value, known[-1].op[1])} if known else {}

    def of(self, tensor: torch.Tensor, value: str) -> dict[int, Made]:
        """The operation that made a tensor, as in `Layout`; {} where it is not known.

        What is detached is the value already, and may be read with its gradient, too.
        """
        recipe, node = self.recorder.made(tensor), None
        while isinstance(recipe, recipes.Made) and recipe.args:
            below, is_alone = recipe.args[0], False
            if recipe.func is torch.cat and len(below) == 1:  # of one
                (below,), is_alone = below, True
            if not is_alone and not keeps(recipe, ["detach"]):
                break
            if recipe.func.__name__ not in recipes.SHAPES:
                node = self.nodes.get(id(below))
            recipe = below
        if node:
            return {node.op[0]: Made(value, node.op[1])}
        for each in [tensor] if tensor._base is None else [tensor._base, tensor]:
            made = self._made.get(id(each))
            if made and _same_order(tensor, each):
                return {made[1]: Made(value, made[2])}
        return {}


class _Names:
    """Which tensors are values of the net, as long as nobody has written into them."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[torch.Tensor, str, int]] = {}

    def put(self, tensor: torch.Tensor, name: str) -> None:
        """Names a tensor, and keeps it, so that no other one gets its id."""
        self._known[id(tensor)] = tensor, name, version(tensor)

    def name(self, tensor: torch.Tensor) -> str:
        """That of a tensor, or of the one of which it is a view in the same order; or ""."""
        for each in [tensor] if tensor._base is None else [tensor, tensor._base]:
            found = self._known.get(id(each))
            if found and found[2] == version(each) and _same_order(tensor, each):
                return found[1]
        return ""


APPLY = "torch.autograd.function"
"""Where PyTorch makes a view of what a Function hands through, as a module's backward hook is."""


def _first(made: Any, usual: torch.Tensor) -> torch.Tensor:
    """The gradient that a hook of a module gives; the usual one where it gives none."""
    [first, *_] = made if isinstance(made, (tuple, list)) else [made]
    return usual if first is None else first


def _called_by() -> str:
    """The module in whose code an operation was called that a mode sees."""
    return str(sys._getframe(2).f_globals.get("__name__", ""))


def _same_order(tensor: torch.Tensor, base: torch.Tensor) -> bool:
    if tensor is base:
        return True
    return tensor.numel() == base.numel() and tensor.is_contiguous() and base.is_contiguous()


def _as_an_image(tensor: torch.Tensor, value: torch.Tensor, name: str) -> str:
    """What was done to an image in another way than for Caffe, in words; "" for something else."""
    if tensor.numel() != value.numel() or value.dim() != 4 or value.shape[1] not in (1, 3):
        return ""
    made, own = tensor.detach().reshape(value.shape).double(), value.detach().double()
    for order, words in ((own, ""), (own.flip(1), " with its channels reversed (RGB for BGR)")):
        means = [each.mean((0, 2, 3), keepdim=True) for each in (made, order)]
        one, other = made - means[0], order - means[1]
        factor = (one * other).sum() / (other * other).sum()
        factor = factor.round() if abs(factor - 1) < NEAR**2 else factor
        offset = means[0] - factor * means[1]
        near = 2.0**-20 * (made.abs().max() + (factor * order).abs().max())
        if not bool((one - factor * other).abs().max() <= near):
            continue
        scaled = f" times {float(factor):.6g} (the scale?)" if factor != 1 else ""
        added = ", ".join(f"{float(each):.6g}" for each in offset.flatten())
        shifted = f" and {added} added (the mean?)" if bool(offset.abs().max() > near) else ""
        return f"{name}{words}{scaled}{shifted}"
    return ""


def _equal(tensor: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether a tensor holds a value of the net, in whatever shape."""
    same = tensor.numel() == value.numel()
    return same and torch.equal(tensor.detach().reshape(-1), value.detach().reshape(-1).to(tensor))


def _names_in(recipe: Recipe) -> set[str]:
    """The values and the state that a recipe takes."""
    return {each.name for each in ingredients(recipe)}


def _values_in(recipe: Recipe) -> set[str]:
    """The values that a recipe takes."""
    return {each.name for each in ingredients(recipe) if isinstance(each, Value)}


def _written(recipe: Recipe) -> list[str]:
    """The operations of a recipe, in order, with what they take beside tensors."""
    return [*map(spelled, steps_of(recipe))]


def spelled(each: recipes.Made) -> str:
    """An operation, with what it takes beside tensors."""
    if each.func is recipes.hooked:
        return "a hook on the gradient"
    given = [str(one) for one in each.args if isinstance(one, SHOWN)]
    given += [f"{key}={one}" for key, one in each.kwargs.items() if isinstance(one, SHOWN)]
    name = getattr(each.func, "__name__", "").strip("_")
    owner = getattr(getattr(each.func, "__self__", None), "__name__", name)
    if name == "get":  # of an attribute, such as data
        name = owner
    elif name == "apply":  # of an autograd.Function
        name = f"{owner}.apply"
    return f"{name}({', '.join(given)})" if given else name


SHOWN = (int, float, str, list, tuple, torch.dtype)
"""What is shown of what an operation takes."""


def results_of(result: Any) -> dict[str | int, torch.Tensor]:
    """The tensors that a port returns, by name where it returns a dict, else by number.

    Of what is nested, such as `(heat, fields), losses`, by the path to it: "0.1".
    """
    if isinstance(result, torch.Tensor):
        result = [result]
    found: dict[str | int, torch.Tensor] = {}
    for key, each in _items(result):
        if isinstance(each, torch.Tensor):
            found[key] = each
        elif _items(each):
            found |= {f"{key}.{inner}": one for inner, one in results_of(each).items()}
    return found


def _items(result: Any) -> list[tuple[Any, Any]]:
    """What is in a container, by name or number; [] of what is none."""
    if is_dataclass(result) and not isinstance(result, (type, Mapping)):
        result = vars(result)
    if isinstance(result, Mapping):
        return [*result.items()]
    return [*enumerate(result)] if isinstance(result, (tuple, list)) else []


class Overwritten(BadRequest):
    """A port has written into what its backward needs, as `+=` behind a ReLU does."""


def gradients(
    made: torch.Tensor, blobs: Sequence[torch.Tensor], weight: torch.Tensor
) -> list[torch.Tensor | None]:
    """What a part sends back to each blob for the gradient of what it made.

    Raises:
        Overwritten: the port has written into what its backward needs.
        BadRequest: its backward raises.
    """
    if not made.requires_grad:
        return [None] * len(blobs)
    try:
        with running("the port"):
            upstream = weight.reshape(made.shape).to(made.dtype)
            return list(
                torch.autograd.grad(made, blobs, upstream, retain_graph=True, allow_unused=True)
            )
    except BaseException as error:
        if ends_the_run(error):
            raise
        kind = Overwritten if "modified by an inplace operation" in str(error) else BadRequest
        raise kind(
            f"the port's gradient cannot be computed: {place_of(error)}{type(error).__name__}: "
            f"{error}"
        ) from error


def _taken(model: torch.nn.Module, inputs: Sequence[str]) -> tuple[str, ...]:
    """Those of the net's inputs that a model takes, by name, or the first ones by order.

    Raises:
        BadRequest: it takes another number.
    """
    parameters = [*inspect.signature(model.forward).parameters.values()]
    known = [each.name for each in parameters]
    named = tuple(name for name in inputs if name in known)
    needed = [
        each.name
        for each in parameters
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if named and set(needed) <= set(named):
        return (*named, *_label(parameters, named, inputs))
    takes_any = any(each.kind == each.VAR_POSITIONAL for each in parameters)
    if len(needed) == len(inputs) or (takes_any and len(needed) < len(inputs)):
        return tuple(inputs)
    if not named and 0 < len(needed) <= len(inputs):
        first = tuple(inputs[: len(needed)])
        return (*first, *_label(parameters, first, inputs))
    raise BadRequest(
        f"the port's forward takes ({', '.join(known)}), the net's inputs are "
        f"{', '.join(inputs) or 'none'}: name its arguments like the inputs that it needs"
    )


LABELS = ("ground_truth", "gt", "label", "labels", "target", "targets", "y")
"""The names of what a model takes beside its input, and may do without."""


def _label(
    parameters: Sequence[inspect.Parameter], given: Sequence[str], inputs: Sequence[str]
) -> tuple[str, ...]:
    """The net's labels, where a model that takes these inputs takes them next, under any name."""
    left = [name for name in inputs if name not in given]
    following = [each.name for each in parameters[len(given) :]]
    ordered = [each.name for each in parameters[: len(given)]] == [*given]
    is_next = ordered or not {each.name for each in parameters} & set(given)
    known = is_next and len(left) == 1 and left[0] in LABELS
    return tuple(left) if known and following[:1] and following[0] in LABELS else ()


NEAR = 1e-3
"""Of a blob's largest value: what is no further from it is taken for it, as long as nothing else
tells. It decides which match is tried, and no verdict."""


def close_to(tensor: torch.Tensor, values: Tensors) -> set[str]:
    """The values of the net that a tensor holds, but for rounding, in whatever shape."""
    flat, found = tensor.detach().reshape(-1), set()
    for name, each in values.items():
        if each.numel() == flat.numel():
            other = each.detach().reshape(-1).to(flat)
            if bool((flat - other).abs().max() <= NEAR * other.abs().max()):
                found.add(name)
    return found


def as_wide(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, in float32 where it has fewer bits: NumPy has no bfloat16."""
    return tensor.float() if _is_float(tensor) and tensor.dtype.itemsize < 4 else tensor


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def shaped(tensor: torch.Tensor, shape: Shape) -> torch.Tensor:
    """A tensor in another shape, if that is the same but for axes of 1, or for what is flat."""
    one, other = tuple(tensor.shape), tuple(shape)
    fits = tensor.numel() == math.prod(other) and (alike(one, other) or one[:1] == other[:1])
    return tensor.reshape(other) if fits else tensor
