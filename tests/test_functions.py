"""What a reference and a port are asked for: held against closed forms, for both share the asking.

A mistake in it would cancel wherever a port is compared with the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from caffe_parity import Case, Layer
from caffe_parity.contract import (
    GRADIENT,
    SHARED_GRADIENT,
    TOTAL,
    UNIT_ROUNDOFF,
    BadRequest,
    Bound,
    Expected,
    Outline,
    Parameter,
    Structure,
)
from caffe_parity.engine import port, random_rounding
from caffe_parity.engine.expected import question
from caffe_parity.engine.functions import Evaluation, described, must_take, tops_of, with_params
from caffe_parity.engine.judge import _differs
from caffe_parity.engine.random_rounding import as_inputs, expect
from caffe_parity.engine.structure import structure_of
from caffe_parity.layer import batched

X = np.array([[1, -2, 3], [0.5, 4, -1]], np.float32)
Y = np.array([[2, 5, -3], [-0.25, 1, 7]], np.float32)
TENSORS = as_inputs({"x": X, "y": Y})


def case_with(**changes: Any) -> Case:
    """A case of x and y."""
    made = Layer("mine", lambda x, y: x, {"x": (2, 3), "y": (2, 3)}).case(0)
    return replace(made, **{"arrays": lambda case: {"x": X, "y": Y}, **changes})


def both(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tops, whose gradients are y, x and 2 x, 0."""
    return x * y, x * x


def evaluated(
    function: Callable[..., Any],
    upstream: Mapping[str, torch.Tensor] | None,
    tops: tuple[str, ...] = ("a", "b"),
    wanted: tuple[str, ...] = ("x", "y"),
    **changes: Any,
) -> dict[str, np.ndarray]:
    """Tops and gradients of a function, at X and Y."""
    made = Evaluation(function, "port", case_with(**changes), tops, wanted)
    return {name: each.numpy() for name, each in made(dict(TENSORS), upstream).items()}


def same(found: dict[str, np.ndarray], **expected: Any) -> None:
    """Exactly these tensors; gradients are called dx and dy here."""
    named = {name.replace("d", GRADIENT, 1): np.asarray(each) for name, each in expected.items()}
    assert set(found) == set(named)
    for name, each in named.items():
        assert np.array_equal(found[name], each), name


U, V = np.float32(2) * Y, np.float32(-3) * X
UPSTREAM = as_inputs({"a": U, "b": V})


def test_each_top_gets_its_own_upstream_gradient() -> None:
    """The gradients are u y + v 2 x and u x; inputs stay as they were."""
    found = evaluated(both, UPSTREAM)
    same(found, a=X * Y, b=X * X, dx=U * Y + 2 * V * X, dy=U * X)
    assert np.array_equal(TENSORS["x"].numpy(), X) and TENSORS["x"].grad is None
    assert not TENSORS["x"].requires_grad


def test_a_top_without_one_gets_none() -> None:
    """What has no loss weight drives nothing; nor does what needs no gradient."""
    same(evaluated(both, {"b": UPSTREAM["b"]}), a=X * Y, b=X * X, dx=2 * V * X, dy=0 * X)
    found = evaluated(lambda x, y: (x * y, y.detach()), UPSTREAM)
    same(found, a=X * Y, b=Y, dx=U * Y, dy=U * X)
    same(evaluated(lambda x, y: (x.detach(), y.detach()), UPSTREAM), a=X, b=Y, dx=0 * X, dy=0 * Y)


@pytest.mark.parametrize("weight", [None, 0.5, -3.7])
def test_without_an_upstream_gradient_it_is_the_loss_weight(weight: float | None) -> None:
    """As float32, in which Caffe keeps it; 1 where the case has none."""
    w = float(np.float32(1.0 if weight is None else weight))
    one = evaluated(lambda x, y: (x * y).sum(), None, ("loss",), loss_weight=weight)
    same(one, loss=(X * Y).sum(), dx=w * Y.astype(float), dy=w * X.astype(float))


