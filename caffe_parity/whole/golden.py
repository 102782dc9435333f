"""What a real Caffe computes in a net, layer by layer: each tensor, its diff, each parameter's.

The layers run one at a time, and what each has written is read before the next one can overwrite
it, so that an in-place layer's input is known as well as its output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from caffe_parity.caffe.client import Op
from caffe_parity.contract import Array32, BadRequest, Case, Shape
from caffe_parity.engine.caffe_net import CaffeNet
from caffe_parity.progress import PROGRESS

SPLIT = "Split"
"""The type of the layers that Caffe inserts where several layers read one blob."""

GIVEN = "_input"
"""What the worker appends to the name of an input whose gradient is asked for: a Bias of 0 makes
the blob itself from it."""

KEEPER = "KeepsDiffs"
"""The layer that the worker puts behind the outputs of Python layers, for a backward from there."""


@dataclass(frozen=True, eq=False)
class Step:
    """A layer of the net.

    Attributes:
        index: in the order in which Caffe runs them, Splits among them.
        name, type: as the net says.
        bottoms, tops: the values that it reads and makes; see `Golden.values`.
        fields: of its own message, such as kernel_size, with Caffe's defaults.
        params: the names of its parameters, "NAME[0]" and so on; of shared ones, the owner's.
        bottom_diffs: what its backward wrote, by bottom's position; only those that it writes.
    """

    index: int
    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    fields: Mapping[str, Any]
    params: tuple[str, ...] = ()
    bottom_diffs: dict[int, Array32] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Golden:
    """A net in a real Caffe on one input.

    A value is what one layer makes: a blob, or, where layers work on it in place, the blob as one
    of them leaves it, "BLOB (LAYER)" but for the last one.

    Attributes:
        steps: the layers without Splits, in Caffe's order.
        values: float32, by name of the value.
        diffs: of the values that have one.
        params, param_diffs: by name, "LAYER[INDEX]".
        learned: the parameters that get a gradient; of shared ones the first.
        inputs: the values that are fed, in the net's order.
        phase: "TRAIN" or "TEST".
        running: the exponents of its LRN layers across channels.
        labels: the inputs that have no gradient, and that nothing rounds.
        losses: the values with a loss weight, and that.
        owned: the parameters that are no other layer's; those of a BatchNorm are not among them.
    """

    steps: Sequence[Step]
    values: Mapping[str, Array32]
    diffs: Mapping[str, Array32]
    params: Mapping[str, Array32]
    param_diffs: Mapping[str, Array32]
    learned: Sequence[str]
    inputs: Sequence[str]
    phase: str
    running: frozenset[float]
    labels: frozenset[str]
    losses: Mapping[str, float]
    owned: Sequence[str]

    @cached_property
    def maker(self) -> Mapping[str, Step]:
        """The layer that makes each value; inputs have none."""
        return {top: step for step in self.steps for top in step.tops}

    @cached_property
    def outputs(self) -> list[str]:
        """The values that no layer reads."""
        read = {bottom for step in self.steps for bottom in step.bottoms}
        return [top for step in self.steps for top in step.tops if top not in read]


def golden(
    net: CaffeNet, case: Case, phase: str, given: Mapping[str, Array32] | None = None
) -> Golden:
    """Runs a net in Caffe, forward and backward, one layer after the other.

    The parameters are those of the net's weights, or what its fillers make. A net without a loss
    gets multiples of 1/4 as the diffs of its outputs.

    Args:
        net: the net.
        case: its inputs.
        phase: "TRAIN" or "TEST".
        given: parameters, `param[0]` and so on in Caffe's order, and the diffs of outputs,
            `diff[NAME]`, in place of the net's own.

    Raises:
        VariantFailure: Caffe crashed, hung, or a layer raised.
        BadRequest: the net cannot be built, or not on these inputs, or has nothing that is given.
        NoCaffe, InstallError: there is no Caffe.
    """
    arrays = case.arrays(case)
    wanted = list(case.wanted)
    *_, graph = net.request([*_built(net, case, phase, wanted), {"op": "graph"}])
    wanted = [name for name in wanted if name not in _labels(graph)]
    build = _built(net, case, phase, wanted)
    *_, made, graph = net.request([*build, {"op": "graph"}])
    build += _set(made, given or {}) or _statistics(net, build, graph, case.seed)
    feeding: list[Op] = [{"op": "set", "blob": name, "array": arrays[name]} for name in case.fed]
    said = net.described(case, phase)
    losses = said["losses"]
    plan = _Reading(graph, made, [] if losses else said["outputs"], given or {})
    PROGRESS.tell("running caffe, layer by layer")
    replies = net.request([*build, *feeding, *plan.ops])[len(build) + len(feeding) :]
    return plan.golden(replies, phase, frozenset(said["running"]), frozenset(wanted), losses)


LABELS = {
    "SoftmaxWithLoss": (1, 2),
    "SigmoidCrossEntropyLoss": (1, 2),
    "HingeLoss": (1,),
    "InfogainLoss": (1, 2),
    "MultinomialLogisticLoss": (1,),
    "ContrastiveLoss": (2,),
}
"""By type, the bottoms for which Caffe's layer has no gradient: with one, it aborts."""


