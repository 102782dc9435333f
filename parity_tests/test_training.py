"""Every loss variant trains in Caffe as in PyTorch, and what trains otherwise is found at its step.

Caffe's own SGDSolver and torch.optim.SGD begin with the same weights and take the same batches; the
float64 training is the truth, and its bound is what float32 rounding does to it until each step.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import linear

from caffe_impl.variants import NETS
from caffe_parity import CaffeNet, Case
from caffe_parity.caffe.client import CaffeCrash, LayerError, NetError, RequestError
from caffe_parity.caffe.session import SESSION
from caffe_parity.contract import Arrays, BadRequest
from caffe_parity.engine.functions import Tensors
from caffe_parity.engine.judge import variant_of
from caffe_parity.training.divergence import TrainingParity, against, compare_training
from caffe_parity.training.in_caffe import CaffeTraining, train_in_caffe
from caffe_parity.training.recipe import LOSS, Recipe, train
from caffe_parity.training.truth import Truth, truth_of
from parity_tests import training_nets as nets
from parity_tests.layers import LAYERS
from reference.cases import case_of
from reference.fills import bell
from torch_impl.caffe_sgd import CaffeSGD

STEPS = 30
FEW = 12

X1, X2 = (4, 3, 2, 3), (4, 5, 2, 3)
CASES = {
    "euclidean": case_of("training", X1, loss_weight=2.5, seed=0),
    "channel_sum": case_of("training", X1, X2, loss_weight=2.5, seed=0),
    "tail_sum": case_of("training", X1, X2, loss_weight=2.5, seed=0),
}
FLAT = case_of("training-flat", (4, 3, 1, 1), (4, 5, 1, 1), loss_weight=2.5, seed=0)
"""Where `Reduction` is a channel sum: nothing lies behind the channels."""

ALL = [(layer, name) for layer in LAYERS for name in LAYERS[layer].variants]
ABLE = [(layer, name) for layer, name in ALL if not variant_of(LAYERS[layer], name).cannot_run()]


def own_case(layer: str, name: str) -> Case:
    """The shapes that a variant is trained on: those where it claims to be its layer."""
    case = CASES[layer]
    return FLAT if variant_of(LAYERS[layer], name).expects(case) else case


def at_weight_1(case: Case) -> Case:
    """The same with a loss weight that shows nothing."""
    return replace(case, loss_weight=1.0)


@cache
def truth(layer: str, case: Case, steps: int) -> Truth:
    """The float64 training of a layer's net; a shorter one is the beginning of a longer one."""
    if steps < STEPS and case.loss_weight != 1:
        long = truth(layer, case, STEPS)
        return replace(long, batches=long.batches[:steps], expected=long.expected[:steps])
    recipe = nets.recipe(LAYERS[layer].reference, case)
    return truth_of(recipe, nets.initial(case), nets.batches(case, steps))


def trained(layer: str, name: str, case: Case, true: Truth) -> TrainingParity:
    """A variant's training, held against its layer's or another truth."""
    return against(true, nets.trained(variant_of(LAYERS[layer], name), case, true))


@pytest.mark.parametrize(("layer", "name"), ABLE, ids=lambda each: each)
def test_it_trains_as_the_reference(layer: str, name: str) -> None:
    """The parameters stay within rounding of the float64 training, at loss weights 2.5 and 1."""
    own = own_case(layer, name)
    for case, steps in ((own, STEPS), (at_weight_1(own), FEW)):
        found = trained(layer, name, case, truth(layer, case, steps))
        assert found.first_divergent is None, str(found)


def test_every_variant_is_trained_that_can_run_here() -> None:
    """Only a device that is not there, or a compiler, keeps a variant from being trained."""
    left_out = {name for _, name in ALL} - {name for _, name in ABLE}
    assert left_out <= {"torch-cuda", "torch-compiled"}
    assert {layer for layer, _ in ABLE} == set(LAYERS)


def test_the_bound_grows_as_it_must_and_leaves_no_room() -> None:
    """It is far below what was learned until then, and what was wrong at a step stays in it."""
    for layer, case in CASES.items():
        true = truth(layer, case, STEPS)
        for name, first in true.initial.items():
            learned = [np.abs(each.truth[name] - first).max() for each in true.expected]
            way = np.maximum.accumulate(learned)
            room = np.array([each.bound.worst[name].max() for each in true.expected])
            assert (room < 1e-2 * way).all(), name
            assert room[-1] < 1e-4 * way[-1], name  # as docs/training.md says
            assert room[-1] > room[0], name


