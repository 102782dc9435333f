"""What a part of a port may compute instead of its layers, to explain what it has made.

Each field of a layer's messages in turn gets the values that people give it by mistake: what it is
without being said, the other one of two, another word of its kind. Caffe's layers of the same form
are tried, and those mistakes of whole nets that no field says (BGR, channels last, gates, `cont`).
The catalogue of counterparts computes each from Caffe's own bottoms.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise, permutations, product
from typing import Any

import numpy as np
import torch

from caffe_parity.contract import GRADIENT, UNIT_ROUNDOFF, Floating
from caffe_parity.layer import Rival
from caffe_parity.ports.catalogue import Refused, evaluated
from caffe_parity.ports.layers import PORTS
from caffe_parity.whole.fields import said_of
from caffe_parity.whole.golden import Golden, Step
from caffe_parity.whole.mistakes import (
    ALIKE,
    SETTING,
    Compute,
    Other,
    Tensors,
    functions,
    mistakes,
    scaled,
    uneven_windows,
)
from caffe_parity.whole.port import shaped

FACTOR = "factor of "
"""The same of a rival that may as well lie on the way to the layer."""

AND = " and "
"""What is between the names of two layers of which one rival is."""

SIZES = ("dilation", "kernel_size", "local_size", "offset", "pad", "stride")
"""The fields that a small number is."""

PAIRS = (("kernel_size", "pad"), ("dilation", "pad"), ("pad", "round_mode"))
"""The fields of which two mistakes can give a top of the right size."""

USUAL = (1.0, 0.0, 0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 2.0, 3.0)
"""Numbers that many a setting has by default elsewhere."""

FEW = 4
"""Layers of a part of which two at once are tried."""

STEPS = 16
"""Of a search for a number."""

EXACT, FINE = 2.0**-40, 2.0**-20
"""Of the largest element: what a port in float64 is no further from is the same formula; in which
numbers may be Caffe's in float32."""

Fit = Callable[[Callable[[float], Compute | None], float], float | None]
"""From what a layer computes with a number, and Caffe's number, to the port's, or None."""


def rivals(
    net: Golden,
    steps: Sequence[Step],
    tops: Sequence[str],
    bottoms: Sequence[str],
    key: Callable[[str], str],
    truth: Mapping[str, Floating] | None = None,
) -> Iterator[Rival]:
    """What layers that are judged together would make if one of them were another.

    Args:
        net: the net.
        steps: the layers, in order.
        tops: the values that they give.
        bottoms: those that they take.
        key: the name of the gradient that they send back to a bottom.
        truth: what the port makes in float64, where numbers are to be read off it.
    """
    known = {step.index: _as_said(net, step) for step in steps}
    if None in known.values():
        return
    right = _tried(net, steps, known, tops, bottoms, key)

    def rival(code: str, words: str, some: Sequence[Step], chosen: Mapping[int, Any]) -> Rival:
        # Where it changes nothing, as of a parameter that layers share, it explains nothing.
        predicted = {
            name: each
            for name, each in _tried(net, some, chosen, tops, bottoms, key).items()
            if name in right and not np.array_equal(each, right[name])
        }
        words = words.replace("{", "{{").replace("}", "}}")
        return Rival(code, "{tensor} " + words, predicted, dict.fromkeys(predicted, 0.0))

    for step in steps:

        def fit(make: Callable[[float], Compute | None], start: float, step: Step = step) -> Any:
            def made(number: float) -> Any:
                chosen = {**known, step.index: make(number)}
                found = _forward(net, steps, chosen, bottoms)
                return np.concatenate([found[top].numpy().ravel() for top in tops])

            return _fitted(made, truth and _of(truth, tops), start)

        for other in others(net, step, fit):
            chosen = {**known, step.index: other.compute}
            yield rival(other.code + step.name, other.words, steps, chosen)
    for gone, step in permutations(steps, 2) if len(steps) <= FEW else ():
        if not _may_be_gone(net, gone):
            continue
        for other in others(net, step):
            words = f"{_without(gone)}, and {other.words}"
            chosen = {**known, gone.index: _passed_on, step.index: other.compute}
            yield rival(f"{SETTING}{gone.name}{AND}{step.name}", words, steps, chosen)
    for names, words, some in orders(steps):
        yield rival(SETTING + AND.join(names), words, some, known)


