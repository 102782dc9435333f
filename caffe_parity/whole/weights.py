"""Puts Caffe's parameters into a port's modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from caffe_parity.contract import Finding, Shape
from caffe_parity.engine.compare import alike
from caffe_parity.whole.golden import Golden, Step
from caffe_parity.whole.layouts import (
    AS_IT_IS,
    GATES,
    NOTHING,
    TURNED,
    Held,
    held,
    of_cell,
    of_functions,
    of_static,
)
from caffe_parity.whole.matching import Matched, fits, plain
from caffe_parity.whole.port import RECURRENT, Call, Tensors
from caffe_parity.whole.recipe import hooked


@dataclass(frozen=True, eq=False)
class Weights:
    """Which parameter of a port holds which of the net's.

    Attributes:
        places: what each of the port's parameters and buffers is made of, where it is the net's.
        findings: what does not fit.
        loose: by tensor that no module of a layer holds, how it was found to be the net's.
        empty: the port's parameters that may be a layer's, and got none of the net's numbers.
    """

    places: Mapping[str, Held]
    findings: tuple[Finding, ...]
    loose: Mapping[str, str] = field(default_factory=dict)
    empty: tuple[str, ...] = ()

    @cached_property
    def known(self) -> set[str]:
        """The net's parameters that are in the port."""
        return {name for each in self.places.values() for name in each.params}

    def made_of(self, name: str) -> tuple[str, ...]:
        """The net's parameters that one of the port's holds; () for none."""
        found = self.places.get(name)
        return found.params if found else ()

    def state(
        self,
        own: Mapping[str, torch.Tensor],
        params: Tensors,
        dtype: torch.dtype,
    ) -> Tensors:
        """A port's parameters and buffers with the net's in their places.

        Args:
            own: the port's, by name, as `of_port` gives them.
            params: the net's, by name; gradients flow to them.
            dtype: the precision of what stays the port's own.
        """
        given = {name for name, each in self.places.items() if each.params}
        made = {
            name: each.detach().to(dtype) if each.is_floating_point() else each.clone()
            for name, each in own.items()
            if name not in given
        }
        for name, each in self.places.items():
            if name not in own:
                continue
            if not each.params:
                made[name] = torch.zeros_like(made[name])
                continue
            value = each.of([params[one] for one in each.params])
            if not learns(own[name]):  # and a module may write into a buffer
                value = value.detach().clone()
            made[name] = value.reshape(own[name].shape)
            for hook in (own[name]._backward_hooks or {}).values():
                made[name] = hooked(made[name], hook)
        return made


def learns(tensor: torch.Tensor) -> bool:
    """Whether a port trains one of its own tensors: a buffer it does not, nor what is frozen."""
    return isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad


