"""Says what a divergence means: which part of the training is wrong, in words.

An explanation is a hypothesis that predicts the whole training: the float64 training is run again
with one thing changed, and every element of every step must lie within rounding of what was seen,
while the prediction itself lies well away from the truth. Where none fits, it says so.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from caffe_parity.contract import Array64, Arrays, Floating
from caffe_parity.engine.compare import as_float32
from caffe_parity.engine.explain import CLOSE, SLACK
from caffe_parity.engine.functions import Tensors
from caffe_parity.training.recipe import LOSS, Adjust, Recipe, Trajectory, train
from caffe_parity.training.truth import Truth

REFINEMENTS = 3
"""How often the factor of a hypothesis is improved by Newton's method; each costs two trainings."""

CLOSE_FACTOR = 2.0**-12
"""How near a fitted factor lies to one that has a name. It only chooses the words: whether the
hypothesis fits was decided by the bounds."""


@dataclass(frozen=True)
class Divergent:
    """A training that left the truth.

    Attributes:
        truth: what should have been trained.
        seen: what was trained instead.
        step: the first step that diverges, from 1.
    """

    truth: Truth
    seen: Trajectory
    step: int

    def is_predicted_by(self, hypothesis: Trajectory) -> bool:
        """Whether another training is what was seen, and is not the truth."""
        differs = False
        for number, state in enumerate(hypothesis):
            for name, value in state.items():
                seen, expected = self.seen[number][name], self.truth.expected[number]
                room = SLACK * expected.bound.worst[name] + CLOSE * np.abs(value)
                if seen.shape != value.shape or not np.all(np.abs(seen - value) <= room):
                    return False
                away = np.abs(value - expected.truth[name]) > 4 * room
                differs = differs or bool(np.any(away))
        return differs

    def trained(
        self,
        adjust: Adjust | None = None,
        recipe: Recipe | None = None,
        batches: Sequence[Arrays] | None = None,
    ) -> Trajectory:
        """The float64 training with something changed."""
        truth = self.truth
        return train(
            recipe or truth.recipe, truth.initial, batches or truth.batches, torch.float64, adjust
        )


def meaning_of(divergent: Divergent) -> str:
    """What is wrong: each hypothesis of the first kind that fits, or that there is none."""
    kinds = (
        _not_finite,
        _only_the_loss,
        _batch,
        _rate_in_momentum,
        _schedule,
        _nesterov,
        _decay_added,
        _loss_times,
        _factor,
    )
    with np.errstate(all="ignore"):
        for kind in kinds:
            found = list(dict.fromkeys(kind(divergent)))
            if found:
                return "; or ".join(found)
    return "no single mistake in the gradient, the batches or the solver's settings explains it"


def _not_finite(divergent: Divergent) -> Iterator[str]:
    at = divergent.step - 1
    for name, value in divergent.seen[at].items():
        expected = as_float32(divergent.truth.expected[at].truth[name])
        odd = ~np.isfinite(value) & np.isfinite(expected)
        if odd.any():
            yield f"{odd.sum()} of {odd.size} elements of {name} are NaN or infinite"


def _only_the_loss(divergent: Divergent) -> Iterator[str]:
    truth, seen = divergent.truth, divergent.seen
    for number, state in enumerate(seen):
        for name in truth.initial:
            expected = truth.expected[number]
            error = np.abs(state[name] - expected.truth[name])
            if not np.all(error <= expected.bound.worst[name]):
                return
    at = divergent.step - 1
    factor = float(seen[at][LOSS] / truth.expected[at].truth[LOSS])
    yield (
        f"only the value of the loss is wrong ({factor:.7g} times what it should be at step "
        f"{divergent.step}); its gradient, and so what is learned, is right"
    )


def _batch(divergent: Divergent) -> Iterator[str]:
    batches, step = list(divergent.truth.batches), divergent.step
    before = [batches[0], *batches[:-1]]
    hypotheses = {
        "each step is taken with the batch of the step before": before,
        "each step is taken with the first batch": batches[:1] * len(batches),
        f"step {step} is taken with the batch of the step before": (
            batches[: step - 1] + before[step - 1 : step] + batches[step:]
        ),
    }
    for words, hypothesis in hypotheses.items():
        if divergent.is_predicted_by(divergent.trained(batches=hypothesis)):
            yield words
            return