def test_only_what_is_wanted_is_differentiated() -> None:
    """Of what is not asked for there is no gradient, and none of nothing."""
    assert set(evaluated(both, UPSTREAM, wanted=("y",))) == {"a", "b", GRADIENT + "y"}
    assert set(evaluated(both, UPSTREAM, wanted=())) == {"a", "b"}


def test_a_second_consumer_adds_its_share() -> None:
    """To the first input alone, and only where its gradient is wanted."""
    shared = np.float32(SHARED_GRADIENT)
    found = evaluated(both, UPSTREAM, sharing="split")
    same(found, a=X * Y, b=X * X, dx=U * Y + 2 * V * X + shared, dy=U * X)
    found = evaluated(both, UPSTREAM, wanted=("y",), sharing="split")
    same(found, a=X * Y, b=X * X, dy=U * X)


def test_one_blob_for_both_inputs_gets_both_gradients() -> None:
    """Their sum; the function is given it twice, by both names."""
    found = evaluated(both, UPSTREAM, wanted=("x",), sharing="same-blob")
    same(found, a=X * X, b=X * X, dx=2 * U * X + 2 * V * X)


def test_upstream_gradients_that_do_not_fit_leave_the_tops_alone() -> None:
    """A reference whose tops have another size is told so by its tops' shapes."""
    found = evaluated(lambda x, y: (x.sum(), x), UPSTREAM)
    assert set(found) == {"a", "b"} and found["a"].shape == ()
    flat = {name: each.reshape(-1) for name, each in UPSTREAM.items()}
    assert set(evaluated(both, flat)) == {"a", "b"}


@pytest.mark.parametrize("weights", [None, (1.0, 2.5, -0.75)])
def test_the_question_of_a_loss_is_its_closed_form(weights: tuple[float, ...] | None) -> None:
    """The truth of each upstream gradient, with its bound scaled along."""
    layer = Layer("mine", lambda x, y: (x * y).sum(), {"x": (2, 3), "y": (2, 3)})
    case = case_with(loss_weight=None if weights else -3.0)
    asked = question(layer, case, Structure(("loss",), True))
    assert len(asked.expected) == len(weights or (1,))
    first = asked.expected[0].bound.worst[GRADIENT + "x"]
    for weight, expected in zip(weights or (-3.0,), asked.expected, strict=True):
        assert expected.truth["loss"] == (X.astype(float) * Y).sum()
        assert np.array_equal(expected.truth[GRADIENT + "x"], weight * Y)
        assert np.array_equal(expected.truth[GRADIENT + "y"], weight * X)
        worst = expected.bound.worst[GRADIENT + "x"]
        factor = abs(weight) if weights else 1.0  # the first of the weights is 1
        assert np.array_equal(worst, factor * first)
        assert ((worst > 2.0**-24 * abs(weight)) & (worst < 2.0**-18 * abs(weight * 9))).all()


def test_shared_question_keeps_the_share_at_every_weight() -> None:
    """The second consumer's gradient is not the loss's, so no weight scales it."""
    layer = Layer("mine", lambda x, y: (x * y).sum(), {"x": (2, 3), "y": (2, 3)})
    asked = question(layer, case_with(sharing="split"), Structure(("loss",), True))
    for weight, expected in zip((1.0, 2.5, -0.75), asked.expected, strict=True):
        assert np.array_equal(expected.truth[GRADIENT + "x"], weight * Y + SHARED_GRADIENT)
        assert np.array_equal(expected.truth[GRADIENT + "y"], weight * X)


def test_a_reference_that_draws_is_refused() -> None:
    """It gives another result each time; one with NaN in it does not."""
    shapes = {"x": (2, 3), "y": (2, 3)}
    random = Layer("mine", lambda x, y: x * torch.rand(3), shapes)
    with pytest.raises(BadRequest, match="another result for the same inputs"):
        question(random, case_with(), Structure(("top",), False))
    nan = Layer("mine", lambda x, y: torch.sqrt(x * y), shapes)
    assert np.isnan(
        question(nan, case_with(), Structure(("top",), False)).expected[0].truth["top"]
    ).any()


