"""Which module of a port computes which layer of a net."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from caffe_parity.contract import BadRequest
from caffe_parity.engine.compare import alike
from caffe_parity.errors import meant
from caffe_parity.whole.golden import SHARING, Golden, Step
from caffe_parity.whole.layouts import held
from caffe_parity.whole.mistakes import COUNTED, normaliser
from caffe_parity.whole.port import Call, Layout, Made, Number, Place

TAKES_SCALE = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.instancenorm._InstanceNorm)
"""The modules that do what in Caffe a BatchNorm and a Scale behind it do."""


@dataclass
class Matched:
    """What belongs to what.

    Attributes:
        steps: the layers that a call computes, in order: one, or a BatchNorm and its Scale.
        how: in what way it was found: "name", "--map", "what they share", "their weights",
            "their values" or "order".
        ends: the value that each of the port's results is, by the result's name or number.
        ops: the value that an operation between modules makes, as in `Layout`.
        through: the calls that take what the port makes of the values that their layers read.
        opened: the calls that do not give what their layers make, but go on, or stop before.
        partial: as in `Layout`.
    """

    steps: dict[Call, tuple[Step, ...]] = field(default_factory=dict)
    how: dict[Call, str] = field(default_factory=dict)
    ends: dict[str | int, str] = field(default_factory=dict)
    ops: dict[int, Made] = field(default_factory=dict)
    through: frozenset[Call] = frozenset()
    opened: frozenset[Call] = frozenset()
    partial: bool = False

    def add(self, call: Call, step: Step, how: str) -> None:
        """One pair more."""
        self.steps[call] = (step,)
        self.how[call] = how

    @property
    def layout(self) -> Layout:
        """Where the port's tensors are values of the net."""
        calls = {
            call: Place(
                steps[0].bottoms, "" if call in self.opened else steps[-1].tops[0], _sums(steps[0])
            )
            for call, steps in self.steps.items()
        }
        return Layout(calls, self.ends, self.ops, self.through, self.partial)

    def call_of(self, step: Step) -> Call | None:
        """The call that computes a layer."""
        return next((call for call, steps in self.steps.items() if step in steps), None)


def _sums(step: Step) -> bool:
    """Whether a layer makes the same of its bottoms in any order."""
    return step.type == "Eltwise" and len(set(step.fields["coeff"])) <= 1


def match(
    net: Golden,
    calls: Sequence[Call],
    modules: Mapping[str, torch.nn.Module],
    asked: Mapping[str, str],
    told: Sequence[tuple[Step, Call]] = (),
    guess: bool = True,
    around: Mapping[Call, Call] = MappingProxyType({}),
) -> Matched:
    """Matches layers to calls: as asked, by name, by what they share, by their weights.

    Args:
        net: the net.
        calls: of the port, in order.
        modules: of the port, by name.
        asked: layer -> module, of --map.
        told: pairs, by their values.
        guess: whether what is left is matched by its order.
        around: calls that do more than the layer: the call inside of each that has its parameters.
    """
    found = Matched()
    left = list(net.steps)

    def pair(step: Step, module: str, how: str) -> bool:
        free = [call for call in calls if call.module == module and call not in found.steps]
        if not free or step not in left:
            return False
        found.add(free[0], step, how)
        left.remove(step)
        return True

    for step in net.steps:
        if step.name in asked:
            pair(step, asked[step.name], "--map")
    for step, computed in told:
        if step in left and computed not in found.steps:
            found.add(computed, step, "their values")
            left.remove(step)
    inner = {outer.module: inside.module for outer, inside in around.items()}
    calls = [call for call in calls if call not in around]
    names = {call.module: [call.module] for call in calls}
    for outer, inside in inner.items():
        if inside in names:
            names[inside].append(outer)
    for wanted in (plain, _last):  # the whole name before its last part
        known: dict[str, list[str]] = {}
        for name, said in names.items():
            for each in dict.fromkeys(map(wanted, said)):
                known.setdefault(each, []).append(name)
        for step in net.steps:
            same = [
                inside
                for name in known.get(plain(step.name), [])
                for inside in _holders(net, step, name, names, modules)
            ]
            if len(same) == 1 and step.name not in asked:
                pair(step, same[0], "name")
    for step in net.steps:
        owner = _owner(net, step)
        call = found.call_of(owner) if owner else None
        if call:
            pair(step, call.module, "what they share")
    for call, (step, *_) in [*found.steps.items()]:
        if _is_folded(net, step, modules[call.module], modules, found):
            del found.steps[call], found.how[call]
            left.append(step)
    _with_scales(net, left, modules, found)
    _by_weights(net, left, calls, modules, found, guess)
    _with_scales(net, left, modules, found)
    if guess:
        _by_kind(left, calls, modules, found)
    cells = [name for name, each in modules.items() if isinstance(each, torch.nn.RNNCellBase)]
    found.opened = frozenset(call for call in found.steps if call.module in cells)
    return found