def _rate_in_momentum(divergent: Divergent) -> Iterator[str]:
    """Caffe gathers V = mu V + lr g, PyTorch buf = mu buf + g: they part when lr changes."""
    if divergent.is_predicted_by(divergent.trained(rate_in_momentum())):
        yield (
            f"the learning rate changes at step {divergent.step}, and Caffe's momentum keeps the "
            "old rate in what it has gathered (V = momentum*V + lr*g) where torch.optim.SGD applies"
            " the new one to all of it (lr*buf): train the port with torch_impl/caffe_sgd.py"
        )


def rate_in_momentum() -> Adjust:
    """Makes torch.optim.SGD gather lr*g, by rescaling its buffers when the rate changes."""
    before: dict[int, float] = {}

    def adjust(_: int, optimizer: torch.optim.Optimizer, __: Tensors) -> None:
        for index, group in enumerate(optimizer.param_groups):
            rate = group["lr"]
            for param in group["params"]:
                buffer = optimizer.state[param].get("momentum_buffer")
                if buffer is not None and rate:
                    buffer.mul_(before[index] / rate)
            before[index] = rate

    return adjust


def _schedule(divergent: Divergent) -> Iterator[str]:
    """The learning rate does not change, or at another step."""
    rates: list[list[float]] = []

    def record(_: int, optimizer: torch.optim.Optimizer, __: Tensors) -> None:
        rates.append([group["lr"] for group in optimizer.param_groups])

    divergent.trained(record)
    hypotheses = {
        "the learning rate does not change": rates[:1] * len(rates),
        "the learning rate changes one step late": [rates[0], *rates[:-1]],
        "the learning rate changes one step early": [*rates[1:], rates[-1]],
    }
    for words, hypothesis in hypotheses.items():
        if divergent.is_predicted_by(divergent.trained(_with_rates(hypothesis))):
            yield words


def _with_rates(rates: Sequence[Sequence[float]]) -> Adjust:
    def adjust(number: int, optimizer: torch.optim.Optimizer, _: Tensors) -> None:
        for group, rate in zip(optimizer.param_groups, rates[number - 1], strict=True):
            group["lr"] = rate

    return adjust


def _nesterov(divergent: Divergent) -> Iterator[str]:
    recipe = divergent.truth.recipe

    def other(params: Tensors) -> torch.optim.Optimizer:
        optimizer = recipe.optimizer(params)
        for group in optimizer.param_groups:
            group["nesterov"] = not group.get("nesterov", False)
        return optimizer

    if divergent.is_predicted_by(divergent.trained(recipe=replace(recipe, optimizer=other))):
        yield "one of the two has Nesterov's momentum and the other the plain one"


States = Sequence[Mapping[str, Floating]]


def _loss_times(divergent: Divergent) -> Iterator[str]:
    """The loss is multiplied, and so is its gradient."""
    recipe = divergent.truth.recipe
    factor = float(divergent.seen[0][LOSS] / divergent.truth.expected[0].truth[LOSS])
    weight = factor * recipe.loss_weight
    if divergent.is_predicted_by(divergent.trained(recipe=replace(recipe, loss_weight=weight))):
        yield f"the loss, and so its gradient, is {factor:.6g} times what it should be"


Multiply = Callable[[float], Adjust]
"""Makes the adjustment that multiplies something by a factor."""

Multiplied = Literal["gradient", "learning rate", "momentum", "weight decay"]
"""What a hypothesis multiplies."""

FOR_ALL: Sequence[Multiplied] = ("gradient", "learning rate", "momentum", "weight decay")
FOR_SOME: Sequence[Multiplied] = ("learning rate", "weight decay")


def _factor(divergent: Divergent) -> Iterator[str]:
    """One thing is multiplied, from the first step or from the divergent one, for all or some."""
    everybody = tuple(divergent.truth.initial)
    some = tuple(name for name in everybody if name in _wrong(divergent))
    for first in dict.fromkeys((1, divergent.step)):
        for names in dict.fromkeys((everybody, some)):
            found = False
            for what in FOR_ALL if names == everybody else FOR_SOME:
                factor = _fitted(divergent, _multiply(what, names), first)
                if factor is not None:
                    found = True
                    when = "" if first == 1 else f", from step {first} on"
                    whose = "" if names == everybody else f" of {', '.join(names)}"
                    yield _in_words(what, whose, factor, divergent.truth.recipe) + when
            if found:
                return


def _wrong(divergent: Divergent) -> set[str]:
    """The names of what lies beyond its bound at the divergent step."""
    at = divergent.step - 1
    expected = divergent.truth.expected[at]
    return {
        name
        for name, value in divergent.seen[at].items()
        if np.any(np.abs(value - expected.truth[name]) > expected.bound.worst[name])
    }