def parameter(number: int, shape: tuple[int, ...], learned: bool = True) -> Parameter:
    """A blob of the layer "ip"."""
    values = np.full(shape, number + 1, np.float32)
    return Parameter(f"param[{number}]", "ip", number, learned, values)


class Scaled(torch.nn.Module):
    """A factor and an offset, and a buffer."""

    twice: torch.Tensor
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.zeros(3))
        self.offset = torch.nn.Parameter(torch.zeros(1))
        self.register_buffer("twice", torch.full((1,), 2.0))
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.count.dtype == torch.int64
        return self.factor * x * self.twice + self.offset


def given(params: list[Parameter]) -> dict[str, torch.Tensor]:
    """x and the parameters' values."""
    return {"x": TENSORS["x"], **as_inputs({each.name: each.initial for each in params})}


def test_parameters_reach_a_function_in_order() -> None:
    """As the list `param`; without any, a function is itself."""
    params = [parameter(0, (3,)), parameter(1, (1,))]

    def function(x: torch.Tensor, param: list[torch.Tensor]) -> torch.Tensor:
        return x * param[0] + 10 * param[1]

    assert with_params(function, [], "port") is function
    found = with_params(function, params, "port")(**given(params))
    assert np.array_equal(found.numpy(), X + 20)


@pytest.mark.parametrize("extra", [False, True])
def test_parameters_take_a_modules_own_ones_place(extra: bool) -> None:
    """By order, all or the learned ones; buffers are as exact as they are, and integers stay."""
    params = [parameter(0, (3,)), parameter(1, ())]
    if extra:
        params.insert(1, parameter(7, (5,), learned=False))
    module = Scaled()
    found = with_params(module, params, "port")(**given(params))
    assert found.dtype == torch.float64
    assert np.array_equal(found.detach().numpy(), 2 * X + 2)
    assert not module.factor.any()


@pytest.mark.parametrize(
    ("function", "params", "words"),
    [
        (lambda x: x, [(3,), (1,)], "so the port must take it as well, or be an nn.Module"),
        (Scaled(), [(3,)], r"own parameters \(factor \(3,\), offset \(1,\)\) are not those"),
        (Scaled(), [(3,), (2,)], r"param\[1\] \(2,\) of ip\) in order and shape"),
        (Scaled(), [(1,), (3,)], "in order and shape"),
        (Scaled(), [(3,), (1,), (1,)], "in order and shape"),
    ],
)
def test_parameters_that_do_not_fit_are_named(
    function: Any, params: list[tuple[int, ...]], words: str
) -> None:
    """Both sides are, with their shapes."""
    made = [parameter(number, shape) for number, shape in enumerate(params)]
    with pytest.raises(BadRequest, match=words):
        with_params(function, made, "port")
    assert described([]) == "none"


def raises(x: torch.Tensor) -> None:
    """Not a reference."""
    raise ValueError("no such thing")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            raises,
            r"cannot be evaluated: test_functions.py:\d+: ValueError: no such thing \(inputs x",
        ),
        (lambda x: {"a": x}, r"returns no \['b'\]; the net's tops are"),
        (lambda x: x, "must return the net's 2 tops .*; it returned 1 value"),
        (lambda x: (x, x, x), "it returned 3 values"),
        (lambda x: 3.0, "it returned a float"),
        (lambda x: (x, 3.0), "must return tensors; for b it returned float"),
    ],
)
def test_what_is_returned_must_be_the_tops(function: Callable[..., Any], words: str) -> None:
    """Or the function is refused by name."""
    with pytest.raises(BadRequest, match=f"the port .*{words}"):
        tops_of(function, {"x": TENSORS["x"]}, ("a", "b"), "port")


