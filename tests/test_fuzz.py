"""The search finds what is wrong, makes it small, and says how to see it again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, find, settings

from caffe_impl.variants import LAYERS as PYTHON_LAYERS
from caffe_impl.variants import NETS
from caffe_parity import CaffeNet
from caffe_parity.caffe.interpreter import NoCaffe
from caffe_parity.caffe.session import SESSION
from caffe_parity.contract import GRADIENT, SHARED_GRADIENT, Array32, Shape
from parity_tests.bad_nets import net_of
from reference.cases import case_of
from reference.layers import LAYERS
from studies.fuzz import __main__ as command
from studies.fuzz import search as driver
from studies.fuzz.defined import is_defined
from studies.fuzz.execute import Refuted, check, observe
from studies.fuzz.program import LAYOUTS, Program, Step, Target, targets
from studies.fuzz.search import Search, search
from studies.fuzz.strategies import shapes

CRASHES = '''
import os
from summed_euclidean_loss import SummedEuclideanLossLayer

class Crashes(SummedEuclideanLossLayer):
    """Ends the process when a batch of three runs backward."""

    def backward(self, top, propagate_down, bottom):
        if bottom[0].shape[0] == 3:
            os.abort()
        SummedEuclideanLossLayer.backward(self, top, propagate_down, bottom)
'''


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database of examples that is empty and is not kept."""
    monkeypatch.setattr(driver, "DATABASE", tmp_path / "examples")
    return tmp_path / "examples"


def as_variant(net: CaffeNet, layer: str = "channel_sum") -> Target:
    """A net as a variant of a layer of the suite."""
    return Target(replace(LAYERS[layer], variants={"caffe-other": net}), "caffe-other")


def python_layer(module: str, name: str, folder: Path) -> Target:
    """A Python layer as a variant of channel_sum."""
    text = (NETS / "channel_sum_python.prototxt").read_text()
    text = text.replace('"summed_euclidean_loss"', f'"{module}"')
    text = text.replace('"SummedEuclideanLossLayer"', f'"{name}"')
    return as_variant(CaffeNet(lambda case: text, path=(str(PYTHON_LAYERS), str(folder))))


def searched(target: Target, seconds: float = 60.0) -> Search:
    """What a search of one target finds."""
    return search(target, settings.get_profile("search"), seconds)


def elements(program: Program) -> int:
    """How many numbers are fed in all steps together."""
    return sum(step.x1.size + step.x2.size for step in program.steps)


def arrays(*shape: int) -> tuple[Array32, Array32]:
    """1, 2, 3, ... and zeros."""
    count = int(np.prod(shape))
    return np.arange(1, count + 1, dtype=np.float32).reshape(shape), np.zeros(shape, np.float32)


def program(*shape: int) -> Program:
    """One plain step."""
    return Program(case_of("fuzz", shape), "asked", (Step(*arrays(*shape)),))


def test_a_wrong_gradient_is_found_and_made_small() -> None:
    """A gradient rolled along the batch is found, and shrunk to two samples."""
    done = searched(as_variant(net_of("BatchRolled")))
    assert done.finding is not None
    assert done.program is not None
    assert done.finding.verdict == "fail"
    assert len(done.program.steps) == 1
    assert done.program.case.shapes["x1"][0] == 2
    assert elements(done.program) <= 8


def test_what_only_a_second_input_shows_is_found() -> None:
    """A layer that keeps its first answer is right on any one input; two on one net show it."""
    done = searched(as_variant(net_of("StaleForward")))
    assert done.program is not None
    assert len(done.program.steps) == 2
    assert elements(done.program) <= 8


def test_a_crash_is_found_and_made_small(tmp_path: Path) -> None:
    """A layer that ends Caffe's process for some shapes is an ordinary failure, and is shrunk."""
    (tmp_path / "crashes.py").write_text(CRASHES)
    done = searched(python_layer("crashes", "Crashes", tmp_path))
    assert done.finding is not None
    assert done.program is not None
    assert done.finding.verdict == "crash"
    assert "SIGABRT" in str(done.finding)
    assert any(step.x1.shape[0] == 3 for step in done.program.steps)
    assert len(done.program.steps) == 1
    assert elements(done.program) <= 12


FLICKERS = '''
from summed_euclidean_loss import SummedEuclideanLossLayer

class Flickers(SummedEuclideanLossLayer):
    """Is wrong once."""

    runs = 0

    def forward(self, bottom, top):
        SummedEuclideanLossLayer.forward(self, bottom, top)
        Flickers.runs += 1
        top[0].data[...] += Flickers.runs == 20
'''