def of_port(model: torch.nn.Module) -> Tensors:
    """A port's parameters and buffers."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def weights_of(
    net: Golden, matched: Matched, modules: Mapping[str, torch.nn.Module], calls: Sequence[Call]
) -> Weights:
    """Where the parameters of the layers that are matched belong: see `layouts.held`.

    The weight and bias of a PyTorch's BatchNorm are those of the Scale behind Caffe's.
    """
    places: dict[str, Held] = {}
    findings: list[Finding] = []
    called = {call.module for call in calls}
    for call, steps in sorted(matched.steps.items(), key=lambda each: each[1][0].index):
        module, prefix = modules[call.module], f"{call.module}."
        for step in steps:
            found = (held(net, step, module) if step.params else None) or {}
            places |= {
                prefix + name: each for name, each in found.items() if prefix + name not in places
            }
            if step.params and not found and step.type != "BatchNorm":
                findings.append(_misfit(net, step, module, call.module))
    for step, name in _uncalled(net, matched, modules, called):
        places |= {
            f"{name}.{k}": each for k, each in (held(net, step, modules[name]) or {}).items()
        }
    own = of_port(modules[""])
    places = {name: each for name, each in places.items() if name in own}  # shared ones once
    misfits = {each.tensor for each in findings}
    free = {
        name: each
        for name, each in own.items()
        if name not in places
        and each.is_floating_point()
        and (
            (owner := name.rpartition(".")[0]) not in called
            or any(True for _ in modules[owner].children())
        )
    }
    homeless = _homeless(net, matched, places)
    used = {call.module for call in matched.steps}
    used |= {name for name, each in modules.items() if isinstance(each, RECURRENT)}
    inside = {
        name: each
        for name, each in own.items()
        if name not in places and name not in free and name.rpartition(".")[0] not in used
    }
    loose = _loose(net, homeless, free, inside)
    places |= {name: each for name, (each, _) in loose.items()}
    without = len(homeless) > len([each for each in homeless if _is_held(each, places)])
    empty: list[str] = []
    for name, value in modules[""].named_parameters():
        owners = [owner for owner in misfits if name.startswith(f"{owner}.")]
        owner = name.rpartition(".")[0]
        unused = owner and owner not in called and not any(True for _ in modules[owner].children())
        if name in places or unused or owners:
            continue
        if without:
            empty.append(name)
            continue
        words = (
            f"the port's parameter {name} {tuple(value.shape)} is none of the net's: Caffe has "
            "nothing that it could learn there"
        )
        findings.append(Finding("parameters", words, name, "extra"))
    how = {name: way for name, (_, way) in loose.items()}
    return Weights(places, tuple(findings), how, tuple(empty))


def _is_held(step: Step, places: Mapping[str, Held]) -> bool:
    return {one for each in places.values() for one in each.params}.issuperset(step.params)


def _homeless(net: Golden, matched: Matched, places: Mapping[str, Held]) -> list[Step]:
    """The layers with parameters of their own that no module holds."""
    steps = {step.index for some in matched.steps.values() for step in some}
    return [
        step
        for step in net.steps
        if step.params and step.index not in steps and not _is_held(step, places)
        if step.type == "BatchNorm" or set(step.params) <= set(net.owned)
    ]


def _loose(
    net: Golden, steps: Sequence[Step], free: Tensors, inside: Tensors
) -> Mapping[str, tuple[Held, str]]:
    """What tensors of the port are made of that functions take, and no module of a layer holds.

    Where the port has as many as those layers, all of whose shapes fit, in their order; else those
    whose shape no other has, on either side. Those of modules that no layer has (`inside`) may be
    a recurrent layer's, which a port may make of several.
    """
    found: dict[str, tuple[Held, str]] = {}
    for step in [each for each in steps if each.type in ("LSTM", "RNN")]:
        left = {name: each for name, each in (free | inside).items() if name not in found}
        if made := _of_recurrent(net, step, left):
            how = "their names" if any(each.way == NOTHING for each in made.values()) else ""
            found |= {name: (each, how or "their shapes") for name, each in made.items()}
            steps = [each for each in steps if each is not step]
    free = {name: each for name, each in free.items() if name not in found}
    blobs = [of_functions(step) for step in steps]
    found |= _of_their_names(net, steps, free)
    free = {name: each for name, each in free.items() if name not in found}
    housed = {each for each, _ in found.values()}
    blobs = [[each for each in some if each[0] not in housed] for some in blobs]
    wanted = [[each for each, learned in some if learned] for some in blobs]
    kept = [[each for each, learned in some if not learned] for some in blobs]
    for some, is_parameter in ((wanted, True), (kept, False)):
        needed = [one for each in some for one in each]
        own = {
            name: tuple(value.shape)
            for name, value in free.items()
            if isinstance(value, torch.nn.Parameter) == is_parameter
        }
        pairs = list(zip(needed, own.items(), strict=False))
        if len(needed) == len(own) and all(_goes(net, each, shape) for each, (_, shape) in pairs):
            found |= {name: (each, "order") for each, (name, _) in pairs}
            continue
        fitting = [[name for name, shape in own.items() if _goes(net, e, shape)] for e in needed]
        taken = Counter(name for names in fitting for name in names)
        found |= {
            names[0]: (each, "their shapes")
            for each, names in zip(needed, fitting, strict=True)
            if len(names) == 1 and taken[names[0]] == 1
        }
    return found


def _of_their_names(
    net: Golden, steps: Sequence[Step], free: Tensors
) -> Mapping[str, tuple[Held, str]]:
    """Tensors whose names begin like a layer's, as conv1_weight, where one only has the shape."""
    stems = sorted(((plain(step.name), step) for step in steps), key=lambda each: -len(each[0]))
    groups: dict[int, list[str]] = {}
    for name in free:
        last = plain(name.rpartition(".")[2])
        owner = next((step for stem, step in stems if stem and last.startswith(stem)), None)
        if owner:
            groups.setdefault(owner.index, []).append(name)
    found: dict[str, tuple[Held, str]] = {}
    for step in steps:
        learned = [each for each, is_learned in of_functions(step) if is_learned and each.params]
        fitting = [
            [
                name
                for name in groups.get(step.index, ())
                if _goes(net, each, tuple(free[name].shape))
            ]
            for each in learned
        ]
        if all(len(names) == 1 for names in fitting) and len({n for [n] in fitting}) == len(
            fitting
        ):
            found |= {
                names[0]: (each, "their names")
                for each, names in zip(learned, fitting, strict=True)
            }
    return found


