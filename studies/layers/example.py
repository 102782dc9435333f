"""One layer with its inputs, compared with its counterpart by the tool's own engine."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caffe_parity.caffe.session import SESSION
from caffe_parity.contract import (
    GRADIENT,
    LARGEST,
    SMALLEST_SUBNORMAL,
    Array64,
    BadRequest,
    Observation,
    Plan,
    Shape,
    VariantFailure,
)
from caffe_parity.engine.caffe_net import CaffeNet
from caffe_parity.engine.data import parse
from caffe_parity.engine.expected import question
from caffe_parity.engine.judge import Planned, observed, plan_of, record_of, variant_of
from caffe_parity.engine.port import Port as TorchPort
from caffe_parity.engine.random_rounding import RUNS
from caffe_parity.engine.verdict import judged
from caffe_parity.layer import Layer
from caffe_parity.nets import input_layers
from caffe_parity.ports import PORTS, Port, Refused, Said, evaluated
from caffe_parity.ports.catalogue import EXACT, Fields
from caffe_parity.report.record import Record

AGREES, DISAGREES, UNPROVEN = "agrees", "disagrees", "unproven"
REFUSED, NOT_HONOURED = "Caffe refuses it", "the port refuses it"
IMPOSSIBLE = "undefined in Caffe"

UNDEFINED = {"Filter": ("SIGFPE",)}
"""How Caffe itself dies of what its entry in the catalogue says is impossible."""

UNROLLED = ("LSTM", "RNN")

ONE_BATCH = ("ContrastiveLoss", "LSTMUnit", "BatchReindex", "Filter", "InfogainLoss")
"""Types that Caffe cannot reshape to any other batch: the first writes behind what it has set up,
the indices of the third are those of samples in a batch, of a sample alone Filter keeps none, and
the matrix of the last has no samples.
"""

ALONG = {
    **{kind: f"{kind.lower()}_param" for kind in ("Scale", "Bias", "Slice", "ArgMax", "Accuracy")},
    "InnerProduct": "inner_product_param",
}
"""Types whose parameters, tops or labels fit one batch only where they work along axis 0."""


@dataclass(frozen=True, eq=False)
class Example:
    """A layer as a prototxt has it, and what it is fed with.

    Attributes:
        type: of the layer.
        says: its messages, as prototxt text.
        bottoms: their shapes, by name.
        data: their kinds, and those of parameters ("param[0]").
        fixed: the bottoms of no integer kind that get no gradient either.
        tops: how many it has.
        number: of the case, which its values depend on.
        fields: those that its messages set, as `pooling_param.pad`.
    """

    type: str
    says: str = ""
    bottoms: Mapping[str, Shape] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    tops: int = 1
    number: int = 0
    fields: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def __str__(self) -> str:
        fed = " ".join(
            f"{name}={','.join(map(str, shape))}"
            + (f":{self.data[name]}" if name in self.data else "")
            + "!" * (name in self.fixed)
            for name, shape in self.bottoms.items()
        )
        more = [f"{k}=:{v}" for k, v in self.data.items() if k not in self.bottoms]
        return f"{self.type} | {self.says} | {' '.join([fed, *more])} | {self.tops} {self.number}"

    @property
    def continues(self) -> bool:
        """Whether it is a recurrent layer that goes on where the forward before has ended."""
        return self.type in UNROLLED and "expose_hidden: true" not in self.says

    @property
    def overwrites(self) -> bool:
        """Whether Caffe overwrites the diff of a parameter that it should add to.

        A Parameter shares it with its top, and a Scale of one sample sums into it.
        """
        one, *others = self.bottoms.values() or [()]
        if self.type != "Scale" or others:
            return self.type == "Parameter"
        said = self.said
        return math.prod(one[: said.axis(said.message("scale_param")["axis"])]) == 1

    @property
    def fixes_batch(self) -> bool:
        """Whether Caffe ends the process where it is given another batch."""
        if self.type not in (*ALONG, "Reshape"):
            return self.type in ONE_BATCH and self.data.get("selector") != "constant:1"
        message = self.said.message(ALONG.get(self.type, "reshape_param"))
        if self.type != "Reshape":
            other = self.type == "Slice" and "slice_dim" in message
            return self.said.axis(message["slice_dim" if other else "axis"]) == 0
        dims, count = message["shape"]["dim"], message["num_axes"]
        if self.said.axis(message["axis"], past=True) or not count or not dims[0]:
            return False
        one = self.bottoms["x"][1:] if count < 0 else self.bottoms["x"][1:count]
        known = [each or self.bottoms["x"][place] for place, each in enumerate(dims) if each >= 0]
        return -1 not in dims or bool(math.prod(one) % math.prod(known))

    @property
    def text(self) -> str:
        """The net: the layer alone, but for what it takes to compare it.

        One that keeps its state gets a `cont` that begins with 0, and Silence something to compare.
        """
        bottoms, tops = list(self.bottoms), [f"top{index}" for index in range(self.tops)]
        front = input_layers(self.bottoms)
        if self.continues:
            batch = self.bottoms["cont"][1]
            bottoms[1] = "whole"
            front += (
                'layer { name: "start" type: "DummyData" top: "start" dummy_data_param { '
                f"shape {{ dim: 1 dim: {batch} }} data_filler {{ value: 0 }} }} }}\n"
                'layer { name: "whole" type: "Concat" bottom: "start" bottom: "cont" '
                'top: "whole" concat_param { axis: 0 } }\n'
            )
        if self.type == "Silence":
            front += 'layer { name: "two" type: "Split" bottom: "x" top: "top0" top: "unread" }\n'
            bottoms, tops = ["unread"], []
        return front + _layer_text(self.type, bottoms, tops, self.says)

    @cached_property
    def said(self) -> Said:
        """The layer as Caffe's protobuf reads it."""
        [reply] = SESSION.running().request([{"op": "messages", "text": self.text}])
        layer = reply["layers"][-1]
        shapes = list(self.bottoms.values())
        if self.continues:
            steps, batch = self.bottoms["cont"]
            shapes[1] = (steps + 1, batch)
        return Said(layer, shapes, messages())