def test_where_reduction_is_no_channel_sum_it_trains_as_tail_sum() -> None:
    """On spatial axes the trap diverges from channel_sum at once, and is tail_sum to the end."""
    case = CASES["channel_sum"]

    def reduction(true: Truth) -> TrainingParity:
        return trained("channel_sum", "caffe-reduction", case, true)

    assert reduction(truth("tail_sum", case, STEPS)).first_divergent is None
    divergent = reduction(truth("channel_sum", case, FEW)).first_divergent
    assert divergent is not None and (divergent.step, divergent.name) == (1, LOSS)


# What is wrong, and the step and the words with which it is found.

CHANNEL_SUM = CASES["channel_sum"]


def python_net(path: Path | None = None, layer: str = "SummedEuclideanLossLayer") -> CaffeNet:
    """The channel sum's Python layer, or a broken one from a folder."""
    net = LAYERS["channel_sum"].variants["caffe-python"]
    assert isinstance(net, CaffeNet)
    if path is None:
        return net
    text = net.text(CHANNEL_SUM).replace("SummedEuclideanLossLayer", layer)
    text = text.replace('module: "summed_euclidean_loss"', 'module: "broken_training"')
    return replace(net, text=lambda case: text, path=(str(path), *net.path))


BROKEN = """
import numpy as np
from summed_euclidean_loss import SummedEuclideanLossLayer

class IgnoresTopDiff(SummedEuclideanLossLayer):
    def backward(self, top, propagate_down, bottom):
        weight = float(top[0].diff.flat[0])
        super().backward(top, propagate_down, bottom)
        for each in (bottom[0], bottom[1]):
            each.diff[...] /= weight

class TwiceTheLoss(SummedEuclideanLossLayer):
    def forward(self, bottom, top):
        super().forward(bottom, top)
        top[0].data[...] *= 2

class NotANumber(SummedEuclideanLossLayer):
    steps = 0
    def backward(self, top, propagate_down, bottom):
        super().backward(top, propagate_down, bottom)
        self.steps += 1
        if self.steps == 3:
            bottom[0].diff.flat[0] = np.nan

class Raises(SummedEuclideanLossLayer):
    def backward(self, top, propagate_down, bottom):
        raise KeyError("no such thing")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with broken layers."""
    path = tmp_path_factory.mktemp("layers")
    (path / "broken_training.py").write_text(BROKEN)
    return path


def seen_in_caffe(
    training: CaffeTraining, true: Truth, batches: list[Arrays] | None = None
) -> TrainingParity:
    """A training in Caffe against the truth."""
    return against(true, train_in_caffe(training, true.initial, batches or true.batches))


def expect_divergence(found: TrainingParity, step: int, words: str, name: str = "") -> None:
    """The training diverges at this step, and the explanation says so."""
    first = found.first_divergent
    assert first is not None, "it agrees"
    assert first.step == step, str(found)
    assert words in found.explanation, str(found)
    assert name in first.name, str(found)
    assert f"diverges at step {step} of" in str(found)


@pytest.mark.parametrize(
    ("layer", "step", "words"),
    [
        ("IgnoresTopDiff", 1, "off by exactly 1/loss_weight: the top diff is ignored"),
        ("TwiceTheLoss", 1, "only the value of the loss is wrong (2 times"),
        ("NotANumber", 3, "elements of learned1[0] are NaN or infinite"),
    ],
)
def test_a_broken_layer_is_found(folder: Path, layer: str, step: int, words: str) -> None:
    """A layer whose gradient or value is wrong diverges at the step where it is."""
    true = truth("channel_sum", CHANNEL_SUM, FEW)
    training = nets.caffe_training(python_net(folder, layer), CHANNEL_SUM)
    expect_divergence(seen_in_caffe(training, true), step, words)


def test_a_top_diff_that_is_ignored_shows_at_no_other_weight_than_1(folder: Path) -> None:
    """At loss weight 1 such a layer trains as it should: one weight is no test."""
    case = at_weight_1(CHANNEL_SUM)
    training = nets.caffe_training(python_net(folder, "IgnoresTopDiff"), case)
    assert seen_in_caffe(training, truth("channel_sum", case, FEW)).first_divergent is None


