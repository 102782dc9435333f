"""The layers of a net in one phase: as its prototxt says them, with the shapes that Caffe gives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from caffe_parity.caffe.client import Op
from caffe_parity.contract import Array32, Case, Shape
from caffe_parity.engine.caffe_net import CaffeNet
from caffe_parity.ports import Said
from caffe_parity.ports.catalogue import Fields
from caffe_parity.whole.golden import built
from caffe_parity.whole.prototxt import Unknown, without


@dataclass(frozen=True, eq=False)
class Declared:
    """A layer of a net.

    Attributes:
        said: what its messages say, and the shapes of its bottoms.
        bottoms, tops: the blobs' names.
        blobs: the shapes of its parameters.
        shares: by the number of a parameter, the layer that owns it, and its number there.
        frozen: the parameters that no solver changes (`lr_mult: 0`).
        cut: the bottoms that get no gradient (`propagate_down: false`), by position.
        hole: why this Caffe cannot run it; "" where it can.
        about: what it says beside its bottoms and tops, as text.
    """

    said: Said
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    blobs: tuple[Shape, ...] = ()
    shares: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    frozen: frozenset[int] = frozenset()
    cut: frozenset[int] = frozenset()
    hole: str = ""
    about: str = ""

    @property
    def name(self) -> str:
        """As the net says."""
        return self.said.name

    @property
    def type(self) -> str:
        """As the net says."""
        return self.said.type


@dataclass(frozen=True, eq=False)
class DeclaredNet:
    """A net in one phase.

    Attributes:
        phase: "TRAIN" or "TEST".
        inputs: by name, their shapes; the tops of data layers are among them.
        layers: all others, in the net's order.
        outputs: the blobs that no layer reads.
        losses: by blob, its weight in what a solver minimises.
        params: "LAYER[INDEX]" -> what the net's weights or fillers have put there.
        filled: the layers that are not in the file of weights.
    """

    phase: str
    inputs: Mapping[str, Shape]
    layers: tuple[Declared, ...]
    outputs: tuple[str, ...]
    losses: Mapping[str, float]
    params: Mapping[str, Array32]
    filled: tuple[str, ...] = ()

    def sharing(self, known: Mapping[str, Array32]) -> DeclaredNet:
        """The same with arrays that are known already in place of those that are equal to them."""
        same = {
            name: known[name]
            for name, each in self.params.items()
            if name in known and np.array_equal(known[name], each)
        }
        return replace(self, params={**self.params, **same})

    @cached_property
    def kinds(self) -> dict[str, str]:
        """What inputs must hold that are labels, indices or masks, as --data says it."""
        found: dict[str, str] = {}
        limits: dict[str, int] = {}
        for number, layer in enumerate(self.layers):
            for position, kind in _kinds(layer):
                name = layer.bottoms[position]
                for source in self._sources(name, number):
                    if kind.startswith("int:0,"):
                        most = int(kind.removeprefix("int:0,"))
                        limits[source] = min(most, limits.get(source, most))
                        kind = f"int:0,{limits[source]}"
                    found[source] = kind
        return found

    def _sources(self, blob: str, before: int) -> Iterator[str]:
        """The inputs whose numbers a blob holds, as it is before a layer."""
        for number in reversed(range(before)):
            layer = self.layers[number]
            if blob in layer.tops:
                moved = layer.bottoms if layer.type in ("Concat", "Slice") else layer.bottoms[:1]
                if layer.type == "Filter":
                    moved = (layer.bottoms[layer.tops.index(blob)],)
                for each in moved if layer.type in MOVES else ():
                    yield from self._sources(each, number)
                return
        if blob in self.inputs:
            yield blob


MOVES = ("BatchReindex", "Concat", "Crop", "Filter", "Flatten", "Reshape", "Slice", "Split", "Tile")
"""The types of layers whose tops hold the numbers of their bottoms."""


def _kinds(layer: Declared) -> Iterator[tuple[int, str]]:
    """By bottom's position, what a layer takes there that cannot be any number."""
    said, shapes = layer.said, layer.said.bottoms
    if layer.hole:
        return
    if layer.type in ("SoftmaxWithLoss", "Accuracy", "InfogainLoss"):
        name = {"Accuracy": "accuracy_param", "InfogainLoss": "infogain_loss_param"}
        axis = said.axis(said.message(name.get(layer.type, "softmax_param"))["axis"])
        yield 1, f"int:0,{shapes[0][axis] - 1}"
    elif layer.type in ("HingeLoss", "MultinomialLogisticLoss"):
        yield 1, f"int:0,{math.prod(shapes[0][1:]) - 1}"
    elif layer.type == "Embed":
        yield 0, f"int:0,{int(said.message('embed_param')['input_dim']) - 1}"
    elif layer.type == "BatchReindex":
        yield 1, f"int:0,{shapes[0][0] - 1}"
    elif layer.type in ("LSTM", "RNN", "SigmoidCrossEntropyLoss"):
        yield 1, "binary"
    elif layer.type in ("ContrastiveLoss", "LSTMUnit"):
        yield 2, "binary"
    elif layer.type == "Filter":
        yield len(shapes) - 1, "int:0,9"  # zeros alone, and Caffe divides by 0