def _labels(graph: Mapping[str, Any]) -> set[str]:
    """The blobs of which no gradient may be asked."""
    return {
        name
        for layer in graph["layers"]
        for position, name in enumerate(layer["bottoms"])
        if position in LABELS.get(layer["type"], ())
    }


def _set(made: Mapping[str, Any], given: Mapping[str, Array32]) -> list[Op]:
    """Sets the parameters that are given.

    Raises:
        BadRequest: the net has not so many.
    """
    ops: list[Op] = []
    for name, array in given.items():
        if not name.startswith("param["):
            continue
        number = int(name[6:-1]) if name[6:-1].isdecimal() else len(made["params"])
        if number >= len(made["params"]):
            raise BadRequest(f"--inputs: {name}, and the net has {len(made['params'])} parameters")
        layer, index = made["params"][number]
        ops.append({"op": "set_param", "layer": layer, "index": index, "array": array})
    return ops


def _statistics(net: CaffeNet, build: list[Op], graph: Mapping[str, Any], seed: int) -> list[Op]:
    """Sets the statistics of each BatchNorm that has none yet: with 0 it multiplies by 316.

    Means are normal, variances from 1/2 to 3/2, and both are divided by 1. Those of a file of
    weights stay.
    """
    names = [each["name"] for each in graph["layers"] if each["type"] == "BatchNorm"]
    if net.weights or not names:
        return []
    reads: list[Op] = [{"op": "param", "layer": name, "index": 0} for name in names]
    values = net.request([*build, *reads])[len(build) :]
    rng = np.random.RandomState(seed)
    ops: list[Op] = []
    for name, value in zip(names, values, strict=True):
        shape = value["array"].shape
        drawn = rng.standard_normal(shape), rng.uniform(0.5, 1.5, shape), np.ones(1)
        ops += [
            {"op": "set_param", "layer": name, "index": index, "array": each.astype(np.float32)}
            for index, each in enumerate(drawn)
        ]
    return ops


def _built(net: CaffeNet, case: Case, phase: str, wanted: Sequence[str]) -> list[Op]:
    edits: Op = {
        "shapes": {name: case.shapes[name] for name in case.fed},
        "outputs_as_losses": True,
        "gradients": list(wanted),
        "phase": phase,
    }
    if net.weights:
        edits["weights"] = net.weights
    ops: list[Op] = [{"op": "load", "library": each} for each in net.loaded(case)]
    seed: Op = {"op": "seed", "seed": case.seed % 2**31}  # of the fillers
    return [*ops, seed, {"op": "net", "text": net.prototxt(case), "edits": edits, "path": net.path}]