@pytest.mark.parametrize(
    ("solver", "step", "words"),
    [
        ("base_lr: 0.0002", 1, "the learning rate is 0.1 times what it should be"),
        ("base_lr: 0.0020002", 1, "the learning rate is 1.0001 times what it should be"),
        ("momentum: 0", 2, "there is no momentum"),
        ("momentum: 0.81", 2, "the momentum is 0.9 times what it should be"),
        ("weight_decay: 0", 1, "there is no weight decay"),
        ('type: "Nesterov"', 1, "Nesterov's momentum"),
        ('lr_policy: "step" stepsize: 7 gamma: 0.1', 8, "learning rate is 0.1 times"),
    ],
)
def test_a_wrong_setting_of_the_solver_is_found(solver: str, step: int, words: str) -> None:
    """The first step that a setting changes is named, and the setting."""
    true = truth("channel_sum", CHANNEL_SUM, FEW)
    training = nets.caffe_training(python_net(), CHANNEL_SUM, solver)
    expect_divergence(seen_in_caffe(training, true), step, words)


@pytest.mark.parametrize(
    ("text", "instead", "words"),
    [
        ("lr_mult: 2.0", "lr_mult: 1", "rate of learned1[1], learned2[1] is 0.5 times"),
        ("decay_mult: 0", "decay_mult: 1", "learned1[1], learned2[1] decay as the others do"),
        ("decay_mult: 1", "decay_mult: 0", "there is no weight decay"),
    ],
)
def test_a_wrong_multiplier_of_a_blob_is_found(text: str, instead: str, words: str) -> None:
    """`lr_mult` and `decay_mult` are parameter groups; the blobs that have them wrong are named."""
    true = truth("channel_sum", CHANNEL_SUM, FEW)
    training = nets.caffe_training(python_net(), CHANNEL_SUM)
    below = training.edits["below"]
    assert text in below
    edits = {**training.edits, "below": below.replace(text, instead)}
    expect_divergence(seen_in_caffe(replace(training, edits=edits), true), 1, words, "learned1")


def test_a_stale_batch_is_found() -> None:
    """A step that is taken with the batch of the step before is named; so are all such steps."""
    true = truth("channel_sum", CHANNEL_SUM, FEW)
    training = nets.caffe_training(python_net(), CHANNEL_SUM)
    batches = [dict(batch) for batch in true.batches]
    once = [*batches[:4], batches[3], *batches[5:]]
    words = "step 5 is taken with the batch of the step before"
    expect_divergence(seen_in_caffe(training, true, once), 5, words, LOSS)
    always = [batches[0], *batches[:-1]]
    words = "each step is taken with the batch of the step before"
    expect_divergence(seen_in_caffe(training, true, always), 2, words, LOSS)


# Where Caffe's solver and torch.optim.SGD differ, and where they do not.

FALLING = 'lr_policy: "step" stepsize: 7 gamma: 0.1'