def declared(
    net: CaffeNet, case: Case, phase: str, messages: Mapping[str, Fields], odd: Unknown
) -> DeclaredNet:
    """Builds a net in Caffe, and says what it is.

    Where this Caffe cannot run a layer, it builds those that do not lie behind one.

    Args:
        net: the net.
        case: the shapes of its inputs, and the seed of its fillers.
        phase: "TRAIN" or "TEST".
        messages: the fields of every message.
        odd: what this Caffe does not know of the net.

    Raises:
        VariantFailure: Caffe crashed.
        BadRequest: the net cannot be built.
        NoCaffe, InstallError: there is no Caffe.
    """
    op: Op = {"op": "messages", "text": net.prototxt(case), "fed": list(case.fed), "phase": phase}
    [reply] = net.request([op])
    said: list[dict[str, Any]] = reply["layers"]
    for layer in said:
        layer["type"] = odd.types.get(layer.get("name", ""), layer["type"])
    behind = _behind(said, odd.holes)
    if all(layer["type"] == "Input" or layer["name"] in behind for layer in said):
        shapes = {"shapes": case.shapes, "layers": []}
        layers = tuple(_layers(said, shapes, {}, messages, phase, behind, odd.about))
        return DeclaredNet(phase, case.shapes, layers, (), {}, {})
    known = replace(net, text=lambda _: without(odd.text, set(behind))) if behind else net
    build = built(known, case, phase, [])
    *_, made, graph = known.request([*build, {"op": "graph"}])
    about = known.described(case, phase)
    reads: list[Op] = [{"op": "param", "layer": k, "index": i} for k, i in made["params"]]
    values = known.request([*build, *reads])[len(build) :] if reads else []
    params = {
        f"{layer}[{index}]": each["array"]
        for (layer, index), each in zip(made["params"], values, strict=True)
    }
    layers = tuple(_layers(said, graph, params, messages, phase, behind, odd.about))
    read = {name for layer in layers for name in layer.bottoms if name not in layer.tops}
    tops = dict.fromkeys(name for layer in layers for name in layer.tops)
    return DeclaredNet(
        phase,
        {name: tuple(shape) for name, shape in made["inputs"].items()},
        layers,
        tuple(name for name in tops if name not in read),
        about["weights"],
        params,
        tuple(known.must_have_weights(made)),
    )


def _behind(said: Sequence[Mapping[str, Any]], holes: Mapping[str, str]) -> dict[str, str]:
    """The layers that this Caffe cannot run, and those that read what it has not made: why."""
    unmade: dict[str, str] = {}
    found: dict[str, str] = {}
    for layer in said:
        name = layer.get("name", "")
        missing = [unmade[each] for each in layer.get("bottom", ()) if each in unmade]
        odd = name in holes and layer["type"] != "Input"  # that is what is fed has become
        if odd:
            found[name] = holes[name]
            if tops := layer.get("top", ()) if not layer.get("bottom") else ():
                options = " ".join(f"--bottom {top}=N,..." for top in tops)
                found[name] += f"; {options} makes inputs of what it makes, {', '.join(tops)}"
        elif missing:
            found[name] = f"{BEHIND}{missing[0]!r}"
        for top in layer.get("top", ()):
            unmade.pop(top, None)
            if odd or missing:
                unmade[top] = name if odd else missing[0]
    return found


BEHIND = "it reads what this Caffe has not made, for it lies behind the hole "
"""How what is said of a layer behind a hole begins."""


def _layers(
    said: Sequence[Mapping[str, Any]],
    graph: Mapping[str, Any],
    params: Mapping[str, Array32],
    messages: Mapping[str, Fields],
    phase: str,
    behind: Mapping[str, str],
    about: Mapping[str, str],
) -> Iterator[Declared]:
    made = iter(graph["layers"])  # with the Splits that Caffe has inserted among them
    owners: dict[str, tuple[str, int]] = {}
    shown: dict[str, Shape] = {}
    for layer in said:
        if layer.get("name", "") in behind:
            shapes = [shown.get(name, ()) for name in layer.get("bottom", ())]
            one_said = Said(layer, shapes, messages, phase)
            names = tuple(layer.get("bottom", ())), tuple(layer.get("top", ()))
            name = one_said.name
            yield Declared(one_said, *names, hole=behind[name], about=about.get(name, ""))
            continue
        if layer["type"] == "Input":
            shown |= {name: tuple(graph["shapes"][name]) for name in layer["top"]}
            continue
        one = next(each for each in made if each["name"] == layer["name"])
        shown |= {name: tuple(graph["shapes"][name]) for name in one["tops"]}
        shapes = [tuple(graph["shapes"][name]) for name in one["bottoms"]]
        made_of = _declared(layer, shapes, params, messages, phase, owners)
        yield replace(made_of, about=about.get(made_of.name, ""))


def _declared(
    layer: Mapping[str, Any],
    shapes: Sequence[Shape],
    params: Mapping[str, Array32],
    messages: Mapping[str, Fields],
    phase: str,
    owners: dict[str, tuple[str, int]],
) -> Declared:
    name = str(layer.get("name", ""))
    count = sum(key.startswith(f"{name}[") for key in params)
    specs = [*layer.get("param", ()), *[{}] * count][:count]
    shares = {}
    for index, spec in enumerate(specs):
        shared = spec.get("name")
        if shared and shared in owners:
            shares[index] = owners[shared]
        elif shared:
            owners[shared] = name, index
    asked = layer.get("propagate_down", ())
    return Declared(
        Said(layer, shapes, messages, phase),
        tuple(layer.get("bottom", ())),
        tuple(layer.get("top", ())),
        tuple(params[f"{name}[{index}]"].shape for index in range(count)),
        shares,
        frozenset(i for i, spec in enumerate(specs) if float(spec.get("lr_mult", 1)) == 0),
        frozenset(i for i, wanted in enumerate(asked) if not wanted),
    )