def orders(
    steps: Sequence[Step], longest: int = 3
) -> Iterator[tuple[list[str], str, Sequence[Step]]]:
    """Layers of which some that follow one another run in another order: names, words, and all.

    Args:
        steps: in the net's order.
        longest: so many change their places at most, as a BatchNorm with its Scale and a ReLU.
    """
    for size, start in product(range(2, longest + 1), range(len(steps))):
        chain = steps[start : start + size]
        is_chain = all(len(each.bottoms) == len(each.tops) == 1 for each in chain)
        if len(chain) < size or not is_chain:
            continue
        if any(one.tops != two.bottoms for one, two in pairwise(chain)):
            continue
        values = [chain[0].bottoms, *(each.tops for each in chain)]
        for place in range(1, size):
            before, behind = (
                ", ".join(f"{each.name} ({each.type})" for each in some)
                for some in (chain[place:], chain[:place])
            )
            turned = [*chain[place:], *chain[:place]]
            ways = zip(turned, pairwise(values), strict=True)
            new = [replace(each, bottoms=one, tops=two) for each, (one, two) in ways]
            words = f"is as with {before} before {behind}: they are in the other order"
            some = [*steps[:start], *new, *steps[start + size :]]
            yield [each.name for each in chain], words, some
    for place, (one, two) in enumerate(pairwise(steps)):
        joins = len(one.bottoms) > 1 and len(one.tops) == len(two.tops) == 1
        for bottom in one.bottoms if joins and one.tops == two.bottoms else ():
            first = replace(two, bottoms=(bottom,), tops=one.tops)
            given = tuple(one.tops[0] if each == bottom else each for each in one.bottoms)
            last = replace(one, bottoms=given, tops=two.tops)
            words = (
                f"is as with {two.name} ({two.type}) before {one.name} ({one.type}), of {bottom}"
            )
            yield [one.name, two.name], words, [*steps[:place], first, last, *steps[place + 2 :]]


def explained(
    net: Golden, steps: Sequence[Step], bottoms: Sequence[str], top: str, made: Floating
) -> Rival | None:
    """What makes a top as the port does, which may have another shape than Caffe's.

    Args:
        net: the net.
        steps: the layers, in order.
        bottoms: the values that they take.
        top: one that they give.
        made: the port's.
    """
    known = {step.index: _as_said(net, step) for step in steps}
    if None in known.values() or not made.size:
        return None
    for step in steps:
        for other in others(net, step):
            if other.compute is _passed_on:  # of a part that has no more operations that is said
                continue
            chosen = {**known, step.index: other.compute}
            if _makes(net, steps, chosen, bottoms, top, made):
                words = other.words.replace("{", "{{").replace("}", "}}")
                return Rival(other.code + step.name, "{tensor} " + words, {}, {})
    return None


def in_other_order(
    net: Golden, steps: Sequence[Step], bottoms: Sequence[str], top: str, made: Floating
) -> list[str]:
    """The layers that make a top as the port does if they run in another order, by name; or []."""
    known = {step.index: _as_said(net, step) for step in steps}
    if None in known.values() or not made.size:
        return []
    tried = orders(steps)
    return next((n for n, _, some in tried if _makes(net, some, known, bottoms, top, made)), [])


def _makes(
    net: Golden,
    steps: Sequence[Step],
    chosen: Mapping[int, Any],
    bottoms: Sequence[str],
    top: str,
    made: Floating,
) -> bool:
    """Whether layers make a top as the port does."""
    try:
        found = _forward(net, steps, chosen, bottoms)[top].numpy()
    except Exception:  # another setting need not fit the shapes
        return False
    room = FINE * np.abs(made).max()
    return found.shape == made.shape and bool(np.abs(found - made).max() <= room)


def computing(
    net: Golden, steps: Sequence[Step]
) -> Callable[[Tensors, Tensors], dict[str, torch.Tensor]] | None:
    """What layers make of values and parameters; None where the catalogue has not all."""
    known = {step.index: _as_said(net, step) for step in steps}
    if None in known.values():
        return None
    return lambda values, params: _passed(net, steps, known, values, params)


def right(net: Golden, steps: Sequence[Step], bottoms: Sequence[str]) -> Mapping[str, torch.Tensor]:
    """What layers make in float64; nothing where the catalogue has no counterpart of one."""
    known = {step.index: _as_said(net, step) for step in steps}
    return {} if None in known.values() else _forward(net, steps, known, bottoms)


def _of(truth: Mapping[str, Floating], tops: Sequence[str]) -> Any:
    """Some values, one behind the other; None where not all are known."""
    known = all(top in truth for top in tops)
    return np.concatenate([np.ravel(truth[top]) for top in tops]) if known else None