def _layer_text(kind: str, bottoms: Sequence[str], tops: Sequence[str], says: str) -> str:
    ends = "".join(f' bottom: "{each}"' for each in bottoms)
    ends += "".join(f' top: "{each}"' for each in tops)
    return f'layer {{ name: "layer" type: "{kind}"{ends} {says} }}\n'


@cache
def messages() -> Mapping[str, Fields]:
    """The fields of every message, as Caffe's own protobuf has them."""
    [reply] = SESSION.running().request([{"op": "fields"}])
    found: Mapping[str, Fields] = reply["messages"]
    return found


_INPUT = re.compile(r"(?P<name>[\w\[\]]+)=(?P<shape>[\d,]*)(:(?P<kind>[\w:,.-]+))?(?P<fixed>!?)")


def read(kind: str, line: str) -> Example:
    """An example from a line: SAYS | NAME=SHAPE[:KIND][!] ... | TOPS [NUMBER].

    Raises:
        ValueError: it is none.
    """
    says, fed, *rest = (each.strip() for each in line.split("|"))
    bottoms: dict[str, Shape] = {}
    data: dict[str, str] = {}
    fixed: list[str] = []
    for word in fed.split():
        found = _INPUT.fullmatch(word)
        if found is None:
            raise ValueError(f"{word!r} in {line!r}: expected NAME=SHAPE:KIND")
        name = found["name"]
        if not name.startswith("param"):
            bottoms[name] = tuple(int(each) for each in found["shape"].split(",") if each)
        if found["kind"]:
            data[name] = found["kind"]
        if found["fixed"]:
            fixed.append(name)
    tops, number = [int(each) for each in (*rest, "1 0")[0].split()] + [0] * (
        len((*rest, "1 0")[0].split()) == 1
    )
    return Example(kind, says, bottoms, data, tuple(fixed), tops, number)


@dataclass(frozen=True)
class Outcome:
    """What became of an example.

    Attributes:
        verdict: `AGREES`, `DISAGREES`, `UNPROVEN`, `REFUSED`, `NOT_HONOURED` or `IMPOSSIBLE`.
        words: why it does not agree.
        same_bits: whether Caffe and the port in float32 gave the same bits, in all passes.
        fraction: the largest error of Caffe as a part of its bound, at most.
    """

    verdict: str
    words: str = ""
    same_bits: bool = False
    fraction: float = 0.0


class _Ended(Exception):  # no error: it came to its end early
    """What an example has come to before it could be compared."""

    def __init__(self, verdict: str, error: Exception) -> None:
        super().__init__(str(error))
        self.outcome = Outcome(verdict, str(error))


