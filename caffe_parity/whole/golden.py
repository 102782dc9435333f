"""What a real Caffe computes in a net, layer by layer: each tensor, its diff, each parameter's.

The layers run one at a time, and what each has written is read before the next one can overwrite
it, so that an in-place layer's input is known as well as its output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from caffe_parity.caffe.client import Op
from caffe_parity.contract import Array32, BadRequest, Case, Shape
from caffe_parity.engine.caffe_net import CaffeNet
from caffe_parity.engine.compare import Bools
from caffe_parity.progress import PROGRESS
from caffe_parity.whole.prototxt import with_batch_statistics

SPLIT = "Split"
"""The type of the layers that Caffe inserts where several layers read one blob."""

GIVEN = "_input"
"""What the worker appends to the name of an input whose gradient is asked for: a Bias of 0 makes
the blob itself from it."""

SHARING = (SPLIT, "Flatten", "Reshape")
"""The types of layers whose tops are the memory of their bottom."""

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
        said: the fields of LayerParameter that are set, as the catalogue takes them.
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
    said: Mapping[str, Any] = field(default_factory=dict)


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
        unfilled: the layers for whose parameters the file of weights has none, so that they are as
            the fillers make them; none where there is no file.
        others: the layers of that file that the net has not.
        masks: by the top of each Dropout that draws, where it keeps an element.
        after: the parameters that a forward changes, as it leaves them: those of a BatchNorm.
        messages: the fields of every message of caffe.proto.
        stacked: the layers of branches that are told as one, since the port runs them as one batch.
        memory: by value, the blob whose memory holds it, or held it.
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
    unfilled: Sequence[str] = ()
    others: Sequence[str] = ()
    masks: Mapping[str, Bools] = field(default_factory=dict)
    after: Mapping[str, Array32] = field(default_factory=dict)
    messages: Mapping[str, Any] = field(default_factory=dict)
    stacked: Sequence[tuple[str, ...]] = ()
    memory: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def maker(self) -> Mapping[str, Step]:
        """The layer that makes each value; inputs have none."""
        return {top: step for step in self.steps for top in step.tops}

    @cached_property
    def behind(self) -> Mapping[str, frozenset[str]]:
        """By value, all those that it is made of."""
        found: dict[str, frozenset[str]] = dict.fromkeys(self.inputs, frozenset())
        for step in self.steps:
            below = frozenset(step.bottoms).union(*(found.get(one, ()) for one in step.bottoms))
            found |= dict.fromkeys(step.tops, below)
        return found

    @cached_property
    def fixed(self) -> frozenset[str]:
        """The values that nothing rounds: labels, and what layers make of them alone."""
        free = {
            top
            for step in self.steps
            for top in step.tops
            if not step.bottoms and (self.values[top] != np.rint(self.values[top])).any()
        }
        return frozenset(name for name in self.constant if name not in free)

    @cached_property
    def constant(self) -> frozenset[str]:
        """The values that no gradient goes to: nothing below them is learned, or asked for one."""
        found = set(self.labels)
        for step in self.steps:
            shared = set(step.params).difference(self.owned) and step.type != "BatchNorm"
            learns = shared or not set(step.params).isdisjoint(self.learned)
            if found.issuperset(step.bottoms) and not learns:
                found |= set(step.tops)
        return frozenset(found)

    @cached_property
    def outputs(self) -> list[str]:
        """The values that no layer reads."""
        read = {bottom for step in self.steps for bottom in step.bottoms}
        return [top for step in self.steps for top in step.tops if top not in read]


def golden(
    net: CaffeNet,
    case: Case,
    phase: str,
    given: Mapping[str, Array32] | None = None,
    drawn: bool = True,
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
        drawn: whether weights and statistics that nothing gives are drawn, or stay 0.

    Raises:
        VariantFailure: Caffe crashed, hung, or a layer raised.
        BadRequest: the net cannot be built, or not on these inputs, or has nothing that is given;
            or the file of weights has parameters of no layer of it.
        NoCaffe, InstallError: there is no Caffe.
    """
    arrays = case.arrays(case)
    wanted = list(case.wanted)
    *_, graph = net.request([*built(net, case, phase, wanted), {"op": "graph"}])
    wanted = [name for name in wanted if name not in _labels(graph)]
    build = built(net, case, phase, wanted)
    *_, made, graph, about = net.request([*build, {"op": "graph"}, {"op": "fields"}])
    lacking = net.must_have_weights(made)
    feeding: list[Op] = [{"op": "set", "blob": name, "array": arrays[name]} for name in case.fed]
    zeros: list[Op] = []
    statistics: list[Op] = []
    if given and any(name.startswith("param[") for name in given):
        build += _set(made, given)
    elif drawn:
        zeros = _weights(net, build, made, graph, case.seed)
        statistics = _statistics(net, build, graph, phase, case.seed)
    said = net.described(case, phase)
    losses = said["losses"]
    keepers = [each["bottoms"] for each in graph["layers"] if each["name"] == KEEPER]
    below = keepers[0] if set(said["outputs"]) <= set(said["no_backward"]) and keepers else []
    plan = _Reading(graph, made, [] if losses else below or said["outputs"], phase, given or {})
    PROGRESS.tell("running caffe, layer by layer")

    def run(ops: Sequence[Op]) -> Golden:
        replies = net.request([*build, *ops, *feeding, *plan.ops])[-len(plan.ops) :]
        return plan.golden(replies, phase, frozenset(said["running"]), frozenset(wanted), losses)

    found = run([*zeros, *statistics])
    if statistics and not net.weights and _saturates(found):
        same = [*build, *zeros, *feeding]
        sizes = _sizes(net, case, same, graph)
        found = run([*zeros, *_statistics(net, build, graph, phase, case.seed, sizes)])
    found = replace(found, messages=about["messages"])
    if not net.weights:
        return found
    own = {name.rpartition("[")[0] for name in found.owned}
    own |= {step.name for step in found.steps if step.type == "BatchNorm"}
    unfilled = [name for name in lacking if name in own]
    return replace(found, unfilled=unfilled, others=made["others"])


