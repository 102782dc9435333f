"""What a port returns, beside the outputs of the net and the sum of its losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from caffe_parity.contract import UNIT_ROUNDOFF, Finding
from caffe_parity.whole.port import Overwritten, gradients

if TYPE_CHECKING:
    from caffe_parity.whole.judged import Comparison

RESULT = "the port's result "
"""How what is said of a result begins."""

ADDS_UP = "total"
"""The method of a port, as `parity port` writes it, that adds up the losses which it returns."""

WEIGHT = "loss-weight"
"""The cause of what is wrong with a sum of losses that has one of them with another weight."""

MOST = 4
"""Names that a sentence has of those that it could have."""


class Returned:
    """What a port returns.

    Args:
        compared: the port beside the net.
    """

    def __init__(self, compared: Comparison) -> None:
        self._compared = compared
        self._net, self._seen = compared.net, compared.first
        self._bare: dict[str | int | None, str] = {}  # the loss that a result is, and no sum

    def findings(self) -> list[Finding]:
        """What is wrong with what the port returns: nothing of the net, or not the loss of it.

        Raises:
            BadRequest: its backward raises.
        """
        found = [
            Finding("result", f"{what} is {came or 'something else'}, not {value}", value, "other")
            for what, came, value in self._seen.wired
            if what.startswith(RESULT)
        ]
        if not self._seen.results:
            words = "nothing that the port returns is a tensor, by number or by name"
            found.append(Finding("result", words, "nothing", "none"))
        for key, each in self._seen.results.items():
            if not self._seen.named[key] and key not in self._summed:
                words = f"the port's result {key} {tuple(each.shape)} is none of the net's values"
                found.append(Finding("result", words, str(key), "unknown"))
        return found + [one for findings, _ in self._summed.values() for one in findings]

    @cached_property
    def notes(self) -> list[Finding]:
        """The losses that the port returns as Caffe's blob holds them, without their weight."""
        if hasattr(type(self._compared.port.model), ADDS_UP):
            return []
        named = [name for key, name in self._seen.named.items() if key not in self._summed]
        alone = [name for key in self._summed if (name := self._bare.get(key))]
        return [
            Finding(
                "loss-weight",
                f"the port returns {name} without Caffe's loss_weight {self._net.losses[name]:g}, "
                "as the blob has it: what learns from it has to multiply by that",
                name,
            )
            for name in dict.fromkeys([*named, *alone])
            if self._net.losses.get(name, 1) != 1
        ]

    @property
    def missing(self) -> list[str]:
        """The net's outputs and losses that the port does not return, and may not do without."""
        left = {step.index for step in self._compared.unmatched}
        known = {
            *self._seen.named.values(),
            *(one for _, some in self._summed.values() for one in some),
        }
        return [
            name
            for name in dict.fromkeys([*self._net.outputs, *self._net.losses])
            if name not in known and self._net.maker[name].index not in left
            if self._compared.left_out.isdisjoint((name, self._net.maker[name].name))
        ]

    @cached_property
    def _summed(self) -> Mapping[str | int | None, tuple[list[Finding], list[str]]]:
        """What the port returns, or its `total` makes, of the net's losses.

        By result, None for `total`: what is wrong with it, and the losses that are in it. One
        number is the sum of all; of several each may be a part of that.
        """
        results, losses = self._seen.results, self._net.losses
        computed = [name for name in losses if name in self._seen.own]
        # only in phase TRAIN is a sum learned from: in TEST a loss may be nowhere, which is told
        wanted = [name for name in losses if name in computed or self._net.phase == "TRAIN"]
        wanted = [
            name for name in wanted if self._net.maker[name].name not in self._compared.without
        ]
        numbers = [key for key, each in results.items() if each.numel() == 1]
        free = [key for key in numbers if self._seen.named[key] != key]  # as the blob is called
        found: dict[str | int | None, tuple[list[Finding], list[str]]] = {}
        if computed and len(numbers) == 1 and free:
            found[free[0]] = self._total(free[0], wanted)
        elif computed:
            some = [key for key in free if not self._seen.named[key]]
            found |= {key: each for key in some if (each := self._total(key))[1]}
        if (
            computed
            and hasattr(type(self._compared.port.model), ADDS_UP)
            and set(results) & set(losses)
        ):
            found[None] = self._total(None, wanted)
        return found

    def _total(
        self, key: str | int | None, wanted: Sequence[str] = ()
    ) -> tuple[list[Finding], list[str]]:
        """What a number of the port makes of the net's losses: their sum, with their weights.

        Args:
            key: of the result; None for what its method `total` makes.
            wanted: the losses that must be in it; none for those that are.
        """
        values = {name: each.clone() for name, each in self._compared.values.items()}
        params = self._compared.params(True)
        leaves = {name: values[name] for name in values if name not in self._net.labels}
        leaves = {name: each.requires_grad_() for name, each in leaves.items()} | params
        port = self._compared.port.in_precision(torch.float32)
        seen = self._compared.run(port, values, params)
        made = port.total_of(seen.results) if key is None else seen.results[key]
        if seen.without.issuperset(self._net.losses):  # which is said of the layers
            return [], [*wanted] or [*self._net.losses]
        try:
            grads = gradients(made, list(leaves.values()), torch.ones_like(made))
        except Overwritten:  # which is said of the layers
            return [], [*wanted] or [*self._net.losses]
        behind = {
            name: grad
            for name, grad in zip(leaves, grads, strict=True)
            if grad is not None and grad.any()
        }
        wanted = wanted or [name for name in self._net.losses if name in behind]
        what = "the port's total" if key is None else "the port"
        often = {
            name: float(behind.pop(name).reshape(-1)[0]) if name in behind else 0.0
            for name in wanted
        }
        sizes = {name: self._net.values[name].astype(np.float64).sum() for name in wanted}
        terms = [often[name] * sizes[name] for name in wanted]
        more = float(made.detach().sum()) - sum(terms)
        rounding = 4 * (len(terms) + 1) * UNIT_ROUNDOFF * (sum(map(abs, terms)) + abs(more))
        unlearned = sum(self._net.losses[name] * sizes[name] for name in wanted if not often[name])
        findings = []
        [bare, *others] = [name for name, own in often.items() if own] or [""]
        is_one = abs(often.get(bare, 0) - 1) <= 4 * UNIT_ROUNDOFF and not others
        if is_one and len(often) == 1 and not behind and abs(more) <= rounding:
            self._bare[key] = bare
            return [], [*wanted]
        for name, own in often.items():
            weight = self._net.losses[name]
            if not abs(own - weight) <= 4 * UNIT_ROUNDOFF * abs(weight):  # nor is a NaN
                words = f"the loss weight of {name} is {weight:g}, {what} adds it with {own:g}"
                if not own and abs(more - unlearned) <= rounding:
                    words = f"{what} adds the loss {name} without its gradient: it is detached"
                findings.append(Finding("total", words, name, WEIGHT))
        if not findings and (behind or not abs(more) <= rounding):
            words = f"{what} adds {more:.6g} to the net's losses"
            words += f", made of {', '.join([*behind][:MOST])}" if behind else ""
            findings.append(Finding("total", words, "", "more"))
        return findings, [*wanted]