def _fitted(made: Callable[[float], Any], truth: Any, start: float) -> float | None:
    """The number with which a layer makes what the port makes; None where there is none.

    Gauss and Newton's search from Caffe's number, in float64.
    """
    if truth is None or not truth.size or not np.isfinite(truth).all():
        return None
    number, largest = start, float(np.abs(truth).max())
    try:
        for _ in range(STEPS):
            step = 1e-3 * abs(number) or 1e-3
            off = made(number) - truth
            slope = (made(number + step) - truth - off) / step
            size, steepest = float(slope @ slope), float(np.abs(slope).max())
            if not 0 < size < np.inf:
                return None
            room = EXACT * largest / steepest + 2 * UNIT_ROUNDOFF * abs(
                number
            )  # a float32 in Caffe
            if np.abs(off).max() <= room * steepest:
                found = _shortest(number, room)
                said = abs(number - start) > 2 * room
                return found if said and (_is_chosen(found) or not _is_one(slope, truth)) else None
            number -= float(slope @ off) / size
    except Exception:  # another number need not fit the layer
        return None
    return None


def _is_chosen(number: float) -> bool:
    """Whether somebody may have written a number: of few digits, or a simple fraction of such."""
    tried = [number * times for times in range(1, 10)]
    return any(math.isclose(each, float(f"{each:.3g}"), rel_tol=FINE / 16) for each in tried)


def _is_one(slope: Any, truth: Any) -> bool:
    """Whether all that a number changes is one factor or one offset, which any mistake may be."""
    cosine = abs(float(slope @ truth)) / float(np.linalg.norm(slope) * np.linalg.norm(truth))
    return cosine > 1 - FINE or np.ptp(slope) <= FINE * np.abs(slope).max()


def _shortest(number: float, room: float) -> float:
    """The number of the fewest digits that is as near."""
    tried = (0.0, *(float(f"{number:.{digits}g}") for digits in range(1, 9)))
    return next((each for each in tried if abs(each - number) <= 2 * room), number)


def _tried(*arguments: Any) -> dict[str, Any]:
    """What layers make; nothing where they cannot: another setting need not fit the shapes."""
    try:
        return _made(*arguments)
    except Exception:
        return {}


def _made(
    net: Golden,
    steps: Sequence[Step],
    chosen: Mapping[int, Any],
    tops: Sequence[str],
    bottoms: Sequence[str],
    key: Callable[[str], str],
) -> dict[str, Any]:
    values = {name: _leaf(net.values[name]) for name in bottoms}
    params = {name: _leaf(net.params[name]) for step in steps for name in step.params}
    made = _passed(net, steps, chosen, values, params)
    results = {name: made[name] for name in tops}
    driven = [name for name in tops if made[name].requires_grad]
    leaves = {**{key(name): each for name, each in values.items()}}
    leaves |= {GRADIENT + name: each for name, each in params.items()}
    grads = torch.autograd.grad(
        [made[name] for name in driven],
        list(leaves.values()),
        [torch.from_numpy(net.diffs[name]).double().reshape(made[name].shape) for name in driven],
        allow_unused=True,
    )
    pairs = zip(leaves, grads, strict=True)
    results |= {name: each for name, each in pairs if each is not None}
    return {name: each.detach().numpy() for name, each in results.items()}


def _forward(
    net: Golden, steps: Sequence[Step], chosen: Mapping[int, Any], bottoms: Sequence[str]
) -> Mapping[str, torch.Tensor]:
    """What layers make, without gradients."""
    names = [name for step in steps for name in step.params]
    values = {name: _leaf(net.values[name]).detach() for name in bottoms}
    params = {name: _leaf(net.params[name]).detach() for name in names}
    return _passed(net, steps, chosen, values, params)