def _multiply(what: Multiplied, names: Sequence[str]) -> Multiply:
    """Multiplies the gradient, rate, momentum or decay of some parameters.

    All but the momentum is done to the gradient g, to which the optimizer adds decay*W: a rate
    that is f times larger is f*(g + decay*W) in it, as Caffe's momentum gathers it.
    """

    def multiply(factor: float) -> Adjust:
        def adjust(_: int, optimizer: torch.optim.Optimizer, params: Tensors) -> None:
            ours = {id(params[name]) for name in names}
            for group in optimizer.param_groups:
                if what == "momentum":
                    group["momentum"] = factor * group.get("momentum", 0.0)
                    continue
                decay = (factor - 1) * group.get("weight_decay", 0.0)
                for param in group["params"]:
                    if id(param) not in ours or param.grad is None:
                        continue
                    if what in ("gradient", "learning rate"):
                        param.grad.mul_(factor)
                    if what in FOR_SOME:
                        param.grad.add_(param.detach(), alpha=decay)

        return adjust

    return multiply


def _decay_added(divergent: Divergent) -> Iterator[str]:
    """Parameters without weight decay have that of the others."""
    some = _wrong(divergent)

    def adjust(_: int, optimizer: torch.optim.Optimizer, params: Tensors) -> None:
        decay = max(group.get("weight_decay", 0.0) for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            for param in group["params"]:
                if (
                    not group.get("weight_decay")
                    and param.grad is not None
                    and id(param) in {id(params[name]) for name in some if name in params}
                ):
                    param.grad.add_(param.detach(), alpha=decay)

    if divergent.is_predicted_by(divergent.trained(adjust)):
        yield f"{', '.join(sorted(some))} decay as the others do, and should not (decay_mult: 0)"


def _from(first: int, adjust: Adjust) -> Adjust:
    def later(number: int, optimizer: torch.optim.Optimizer, params: Tensors) -> None:
        if number >= first:
            adjust(number, optimizer, params)

    return later


def _fitted(divergent: Divergent, multiply: Multiply, first: int) -> float | None:
    """The factor with which a hypothesis predicts what was seen, or None.

    The divergent step is linear in it (what is gathered before it is the truth), which gives a
    first guess; Newton's method then fits the whole training.
    """

    def trained(factor: float) -> Trajectory:
        return divergent.trained(_from(first, multiply(factor)))

    at = divergent.step - 1
    without = divergent.trained(_from(divergent.step, multiply(0.0)))
    truth = [each.truth for each in divergent.truth.expected]
    full = _difference(divergent, truth, without, at)
    if not full.any():
        return None
    seen = _difference(divergent, divergent.seen, without, at)
    factor = float(seen @ full / (full @ full))
    for _ in range(REFINEMENTS):
        change = 2.0**-20 * max(abs(factor), 1.0)
        now = trained(factor)
        slope = _difference(divergent, trained(factor + change), now) / change
        factor += float(_difference(divergent, divergent.seen, now) @ slope / (slope @ slope))
    if not np.isfinite(factor) or not divergent.is_predicted_by(trained(factor)):
        return None
    return factor


def _difference(
    divergent: Divergent, one: States, another: States, at: int | None = None
) -> Array64:
    """One training less another, in bounds, all parameters of all steps (or one) in a row."""
    bounds = [each.bound.worst for each in divergent.truth.expected]
    numbers = range(len(bounds)) if at is None else [at]
    return np.concatenate(
        [
            ((one[number][name] - another[number][name]) / bounds[number][name]).ravel()
            for number in numbers
            for name in divergent.truth.initial
        ]
    )


def _in_words(what: Multiplied, whose: str, factor: float, recipe: Recipe) -> str:
    """A factor, by its name if it has one."""
    weight = recipe.loss_weight
    names = {
        ("gradient", 0.0): "the loss has no gradient (a Python layer without loss_weight has none)",
        ("gradient", -1.0): "the gradient has the wrong sign",
        ("gradient", weight): "the gradient is off by loss_weight: it is applied twice",
        ("gradient", 1 / (weight or 1.0)): (
            "the gradient is off by exactly 1/loss_weight: the top diff is ignored"
        ),
        ("learning rate", 0.0): f"nothing is learned{whose.replace(' of', ' in')}",
        ("momentum", 0.0): "there is no momentum",
        ("weight decay", 0.0): f"there is no weight decay{whose}",
    }
    for (thing, value), words in names.items():
        if thing == what and abs(factor - value) <= CLOSE_FACTOR * max(abs(value), 1.0):
            return words
    return f"the {what}{whose} is {factor:.6g} times what it should be"