def test_what_is_returned_is_taken_by_name_or_in_order() -> None:
    """A dict may be in any order."""
    for result in ((1, 2), [1, 2], {"b": 2, "a": 1}):
        made = (
            {name: torch.tensor(each) for name, each in result.items()}
            if isinstance(result, dict)
            else [torch.tensor(each) for each in result]
        )
        found = tops_of(lambda made=made: made, {}, ("a", "b"), "port")
        assert {name: int(each) for name, each in found.items()} == {"a": 1, "b": 2}


def test_arguments_are_compared_by_name() -> None:
    """Of a function, of a module's forward; what has no signature is taken as it is."""
    must_take(lambda x, y=3: x, ["x"], "port")
    must_take(Scaled(), ["x"], "port")
    must_take(max, ["x"], "port")
    for function, names in ((lambda x: x, ["x", "y"]), (lambda x, y: x, ["x"]), (Scaled(), ["y"])):
        with pytest.raises(BadRequest, match=r"as keyword arguments, it takes \(x"):
            must_take(function, names, "port")


# Which tops are compared.

ONE, TWO, MORE = torch.tensor(1.0), torch.ones(2), torch.ones(3)
PLAIN = Structure(("top",), False)
STRUCTURES: list[tuple[Outline | None, Any, Structure]] = [
    (None, ONE, Structure(("loss",), True)),
    (None, TWO, PLAIN),
    (None, (TWO, MORE), Structure(("top0", "top1"), False)),
    (None, {"a": TWO, "b": ONE}, Structure(("a", "b"), False)),
    (Outline(("a",), ("a",)), TWO, Structure(("a",), True)),
    (Outline(("a",), ()), TWO, Structure(("a",), False)),
    (Outline(("a",), ()), ONE, Structure(("a",), True, untrained=True)),
    (Outline(("a",), (), bare=True), ONE, Structure(("a",), True)),
    (Outline(("a", "b"), ("b",)), ONE, Structure(("b",), True)),
    (Outline(("a", "b"), ("b",)), TWO, Structure(("b",), True)),
    (
        Outline(("a", "b"), ("b",)),
        (TWO, ONE),
        Structure(("a", "b"), True, weightless=frozenset({"a"})),
    ),
    (Outline(("a", "b"), ("b",)), (ONE,), Structure(("b",), True)),
    (Outline(("a", "b"), ("a", "b")), ONE, Structure((TOTAL,), True)),
    (Outline(("a", "b"), ("a", "b")), (ONE, ONE), Structure(("a", "b"), False)),
    (Outline(("a", "b"), ("a", "b")), {"b": ONE, "a": TWO}, Structure(("a", "b"), False)),
    (Outline(("a", "b", "c"), ("b",)), {"b": ONE}, Structure(("b",), True)),
    (
        Outline(("a", "b", "c"), ("b",)),
        {"c": TWO, "b": ONE},
        Structure(("b", "c"), True, weightless=frozenset({"c"})),
    ),
    (Outline(("a", "b"), ()), (TWO, TWO), Structure(("a", "b"), False)),
    (Outline(("a", "b"), ("a", "b"), in_place=frozenset({"x"})), ONE, Structure((TOTAL,), True)),
]


@pytest.mark.parametrize("number", range(len(STRUCTURES)))
def test_which_tops_are_compared(number: int) -> None:
    """By what the net says of itself and what the reference returns."""
    outline, result, expected = STRUCTURES[number]
    layer = Layer("mine", lambda x, y: result, {"x": (2, 3), "y": (2, 3)})
    found = structure_of(layer, case_with(), outline)
    assert found == expected
    assert found.in_place == (outline.in_place if outline else frozenset())
    assert found.driven == tuple(n for n in expected.outputs if n not in expected.weightless)