def falling(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule of FALLING."""
    return torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.1)


def caffe_sgd(params: Tensors) -> torch.optim.Optimizer:
    """`nets.sgd` as Caffe computes it."""
    return CaffeSGD(
        nets.groups(params),
        lr=nets.RATE,
        momentum=nets.MOMENTUM,
        weight_decay=nets.DECAY,
    )


def other_truth(steps: int = FEW, case: Case = CHANNEL_SUM, **changes: Any) -> Truth:
    """The channel sum, trained otherwise."""
    recipe = nets.recipe(LAYERS["channel_sum"].reference, case)
    recipe = replace(recipe, **changes)
    return truth_of(recipe, nets.initial(case), nets.batches(case, steps))


def test_momentum_parts_where_the_learning_rate_changes() -> None:
    """Caffe and torch.optim.SGD agree until the rate falls, and diverge at exactly that step."""
    training = nets.caffe_training(python_net(), CHANNEL_SUM, FALLING)
    found = seen_in_caffe(training, other_truth(schedule=falling))
    expect_divergence(found, 8, "Caffe's momentum keeps the old rate", "learned1[0]")


def test_caffe_sgd_leaves_the_gradient_as_it_was() -> None:
    """What backward() wrote is the user's: weight decay is not added to it, in no step."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = CaffeSGD([weight], lr=0.5, momentum=0.9, weight_decay=0.25)
    weight.grad = torch.tensor([3.0, 4.0])
    for _ in range(2):
        optimizer.step()
        assert weight.grad.tolist() == [3.0, 4.0]


def stepped(
    optimizer: CaffeSGD, weight: torch.Tensor, gradients: Sequence[Sequence[float] | None]
) -> list[list[float]]:
    """The weight after a step with each of these gradients; None where there is none."""
    weights = []
    for each in gradients:
        weight.grad = None if each is None else torch.tensor(each)
        optimizer.step()
        weights.append(weight.tolist())
    return weights


GRADIENTS = ((3.0, -4.0), (0.0, 0.0), (0.0, 0.0), (1.0, 0.5), (0.0, 0.0))


def sgd_of(start: Sequence[float] = (1.0, -2.0)) -> tuple[CaffeSGD, torch.nn.Parameter]:
    """The optimizer of one parameter."""
    weight = torch.nn.Parameter(torch.tensor(start))
    return CaffeSGD([weight], lr=0.3, momentum=0.9, weight_decay=0.25), weight


def test_caffe_sgd_goes_on_without_a_gradient() -> None:
    """V = momentum * V + lr * (g + decay * W) and W = W - V, also where g is 0; None is no step."""
    weight = np.array([1.0, -2.0])
    history = np.zeros(2)
    expected = []
    for gradient in GRADIENTS:
        history = 0.9 * history + 0.3 * (np.array(gradient) + 0.25 * weight)
        weight = weight - history
        expected.append(weight)
    found = stepped(*sgd_of(), GRADIENTS)
    # Each step rounds 6 times (decay * W, + g, lr *, momentum * V, +, W -) numbers below 4.
    np.testing.assert_allclose(found, expected, rtol=0, atol=6 * len(expected) * 4 * 2.0**-24)
    optimizer, parameter = sgd_of()
    stepped(optimizer, parameter, GRADIENTS[:1])
    before = optimizer.state[parameter]["history"].tolist()
    assert stepped(optimizer, parameter, [None]) == [parameter.tolist()] == [found[0]]
    assert optimizer.state[parameter]["history"].tolist() == before


@pytest.mark.parametrize("at", range(len(GRADIENTS) + 1))
def test_caffe_sgd_resumes_to_the_bit(at: int) -> None:
    """Saved after any step and loaded into another one, with another rate, it goes on as before."""
    whole = stepped(*sgd_of(), GRADIENTS)
    optimizer, weight = sgd_of()
    stepped(optimizer, weight, GRADIENTS[:at])
    file = io.BytesIO()
    torch.save({"weight": weight, "state": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    other, resumed = sgd_of(weight.tolist())
    for group in other.param_groups:
        group["lr"] = group["momentum"] = group["weight_decay"] = 0.5
    other.load_state_dict(saved["state"])
    assert resumed.tolist() == saved["weight"].tolist()
    assert stepped(other, resumed, GRADIENTS[at:]) == whole[at:]


def test_caffe_sgd_with_a_closure() -> None:
    """It is called once a step, with gradients even under no_grad, and its loss is returned."""
    target = torch.tensor([0.5, 3.0])
    calls = []
    losses: dict[str, list[float]] = {"closure": [], "by hand": []}
    weights = []
    for way, of in losses.items():
        optimizer, weight = sgd_of()

        def closure(
            optimizer: CaffeSGD = optimizer, weight: torch.Tensor = weight, way: str = way
        ) -> torch.Tensor:
            calls.append(way)
            optimizer.zero_grad()
            loss = (weight - target).square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        for _ in range(3):
            if way == "closure":
                with torch.no_grad():
                    loss = optimizer.step(closure)
            else:
                loss = closure()
                assert optimizer.step() is None
            assert loss is not None
            of.append(loss.item())
        weights.append(weight.tolist())
    assert losses["closure"] == losses["by hand"]
    assert weights[0] == weights[1]
    assert Counter(calls) == {"closure": 3, "by hand": 3}


def test_caffe_sgd_keeps_each_history_apart() -> None:
    """Parameters and groups have a history, a rate and a decay of their own."""
    alone = []
    for start, rate, decay in (((1.0, -2.0), 0.3, 0.25), ((0.5, 4.0), 0.7, 0.0)):
        weight = torch.nn.Parameter(torch.tensor(start))
        alone.append(stepped(CaffeSGD([weight], rate, 0.9, decay), weight, GRADIENTS)[-1])
    first, second = (torch.nn.Parameter(torch.tensor(each)) for each in ([1.0, -2.0], [0.5, 4.0]))
    groups: list[dict[str, Any]] = [
        {"params": [first]},
        {"params": [second], "lr": 0.7, "weight_decay": 0.0},
    ]
    optimizer = CaffeSGD(groups, lr=0.3, momentum=0.9, weight_decay=0.25)
    for each in GRADIENTS:
        first.grad, second.grad = torch.tensor(each), torch.tensor(each)
        optimizer.step()
    assert [first.tolist(), second.tolist()] == alone


def test_caffe_sgd_agrees_where_the_learning_rate_changes() -> None:
    """`torch_impl/caffe_sgd.py` gathers the rate as Caffe does; in float32 it does so, too."""
    true = other_truth(optimizer=caffe_sgd, schedule=falling)
    training = nets.caffe_training(python_net(), CHANNEL_SUM, FALLING)
    assert seen_in_caffe(training, true).first_divergent is None
    port = train(true.recipe, true.initial, true.batches, torch.float32)
    assert against(true, port).first_divergent is None
    late = nets.caffe_training(python_net(), CHANNEL_SUM, FALLING.replace("7", "8"))
    expect_divergence(seen_in_caffe(late, true), 8, "the learning rate changes one step late")
    never = nets.caffe_training(python_net(), CHANNEL_SUM)
    expect_divergence(seen_in_caffe(never, true), 8, "the learning rate does not change")


def test_nesterov_is_the_same_in_both() -> None:
    """Caffe's Nesterov solver is torch.optim.SGD with `nesterov`, by its old name, too."""

    def nesterov(params: Tensors) -> torch.optim.Optimizer:
        optimizer = nets.sgd(params)
        for group in optimizer.param_groups:
            group["nesterov"] = True
        return optimizer

    true = other_truth(4, optimizer=nesterov)
    for solver in ('type: "Nesterov"', "solver_type: NESTEROV"):
        training = nets.caffe_training(python_net(), CHANNEL_SUM, solver)
        assert seen_in_caffe(training, true).first_divergent is None
    training = nets.caffe_training(python_net(), CHANNEL_SUM, "solver_type: SGD")
    expect_divergence(seen_in_caffe(training, true), 1, "Nesterov's momentum")


def test_iter_size_divides_what_it_sums() -> None:
    """`iter_size: 3` on the same batch is one pass: the solver divides the gradients by it."""
    training = nets.caffe_training(python_net(), CHANNEL_SUM, "iter_size: 3")
    assert seen_in_caffe(training, truth("channel_sum", CHANNEL_SUM, FEW)).first_divergent is None


def test_clipping_is_the_same() -> None:
    """`clip_gradients` is `clip_grad_norm_`, put before the update; both come before the decay."""

    def clipped(params: Tensors) -> torch.optim.Optimizer:
        def clip(*_: object) -> None:
            torch.nn.utils.clip_grad_norm_(params.values(), 5.0)

        optimizer = nets.sgd(params)
        optimizer.register_step_pre_hook(clip)
        return optimizer

    training = nets.caffe_training(python_net(), CHANNEL_SUM, "clip_gradients: 5")
    assert seen_in_caffe(training, other_truth(4, optimizer=clipped)).first_divergent is None
    words = "no single mistake"
    expect_divergence(seen_in_caffe(training, truth("channel_sum", CHANNEL_SUM, FEW)), 1, words)


def test_a_batch_of_another_size_is_trained() -> None:
    """The net is reshaped between steps, and N is that of each batch."""
    larger = case_of("training", (7, 3, 2, 3), (7, 5, 2, 3), seed=1)
    batches = [*nets.batches(CHANNEL_SUM, 2), *nets.batches(larger, 2)]
    recipe = nets.recipe(LAYERS["channel_sum"].reference, CHANNEL_SUM)
    true = truth_of(recipe, nets.initial(CHANNEL_SUM), [*batches, batches[0]])
    training = nets.caffe_training(python_net(), CHANNEL_SUM)
    assert seen_in_caffe(training, true).first_divergent is None


# A net of one's own.

EUCLIDEAN = (NETS / "euclidean_native.prototxt").read_text()
OWN = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 8 dim: 5 } } }
layer { name: "target" type: "Input" top: "target" input_param { shape { dim: 8 dim: 3 } } }
layer {
  name: "hidden" type: "InnerProduct" bottom: "x" top: "hidden"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } }
}
layer { name: "relu" type: "ReLU" bottom: "hidden" top: "hidden" }
layer {
  name: "out" type: "InnerProduct" bottom: "hidden" top: "out"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } }
}
layer { name: "loss" type: "EuclideanLoss" bottom: "out" bottom: "target" top: "loss" }
"""
SOLVER = """
net: "elsewhere.prototxt" base_lr: 0.05 lr_policy: "fixed" momentum: 0.9 random_seed: 1
display: 1 snapshot: 1 snapshot_prefix: "never" test_iter: 1 test_interval: 1
"""


def own_loss(params: Tensors, inputs: Tensors) -> torch.Tensor:
    """The net OWN in PyTorch."""
    hidden = torch.relu(linear(inputs["x"], params["hidden[0]"], params["hidden[1]"]))
    out = linear(hidden, params["out[0]"], params["out[1]"])
    return (out - inputs["target"]).square().sum() / (2 * len(out))


def own_sgd(params: Tensors) -> torch.optim.Optimizer:
    """SOLVER in PyTorch."""
    return torch.optim.SGD(params.values(), lr=0.05, momentum=0.9)


def own_batches(count: int = 6) -> list[Arrays]:
    """Batches of OWN."""
    rng = np.random.RandomState(0)
    return [{"x": bell((8, 5), rng), "target": bell((8, 3), rng)} for _ in range(count)]


def test_a_net_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the net's own fillers Caffe and a port train alike; a port with a mean does not.

    What the solver's text says of files is left out: nothing is read or written.
    """
    monkeypatch.chdir(tmp_path)
    training = CaffeTraining(OWN, SOLVER)

    def mean(params: Tensors, inputs: Tensors) -> torch.Tensor:
        return own_loss(params, inputs) / 3

    reference = Recipe(own_loss, own_sgd)
    port = Recipe(mean, own_sgd)
    found = compare_training(training, reference, own_batches(), port=reference)
    assert {name: each.first_divergent for name, each in found.items()} == {
        "caffe": None,
        "port": None,
    }
    assert "agrees over 6 steps" in str(found["caffe"]) and found["caffe"].largest <= 1
    found = compare_training(training, reference, own_batches(), port=port)
    assert found["caffe"].first_divergent is None
    expect_divergence(found["port"], 1, "the loss, and so its gradient, is 0.333333 times", LOSS)
    assert list(tmp_path.iterdir()) == []