class _Reading:
    """The ops that run a net layer by layer, and what their answers are."""

    def __init__(
        self,
        graph: Mapping[str, Any],
        made: Mapping[str, Any],
        driven: Sequence[str],
        given: Mapping[str, Array32],
    ) -> None:
        self.layers: list[Any] = [each for each in graph["layers"] if each["name"] != KEEPER]
        self.written = {*graph["written"], *driven}
        self.params = [(layer, index) for layer, index in made["params"]]
        self.owned = [f"{layer}[{index}]" for layer, index, _ in made["owned"]]
        self.learned = [f"{layer}[{index}]" for layer, index, rate in made["owned"] if rate]
        self.ops: list[Op] = []
        self.places: dict[tuple[str, Any, Any], int] = {}
        self.driven = {
            name: given.get(f"diff[{name}]", _diff(tuple(graph["shapes"][name]), number))
            for number, name in enumerate(driven)
        }
        for layer, index in self.params:
            self._read("param", layer, index, {"layer": layer, "index": index})
        for number, layer in enumerate(self.layers):
            self.ops.append({"op": "forward", "layer": number})
            for name in layer["tops"]:
                self._read("data", number, name, {"blob": name})
        self.ops.append({"op": "clear_params"})
        self.ops += [
            {"op": "set_diff", "blob": name, "array": each} for name, each in self.driven.items()
        ]
        for number, layer in reversed(list(enumerate(self.layers))):
            for name in layer["tops"]:
                self._read("diff", number, name, {"blob": name})
            self.ops.append({"op": "backward", "layer": number})
            for position, name in enumerate(layer["bottoms"]):
                if name in self.written:
                    self._read("diff", (number, position), name, {"blob": name})
        for layer, index in self.params:
            self._read("param_diff", layer, index, {"layer": layer, "index": index})

    def _read(self, op: str, of: Any, name: Any, fields: Op) -> None:
        self.places[op, of, name] = len(self.ops)
        self.ops.append({"op": op, **fields})

    def golden(
        self,
        replies: Sequence[Op],
        phase: str,
        running: frozenset[float],
        wanted: frozenset[str],
        losses: Sequence[str],
    ) -> Golden:
        """What the answers say."""

        def read(op: str, of: Any, name: Any) -> Array32:
            array: Array32 = replies[self.places[op, of, name]]["array"]
            return array

        makers: dict[str, int] = {}  # the last layer but Splits that makes a blob
        for number, layer in enumerate(self.layers):
            makers |= dict.fromkeys(layer["tops"], number)
        current: dict[str, str] = {}  # blob -> the value that it holds
        steps, values, diffs = [], {}, {}
        inputs = []
        owned: dict[str, list[str]] = {}
        for layer, index in self.params:
            owned.setdefault(layer, []).append(f"{layer}[{index}]")
        for number, layer in enumerate(self.layers):
            bottoms = tuple(current[name] for name in layer["bottoms"])
            if layer["type"] == "Input" and all(each.endswith(GIVEN) for each in layer["tops"]):
                current |= {name: name for name in layer["tops"]}
                continue
            if layer["type"] == SPLIT:
                current |= dict.fromkeys(layer["tops"], bottoms[0])
                continue
            is_input = layer["type"] == "Input" or layer["bottoms"] == [
                f"{layer['tops'][0]}{GIVEN}"
            ]
            tops = []
            for name in layer["tops"]:
                is_last = makers[name] == number
                value = name if is_last else f"{name} ({'input' if is_input else layer['name']})"
                current[name] = value
                tops.append(value)
                values[value] = read("data", number, name)
                if name in self.written or not is_input:
                    diffs[value] = read("diff", number, name)
            if is_input:
                inputs += [each for each in tops if not each.endswith(GIVEN)]
                continue
            step = Step(
                number,
                layer["name"],
                layer["type"],
                bottoms,
                tuple(tops),
                layer["fields"],
                tuple(owned.get(layer["name"], ())),
            )
            for position, name in enumerate(layer["bottoms"]):
                if ("diff", (number, position), name) in self.places:
                    step.bottom_diffs[position] = read("diff", (number, position), name)
            steps.append(step)
        names = [f"{layer}[{index}]" for layer, index in self.params]
        pairs = list(zip(names, self.params, strict=True))
        return Golden(
            steps,
            values,
            diffs,
            {name: read("param", *each) for name, each in pairs},
            {name: read("param_diff", *each) for name, each in pairs},
            self.learned,
            inputs,
            phase,
            running,
            frozenset(name for name in inputs if name.removesuffix(" (input)") not in wanted),
            {name: float(diffs[name].flat[0]) for name in losses},
            self.owned,
        )


def _diff(shape: Shape, seed: int) -> Array32:
    """Multiples of 1/4 from -2 to 2, but for 0."""
    rng = np.random.RandomState(seed)
    signs = rng.choice(np.array([-1, 1], np.float32), shape)
    return np.asarray(signs * rng.randint(1, 9, shape) / 4, np.float32)