def _holders(
    net: Golden,
    step: Step,
    name: str,
    names: Iterable[str],
    modules: Mapping[str, torch.nn.Module],
) -> list[str]:
    """A module of a layer's name; where it holds more, what inside has the layer's parameters."""
    if not step.params or fits(net, step, modules[name]):
        return [name]
    inside = [each for each in names if each.startswith(f"{name}.")]
    good = [each for each in inside if fits(net, step, modules[each])]
    return good if len(good) == 1 else [name]


def _owner(net: Golden, step: Step) -> Step | None:
    """The layer that has the parameters which this one shares; None where it has its own."""
    if not step.params or step.type == "BatchNorm" or set(step.params) & set(net.owned):
        return None
    for other in net.steps:
        if other.type == step.type and set(other.params) <= set(net.owned) and other.params:
            pairs = list(zip(step.params, other.params, strict=False))
            if all(np.array_equal(net.params[one], net.params[two]) for one, two in pairs):
                return other
    return None


def must_be_there(
    asked: Mapping[str, str],
    net: Golden,
    calls: Sequence[Call],
    modules: Mapping[str, torch.nn.Module],
) -> None:
    """Checks what --map names.

    Raises:
        BadRequest: a layer or a module that is not there, or one that is not called.
    """
    called = {call.module for call in calls}
    steps = [step.name for step in net.steps]
    for layer, module in asked.items():
        if layer not in steps:
            words = f"the net's layers are {', '.join(steps)}{meant(layer, steps)}"
            raise BadRequest(f"--map {layer}={module}: {words}")
        if module not in modules:
            names = ", ".join(name for name in modules if name)
            raise BadRequest(
                f"--map {layer}={module}: the port's modules are {names or 'none'}"
                f"{meant(module, modules)}"
            )
        if module not in called:
            raise BadRequest(
                f"--map {layer}={module}: the port has that module, but its forward does not call "
                "it, or it gives no tensor"
            )


def plain(name: str) -> str:
    """A layer's name as a module may have it."""
    return re.sub(r"[^0-9a-z]", "_", name.lower())


def _last(name: str) -> str:
    return plain(name.rpartition(".")[2])


def fits(net: Golden, step: Step, module: torch.nn.Module) -> bool:
    """Whether a module can hold a layer's parameters."""
    if step.type == "BatchNorm" or isinstance(module, TAKES_SCALE):
        channels = net.params[step.params[0]].size
        both = step.type == "BatchNorm" and isinstance(module, TAKES_SCALE)
        return both and getattr(module, "num_features", 0) == channels
    return held(net, step, module) is not None