def test_shared_weights_and_those_that_do_not_learn() -> None:
    """A blob that two layers share is one parameter; one with lr_mult 0 needs none."""
    net = OWN.replace('top: "hidden"\n  inner', 'top: "hidden" param { name: "w" }\n  inner')
    more = """
        layer { name: "again" type: "InnerProduct" bottom: "x" top: "again"
          param { name: "w" } param { lr_mult: 0 }
          inner_product_param { num_output: 6 } }
        layer { name: "second" type: "Reduction" bottom: "again" top: "second" loss_weight: 0.5 }
    """

    def both(params: Tensors, inputs: Tensors) -> torch.Tensor:
        again = linear(inputs["x"], params["hidden[0]"])
        return own_loss(params, inputs) + 0.5 * again.sum()

    assert net != OWN
    training = CaffeTraining(net + more, SOLVER)
    found = compare_training(training, Recipe(both, own_sgd), own_batches())
    assert found["caffe"].first_divergent is None, str(found["caffe"])


@pytest.mark.parametrize(
    ("net", "solver", "error", "words"),
    [
        (OWN, "base_lr: 1", NetError, "no lr_policy"),
        (OWN, 'lr_policy: "fixed"', NetError, "no base_lr"),
        (OWN, "base_lr: fast", NetError, "not a valid solver prototxt"),
        (OWN, SOLVER + 'type: "Adam"', NetError, "of type 'Adam'; known are SGD and Nesterov"),
        (OWN, SOLVER.replace("fixed", "slow"), CaffeCrash, "Unknown learning rate policy: slow"),
        (OWN.split('layer {\n  name: "out', 1)[0], SOLVER, NetError, "the net has no loss"),
        (OWN.replace('"target"', '"label"'), SOLVER, NetError, "no input 'target'"),
    ],
)
def test_a_training_that_cannot_be(net: str, solver: str, error: type, words: str) -> None:
    """A wrong net or solver is an error that says what is wrong."""
    with pytest.raises(error, match=words):
        compare_training(CaffeTraining(net, solver), Recipe(own_loss, own_sgd), own_batches())