def _passed(
    net: Golden,
    steps: Sequence[Step],
    chosen: Mapping[int, Any],
    values: Mapping[str, torch.Tensor],
    params: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The values, and what layers make of them, one after the other."""
    made = dict(values)
    for step in steps:
        given = {f"bottom[{index}]": made[name] for index, name in enumerate(step.bottoms)}
        given |= {f"blob[{index}]": params[name] for index, name in enumerate(step.params)}
        if step.type == "Dropout" and net.masks:
            given["mask"] = torch.from_numpy(net.masks[step.tops[0]]).double()
        found = chosen[step.index](given)
        made |= {
            name: shaped(found[f"top[{index}]"], net.values[name].shape)
            for index, name in enumerate(step.tops)
            if f"top[{index}]" in found
        }
    return made


def _leaf(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float64)).requires_grad_()


def _as_said(net: Golden, step: Step, said: Mapping[str, Any] | None = None) -> Compute | None:
    """What the catalogue computes of a layer; None where it has no counterpart of it."""
    type_ = step.type if said is None else said["type"]
    if type_ not in PORTS:
        return None
    try:
        calls = PORTS[type_].of(said_of(net, step, said))
    except (Refused, IndexError, KeyError):
        return None
    return partial(evaluated, calls)


def _may_be_gone(net: Golden, step: Step) -> bool:
    """Whether a net without a layer has the same shapes."""
    same = net.values[step.bottoms[0]].shape == net.values[step.tops[0]].shape
    return same and len(step.bottoms) == len(step.tops) == 1


def _without(step: Step) -> str:
    return f"is as without the layer {step.name} ({step.type})"


def _passed_on(given: Tensors) -> Tensors:
    return {"top[0]": given["bottom[0]"]}


def others(net: Golden, step: Step, fit: Fit = lambda make, start: None) -> Iterator[Other]:
    """What a layer may be taken for, the likeliest first.

    Args:
        net: the net.
        step: the layer.
        fit: finds a number that explains what the port makes.
    """
    compute = _as_said(net, step)
    if compute is None:
        return
    yield from mistakes(net, step, compute)
    if _may_be_gone(net, step):
        yield Other(_without(step), _passed_on)
    for words, said in _settings(net, step, fit):
        other = _as_said(net, step, said)
        if other is not None:
            yield Other(words, other)
    yield from uneven_windows(net, step)  # of which some are the same as with another pad
    for type_ in ALIKE if step.type in ALIKE else ():
        other = _as_said(net, step, {"type": type_, "top": step.said["top"]})
        if type_ != step.type and other is not None:
            yield Other(f"is what a {type_} makes, and {step.name} is a {step.type}", other)
    yield from functions(step)
    for words, start, make in scaled(step, compute):
        number = fit(make, start)
        if number is not None:
            yield Other(words.format(number), make(number), FACTOR)


def _settings(net: Golden, step: Step, fit: Fit) -> Iterator[tuple[str, dict[str, Any]]]:
    """The layer with another value of one field, and the words for it."""
    said = said_of(net, step)
    PORTS[step.type].of(said)
    for message in said.read:
        kind = net.messages["LayerParameter"][message]["type"]
        for name, about in net.messages[kind].items():
            given = said.message(message)
            if about["type"] in net.messages or f"{message}.{name}" in said.changing_nothing:
                continue
            theirs = given[name]
            known = None if name == "ignore_label" and name not in given else theirs
            is_number = about["type"] == "float" and not about["repeated"]

            def of(number: float, message: str = message, name: str = name) -> Compute | None:
                layer = copy.deepcopy(dict(step.said))
                layer.setdefault(message, {})[name] = number
                return _as_said(net, step, layer)

            fitted = fit(of, float(theirs)) if is_number else None
            tried = _values(name, about, known, step) if fitted is None else [fitted]
            for value in tried:
                layer = copy.deepcopy(dict(step.said))
                layer.setdefault(message, {})[name] = value
                if value is None:
                    del layer[message][name]
                shown = "left out" if value in (None, []) else _shown(value)
                own = f"has {_shown(theirs)}" if name in given else "does not say it"
                yield f"is as with {message}.{name} {shown}; {step.name} {own}", layer
        for names in [each for each in PAIRS if set(each) <= set(net.messages[kind])]:
            for both in product(*(_of_pair(name, net.messages[kind][name]) for name in names)):
                layer = copy.deepcopy(dict(step.said))
                layer.setdefault(message, {}).update(zip(names, both, strict=True))
                words = ", ".join(
                    f"{message}.{name} {_shown(each)}"
                    for name, each in zip(names, both, strict=True)
                )
                yield f"is as with {words}", layer


def _of_pair(name: str, about: Mapping[str, Any]) -> Sequence[Any]:
    """Values that a field may have been given by mistake together with another one."""
    return about["values"] or [[each] if about["repeated"] else each for each in range(6)]


def _values(name: str, about: Mapping[str, Any], theirs: Any, step: Step) -> Iterator[Any]:
    """Those that a field may have been given by mistake; None for unset."""
    if name in SIZES:
        own = theirs if isinstance(theirs, list) else [theirs]
        close = [each + more for each in own if each for more in (-2, -1, 1, 2)]
        sizes = dict.fromkeys([*range(8), *(each for each in close if each >= 0)])
        yield from ([each] if about["repeated"] else each for each in sizes)
    if about["repeated"]:
        yield from [None] if theirs else []
    elif about["values"]:
        yield from (each for each in about["values"] if each != theirs)
    elif about["type"] == "bool":
        yield from (False, True)  # what is not said may be another one in each phase
    elif about["type"] == "float":
        size = float(step.fields.get("local_size", 1))
        tried = [about["default"], *USUAL]
        tried += [each / 10 for each in range(1, 10) if name == "dropout_ratio"]
        tried += [theirs * size, theirs / size, -theirs, 2 * theirs, theirs / 2]
        yield from (each for each in dict.fromkeys(tried) if each != theirs)
    elif about["type"] in ("int32", "uint32"):
        yield None
        if name == "axis":
            yield from (each for each in range(4) if each != theirs)
        if name == "ignore_label":
            yield from (each for each in (*range(8), 255, -1) if each != theirs)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