def _of_recurrent(net: Golden, step: Step, free: Tensors) -> Mapping[str, Held]:
    """What tensors hold a recurrent layer's parameters: a cell's by name, the rest by its shape."""
    shapes = {name: tuple(each.shape) for name, each in free.items()}
    cells = [
        {stem + name: each for name, each in of_cell(step, ending, joined).items()}
        for first in free
        if first.endswith(("weight_ih", "weight_ih_l0"))
        for stem, _, ending in [first.rpartition("weight_ih")]
        for joined in (False, True)
    ]
    for cell in (*cells, {}):
        if not all(name in free and _goes(net, each, shapes[name]) for name, each in cell.items()):
            continue
        held = {param for each in cell.values() for param in each.params}
        rest = [name for name in step.params if name not in held]
        gates = step.type == "LSTM" and cell
        more: dict[str, Held] = {}
        for param in rest:
            each = Held((param,), GATES if gates else AS_IT_IS)
            fitting = [n for n in free if n not in cell and _goes(net, each, shapes[n])]
            if len(fitting) == 1:
                more[fitting[0]] = each
        if len(more) == len(rest) or (cell and not of_static(step)):
            return {**cell, **more}
    return {}


def _goes(net: Golden, each: Held, shape: Shape) -> bool:
    if not each.params:  # zeros
        return True
    return alike(each.shape(net), shape[::-1] if each.way == TURNED else shape)


def _uncalled(
    net: Golden, matched: Matched, modules: Mapping[str, torch.nn.Module], called: set[str]
) -> Iterator[tuple[Step, str]]:
    """The layers whose module the port does not call: it has the weights for a function."""
    for step in net.steps:
        if not step.params or matched.call_of(step):
            continue
        named = [name for name in modules if name and plain(name) == plain(step.name)]
        if named and named[0] not in called and fits(net, step, modules[named[0]]):
            yield step, named[0]


def _misfit(net: Golden, step: Step, module: torch.nn.Module, name: str) -> Finding:
    theirs = ", ".join(str(net.params[each].shape) for each in step.params)
    own = ", ".join(f"{each} {tuple(value.shape)}" for each, value in module.named_parameters())
    words = (
        f"the layer {step.name} has parameters {theirs}, the port's {name} "
        f"({type(module).__name__}) {own or 'none'}: they cannot be put there"
    )
    return Finding("parameters", words, name, "shape")
