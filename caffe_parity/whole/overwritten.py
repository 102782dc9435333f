"""Tells a port that is wrong from a layer that reads in Caffe what another has overwritten.

A layer in place writes where the layer before it has written, and so do Reshape, Flatten and Split,
whose tops are the memory of their bottom. What then reads that memory, most often the backward of
the layer before, computes something else in the net than Caffe's own layer does of the same numbers
in blobs of its own. Whether that is so is not known by type: Caffe computes the layer once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from caffe_parity.contract import GRADIENT, Array32, BadRequest, Case, Finding, VariantFailure
from caffe_parity.engine.caffe_net import CaffeNet
from caffe_parity.engine.compare import same_bits
from caffe_parity.whole.golden import SHARING, Golden, golden
from caffe_parity.whole.judged import RANDOM, Comparison, Judgement, Part
from caffe_parity.whole.prototxt import Entry, entries
from caffe_parity.whole.stacked import sharing

COMPUTED = ("forward", "backward", "parameter")
"""The codes of findings that are about what a layer computes."""


def told_apart(
    compared: Comparison, found: Sequence[Judgement], net: CaffeNet, case: Case
) -> list[Judgement]:
    """The judgements, without what is wrong in Caffe's net alone.

    Args:
        compared: the port beside the net.
        found: its judgements.
        net: the net.
        case: its inputs.
    """
    return [_told_apart(compared, each, net, case) for each in found]


def _told_apart(compared: Comparison, each: Judgement, net: CaffeNet, case: Case) -> Judgement:
    codes = {finding.code for finding in each.findings}
    writers = _writers(compared.net, each.part)
    if not codes or not codes.issubset(COMPUTED) or not writers or compared.net.stacked:
        return each
    try:
        alone = _alone(compared.net, each.part, net, case)
    except (BadRequest, VariantFailure):  # the layer in a net of its own
        return each
    theirs = compared.computed
    alone = {name: value for name, value in alone.items() if name in theirs}
    other = [name for name, value in alone.items() if not same_bits(value, theirs[name])]
    if not other:
        return each
    again = compared.judged_as(each.part, alone)
    tensors = ", ".join(_spoken(name) for name in other)
    name = each.part.name
    left = f"{_spoken_of(writers, each.part)} in place what {name} still reads: Caffe's net makes "
    left += f"{tensors} of what is left there"
    if again.findings:
        words = f"{again.findings[0].words}; {left}, and the port is held against {name} alone"
        first = replace(again.findings[0], words=words)
        return replace(again, findings=[first, *again.findings[1:]])
    left += (
        f". Caffe's {name} alone, each top a blob of its own, makes of the same numbers what the "
    )
    words = f"{left}port does; all else of it agrees"
    return replace(again, undefined=Finding("overwritten", words, other[0]))


def _spoken_of(writers: Sequence[str], part: Part) -> str:
    own = [step.name for step in part.steps]
    others = [name for name in writers if name not in own] or writers
    return f"{', '.join(others)} {'overwrites' if len(others) == 1 else 'overwrite'}"


def _spoken(name: str) -> str:
    value = name.removeprefix(GRADIENT).partition(" of ")[0]
    return f"its gradient of {value}" if name.startswith(GRADIENT) else f"its {value}"


def _writers(net: Golden, part: Part) -> list[str]:
    """The layers that write over what the layers of a part have read or made."""
    made = {top: step.index for step in net.steps for top in step.tops}
    read = {each for step in part.steps for each in (*step.bottoms, *step.tops)}
    return [
        step.name
        for step in net.steps
        if step.type not in SHARING
        and any(
            net.memory.get(top, top) == net.memory.get(each, each)
            and step.index > made.get(each, -1)
            for top in step.tops
            for each in read
        )
    ]


def _alone(net: Golden, part: Part, whole: CaffeNet, case: Case) -> Mapping[str, Array32]:
    """What Caffe's layers of a part compute in a net of their own, each top a blob of its own.

    Raises:
        BadRequest: they draw random numbers, have a loss, or make what is compared on the way.
        VariantFailure: Caffe refuses the layers alone.
    """
    made = {top for step in part.steps for top in step.tops}
    read = {each for step in part.steps for each in step.bottoms}
    random = net.phase == "TRAIN" and any(step.type in RANDOM for step in part.steps)
    if random or made.intersection(net.losses) or read.intersection(part.tops):
        raise BadRequest(f"{part.name} cannot be told apart")
    outside = list(dict.fromkeys(b for s in part.steps for b in s.bottoms))
    outside = [each for each in outside if each not in made]
    names = {value: f"v{number}" for number, value in enumerate([*outside, *sorted(made)])}
    op = {"op": "alone", "text": whole.prototxt(case), "fed": list(case.names), "shapes": []}
    op |= {"phase": net.phase, "names": [step.name for step in part.steps]}
    [reply] = whole.request([op])
    layers = {each.said("name"): each for each in entries(reply["text"])}
    text = [_input(names[each], net.values[each].shape) for each in outside]
    for step in part.steps:
        rest = [each for each in layers[step.name].fields if each.name not in ("bottom", "top")]
        blobs = [Entry("bottom", f'"{names[each]}"') for each in step.bottoms]
        blobs += [Entry("top", f'"{names[each]}"') for each in step.tops]
        text.append(str(Entry("layer", [*rest, *blobs])))
    arrays = {names[each]: net.values[each] for each in outside}
    given = {f"diff[{names[top]}]": np.zeros_like(net.values[top]) for top in made}
    given |= {f"diff[{names[top]}]": net.diffs[top] for top in part.tops}
    params = [name for step in part.steps for name in step.params]
    given |= {f"param[{number}]": net.params[name] for number, name in enumerate(params)}
    fed = Case(
        "alone",
        {name: each.shape for name, each in arrays.items()},
        lambda _: arrays,
        lambda *_: arrays,
        gradients=tuple(names[each] for each in outside if each not in net.constant),
    )
    alone = replace(whole, text=lambda _: "\n".join(text), weights="")
    found = golden(alone, fed, net.phase, given, drawn=False)
    results = {top: found.values[names[top]] for top in part.tops}
    for bottom in part.bottoms:
        pieces = [
            step.bottom_diffs[position]
            for step in found.steps
            for position, each in enumerate(step.bottoms)
            if each == names[bottom] and position in step.bottom_diffs
        ]
        if pieces:
            total = sum(each.astype(np.float64) for each in pieces)
            results[part.sent(bottom)] = np.asarray(total, np.float32)
    own = [name for step in found.steps for name in step.params]
    summed = {  # with what layers outside add to it
        name
        for step in part.steps
        if step.params and not set(sharing(net, step)) <= set(part.steps)
        for name in step.params
    }
    results |= {
        GRADIENT + name: found.param_diffs[mine]
        for name, mine in zip(params, own, strict=True)
        if name in net.owned and name not in summed
    }
    return results


def _input(name: str, shape: Sequence[int]) -> str:
    dims = " ".join(f"dim: {each}" for each in shape)
    said = f'name: "{name}" type: "Input" top: "{name}"'
    return f"layer {{ {said} input_param {{ shape {{ {dims} }} }} }}"