def test_wrong_arrays_are_refused() -> None:
    """What the batches or the initial parameters lack is named, and so is a wrong type or shape."""
    training, recipe = CaffeTraining(OWN, SOLVER), Recipe(own_loss, own_sgd)
    zeros = {
        "hidden[0]": np.zeros((6, 5), np.float32),
        "hidden[1]": np.zeros(6, np.float32),
        "out[0]": np.zeros((3, 6), np.float32),
        "out[1]": np.zeros(3, np.float32),
    }
    batches = own_batches()

    def refused(error: type, words: str, initial: Any = zeros, batches: Any = batches) -> None:
        with pytest.raises(error, match=words):
            compare_training(training, recipe, batches, initial)

    refused(BadRequest, "at least one batch", batches=[])
    refused(
        BadRequest,
        "batch 2 has x; the net's inputs: target, x",
        batches=[batches[0], {"x": batches[0]["x"]}],
    )
    refused(
        BadRequest,
        r"learns out\[1\], which the initial",
        {k: v for k, v in zeros.items() if k != "out[1]"},
    )
    refused(BadRequest, "'out.1': expected LAYER", {**zeros, "out.1": zeros["out[1]"]})
    refused(RequestError, r"no parameter lost\[0\]", {**zeros, "lost[0]": zeros["out[1]"]})
    refused(
        RequestError,
        r"out\[1\] has shape \(3,\), the array \(6,\)",
        {**zeros, "out[1]": zeros["hidden[1]"]},
    )
    refused(BadRequest, "is float64; Caffe holds float32", {**zeros, "out[1]": np.zeros(3)})


