"""Puts Caffe's parameters into a port's modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from caffe_parity.contract import Finding
from caffe_parity.engine.compare import alike
from caffe_parity.whole.golden import Golden, Step
from caffe_parity.whole.matching import Matched, layouts
from caffe_parity.whole.port import Call, Tensors


@dataclass(frozen=True, eq=False)
class Weights:
    """Which parameter of a port holds which of the net's.

    Attributes:
        places: of the port's parameters and buffers, the net's parameters that make each: one, or
            for a running statistic the sum and what it is divided by.
        findings: what does not fit.
        turned: the port's parameters that are the net's transposed.
    """

    places: Mapping[str, tuple[str, ...]]
    findings: tuple[Finding, ...]
    turned: frozenset[str] = frozenset()

    @cached_property
    def known(self) -> set[str]:
        """The net's parameters that are in the port."""
        return {name for each in self.places.values() for name in each}

    def state(
        self,
        own: Mapping[str, torch.Tensor],
        params: Tensors,
        dtype: torch.dtype,
    ) -> Tensors:
        """A port's parameters and buffers with the net's in their places.

        Args:
            own: the port's, by name, as `of_port` gives them.
            params: the net's, by name; gradients flow to them.
            dtype: the precision of what stays the port's own.
        """
        made = {
            name: each.detach().to(dtype) if each.is_floating_point() else each.clone()
            for name, each in own.items()
        }
        for name, (first, *rest) in self.places.items():
            if name not in own:
                continue
            value = params[first]
            for factor in rest:  # a module writes into its statistics, and no gradient goes there
                value = (value / params[factor] if params[factor].any() else value * 0).detach()
            turned = name in self.turned
            made[name] = (value.t() if turned else value).reshape(own[name].shape)
        return made


def of_port(model: torch.nn.Module) -> Tensors:
    """A port's parameters and buffers."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def weights_of(
    net: Golden, matched: Matched, modules: Mapping[str, torch.nn.Module], calls: Sequence[Call]
) -> Weights:
    """Where the parameters of the layers that are matched belong.

    Convolution, Deconvolution, InnerProduct, Embed and PReLU keep their numbers in the order of
    PyTorch's weight and bias; a BatchNorm has sums of means and variances and what both are divided
    by, and the weight and bias of PyTorch's are those of the Scale behind it.
    """
    places: dict[str, tuple[str, ...]] = {}
    findings: list[Finding] = []
    turned: set[str] = set()
    called = {call.module for call in calls}
    for call, steps in matched.steps.items():
        module, prefix = modules[call.module], f"{call.module}."
        for step in steps:
            if step.type == "BatchNorm":
                places |= {
                    prefix + name: (step.params[index], step.params[2])
                    for index, name in enumerate(("running_mean", "running_var"))
                    if name in dict(module.named_buffers(recurse=False))
                }
                continue
            found = dict(_of_layer(net, step, module, prefix))
            places |= {name: each for name, each in found.items() if name not in places}
            if step.fields.get("transpose"):
                turned |= {prefix + "weight"} & set(found)
            if step.params and not found:
                findings.append(_misfit(net, step, module, call.module))
    misfits = {each.tensor for each in findings}
    for name, value in modules[""].named_parameters():
        owner = name.rpartition(".")[0]
        unused = owner and owner not in called and not any(True for _ in modules[owner].children())
        if name not in places and not unused and owner not in misfits:
            words = (
                f"the port's parameter {name} {tuple(value.shape)} is none of the net's: Caffe has "
                "nothing that it could learn there"
            )
            findings.append(Finding("parameters", words, name, "extra"))
    return Weights(places, tuple(findings), frozenset(turned))


def _of_layer(
    net: Golden, step: Step, module: torch.nn.Module, prefix: str
) -> Iterator[tuple[str, tuple[str, ...]]]:
    known = layouts(step, module)
    if known is None:
        return
    pairs = list(zip(step.params, known.items(), strict=True))
    if all(alike(net.params[name].shape, shape) for name, (_, shape) in pairs):
        yield from ((prefix + own, (name,)) for name, (own, _) in pairs)


def _misfit(net: Golden, step: Step, module: torch.nn.Module, name: str) -> Finding:
    theirs = ", ".join(str(net.params[each].shape) for each in step.params)
    own = ", ".join(
        f"{each} {tuple(value.shape)}" for each, value in module.named_parameters(recurse=False)
    )
    words = (
        f"the layer {step.name} has parameters {theirs}, the port's {name} "
        f"({type(module).__name__}) {own or 'none'}: they cannot be put there"
    )
    return Finding("parameters", words, name, "shape")
