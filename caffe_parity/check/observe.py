"""Runs a net through everything that a check asks of it, and records what came out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from caffe_parity.caffe.client import Caffe, Op
from caffe_parity.contract import Array32, Shape
from caffe_parity.engine.parameters import ARGUMENT, Parameter
from caffe_parity.engine.random_rounding import GRADIENT
from caffe_parity.engine.sources import Net

HUGE, ONE = 2.0**100, 1.0
"""What diffs are filled with: the first is no gradient; the second keeps what is added to it."""

Arrays = dict[str, Array32]


@dataclass(frozen=True)
class Plan:
    """What is asked of a net.

    Attributes:
        net: the net.
        shapes: its inputs.
        outputs: the tops that are compared.
        gradients: the inputs whose gradient is asked for.
        libraries: compiled layers to load.
        is_loss: whether the net has a loss of its own.
        params: its parameter blobs, where the reference takes them.
        in_place: the inputs that a layer works on in place, so that they may change.
    """

    net: Net
    shapes: Mapping[str, Shape]
    outputs: tuple[str, ...]
    gradients: tuple[str, ...]
    libraries: tuple[str, ...]
    is_loss: bool
    params: tuple[Parameter, ...] = ()
    in_place: frozenset[str] = frozenset()

    @property
    def learned(self) -> tuple[str, ...]:
        """The parameters whose gradient Caffe computes."""
        return tuple(each.name for each in self.params if each.learned)

    @property
    def differentiated(self) -> tuple[str, ...]:
        """The inputs and parameters whose gradients are compared."""
        return (*self.gradients, *self.learned)


@dataclass
class Observation:
    """What one net did with one case.

    Attributes:
        warm_up: the tops and diffs of a pass with other inputs, run first.
        tops: the tops of the first pass with the case's inputs.
        diffs: for each upstream gradient, the diffs after a forward and a backward.
        again: the diffs of another backward without a forward; those of inputs held 1 before,
            those of parameters the gradient of the backward before.
        second_tops, second_diffs: of another whole pass.
        after_forward, after_backward: the data of inputs and learned parameters, which no layer
            may change but in place.
    """

    warm_up: Arrays = field(default_factory=dict)
    tops: Arrays = field(default_factory=dict)
    diffs: list[Arrays] = field(default_factory=list)
    again: Arrays = field(default_factory=dict)
    second_tops: Arrays = field(default_factory=dict)
    second_diffs: Arrays = field(default_factory=dict)
    after_forward: Arrays = field(default_factory=dict)
    after_backward: Arrays = field(default_factory=dict)


class _Script:
    """Ops, and where the arrays that they answer with belong."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ops = net_ops(plan)
        self.slots: list[tuple[Arrays, str]] = []
        self.places = {
            each.name: {"layer": each.layer, "index": each.index} for each in plan.params
        }

    def forward(self, values: Arrays) -> None:
        self.poison(HUGE)  # before the forward, since some layers (HingeLoss) keep theirs in a diff
        for name, each in values.items():
            if name in self.places:
                self.ops += [{"op": "set_param", **self.places[name], "array": each}]
            else:
                self.ops += [{"op": "set", "blob": name, "array": each}]
        self.ops += [{"op": "forward"}]

    def poison(self, value: float) -> None:
        self.ops += [{"op": "poison", "value": value}]

    def backward(self, upstream: Arrays, clear_params: bool = True) -> None:
        if clear_params:
            self.ops += [{"op": "clear_params"}]
        for name, each in upstream.items():
            self.ops += [{"op": "set_diff", "blob": name, "array": each}]
        self.ops += [{"op": "backward"}]

    def read(self, what: str, names: Sequence[str], into: Arrays) -> None:
        for name in names:
            if name in self.places:
                op = {"data": "param", "diff": "param_diff"}[what]
                self.ops += [{"op": op, **self.places[name]}]
            else:
                self.ops += [{"op": what, "blob": name}]
            self.slots += [(into, name)]

    def run(self, caffe: Caffe) -> None:
        replies = [reply for reply in caffe.request(self.ops) if "array" in reply]
        for (into, name), reply in zip(self.slots, replies, strict=True):
            into[name] = reply["array"]


def net_ops(plan: Plan) -> list[Op]:
    """The ops that load compiled layers and build the net."""
    edits = {
        "shapes": {name: list(shape) for name, shape in plan.shapes.items()},
        "gradients": list(plan.gradients),
        "outputs_as_losses": True,
    }
    if plan.is_loss:
        edits["loss_weight"] = 1.0
    load: list[Op] = [{"op": "load", "library": each} for each in plan.libraries]
    net: Op = {"op": "net", "text": plan.net.text, "path": plan.net.path, "edits": edits}
    return [*load, net]


def with_params(caffe: Caffe, plan: Plan) -> Plan:
    """Builds the net once, to see that it can be and which parameters it has.

    Raises:
        CaffeError: it cannot be built.
    """
    build = net_ops(plan)
    built = caffe.request(build)[-1]
    read: list[Op] = [
        {"op": "param", "layer": layer, "index": index} for layer, index, _ in built["owned"]
    ]
    values = caffe.request([*build, *read])[len(build) :] if read else []
    params = tuple(
        Parameter(f"{ARGUMENT}[{number}]", layer, index, bool(lr_mult), value["array"])
        for number, ((layer, index, lr_mult), value) in enumerate(
            zip(built["owned"], values, strict=True)
        )
    )
    return replace(plan, params=params, in_place=frozenset(_in_place(built["text"])))


def _in_place(text: str) -> Iterator[str]:
    """The blobs that are a bottom and a top of one layer, in a net as protobuf prints it."""
    for layer in text.split("\nlayer {"):
        bottoms = re.findall(r'^  bottom: "(.*)"$', layer, re.MULTILINE)
        tops = re.findall(r'^  top: "(.*)"$', layer, re.MULTILINE)
        yield from set(bottoms) & set(tops)


def observe(
    caffe: Caffe, plan: Plan, inputs: Arrays, other: Arrays, upstreams: Sequence[Arrays]
) -> Observation:
    """Builds the net and runs one case on it.

    Args:
        caffe: where it runs.
        plan: what is asked.
        inputs: the case, parameters included.
        other: those of the pass that goes before.
        upstreams: the tops' diffs, by top; one forward and backward for each.

    Raises:
        CaffeError: a layer raised, or the process died or hung.
    """
    seen = Observation()
    script = _Script(plan)
    names = plan.differentiated
    kept = [name for name in (*plan.shapes, *plan.learned) if name not in plan.in_place]
    warm_diffs: Arrays = {}
    script.forward(other)
    script.read("data", plan.outputs, seen.warm_up)
    script.backward(upstreams[0])
    script.read("diff", names, warm_diffs)
    for index, upstream in enumerate(upstreams):
        script.forward(inputs)
        if index == 0:
            script.read("data", plan.outputs, seen.tops)
            script.read("data", kept, seen.after_forward)
        script.backward(upstream)
        seen.diffs.append({})
        script.read("diff", names, seen.diffs[-1])
    script.forward(inputs)
    script.backward(upstreams[0])
    script.poison(ONE)
    script.backward(upstreams[0], clear_params=False)
    script.read("diff", names, seen.again)
    script.read("data", kept, seen.after_backward)
    script.forward(inputs)
    script.read("data", plan.outputs, seen.second_tops)
    script.backward(upstreams[0])
    script.read("diff", names, seen.second_diffs)
    script.run(caffe)
    seen.warm_up |= {GRADIENT + name: each for name, each in warm_diffs.items()}
    return seen