def test_what_fails_only_now_and_then_is_a_finding(tmp_path: Path) -> None:
    """A layer that is not deterministic is not taken for one that agrees."""
    (tmp_path / "flickers.py").write_text(FLICKERS)
    done = searched(python_layer("flickers", "Flickers", tmp_path))
    assert done.finding is not None
    assert done.finding.verdict == "flaky"
    assert "it failed once and not again: step" in str(done.finding)


def commanded(monkeypatch: pytest.MonkeyPatch, *others: Target) -> Callable[..., int]:
    """The command with other targets than the suite's."""
    monkeypatch.setattr(command, "targets", lambda: others)
    return lambda *arguments: command.main(arguments)


def test_a_finding_is_seen_again(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1; the database shows it again at once, and so does the printed text without it."""
    net = CaffeNet(lambda case: (NETS / "tail_sum_reduction.prototxt").read_text())
    wrong = as_variant(net)
    main = commanded(monkeypatch, wrong)
    assert main("--budget", "60") == 1
    said = capsys.readouterr().out
    assert "program=Program(" in said
    assert "beyond the bound" in said
    first = examples_of(said, wrong)
    assert main("--budget", "60") == 1
    assert examples_of(capsys.readouterr().out, wrong) < first
    database.rename(database.with_name("gone"))
    [text] = set(re.findall(r"@reproduce_failure\('[^']+', b'([^']+)'\)", said))
    assert main("--reproduce", text) == 1
    said = capsys.readouterr().out
    assert examples_of(said, wrong) <= 2
    assert "beyond the bound" in said
    right = as_variant(net, "tail_sum")
    main = commanded(monkeypatch, right)
    assert main("--reproduce", text) == 0
    assert "nothing found" in capsys.readouterr().out


def examples_of(said: str, target: Target) -> int:
    """How many examples the table shows for a target."""
    [line] = [line for line in said.splitlines() if line.startswith(target.id)]
    return int(line.split()[1])


def test_the_budget_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends in time, names its seed, and counts the programs of every variant."""
    start = time.monotonic()
    assert command.main(["--budget", "4", "--only", "caffe-python", "--seed", "7"]) == 0
    assert time.monotonic() - start < 4 + 5  # one example each, and the start of Caffe
    said = capsys.readouterr().out
    assert "seed 7" in said
    for target in targets():
        if target.name == "caffe-python":
            assert examples_of(said, target) > 0
    assert said.count("nothing found") == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "caffe-pithon"], "names 0 variants of euclidean-caffe-native, "),
        (["--reproduce", "AAAA"], "of euclidean-caffe-native, "),
        (["--reproduce", "AAAA", "--only", "tail_sum-torch-module"], "AAAA is no example"),
        (["--reproduce", "A", "--only", "tail_sum-torch-module"], "fuzz: "),
    ],
)
def test_a_bad_request_is_no_verdict(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, with what is wrong; nothing is searched."""
    assert command.main(arguments) == 2
    assert words in capsys.readouterr().err


def test_without_a_caffe_nothing_is_proved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, with what to do."""

    def none() -> None:
        raise NoCaffe("No Caffe is installed.", "install one")

    monkeypatch.setattr(SESSION, "start", none)
    assert command.main(["--budget", "1"]) == 2
    assert "to do: install one" in capsys.readouterr().err


def test_what_ran_nothing_does_not_look_as_if_it_agreed() -> None:
    """A line of the table says so where the budget was over before the first example."""
    assert "nothing ran" in command._line(Search(targets()[0]))


@pytest.mark.parametrize(
    "target",
    [each for each in targets() if each.name not in ("torch-compiled", "torch-cuda")],
    ids=lambda each: each.id,
)
def test_a_quick_search_finds_nothing(target: Target) -> None:
    """Some programs of every variant agree; those that take seconds to compile are left to CI."""
    done = search(target, settings.get_profile("quick"))
    assert done.finding is None, done.finding
    assert done.examples > 10


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_keeps_the_values(layout: str) -> None:
    """The same numbers lie in other places of memory, which are not those of C order."""
    x = arrays(2, 3, 4)[0]
    laid_out = LAYOUTS[layout](x)
    assert np.array_equal(laid_out, x)
    assert laid_out.flags.c_contiguous == (layout in ("C", "offset"))


def test_what_float32_leaves_open_is_not_asked() -> None:
    """Where the order of summation decides between a number, infinity and NaN, nothing is run."""
    largest = float(np.finfo(np.float32).max)
    plain = program(1, 3)
    x2 = np.zeros((1, 3), np.float32)

    def with_values(values: list[float], weight: float = 1.0, sharing: str = "none") -> Program:
        case = replace(plain.case, loss_weight=weight, sharing=sharing)
        return Program(case, "asked", (Step(np.array([values], np.float32), x2),))

    assert is_defined(["channel"], plain)
    assert not is_defined(["channel"], with_values([largest, largest, -largest]))
    assert is_defined(["channel"], with_values([1e38, 0, 0]))
    assert not is_defined(["channel"], with_values([1e30, 0, 0], 3e8))
    assert is_defined(["channel"], with_values([1e30, 0, 0], 1e10))
    assert is_defined(["channel"], with_values([np.inf, 0, 0]))
    assert not is_defined(["channel"], with_values([np.inf, 0, 0], 2.0**-149))
    assert is_defined(["channel"], with_values([np.nan, 0, 0], 0))
    assert not is_defined(["channel"], with_values([np.nan, 0, 0], 0, "split"))
    forced = replace(with_values([np.nan, 0, 0], 0), gradients="forced")
    assert not is_defined(["channel"], forced)


@pytest.mark.parametrize("poison", [0.0, 1.0, 2.0**100])
def test_at_weight_0_the_other_loss_alone_is_the_answer(poison: float) -> None:
    """Caffe runs no backward of a loss of weight 0: what Split adds of it is the 0 of a fresh net.

    Whatever the diffs are filled with before: only those that a backward writes are.
    """
    target = targets()[0]
    x1, x2 = arrays(1, 2)
    case = case_of("fuzz", x1.shape, loss_weight=0.0, sharing="split")
    found = Program(case, "asked", (Step(x1, x2, poisons=(poison,)),))
    dx1 = observe(target.variant, found)[-1].tensors[GRADIENT + "x1"]
    assert dx1 is not None
    assert np.all(dx1 == SHARED_GRADIENT)
    check(target, found)


def test_a_refusal_must_come_and_must_come_as_expected() -> None:
    """A variant that says it refuses five axes is right if it does, and wrong if it computes."""
    native, python = (
        next(each for each in targets() if each.id == f"euclidean-{name}")
        for name in ("caffe-native", "caffe-python")
    )
    assert isinstance(native.variant, CaffeNet)
    assert isinstance(python.variant, CaffeNet)
    five = program(1, 2, 1, 1, 2)
    check(native, five)
    claiming = replace(python.variant, claims=native.variant.claims)
    with pytest.raises(Refuted, match="must refuse"):
        check(as_variant(claiming, "euclidean"), five)


@pytest.mark.parametrize(
    ("samples", "units", "value"), [(3, 4, 2.0**40), (5, 6, 2.0**40), (2, 1, 1.0), (1, 1, 1.0)]
)
def test_a_loss_weight_that_underflows_is_within_the_bound(
    samples: int, units: int, value: float
) -> None:
    """w/N that rounds in the subnormal numbers, before d multiplies it, is rounding like any other.

    `units` counts the smallest subnormal numbers in the loss weight. With integers, too: the exact
    lane ends where w/(2N) underflows.
    """
    x1 = np.full((samples, 1), value, np.float32)
    case = case_of("fuzz", x1.shape, loss_weight=units * 2.0**-149)
    found = Program(case, "asked", (Step(x1, np.zeros_like(x1)),))
    for target in targets():
        if target.variant.cannot_run() is None and target.name != "torch-compiled":  # seconds
            check(target, found)


DRAWN: dict[str, Callable[[Shape, Shape], bool]] = {
    "six axes": lambda x1, x2: len(x1) == 6,
    "more than 1,024 channels": lambda x1, x2: x1[1] > 1024,
    "more than 1,024 samples": lambda x1, x2: x1[0] > 1024,
    "N is C": lambda x1, x2: x1[0] == x1[1] > 2,
    "a square": lambda x1, x2: len(x1) == 4 and x1[2] == x1[3] > 2,
    "one column": lambda x1, x2: len(x1) == 4 and x1[3] == 1 < x1[2],
    "unequal channels": lambda x1, x2: x1[1] != x2[1],
}


@pytest.mark.parametrize("kind", DRAWN)
def test_search_draws_every_kind_of_shape(kind: str) -> None:
    """Within a thousand examples there is one of each kind that code is known to treat apart."""
    target = next(each for each in targets() if each.id == "channel_sum-torch-module")
    profile = settings(max_examples=1000, derandomize=True, database=None, phases=[Phase.generate])
    find(shapes(target), lambda both: DRAWN[kind](*both), settings=profile)