def _by_weights(
    net: Golden,
    left: list[Step],
    calls: Sequence[Call],
    modules: Mapping[str, torch.nn.Module],
    found: Matched,
    guess: bool,
) -> None:
    """Pairs what has the same numbers; else, where all of it fits, one after the other."""
    free = [
        call
        for call in calls
        if call not in found.steps
        and (isinstance(modules[call.module], TAKES_SCALE) or _has_own(modules[call.module]))
    ]
    folded = any(_has_own(modules[c.module], TAKES_SCALE) for c in (*free, *found.steps))
    behind = [_scale_behind(net, step) for step in net.steps if step.type == "BatchNorm"]
    steps = [step for step in left if step.params and not (folded and step in behind)]

    def pair(step: Step, call: Call, how: str) -> None:
        found.add(call, step, how)
        free.remove(call)
        steps.remove(step)
        left.remove(step)

    for step in list(steps):
        same = [call for call in free if _same_numbers(net, step, modules[call.module])]
        if len(same) == 1:
            pair(step, same[0], "their weights")
    pairs = list(zip(steps, free, strict=False))
    if (
        guess
        and len(steps) == len(free)
        and all(fits(net, one, modules[two.module]) for one, two in pairs)
    ):
        for step, call in pairs:
            pair(step, call, "order")
    is_misfit = False
    for type_, kinds in HOLDERS.items() if guess else ():
        alone = [step for step in steps if step.type == type_]
        only = [call for call in free if isinstance(modules[call.module], kinds)]
        both = [*zip(alone, only, strict=False)]
        none_fits = not any(fits(net, s, modules[c.module]) for s, c in product(alone, only))
        fit = is_misfit and all(fits(net, step, modules[call.module]) for step, call in both)
        several = (none_fits or fit) and _in_order(both, calls, found)
        if len(alone) != len(only) or not (len(both) == 1 or several):
            continue
        is_misfit |= none_fits and bool(both)
        for step, call in both:  # if its parameters do not fit, that is what is wrong
            if not _is_folded(net, step, modules[call.module], modules, found):
                pair(step, call, "order")


HOLDERS: Mapping[str, tuple[type[torch.nn.Module], ...]] = {
    "Convolution": (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d),
    "Deconvolution": (torch.nn.modules.conv._ConvTransposeNd,),
    "Embed": (torch.nn.Embedding,),
    "InnerProduct": (torch.nn.Linear,),
    "PReLU": (torch.nn.PReLU,),
    "BatchNorm": TAKES_SCALE,
}
"""By type of layer, the modules of PyTorch's that compute that and nothing else."""

KINDS: Mapping[str, tuple[type[torch.nn.Module], ...]] = {
    "Dropout": (torch.nn.modules.dropout._DropoutNd,),
    "LRN": (torch.nn.LocalResponseNorm,),
    "Pooling": (
        torch.nn.modules.pooling._MaxPoolNd,
        torch.nn.modules.pooling._AvgPoolNd,
        torch.nn.modules.pooling._AdaptiveMaxPoolNd,
        torch.nn.modules.pooling._AdaptiveAvgPoolNd,
    ),
    "ReLU": (torch.nn.ReLU, torch.nn.LeakyReLU),
    "Softmax": (torch.nn.Softmax,),
}
"""By type of layer, the modules without parameters that compute it."""


def _by_kind(
    left: list[Step],
    calls: Sequence[Call],
    modules: Mapping[str, torch.nn.Module],
    found: Matched,
) -> None:
    """Pairs what has no name and no weights: where there are as many of a kind, in their order.

    Only where all that is matched then runs in the same order on both sides: in branches, which
    may run in any, the first of a kind need not be the first of the other's; or where there is one.
    """
    for type_, kinds in KINDS.items():
        steps = [step for step in left if step.type == type_]
        free = [
            call
            for call in calls
            if call not in found.steps and isinstance(modules[call.module], kinds)
        ]
        if not steps or len(steps) != len(free):
            continue
        pairs = [*zip(steps, free, strict=True)]
        known = {step.type for some in found.steps.values() for step in some}
        alone = len(pairs) == 1 and type_ not in known
        if alone or _in_order(pairs, calls, found):
            for step, call in pairs:
                found.add(call, step, "order")
                left.remove(step)