def test_a_layer_that_raises_is_no_divergence(folder: Path) -> None:
    """What a Python layer raises in the solver's step comes back with its traceback."""
    training = nets.caffe_training(python_net(folder, "Raises"), CHANNEL_SUM)
    with pytest.raises(LayerError, match="no such thing") as caught:
        seen_in_caffe(training, truth("channel_sum", CHANNEL_SUM, FEW))
    assert "broken_training.py" in caught.value.traceback


def test_layers_cannot_be_put_below_half_an_input_layer() -> None:
    """An Input layer that makes two blobs cannot lose one of them, and the net says so."""
    both = EUCLIDEAN.replace('top: "x1"', 'top: "x1" top: "x2"', 1)
    head, _, rest = both.partition('layer {\n  name: "x2"')
    text = head + rest.partition("\n}\n")[2]
    edits = {"below": nets.below(CASES["euclidean"])}
    with pytest.raises(NetError, match="input 'x1' shares its Input layer with others"):
        SESSION.running().request([{"op": "net", "text": text, "edits": edits}])


def test_a_step_without_a_solver_is_refused() -> None:
    """`step` after `net` says that there is no solver."""
    net = {"op": "net", "text": OWN}
    with pytest.raises(RequestError, match="no solver yet"):
        SESSION.running().request([net, {"op": "step"}])


PAGE = Path(__file__).parent.parent / "docs" / "training.md"


def test_the_page_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    """The code of docs/training.md prints what stands behind it, and agrees with `CaffeSGD`."""
    blocks = re.findall(r"\n\n((?:    .*\n|\n(?=    ))+)", PAGE.read_text())
    code, printed, _ = (textwrap.dedent(block) for block in blocks)
    exec(code, {})
    out = capsys.readouterr().out
    for line in printed.splitlines():
        assert line.removesuffix("...") in out
    exec(code.replace("torch.optim.SGD(", "CaffeSGD("), {"CaffeSGD": CaffeSGD})
    assert "agrees over 30 steps" in capsys.readouterr().out