def planned(example: Example, port: Port, runs: int = RUNS) -> tuple[Planned, Planned]:
    """What is asked of Caffe, and of the counterpart in float32; in float64 it is the truth.

    Args:
        example: the layer.
        port: its counterpart.
        runs: how many times that is rounded for the bound.

    Raises:
        BadRequest, VariantFailure: it cannot be compared.
        Refused: the port refuses it.
    """
    net = CaffeNet(lambda case: example.text, example.type)
    build = net.net_ops(_layer(example, lambda **_: None, net).case(example.number))
    try:
        built = net.request([*build, {"op": "forward"}])[len(build) - 1]
    except (VariantFailure, BadRequest) as failure:
        raise _Ended(REFUSED, failure) from failure
    counterpart = function_of(example, port, bool(built["owned"]), bool(built["kept"]))
    layer = _layer(example, counterpart, net)
    case = layer.case(example.number)
    first = plan_of(layer, "caffe", case, runs=runs)
    plan = first.plan
    if example.fixes_batch:
        plan = replace(plan, nets=plan.nets[:1])
    if example.overwrites:
        plan = _each_alone(plan)
    own = replace(first, name="port", variant=variant_of(layer, "port"))
    return replace(first, plan=plan), replace(own, plan=_compared_alone(plan))


def compared(example: Example, ports: Mapping[str, Port] = PORTS, enough: float = -1.0) -> Outcome:
    """Runs a layer in Caffe and its counterpart, in float64 and in float32.

    What agrees with the bound that a few random roundings make does so with that of all of them,
    which is no smaller: those that are left are made only for what does not, or says too little.

    Args:
        example: the layer.
        ports: the counterparts.
        enough: up to which part of the bound of a few roundings an error agrees; none by default.
    """
    port, first = ports[example.type], RUNS
    if enough >= 0:
        first = FEW * (1 + (example.type in UNROLLED))
    try:
        caffe, own = planned(example, port, first)
        try:
            one, another = seen(caffe), seen(own)
        except (BadRequest, VariantFailure):  # of another batch, which not every layer can have
            caffe, own = (
                replace(each, plan=replace(each.plan, nets=each.plan.nets[:1]))
                for each in (caffe, own)
            )
            one, another = seen(caffe), seen(own)
        other = _other_bits(caffe.plan, one, another)
        if first < RUNS:
            part = _part(caffe, one)
            alike = not other and not another.changed and not another.trouble
            if part <= enough and (alike or (port.state != EXACT and _part(own, another) <= 1)):
                return Outcome(AGREES, "", not other, part)
            asked = question(caffe.layer, caffe.case, caffe.plan.structure)
            caffe, own = replace(caffe, question=asked), replace(own, question=asked)
        records = record_of(caffe, one), record_of(own, another)
    except _Ended as ended:
        return ended.outcome
    except Refused as refusal:
        return Outcome(NOT_HONOURED, str(refusal))
    except (BadRequest, VariantFailure) as error:
        if any(each in str(error) for each in UNDEFINED.get(example.type, ())):
            return Outcome(IMPOSSIBLE, str(error))
        return Outcome(DISAGREES, str(error))
    return _outcome(port, records, other)


FEW = 2
"""How many random roundings show that most of what agrees does; what is unrolled needs twice."""

SURE = 2.0**8
"""A value so many times larger than its bound with a few roundings is above it with all of them."""


def _part(ready: Planned, found: Observation) -> float:
    """The largest error as a part of the bound of a few roundings; infinite where more must say."""
    if found.trouble or not all(_tells(*each) for each in _expected(ready)):
        return math.inf
    result = judged(ready.layer, ready.plan, ready.question, found, why=False)
    if result.findings:
        return math.inf
    return max((each.fraction for each in result.tensors.values()), default=0.0)


def _expected(ready: Planned) -> Iterator[tuple[Array64, Array64]]:
    """The truths and bounds of all tensors in all passes; parameters' gradients add up in one."""
    first, last = ready.question.expected[0], ready.question.expected[-1]
    for each in ready.question.expected:
        yield from ((each.truth[name], each.bound.worst[name]) for name in each.truth)
    for param in ready.plan.structure.params:
        if (name := GRADIENT + param.name) in first.truth:
            bound = first.bound.worst[name] + last.bound.worst[name]
            yield first.truth[name] + last.truth[name], bound


def _tells(truth: Array64, bound: Array64) -> bool:
    """Whether a tensor of zeros would be found wrong, or is what it must be to the bit."""
    known = np.isfinite(bound) & (np.abs(truth) <= LARGEST)
    if not truth.size or np.any(known & (np.abs(truth) > SURE * bound)):
        return True
    return not np.any(truth) and bool(np.all(bound <= SMALLEST_SUBNORMAL))


