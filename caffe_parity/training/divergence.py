"""Holds a training against the truth, step by step, and names the first step that diverges."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from caffe_parity.contract import Agreement, Arrays, BadRequest
from caffe_parity.engine.compare import compare
from caffe_parity.training.hypotheses import Divergent, meaning_of
from caffe_parity.training.in_caffe import CaffeTraining, initial_parameters, train_in_caffe
from caffe_parity.training.recipe import Recipe, Trajectory, train
from caffe_parity.training.truth import Truth, truth_of


@dataclass(frozen=True)
class Divergence:
    """The first tensor that lies beyond its bound.

    Attributes:
        step: the number of the step, from 1.
        name: "loss" (of the step, before its update) or the parameter, such as "ip1[0]".
        agreement: where and by how much; `agreement.fraction` is the error over the bound.
    """

    step: int
    name: str
    agreement: Agreement


@dataclass(frozen=True)
class TrainingParity:
    """One training beside the truth.

    Attributes:
        steps: for each step, the worst place of each tensor, by name.
        first_divergent: None where every element of every step lies within its bound.
        explanation: what the divergence means, in words; "" without one.
    """

    steps: tuple[dict[str, Agreement], ...]
    first_divergent: Divergence | None
    explanation: str

    @property
    def largest(self) -> float:
        """The largest error of all steps over its bound; at most 1 where the two agree."""
        return max(each.fraction for step in self.steps for each in step.values())

    def __str__(self) -> str:
        """The verdict in a line or two."""
        if self.first_divergent is None:
            return f"agrees over {len(self.steps)} steps, {self.largest:.2g} of the bound at most"
        at = self.first_divergent
        each = at.agreement
        place = f" at {list(each.worst_index)}" if each.worst_index else ""
        what = each.note or (
            f"{each.wrong} of {each.size} beyond the bound, worst{place}: {each.actual:.9g}, "
            f"expected {each.expected:.9g} within {each.bound:.2g}"
        )
        words = f"diverges at step {at.step} of {len(self.steps)} in {at.name}: {what}"
        return f"{words}\n  {self.explanation}"


def against(truth: Truth, trajectory: Trajectory) -> TrainingParity:
    """Compares a training of the same initial parameters and batches with the truth."""
    steps = tuple(
        {name: compare(name, state[name], expected) for name in expected.truth}
        for state, expected in zip(trajectory, truth.expected, strict=True)
    )
    divergent = next(
        (
            Divergence(number, name, each)
            for number, step in enumerate(steps, 1)
            for name, each in step.items()
            if not each.agrees
        ),
        None,
    )
    if divergent is None:
        return TrainingParity(steps, None, "")
    return TrainingParity(
        steps, divergent, meaning_of(Divergent(truth, trajectory, divergent.step))
    )


def compare_training(
    training: CaffeTraining,
    reference: Recipe,
    batches: Sequence[Arrays],
    initial: Arrays | None = None,
    port: Recipe | None = None,
) -> dict[str, TrainingParity]:
    """Trains a net in Caffe and its reference in PyTorch, from the same weights and batches.

    Args:
        training: the net and its solver.
        reference: the same in PyTorch; its float64 training is the truth.
        batches: the inputs of each step, by name, float32; as many steps are taken.
        initial: the parameters to begin with, by name, float32; None takes what the net's fillers
            make of those that learn.
        port: another recipe, trained in float32 and held against the same truth.

    Returns:
        by name: "caffe" and, with a port, "port".

    Raises:
        BadRequest: there is no batch, it lacks an input, or Caffe learns more than `initial` has.
        CaffeError: the net or the solver cannot be built, a layer raised, or the process died.
        NoCaffe, InstallError: there is no Caffe.
    """
    if not batches:
        raise BadRequest("a training needs at least one batch")
    if initial is None:
        initial = initial_parameters(training, batches[0])
    trajectories = {"caffe": train_in_caffe(training, initial, batches)}
    if port is not None:
        trajectories["port"] = train(port, initial, batches, torch.float32)
    truth = truth_of(reference, initial, batches)
    return {name: against(truth, each) for name, each in trajectories.items()}
