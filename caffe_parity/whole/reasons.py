"""Why a part of a port is wrong, in words, and which of its layers is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from caffe_parity.contract import GRADIENT, UNIT_ROUNDOFF, Expected, Finding, Floating
from caffe_parity.engine.compare import as_float32, fits, wrong
from caffe_parity.engine.explain import Explanation, Failure, explain
from caffe_parity.engine.verdict import rounded_sizes
from caffe_parity.layer import Rival
from caffe_parity.whole.fields import CLAMP, clamps, differences
from caffe_parity.whole.mistakes import normaliser
from caffe_parity.whole.port import spelled
from caffe_parity.whole.recipe import (
    Made,
    Recipe,
    State,
    Value,
    Within,
    ingredients,
    keeps,
    steps_of,
    writes,
)
from caffe_parity.whole.rivals import AND, FINE, explained, right, rivals
from caffe_parity.whole.stacked import sharing
from caffe_parity.whole.weights import learns, of_port

if TYPE_CHECKING:
    from caffe_parity.whole.judged import Comparison, Part

BIASED = ("Convolution", "Deconvolution", "InnerProduct")
"""The types of layers that add a bias for each channel."""


MOST = 6
"""Operations on weights that are told."""


class Reasons:
    """What speaks for which mistake.

    Args:
        compared: the port beside the net.
    """

    def __init__(self, compared: Comparison) -> None:
        self._compared = compared
        self._net, self._port = compared.net, compared.port
        self._weights = compared.weights
        self._layers: dict[Finding, str] = {}
        self._winners: dict[Part, Rival] = {}  # what has explained a tensor of a part
        self.rest: dict[Part, float] = {}  # by part, what the explanation of a top leaves open
        self._last: Rival | None = None
        self._exact: Rival | None = None

    def blamed(self, part: Part, findings: Sequence[Finding]) -> tuple[str, ...]:
        """The layers of a part that are wrong: all of them where none alone is known to be."""
        known = {each: self._layers.get(each, "") for each in findings if each.code != "parameter"}
        forward = [name for each, name in known.items() if each.code == "forward"]
        names = {name for each in known.values() for name in each.split(AND)} - {""}
        if not known:
            learned = {each.tensor.removeprefix(GRADIENT) for each in findings}
            names = {step.name for step in part.steps if not learned.isdisjoint(step.params)}
        elif not all(forward or known.values()):  # a backward follows from the forward
            names = set()
        whole = [step.name for step in part.steps]
        return tuple(each for each in whole if each in names) or tuple(whole)

    def together(self, part: Part) -> str:
        """In words, that one of the layers of a part is wrong, and which is not known."""
        names = ", ".join(step.name for step in part.steps)
        called = ", ".join(f"`{call}`" for call in part.calls)
        where = f"the port's module {called} computes" if called else "the port computes"
        return f"one of {names}, which {where} together"

    def settings(self, part: Part) -> dict[str, list[str]]:
        """By layer, the settings of the port's module that are not the layer's."""
        found = {
            step.name: differences(self._net, step, self._port.modules[call.module])
            for call in part.calls
            for step in self._compared.matched.steps[call]
        }
        return {name: each for name, each in found.items() if each}

    def _in_front(self, part: Part) -> Iterator[str]:
        """What the port computes between a layer's bottom and the module of the layer."""
        for call in part.calls:
            made = self._compared.first.made_of.get(call)
            is_step = isinstance(self._port.modules[call.module], torch.nn.RNNCellBase)
            if made and not is_step:
                bottom = self._compared.first.changes.get(
                    call, self._compared.matched.steps[call][0].bottoms[0]
                )
                yield f"the port's {call} reads what {', '.join(made)} makes of {bottom}"

    def _cast(self, part: Part) -> Iterator[str]:
        """That the port computes the part under autocast."""
        seen = self._compared.first
        known = [each for top in part.tops if (each := seen.recipes.get(top))]
        functions = [step.func for each in known for step in steps_of(each)]
        casts = [each.autocast for each in functions if isinstance(each, Within) and each.autocast]
        names = [str(each).removeprefix("torch.") for each in casts]
        names += [seen.autocast[top] for top in part.tops if top in seen.autocast]
        for name in names[:1]:
            yield f"the port computes it under torch.autocast, in {name}"

    def _strange(self, part: Part) -> Iterator[str]:
        """The parameters of other layers that the port computes it with."""
        recipes = [self._compared.first.recipes.get(top) for top in part.tops]
        taken = [one for each in recipes if each for one in ingredients(each)]
        names = dict.fromkeys(one.name for one in taken if isinstance(one, State))
        others = {
            name: params[0]
            for name in names
            if (params := self._weights.made_of(name)) and not set(params) & set(part.params)
        }
        if others and part.params:
            are = "is" if len(others) == 1 else "are"
            yield (
                f"the port computes it with {', '.join(others)}, which {are} the net's "
                f"{', '.join(others.values())}, not {', '.join(part.params)}"
            )

    def _reworked(self, part: Part) -> Iterator[str]:
        """What the port makes of a layer's weights before it computes with them."""
        own = {one for step in part.steps if step.type in BIASED for one in step.params}
        recipes = [self._compared.first.recipes.get(top) for top in part.tops]
        alone: dict[int, str] = {}  # operations on one tensor of weights, and its name
        does: dict[str, list[str]] = {}
        for each in [one for recipe in recipes if recipe for one in steps_of(recipe)]:
            taken = [
                one for one in tree_leaves((each.args, each.kwargs)) if isinstance(one, Recipe)
            ]
            names = {
                one.name
                if isinstance(one, State) and own.intersection(self._weights.made_of(one.name))
                else alone.get(id(one), "")
                for one in taken
            }
            if len(names) == 1 and (name := names.pop()):
                alone[id(each)] = name
                if not keeps(each):
                    does.setdefault(name, []).append(spelled(each))
        for name, some in does.items():
            yield f"the port's {name} goes through {', '.join(some[:MOST])} before"

    def finding(
        self, part: Part, name: str, value: Floating, expected: Expected, side: str = ""
    ) -> Finding:
        """What is said of a tensor that is wrong.

        Args:
            part: whose tensor it is.
            name: of it.
            value: Caffe's, or the port's in float32.
            expected: the port's in float64.
            side: what is said first of the port in float32, which then is the one that is wrong.
        """
        truth = expected.truth[name]
        words, cause, layer = "", "", ""
        settings = self.settings(part)
        in_front = [*self._in_front(part)]
        calls = {call.module for call in part.calls}
        if not fits(name, value.shape, truth.shape):
            words = f"Caffe's has shape {value.shape}, the port's {truth.shape}"
            rounded = rounded_sizes(name, value, expected)
            cause = "shape"
            known = not (side or settings or name not in part.tops)
            known = known and (not rounded or self._rounds_up(part))
            other = explained(self._net, part.steps, part.bottoms, name, truth) if known else None
            if other:
                rounded = f": {other.words.format(tensor='it')}"
                layer = other.code.partition(" of ")[2]
            words += rounded
        elif any(each.cause == "shape" and each.tensor in calls for each in self._weights.findings):
            words, cause = "the port has numbers of its own there, in place of Caffe's", "shape"
        else:
            # Caffe is what the port must be: the explanation says what the port does instead.
            computed = value.astype(np.float64).reshape(truth.shape)
            ported = computed if side else np.asarray(as_float32(truth), np.float64)
            swapped = replace(expected, truth={name: truth if side else computed})
            failure = Failure(
                tensor=name,
                name=_spoken(name),
                is_gradient=name.startswith(GRADIENT),
                expected=np.asarray(swapped.truth[name]),
                bound=np.where(
                    np.isfinite(expected.bound.worst[name]), expected.bound.worst[name], np.inf
                ),
                actual=ported,
                wrong=wrong(name, value, expected),
                shape=self._net.values[part.bottoms[0]].shape if part.bottoms else (),
                is_loss=part.steps[-1].type.endswith("Loss"),
                rivals=lambda: chain(
                    self._rivals(part, name),
                    ()
                    if settings and not in_front
                    else self._others(part, side, expected, failure),
                ),
            )
            self._last = self._exact = None
            found = explain(failure)
            winner = self._last
            if winner is None or found.code != winner.code:
                winner = self._exact
            if winner is not None:
                self._winners[part] = winner
                made = winner.predicted.get(name)
                if made is not None and name in part.tops:
                    self.rest[part] = float(np.abs(made.reshape(truth.shape) - truth).max())
                found = Explanation(winner.code, winner.words.format(tensor=failure.name))
            words, cause = found.words + self._gates(part, name, value, expected), found.code
            divided = "" if side else self._divided(part, name, value, expected)
            if divided:
                words, cause = f"{failure.name} {divided}", f"normaliser of {part.steps[-1].name}"
            cause, _, layer = cause.partition(" of ")
            if _code(name) == "parameter":
                learned = self.learned(name.removeprefix(GRADIENT), cause == "zero")
                words = "; ".join(filter(None, [learned, words]))
        said = [words, *(CLAMP for step in part.steps if clamps(step, self._net)), *in_front]
        said += chain.from_iterable(settings.values())
        said += self._cast(part)
        if _code(name) == "forward":
            said += [*self._strange(part), *self._reworked(part)]
        if len(settings) == 1 and not in_front:
            layer = layer or next(iter(settings))
        return self.of(layer, Finding(_code(name), side + "; ".join(said), name, cause))

    def _rounds_up(self, part: Part) -> bool:
        """Whether the port asks PyTorch to round a size up."""
        recipes = [self._compared.first.recipes.get(top) for top in part.tops]
        nodes = [one for each in recipes if each for one in steps_of(each)]
        return any(one.kwargs.get("ceil_mode") for one in nodes)

    def _divided(self, part: Part, name: str, value: Floating, expected: Expected) -> str:
        """What the port divides a loss by, where that is all; for its gradients, too."""
        loss, [top, *others] = part.steps[-1], part.tops
        truth = expected.truth
        is_loss = loss.type.endswith("Loss") and not others and loss.tops[:1] == (top,)
        if not is_loss or np.size(truth[top]) != 1 or top not in self._net.losses:
            return ""
        made = right(self._net, part.steps, part.bottoms).get(top)
        if made is None or not float(made):
            return ""
        factor = float(np.ravel(truth[top])[0]) / float(made)
        off = np.abs(truth[name] - factor * value.astype(np.float64).reshape(truth[name].shape))
        if off.max(initial=0.0) > FINE * np.abs(truth[name]).max(initial=0.0):
            return ""
        return normaliser(self._net, loss, factor)

    def of(self, layer: str, finding: Finding) -> Finding:
        """Notes which layer a finding is about, by its name; "" for any of the part's."""
        self._layers[finding] = layer
        return finding

    def learned(self, param: str, zero: bool = False) -> str:
        """In words, how the port learns a parameter otherwise than Caffe; "" for not at all.

        Args:
            param: of the net.
            zero: whether its gradient in the port is 0.
        """
        own = of_port(self._port.model)
        held = {
            name: own[name] for name in self._weights.places if param in self._weights.made_of(name)
        }
        for step in [each for each in self._net.steps if param in each.params]:
            others = {each.params[step.params.index(param)] for each in sharing(self._net, step)}
            apart = [
                name
                for name in self._weights.places
                if others.intersection(self._weights.made_of(name))
            ]
            if apart:
                return (
                    f"the port learns {', '.join([*held, *apart])} apart, and in Caffe they are "
                    "one parameter that layers share"
                )
        kinds = {True: "has requires_grad False", False: "is a buffer"}
        frozen = [
            f"{name} {kinds[isinstance(each, torch.nn.Parameter)]}"
            for name, each in held.items()
            if not learns(each)
        ]
        if not frozen and not zero:
            return ""
        why = f": {', '.join(frozen)}" if frozen else ""
        return f"the port does not learn {param}{why}"

    def overwriting(self, parts: Sequence[Part], error: str) -> str:
        """In words, which operation of some parts writes into what their backward needs.

        Args:
            parts: the parts.
            error: what PyTorch says of it.
        """
        tops = [top for part in parts for top in part.tops]
        recipes = [self._compared.first.recipes.get(top) for top in tops]
        said: dict[str, None] = {}
        for recipe in recipes:
            for each in steps_of(recipe) if recipe else ():
                below = each.args[0] if each.args and writes(each) else None
                if isinstance(below, Value):
                    said[f"its {spelled(each)} writes into {below.name}"] = None
                elif isinstance(below, Made) and _operation(below) in error.lower():
                    made = f"what {spelled(below)} has made"
                    said[f"its {spelled(each)} writes into {made}"] = None
        raises = "the port's backward raises, since something is overwritten that it needs: "
        if said:
            return f"{raises}{', '.join(said)}; out = out + x keeps it, out += x does not"
        modules = self._port.modules.items()
        known = [name for name, each in modules if getattr(each, "inplace", False)]
        return f"{raises}{error}" + (f"; {', '.join(known)}: inplace=True" if known else "")

    def _gates(self, part: Part, name: str, value: Floating, expected: Expected) -> str:
        """Which gates of an LSTM a parameter's gradient is wrong in, where it is not all four."""
        of_lstm = {one for step in part.steps if step.type == "LSTM" for one in step.params}
        if name.removeprefix(GRADIENT) not in of_lstm:
            return ""
        parts = np.split(wrong(name, value, expected), 4)
        gates = [gate for gate, each in zip("ifog", parts, strict=True) if np.any(each)]
        return f"; of the gates i, f, o, g in {', '.join(gates)}" if len(gates) < 4 else ""

    def _others(
        self, part: Part, side: str, expected: Expected, failure: Failure
    ) -> Iterator[Rival]:
        """What the part would make if one of its layers were another; first what explained more.

        An error that is smaller than what explanations need is explained by what makes the same in
        float64: all but a thousandth of it.
        """
        truth = None if side else expected.truth
        known = [self._winners[part]] if part in self._winners else []
        found = rivals(self._net, part.steps, part.tops, part.bottoms, part.sent, truth)
        for each in chain(known, found):
            made = each.predicted.get(failure.tensor)
            if truth and made is not None and self._exact is None:
                own = truth[failure.tensor]
                off = np.abs(made.reshape(own.shape) - own).max(initial=0.0)
                if 1024 * off <= np.abs(failure.expected - own).max(initial=0.0):
                    self._exact = each
            self._last = each
            yield each

    def _rivals(self, part: Part, name: str) -> Iterator[Rival]:
        """What the part would make without its bias."""
        step = part.steps[-1]
        if step.type not in BIASED or len(step.params) < 2 or name not in step.tops:
            return
        value = self._net.values[name].astype(np.float64)
        bias = self._net.params[step.params[1]].astype(np.float64)
        dense = step.type == "InnerProduct"  # whose outputs lie along the last axis
        shape = (-1,) if dense else (1, -1, *(1 for _ in value.shape[2:]))
        yield Rival(
            "bias",
            "{tensor} is as without the bias",
            {name: value - bias.reshape(shape)},
            {name: 4 * UNIT_ROUNDOFF * (np.abs(value) + np.abs(bias.reshape(shape)))},
        )


def _operation(made: Made) -> str:
    return spelled(made).partition("(")[0]


def _code(name: str) -> str:
    if not name.startswith(GRADIENT):
        return "forward"
    return "backward" if " of " in name else "parameter"


def _spoken(name: str) -> str:
    """A tensor's name in a sentence."""
    if not name.startswith(GRADIENT):
        return f"the port's {name}"
    bottom = name.removeprefix(GRADIENT).partition(" of ")[0]
    return f"the port's gradient of {bottom}"