def _in_order(pairs: Sequence[tuple[Step, Call]], calls: Sequence[Call], found: Matched) -> bool:
    """Whether all that is matched, with these pairs, runs in the same order on both sides."""
    number = {call: place for place, call in enumerate(calls)}
    both = [*pairs, *((some[0], call) for call, some in found.steps.items())]
    order = [number.get(call, -1) for _, call in sorted(both, key=lambda each: each[0].index)]
    return -1 not in order and order == sorted(order)


def _has_own(module: torch.nn.Module, kinds: Any = torch.nn.Module) -> bool:
    """Whether a module of these kinds has parameters of its own."""
    return isinstance(module, kinds) and any(True for _ in module.parameters(False))


def _is_folded(
    net: Golden,
    step: Step,
    module: torch.nn.Module,
    modules: Mapping[str, torch.nn.Module],
    found: Matched,
) -> bool:
    """Whether a module has a bias that the layer has not, and its BatchNorm no module at all.

    Then its numbers are made of those of both, and whoever made them knows how.
    """
    behind = [each for each in net.steps if step.tops[0] in each.bottoms]
    if len(step.params) != 1 or [each.type for each in behind] != ["BatchNorm"]:
        return False
    free = {name for name, each in modules.items() if isinstance(each, TAKES_SCALE)}
    free -= {call.module for call in found.steps}
    return getattr(module, "bias", None) is not None and not free and not found.call_of(behind[0])


def _scale_behind(net: Golden, step: Step) -> Step | None:
    """The Scale that alone reads what a BatchNorm makes."""
    readers = [each for each in net.steps if step.tops[0] in each.bottoms]
    return readers[0] if len(readers) == 1 and readers[0].type == "Scale" else None


def _same_numbers(net: Golden, step: Step, module: torch.nn.Module) -> bool:
    known = held(net, step, module) if fits(net, step, module) else None
    if known is None or step.type == "BatchNorm":
        return False
    own = dict(module.named_parameters())
    theirs = {name: each.back(own[name].detach().float()) for name, each in known.items()}
    return all(
        np.array_equal(net.params[each.params[0]].reshape(-1), value.numpy().reshape(-1))
        for each, value in ((known[name], value) for name, value in theirs.items())
        if value is not None
    )


def _with_scales(
    net: Golden, left: list[Step], modules: Mapping[str, torch.nn.Module], found: Matched
) -> None:
    """A BatchNorm of PyTorch's with weights does what Caffe's Scale behind it does, too."""
    for call, steps in list(found.steps.items()):
        module = modules[call.module]
        if steps[0].type != "BatchNorm" or not isinstance(module, TAKES_SCALE):
            continue
        if not getattr(module, "affine", False):
            continue
        scale = _scale_behind(net, steps[0])
        if scale in left:
            found.steps[call] = (steps[0], scale)
            left.remove(scale)


CLOSE = 1e-3
"""How near a number is that is taken for a loss of the net's, as a part of that; which one it is
decides nothing but where the port is looked at."""


def near(net: Golden, name: str | int, value: float) -> bool:
    """Whether a number may be a loss of the net's."""
    loss = float(net.values[str(name)].reshape(-1)[0])
    return abs(value - loss) <= CLOSE * abs(loss)