def seen(ready: Planned) -> Observation:
    """What a variant did.

    Raises:
        VariantFailure: it failed.
    """
    found, _ = observed(ready)
    if isinstance(found, VariantFailure):
        raise found
    return found


def _compared_alone(plan: Plan) -> Plan:
    """Without the passes that only leave something behind: a counterpart keeps nothing."""
    nets = (tuple(each for each in net if each.expected is not None) for net in plan.nets)
    return replace(plan, nets=tuple(nets))


def _each_alone(plan: Plan) -> Plan:
    """Without the pass that adds to the diffs of the pass before."""
    nets = tuple(tuple(replace(each, adds_up=False) for each in net) for net in plan.nets)
    return replace(plan, nets=nets)


def _outcome(port: Port, records: Sequence[Record], other: Sequence[str]) -> Outcome:
    caffe, same = records[0], not other
    largest = max((each.fraction for each in caffe.tensors.values()), default=0.0)
    for record in records:
        if record.verdict not in ("pass", "unproven"):
            said = "; ".join(each.words for each in record.findings) or record.reason
            words = f"{record.variant}: {record.verdict}: {record.reason}: {said}"
            return Outcome(DISAGREES, words, same, largest)
    if port.state == EXACT and not same:
        return Outcome(DISAGREES, f"other bits in {', '.join(other)}", same, largest)
    if any(record.verdict == "unproven" for record in records):
        return Outcome(UNPROVEN, caffe.reason, same, largest)
    return Outcome(AGREES, "", same, largest)


def _other_bits(plan: Plan, one: Observation, another: Observation) -> list[str]:
    """The tensors that two variants give other bits of; a zero has no sign here."""
    found: dict[str, None] = {}
    names = {each.name for each in plan.passes if each.expected is not None} & one.tensors.keys()
    for name in names:
        for tensor, value in one.tensors[name].items():
            theirs = another.tensors[name].get(tensor)
            if value is None or theirs is None or not np.array_equal(value, theirs, equal_nan=True):
                found[tensor] = None
    return list(found)


def _layer(example: Example, reference: Callable[..., Any], net: CaffeNet) -> Layer:
    kinds = {k: v for k, v in example.data.items() if k in example.bottoms or "[" in k}
    given = (each for each in example.bottoms if each not in example.fixed)
    grad = tuple(each for each in given if not parse(kinds.get(each, "normal")).is_label)
    port = TorchPort(reference, gradcheck=False)  # its gradient is held against Caffe's
    return Layer(
        example.type,
        reference=reference,
        inputs=example.bottoms,
        cases=1,
        seed=example.number,
        data=kinds if _takes(reference) else {k: v for k, v in kinds.items() if "[" not in k},
        grad=grad,
        variants={"caffe": net, "port": port},
    )


def _takes(reference: Callable[..., Any]) -> bool:
    names = reference.__code__.co_varnames[: reference.__code__.co_argcount]
    return bool({"param", "state"} & set(names))


def function_of(
    example: Example, port: Port, has_params: bool, has_state: bool
) -> Callable[..., Any]:
    """A counterpart as a reference of the engine: inputs, parameters and statistics by name.

    Raises:
        Refused: there is none of this layer.
    """
    calls = port.of(example.said)

    def computed(blobs: Sequence[Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        bottoms = list(inputs.values())
        if example.continues:
            bottoms[1] = torch.cat([torch.zeros_like(bottoms[1][:1]), bottoms[1]])
        tensors = {f"bottom[{index}]": each for index, each in enumerate(bottoms)}
        tensors |= {f"blob[{index}]": each for index, each in enumerate(blobs)}
        found = evaluated(calls, tensors)
        if example.type == "Silence":
            found = {"top[0]": bottoms[0] + 0}
        names = {f"top[{index}]": f"top{index}" for index in range(example.tops)}
        names |= {f"blob[{index}]": f"state[{index}]" for index in range(len(blobs))}
        return {names[name]: each for name, each in found.items()}

    def with_params(param: list[Tensor], **inputs: Tensor) -> dict[str, Tensor]:
        return computed(param, inputs)

    def with_state(state: list[Tensor], **inputs: Tensor) -> dict[str, Tensor]:
        return computed(state, inputs)

    def without(**inputs: Tensor) -> dict[str, Tensor]:
        return computed((), inputs)

    return with_params if has_params else with_state if has_state else without