LABELS = {
    "SoftmaxWithLoss": (1, 2),
    "SigmoidCrossEntropyLoss": (1, 2),
    "HingeLoss": (1,),
    "InfogainLoss": (1, 2),
    "MultinomialLogisticLoss": (1,),
    "ContrastiveLoss": (2,),
    "LSTM": (1,),
    "RNN": (1,),
}
"""By type, the bottoms for which Caffe's layer has no gradient: with one, it aborts."""


def _labels(graph: Mapping[str, Any]) -> set[str]:
    """The blobs of which no gradient may be asked: labels, and what they are made of."""
    found = set[str]()
    for layer in reversed(graph["layers"]):
        below = LABELS.get(layer["type"], ())
        found |= {name for at, name in enumerate(layer["bottoms"]) if at in below}
        if found.intersection(layer["tops"]):
            found.update(layer["bottoms"])
    return found


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


def _weights(
    net: CaffeNet, build: list[Op], made: Mapping[str, Any], graph: Mapping[str, Any], seed: int
) -> list[Op]:
    """Sets the weights that no filler and no file makes: with 0 all behind is 0, and nothing shown.

    They are normal, divided by the square root of how many inputs an output has.
    """
    own = {each["name"] for each in graph["layers"] if each["type"] != "BatchNorm"}
    recurrent = {each["name"] for each in graph["layers"] if each["type"] in ("LSTM", "RNN")}
    free = own.difference(made["named"])
    weights = [
        (layer, index)
        for layer, index in made["params"]
        if layer in free and (index == 0 or layer in recurrent)
    ]
    reads: list[Op] = [{"op": "param", "layer": each, "index": index} for each, index in weights]
    if not reads:
        return []
    values = [each["array"] for each in net.request([*build, *reads])[len(build) :]]
    rng = np.random.RandomState(seed)
    ops: list[Op] = []
    for (layer, index), value in zip(weights, values, strict=True):
        if not value.any() and (index == 0 or value.ndim > 1):  # no bias of a recurrent layer
            inputs = max(value.size // max(len(value), 1), 1) if value.ndim else 1
            array = np.float32(rng.standard_normal(value.shape) / np.sqrt(inputs))
            ops.append({"op": "set_param", "layer": layer, "index": index, "array": array})
    return ops


FAINT = 2.0**-100
"""A diff that is smaller everywhere is what a saturated layer behind it lets through."""


def _saturates(found: Golden) -> bool:
    """Whether a net's values grow so large that next to nothing, or no number, is sent back."""
    largest = [np.abs(each).max(initial=0.0) for each in found.diffs.values()]
    nothing = not any(found.param_diffs[name].any() for name in found.learned)
    faint = any(0 < each < FAINT for each in largest) or (bool(found.learned) and nothing)
    return faint or not all(np.isfinite(each).all() for each in found.values.values())


def _sizes(
    net: CaffeNet, case: Case, build: Sequence[Op], graph: Mapping[str, Any]
) -> Mapping[str, Array32]:
    """By BatchNorm, the mean square of each channel where all normalise by their own batch."""
    text = with_batch_statistics(net.prototxt(case))
    ops = [{**op, "text": text} if op["op"] == "net" else op for op in build]
    norms = [each["name"] for each in graph["layers"] if each["type"] == "BatchNorm"]
    count = sum(each["name"] != KEEPER for each in graph["layers"])
    forward: list[Op] = [{"op": "forward", "layer": number} for number in range(count)]
    reads: list[Op] = [
        {"op": "param", "layer": name, "index": index} for name in norms for index in (0, 1)
    ]
    values = [each["array"] for each in net.request([*ops, *forward, *reads])[-len(reads) :]]
    return {
        name: np.asarray(mean**2 + var, np.float32)
        for name, mean, var in zip(norms, values[::2], values[1::2], strict=True)
    }


def _statistics(
    net: CaffeNet,
    build: list[Op],
    graph: Mapping[str, Any],
    phase: str,
    seed: int,
    sizes: Mapping[str, Array32] | None = None,
) -> list[Op]:
    """Sets the statistics of each BatchNorm that has none yet: with 0 it multiplies by 316.

    Means are normal, variances from 1/2 to 3/2; where `sizes` has the mean squares, half of their
    root times that, and their double times that. Both are sums over so many batches as a long
    training comes to, 1 / (1 - moving_average_fraction): before that no `momentum` is Caffe's.
    Those of a file of weights stay, and in phase TRAIN, where they only go on, get that divisor.
    """
    layers = [each for each in graph["layers"] if each["type"] == "BatchNorm"]
    if not layers:
        return []
    reads: list[Op] = [
        {"op": "param", "layer": each["name"], "index": index}
        for each in layers
        for index in range(3)
    ]
    values = [each["array"] for each in net.request([*build, *reads])[len(build) :]]
    rng = np.random.RandomState(seed)
    ops: list[Op] = []
    for layer, mean, var, divisor in zip(
        layers, values[::3], values[1::3], values[2::3], strict=True
    ):
        fields = layer["fields"]
        if net.weights and (phase == "TEST" or fields["use_global_stats"] or not divisor.any()):
            continue
        means = mean / divisor if net.weights else rng.standard_normal(mean.shape)
        variances = var / divisor if net.weights else rng.uniform(0.5, 1.5, mean.shape)
        if sizes:
            size = np.where(sizes[layer["name"]] > 0, sizes[layer["name"]], 1.0)
            means, variances = means * np.sqrt(size) / 2, variances * size * 2
        fraction = fields["moving_average_fraction"]
        batches = np.full(1, 1 / (1 - fraction) if fraction < 1 else 1.0)
        ops += [
            {"op": "set_param", "layer": layer["name"], "index": index, "array": np.float32(each)}
            for index, each in enumerate((means * batches, variances * batches, batches))
        ]
    return ops


def built(net: CaffeNet, case: Case, phase: str, wanted: Sequence[str]) -> list[Op]:
    """The ops that build a net in a phase, with the gradients of these inputs."""
    edits: Op = {
        "shapes": {name: case.shapes[name] for name in case.fed},
        "outputs_as_losses": True,
        "drive_below": True,
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
        phase: str,
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
            if layer["type"] == "Dropout" and phase == "TRAIN":
                self._read_mask(number, layer)
        norms = [each["name"] for each in self.layers if each["type"] == "BatchNorm"]
        self.counted = [each for each in self.params if each[0] in norms]
        for layer, index in self.counted:
            self._read("after", layer, index, {"op": "param", "layer": layer, "index": index})
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
        """Reads something; `fields` has the op where that is not what it is kept under."""
        self.places[op, of, name] = len(self.ops)
        self.ops.append({"op": op, **fields})

    def _read_mask(self, number: int, layer: Mapping[str, Any]) -> None:
        """A Dropout's backward multiplies with its mask, and draws none.

        The diffs are written anew by the backward that counts. Where nobody wants the bottom's,
        Caffe does not write it, and the mask is seen in the top alone.
        """
        (top,), (bottom,) = layer["tops"], layer["bottoms"]
        if bottom in self.written:
            self.ops.append({"op": "fill_diff", "blob": top, "value": 1.0})
            self.ops.append({"op": "backward", "layer": number})
            self._read("mask", number, bottom, {"op": "diff", "blob": bottom})

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
        steps, values, diffs, masks = [], {}, {}, {}
        places: dict[str, str] = {}  # blob -> the one whose memory it is
        memory: dict[str, str] = {}
        inputs = []
        owned: dict[str, list[str]] = {}
        for layer, index in self.params:
            owned.setdefault(layer, []).append(f"{layer}[{index}]")
        for number, layer in enumerate(self.layers):
            bottoms = tuple(current[name] for name in layer["bottoms"])
            shared = layer["type"] in SHARING
            for name in layer["tops"]:
                places.setdefault(name, places[layer["bottoms"][0]] if shared else name)
            if layer["type"] == "Input" and all(each.endswith(GIVEN) for each in layer["tops"]):
                current |= {name: name for name in layer["tops"]}
                continue
            if layer["type"] == SPLIT:
                current |= dict.fromkeys(layer["tops"], bottoms[0])
                continue
            is_input = layer["type"] == "Input" or layer["bottoms"] == [
                f"{top}{GIVEN}" for top in layer["tops"]
            ]
            tops = []
            for name in layer["tops"]:
                is_last = makers[name] == number
                value = name if is_last else f"{name} ({'input' if is_input else layer['name']})"
                current[name] = value
                tops.append(value)
                memory[value] = places[name]
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
                said=layer["said"],
            )
            for position, name in enumerate(layer["bottoms"]):
                if ("diff", (number, position), name) in self.places:
                    step.bottom_diffs[position] = read("diff", (number, position), name)
            steps.append(step)
            if step.type == "Dropout" and phase == "TRAIN":
                (seen,) = layer["bottoms"]
                place = "mask", number, seen
                mask = read(*place) if place in self.places else values[tops[0]]
                masks[tops[0]] = mask != 0
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
            masks=masks,
            after={
                f"{layer}[{index}]": read("after", layer, index) for layer, index in self.counted
            },
            memory=memory,
        )


def _diff(shape: Shape, seed: int) -> Array32:
    """Multiples of 1/4 from -2 to 2, but for 0."""
    rng = np.random.RandomState(seed)
    signs = rng.choice(np.array([-1, 1], np.float32), shape)
    return np.asarray(signs * rng.randint(1, 9, shape) / 4, np.float32)
