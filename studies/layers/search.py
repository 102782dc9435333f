"""Searches one layer type for an example on which Caffe and the counterpart differ."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

from caffe_parity.contract import ParityError
from caffe_parity.ports import PORTS, Port
from studies.layers.corners import CORNERS
from studies.layers.example import (
    AGREES,
    IMPOSSIBLE,
    REFUSED,
    UNPROVEN,
    Example,
    Outcome,
    compared,
    messages,
)
from studies.layers.strategies import examples

FINE = (AGREES, UNPROVEN, REFUSED, IMPOSSIBLE)
"""What is no disagreement; a layer that Caffe computes and the port refuses is one."""


ENOUGH = 0.5
"""Up to this part of the bound of a few random roundings an error agrees without the others."""


class Alone(HypothesisProvider):
    """Draws each example anew, where Hypothesis itself makes five of six by changing another."""


AVAILABLE_PROVIDERS["alone"] = Alone


class Differs(ParityError):
    """An example is wrong: which, and how."""


@dataclass
class Counted:
    """What a search of one type has seen.

    Attributes:
        kind: the type.
        outcomes: how many examples became what.
        same_bits: how many of those that agree had the same bits in float32.
        fields: those that were set, of `total`.
        worst: the largest error of Caffe that agrees, as a part of its bound, at most.
        wrong: the smallest example that is wrong; "" for none.
        seconds: that it took.
        known: the examples, each of which counts once.
        drawn: how many were drawn, the corners not among them.
    """

    kind: str
    outcomes: Counter[str] = field(default_factory=Counter)
    same_bits: int = 0
    fields: set[str] = field(default_factory=set)
    worst: float = 0.0
    wrong: str = ""
    seconds: float = 0.0
    known: set[str] = field(default_factory=set)
    drawn: int = 0

    def add(self, example: Example, outcome: Outcome) -> None:
        """Counts an example."""
        self.known.add(str(example))
        self.outcomes[outcome.verdict] += 1
        self.fields |= example.fields
        if outcome.verdict == AGREES:
            self.same_bits += outcome.same_bits
            self.worst = max(self.worst, outcome.fraction)


def all_fields(kind: str) -> set[str]:
    """The fields of the messages that a type reads, by the names of Caffe's own protobuf."""
    layer = messages()["LayerParameter"]
    own = [name for name in READS.get(kind, ()) if name in layer]
    return {f"{name}.{each}" for name in own for each in messages()[layer[name]["type"]]}


READS: Mapping[str, tuple[str, ...]] = {
    "Convolution": ("convolution_param",),
    "Deconvolution": ("convolution_param",),
    "Im2col": ("convolution_param",),
    "InnerProduct": ("inner_product_param",),
    "BatchNorm": ("batch_norm_param",),
    "SoftmaxWithLoss": ("softmax_param", "loss_param"),
    "InfogainLoss": ("infogain_loss_param", "loss_param"),
    "SigmoidCrossEntropyLoss": ("loss_param",),
    "HingeLoss": ("hinge_loss_param",),
    "ContrastiveLoss": ("contrastive_loss_param",),
    "DummyData": ("dummy_data_param",),
    "LSTM": ("recurrent_param",),
    "RNN": ("recurrent_param",),
    **{
        kind: (f"{kind.lower()}_param",)
        for kind in (
            *("Accuracy", "ArgMax", "Bias", "Clip", "Concat", "Crop", "Dropout", "Eltwise", "ELU"),
            *("Embed", "Exp", "Flatten", "LRN", "Log", "MVN", "Parameter", "Pooling", "Power"),
            *("PReLU", "Reduction", "ReLU", "Reshape", "SPP", "Scale", "Sigmoid", "Slice"),
            *("Softmax", "Swish", "TanH", "Threshold", "Tile"),
        )
    },
}
"""The messages that a type reads."""


def cornered(kind: str, counted: Counted, ports: Mapping[str, Port] = PORTS) -> None:
    """Compares the fixed examples of a type.

    Raises:
        Differs: one is wrong, or says nothing.
    """
    for example in CORNERS[kind]:
        outcome = compared(example, ports)
        counted.add(example, outcome)
        if outcome.verdict != AGREES:
            raise Differs(f"{example}: {outcome.verdict}: {outcome.words}")


def draw(
    tell: Callable[[Example], None], kind: str, cases: int, number: int, shrink: bool = False
) -> None:
    """Draws so many examples of a type, the same ones for the same number.

    Args:
        tell: is given each of them; what it raises ends it.
        kind: the type.
        cases: how many.
        number: what they are drawn from.
        shrink: whether a smaller one is looked for that it raises at.
    """

    @seed(number)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, *((Phase.shrink,) if shrink else ())),
        report_multiple_bugs=False,
        backend="alone",
    )
    @given(examples(kind))
    def told(example: Example) -> None:
        tell(example)

    if cases:
        told()


def searched(
    kind: str, cases: int, number: int, shrink: bool = True, counted: Counted | None = None
) -> Counted:
    """Compares so many random examples of a type, up to the first that is wrong; first its corners.

    Args:
        kind: the type.
        cases: how many examples are drawn at most.
        number: what they are drawn from.
        shrink: whether a smaller one is looked for once one is wrong.
        counted: what was seen before, to which this is added; the corners are among it.
    """
    start, is_first = time.perf_counter(), counted is None
    counted = Counted(kind) if counted is None else counted

    def compares(example: Example) -> None:
        if str(example) in counted.known:
            return
        outcome = compared(example, enough=ENOUGH)
        if outcome.verdict not in FINE:
            counted.wrong = f"{example}: {outcome.verdict}: {outcome.words}"
            raise Differs(counted.wrong)
        if not counted.wrong:  # else it is a smaller one that is looked for
            counted.add(example, outcome)

    try:
        if is_first:
            cornered(kind, counted)
        draw(compares, kind, cases, number, shrink)
        counted.drawn += cases
    except Differs as error:
        counted.wrong = str(error)
    counted.seconds += time.perf_counter() - start
    return counted