REFUSED: list[tuple[Outline, Any, str]] = [
    (Outline(("a", "b"), ()), TWO, "as a tensor, a tuple or a dict; it returned 1 tensor"),
    (Outline(("a", "b"), ("a", "b")), TWO, "or their weighted sum as one number; it returned 1"),
    (Outline(("a", "b"), ("b",)), (ONE, ONE, ONE), r"tops \(a, b\) .*; it returned 3 values"),
    (Outline(("a", "b"), ("b",)), {"a": TWO}, r"returns no \['b'\]"),
    (Outline(("a", "b"), ()), {"a": TWO}, r"returns no \['b'\]"),
    (Outline(("a", "b"), ()), {"a": TWO, "b": TWO, "c": TWO}, "returns 'c', which would be"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_no_top_is_compared_with_is_refused(number: int) -> None:
    """With what the net has, and what came."""
    outline, result, words = REFUSED[number]
    layer = Layer("mine", lambda x, y: result, {"x": (2, 3), "y": (2, 3)})
    with pytest.raises(BadRequest, match=words):
        structure_of(layer, case_with(), outline)


# Where a gradient has a kink.


@pytest.mark.parametrize("exponent", range(1, 12))
def test_a_jump_of_the_gradient_is_a_kink_however_small(exponent: int) -> None:
    """Of 2^-1 to 2^-11 of the largest gradient, at 0; and no element beside it is one."""
    step = 2.0**-exponent

    def evaluate(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x = inputs["x"].detach().requires_grad_()
        top = (x + step * x.abs()).sum()
        (grad,) = torch.autograd.grad(top, [x])
        return {"top": top.detach(), GRADIENT + "x": grad}

    expected = expect(evaluate, as_inputs({"x": np.array([1.0, 0, -2], np.float32)}), set())
    assert expected.bound.kinks[GRADIENT + "x"].tolist() == [False, True, False]


@pytest.mark.parametrize("runs", [1, 2, 4, 8])
@pytest.mark.parametrize("number", range(4))
def test_fewer_roundings_make_no_larger_bound(number: int, runs: int) -> None:
    """In any element, though some have no deviation yet; and the truth is the same."""
    function: Callable[[torch.Tensor], torch.Tensor] = (
        lambda x: x.relu().cumsum(0),  # many elements that nothing rounds
        lambda x: x.softmax(-1),
        lambda x: (x @ x.T).tanh(),
        lambda x: x / x.abs().sum(0),
    )[number]

    def evaluate(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x = inputs["x"].detach().requires_grad_()
        top = function(x)
        (grad,) = torch.autograd.grad(top.square().sum(), [x])
        return {"top": top.detach(), GRADIENT + "x": grad}

    x = as_inputs({"x": np.random.RandomState(number).standard_normal((6, 5)).astype(np.float32)})
    few, usual = expect(evaluate, x, set(), runs=runs), expect(evaluate, x, set())
    for name, bound in usual.bound.worst.items():
        assert np.all(few.bound.worst[name] <= bound)
        assert np.array_equal(few.truth[name], usual.truth[name])


def test_a_strong_curvature_is_no_kink() -> None:
    """A smooth gradient that turns within 2^-13 of its input is compared everywhere."""

    def evaluate(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x = inputs["x"].detach().requires_grad_()
        top = torch.sin(2.0**13 * x).sum()
        (grad,) = torch.autograd.grad(top, [x])
        return {"top": top.detach(), GRADIENT + "x": grad}

    x = np.linspace(0.1, 1, 20, dtype=np.float32)
    assert not expect(evaluate, as_inputs({"x": x}), set()).bound.kinks


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_gradients_of_a_convolution_round_as_sums(transposed: bool, groups: int) -> None:
    """Each of the input, the weight and the bias, with the root of how many terms it adds up.

    All terms are positive, so that the sum of their sizes is the value.
    """
    rng = np.random.RandomState(0)
    many, few, k = 32, 16, 3
    weight = (few, many // groups, k, k) if transposed else (many, few // groups, k, k)
    inputs = {
        "x": rng.uniform(1, 2, (2, few, 7, 6)),
        "w": rng.uniform(1, 2, weight),
        "b": rng.uniform(1, 2, many),
    }
    arrays = {name: each.astype(np.float32) for name, each in inputs.items()}
    convolve = functional.conv_transpose2d if transposed else functional.conv2d

    def reference(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return convolve(x, w, b, groups=groups)

    tensors = as_inputs(arrays)
    places = reference(**tensors).numel() / many
    reached = many // groups * k * k
    terms = {"x": reached, "w": places, "b": places}

    def gradients(given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        leaves = {name: each.detach().clone().requires_grad_() for name, each in given.items()}
        result = reference(**leaves)
        found = torch.autograd.grad(result, list(leaves.values()), torch.ones_like(result))
        return dict(zip(leaves, found, strict=True))

    expected = expect(gradients, tensors, set())
    for name, count in terms.items():
        parts = expected.bound.worst[name] / (UNIT_ROUNDOFF * np.abs(expected.truth[name]))
        inner = parts[:, :, 3, 3] if name == "x" else parts  # at the edge fewer terms meet
        walk = count**0.5
        assert 1.5 * walk < np.median(inner) < 6 * walk, (name, np.median(inner), walk)


def test_samples_are_as_many_in_all_inputs_or_it_is_no_batch() -> None:
    """Whatever their other axes are."""
    for shapes, same in (
        ({"x": (2, 3), "y": (2, 5)}, True),
        ({"x": (2, 3), "y": (4, 3)}, False),
        ({"x": (2, 3), "y": (2,)}, True),
        ({"x": (2, 3), "y": ()}, False),
    ):
        made = Layer("l", lambda x, y: x.sum() + y.sum(), shapes)
        assert batched(replace(made.case(0), shapes=shapes)) == same


def test_a_tensor_that_one_observation_lacks_makes_two_of_them_different() -> None:
    """Whichever lacks it; what both lack makes no difference, nor does what rounds."""
    worst = {"y": np.full(3, 1e-6), "z": np.full(3, 1e-6)}
    expected = Expected({"y": np.ones(3), "z": np.ones(3)}, Bound(worst, worst))
    one = {"y": np.ones(3, np.float32), "z": None}
    for another, differ in (
        ({**one, "z": None}, False),
        ({"y": one["y"]}, False),
        ({**one, "z": one["y"]}, True),
        ({"z": None}, True),
        ({"y": None}, True),
        ({"y": np.ones(4, np.float32)}, True),
        ({"y": np.float32(1 + 5e-7) * np.ones(3, np.float32)}, False),
        ({"y": np.array([1, 1, 1.00001], np.float32)}, True),
    ):
        assert _differs(expected, one, another) == differ
        assert _differs(expected, another, one) == differ


@pytest.mark.parametrize(
    ("missing", "usable", "words"),
    [
        ("no CUDA device", False, "no CUDA device"),
        (None, False, "this PyTorch cannot use the GPU"),
        (None, True, None),
    ],
)
def test_a_port_for_a_gpu_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, missing: str | None, usable: bool, words: str | None
) -> None:
    """A device, or a PyTorch for it; nothing where there are both."""
    monkeypatch.setattr(port, "no_device", lambda: missing)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    said = port.no_cuda()
    assert said is None if words is None else words in str(said)


@pytest.mark.parametrize("turned", [False, True])
def test_each_element_of_a_large_tensor_is_in_one_stretch(
    monkeypatch: pytest.MonkeyPatch, turned: bool
) -> None:
    """Also of one that is not contiguous, which cannot be cut into views."""
    monkeypatch.setattr(random_rounding, "BLOCK", 8)
    values = torch.arange(35.0).reshape(5, 7)
    values = values.t() if turned else values
    doubled = values.clone()
    for to, some in random_rounding._stretches(doubled, values):
        to.add_(some)
    assert torch.equal(doubled, 2 * values)