def losses_of(
    net: Golden,
    numbers: Sequence[Number],
    known: Mapping[str, frozenset[str]],
    is_sum: bool,
    left_out: frozenset[str] = frozenset(),
    own: frozenset[float] = frozenset(),
) -> dict[int, Made]:
    """The operations between modules that make losses which the port only adds up, as in `Layout`.

    Args:
        net: the net.
        numbers: the operations of the port that made a number.
        known: by loss, the values of the net that it is made of, and that are known in the port.
        is_sum: whether the port returns one number, in which losses have their weights.
        left_out: the layers that the port may do without.
        own: the losses that calls of the port give.
    """
    free = [each for each in numbers if each.value not in own]
    exact = {
        name: [each for each in free if each.behind == behind and near(net, name, each.value)]
        for name, behind in known.items()
    }
    others = [each for some in exact.values() for each in some]
    others += [each for each in numbers if each.value in own]
    taken = {each.op[0] for each in others}.union(*(each.of for each in others))
    last = {each.op[0] for each in others}
    found = {}
    for name, behind in known.items():
        made = [each for each in free if each.behind == behind]
        if not exact[name]:  # nor is it another loss, what that is made of, or what is made of it
            made = [each for each in made if each.op[0] not in taken and last.isdisjoint(each.of)]
            same = [other for other in known if known[other] == behind and not exact[other]]
            made = _apart(made, len(same), same.index(name))
        if not made:
            continue
        weight = net.losses[name]
        alike = [each for each in made if near(net, name, each.value)]
        if not alike and net.maker[name].name in left_out:
            continue
        whole = [each for each in made[-1:] if near(net, name, each.value / weight)]
        weighed = [  # what is weighed next, whatever it is
            one
            for one, two in pairwise(made)
            if abs(two.value - weight * one.value) <= CLOSE * abs(two.value)
        ]
        best = (alike or whole or weighed[-1:] or made[-1:])[0]
        times = best.value / float(net.values[name].reshape(-1)[0] or 1)
        divided = normaliser(net, net.maker[name], times, CLOSE).startswith(COUNTED)
        is_last = best.op[1].strip("_").removeprefix("true") not in ("mul", "div", "divide")
        bare = alike or (not whole and (weighed or not is_sum or is_last or divided))
        found[best.op[0]] = Made(name, best.op[1], 1.0 if bare else weight)
    return found


def _apart(made: Sequence[Number], several: int, index: int) -> list[Number]:
    """One of several losses with what it is made of, where that is known; else all numbers."""

    def ends(some: Sequence[Number]) -> list[Number]:
        inside = frozenset[int]().union(*(each.of for each in some))
        return [each for each in some if each.op[0] not in inside]

    left = list(made)
    while len(ends(left)) < several:
        without = [[each for each in left if each is not end] for end in ends(left)]
        sums = [rest for rest in without if len(ends(rest)) > len(ends(left))]
        if not sums:
            return list(made)
        left = sums[0]
    if len(ends(left)) > several:
        return list(made)
    end = ends(left)[index]
    return [each for each in left if each is end or each.op[0] in end.of]


def ends_of(
    net: Golden,
    results: Mapping[str | int, torch.Tensor],
    left_out: frozenset[str],
    named: Mapping[str | int, str] = MappingProxyType({}),
) -> dict[str | int, str]:
    """Which of the net's values a port returns: by name, else the outputs in order or by shape.

    Args:
        net: the net.
        results: what the port returns.
        left_out: the layers whose outputs it does without.
        named: the value that a result is known to be.
    """

    def alike_in_shape(key: str | int, name: str) -> bool:
        return alike(net.values[name].shape, tuple(results[key].shape))

    found: dict[str | int, str] = {
        key: str(key) for key in results if str(key) in net.values and alike_in_shape(key, str(key))
    }
    for key, name in named.items():
        if name and key not in found:
            moved = _moved(net, name)
            found[key] = moved if moved and alike_in_shape(key, moved) else name
    rest = [key for key in results if key not in found]
    names = [
        name
        for name in net.outputs
        if name not in found.values() and net.maker[name].name not in left_out
    ]
    pairs = list(zip(rest, names, strict=False))
    if len(rest) == len(names) and all(alike_in_shape(*pair) for pair in pairs):
        return found | dict(pairs)
    fitting = {key: [name for name in names if alike_in_shape(key, name)] for key in rest}
    return found | {key: some[0] for key, some in fitting.items() if len(some) == 1}


def _moved(net: Golden, name: str) -> str:
    """The output of the net that is this value in another shape, as Flatten makes it; or ""."""
    while name not in net.outputs:
        reads = [step for step in net.steps if name in step.bottoms]
        if len(reads) != 1 or reads[0].type not in SHARING:
            return ""
        name = reads[0].tops[0]
    return name
