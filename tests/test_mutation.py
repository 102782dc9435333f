"""The mutants are real, their runner tells the truth, and what they found missing is tested."""

from __future__ import annotations

import ast
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from caffe_impl.variants import LAYERS as PYTHON_LAYERS
from caffe_impl.variants import NETS, CaffeVariant
from caffe_parity.contract import (
    PASSES,
    Bound,
    Case,
    Expectation,
    Inputs,
    Pass,
    Result,
    Run,
    VariantFailure,
)
from caffe_parity.engine.compare import compare, compare_run
from caffe_parity.engine.judge import Outcome, judge, prepared
from parity_tests.test_parity import test_parity as parity_test
from reference.cases import by_name
from studies.mutation import __main__ as command
from studies.mutation import document
from studies.mutation.catalogue import CATALOGUE, Mutant, own_tests, parity
from studies.mutation.runner import (
    BROKEN,
    KILLED,
    NOT_RUN,
    ROOT,
    SURVIVED,
    CatalogueError,
    Verdict,
    mutated,
    run,
    spread,
)

QUICK = parity("torch-module", "euclidean", "base")

HARMLESS = Mutant(
    "harmless", "torch ports", "torch_impl/module.py", "Copy what you need.", "Copy it.", "-", QUICK
)
NONSENSE = replace(HARMLESS, name="nonsense", old="from torch import nn", new="from torch import 1")
REAL = replace(HARMLESS, name="real", old="d = x1 - x2  #", new="d = x1 + x2  #")
UNJUDGED = replace(HARMLESS, name="unjudged", judge=own_tests("test_of_nothing.py"))


@pytest.mark.parametrize("mutant", CATALOGUE, ids=lambda mutant: mutant.name)
def test_mutant_can_be_applied(mutant: Mutant) -> None:
    """Its old text stands in its file exactly once, and what it makes of Python still is Python."""
    text = mutated((ROOT / mutant.file).read_text(), mutant)
    if mutant.file.endswith(".py"):
        ast.parse(text)


def test_catalogue_is_large_and_covers_every_part() -> None:
    """At least 40 mutants with names of their own, in every part of the project that computes."""
    assert len(CATALOGUE) >= 40
    assert len({mutant.name for mutant in CATALOGUE}) == len(CATALOGUE)
    files = {mutant.file for mutant in CATALOGUE}
    for folder in ("layers", "nets", "cuda"):
        assert any(file.startswith(f"caffe_impl/{folder}/") for file in files)
    for part in ("torch_impl/", "reference/", "caffe_parity/engine/compare.py"):
        assert any(file.startswith(part) for file in files)


def test_text_that_has_changed_is_an_error() -> None:
    """A mutant whose old text is gone, or stands there twice, is refused by its name."""
    for text in ("", "Copy what you need. Copy what you need."):
        with pytest.raises(CatalogueError, match="harmless: its old text stands"):
            mutated(text, HARMLESS)


def test_runner_tells_the_truth() -> None:
    """Killed, survived and broken each are what they are, and the working tree stays as it is."""
    before = (ROOT / HARMLESS.file).read_bytes()
    verdicts = run([REAL, HARMLESS, NONSENSE, UNJUDGED])
    assert [each.verdict for each in verdicts] == [KILLED, SURVIVED, BROKEN, BROKEN]
    killed, survived, nonsense, unjudged = verdicts
    assert killed.killing_cases == ["base"]
    assert survived.ran == killed.ran
    assert not survived.failed
    assert "SyntaxError" in nonsense.reason
    assert "without any mutant" in unjudged.reason
    assert (ROOT / HARMLESS.file).read_bytes() == before


def test_survivor_fails_the_run_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1, and the last lines name the mutant that nothing found."""
    monkeypatch.setattr(command, "CATALOGUE", (HARMLESS,))
    assert command.main(["--jobs", "1"]) == 1
    said = capsys.readouterr().out
    assert "survived: harmless" in said
    assert "0 of 1 mutants killed" in said


def test_budget_is_respected(capsys: pytest.CaptureFixture[str]) -> None:
    """A run ends in time, and says of the rest that it did not run; no proof is no success."""
    start = time.monotonic()
    assert command.main(["--budget", "0.2"]) == 2
    assert time.monotonic() - start < 20  # the budget, the copy, and what ends the processes
    assert f"not run: budget ({len(CATALOGUE)} mutants)" in capsys.readouterr().out


def test_status_is_the_worst_verdict() -> None:
    """0 only if every mutant that ran was killed, and one ran."""
    expected = {
        (KILLED,): 0,
        (KILLED, NOT_RUN): 0,
        (KILLED, SURVIVED): 1,
        (SURVIVED, BROKEN): 1,
        (KILLED, BROKEN): 2,
        (NOT_RUN,): 2,
    }
    for seen, status in expected.items():
        assert command.status([Verdict(HARMLESS, verdict) for verdict in seen]) == status


def test_every_group_has_its_share_of_a_short_run() -> None:
    """The first quarter has about a quarter of each group, in an order that the seed decides."""
    first = spread(CATALOGUE, seed=1)
    assert sorted(each.name for each in first) == sorted(each.name for each in CATALOGUE)
    assert first == spread(CATALOGUE, seed=1)
    assert first != spread(CATALOGUE, seed=2)
    quarter = first[: len(first) // 4]
    for group in {mutant.group for mutant in CATALOGUE}:
        size = sum(mutant.group == group for mutant in CATALOGUE)
        share = sum(mutant.group == group for mutant in quarter)
        assert abs(share - size / 4) <= 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "py-one-sing"], "unknown mutant 'py-one-sing'; did you mean 'py-one-sign'"),
        (["--only", "py-one-sign", "--write-docs"], "needs every mutant"),
    ],
)
def test_bad_request_is_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be carried out is said in words."""
    assert command.main(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--budget", "0"], ["--jobs", "0"], ["--nonsense"]])
def test_bad_option_is_status_2(arguments: list[str]) -> None:
    """argparse ends the program itself."""
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2


SAMPLE = ("torch-broadcast", "py-stale-difference", "truth-trap", "compare-signed")


def test_sample_of_the_mutants_is_killed() -> None:
    """One of each kind of judge; `tox -e mutants` runs them all."""
    sample = [mutant for mutant in CATALOGUE if mutant.name in SAMPLE]
    assert len(sample) == len(SAMPLE)
    assert {each.mutant.name: each.verdict for each in run(sample)} == dict.fromkeys(SAMPLE, KILLED)


def test_page_lists_the_catalogue() -> None:
    """docs/mutants.md has the catalogue's mutants; else run `tox -e mutants -- --write-docs`."""
    lines = document.DOCUMENT.read_text().splitlines()
    listed = [line for line in lines if line.startswith("| `") and line.count(" | ") == 3]
    wanted = [document.first_cells(mutant) for mutant in CATALOGUE]
    assert [line[: len(cells)] for line, cells in zip(listed, wanted, strict=False)] == wanted
    assert len(listed) == len(wanted)


def test_page_shows_survivors_and_useless_cases() -> None:
    """What a reader must not miss: a mutant that nothing found, a case that finds nothing."""
    cases = {"a": "base", "b": "odd"}
    killed = Verdict(REAL, KILLED, "", ("a", "b"), ("a",), cases)
    page = document.document([killed, Verdict(HARMLESS, SURVIVED, "", ("a", "b"), (), cases)])
    assert "**1 of 2 are killed** (50.0%)" in page
    assert "| 1 of 2 cases: `base` |" in page
    assert "nothing: it survived" in page
    assert "Cases that kill nothing: `odd`." in page
    assert "| `base` | 1 | `real` |" in page


# What the catalogue found missing: mutants of the judge and the schedule that no other test saw.


@dataclass
class Stub:
    """A variant that says what it is told to."""

    answer: Run | VariantFailure
    expectation: Expectation
    name: str = "stub"
    layer: str = "channel_sum"

    def expects(self, case: Case) -> Expectation | None:
        return self.expectation

    def cannot_run(self) -> str | None:
        return None

    def run(self, case: Case, inputs: Inputs, other: Inputs, larger: Inputs) -> Run:
        if isinstance(self.answer, VariantFailure):
            raise self.answer
        return self.answer


def right(layer: str) -> Run:
    """What a layer answers to the case "base", rounded once."""
    truth = prepared(layer, by_name("base")).truth
    assert truth.dx1 is not None and truth.dx2 is not None
    result = Result(*(each.astype(np.float32) for each in (truth.loss, truth.dx1, truth.dx2)))
    return Run(tuple(Pass(name, poison, result) for name, poison in PASSES.items()))


REFUSES = Expectation("refused", "it takes four axes at most", text="num_axes() <= 4")
AS_TAIL = Expectation("as-layer", "Reduction sums them all", layer="tail_sum")


@pytest.mark.parametrize(
    ("answer", "expectation", "verdict"),
    [
        (VariantFailure("crash", "Check failed: num_axes() <= 4"), REFUSES, "refused"),
        (VariantFailure("crash", "signal SIGSEGV"), REFUSES, "crash"),
        (VariantFailure("hang", "no answer"), REFUSES, "hang"),
        ("channel_sum", REFUSES, "fail"),
        ("tail_sum", AS_TAIL, "refused"),
        ("channel_sum", AS_TAIL, "fail"),
        (VariantFailure("crash", "num_axes() <= 4"), AS_TAIL, "crash"),
    ],
)
def test_verdict_on_what_was_claimed(
    answer: str | VariantFailure, expectation: Expectation, verdict: str
) -> None:
    """A claim is no excuse: only the very refusal, or the very layer, announced is right."""
    stub = Stub(right(answer) if isinstance(answer, str) else answer, expectation)
    assert judge(stub, by_name("base")).verdict == verdict


@pytest.mark.parametrize("verdict", ["fail", "crash", "hang"])
def test_verdict_that_disagrees_fails_the_test(verdict: str) -> None:
    """What crashed or hung is never printed as passed."""
    with pytest.raises(pytest.fail.Exception, match=verdict):
        parity_test(Outcome("channel_sum", "stub", "base", verdict, "why"))


def test_verdict_shows_the_worst_pass() -> None:
    """The numbers in the report are those of the pass that is wrong, whichever it is."""
    data = prepared("channel_sum", by_name("base"))
    passes = right("channel_sum").passes
    assert passes[1].result.dx1 is not None
    wrong = replace(passes[1], result=replace(passes[1].result, dx1=-passes[1].result.dx1))
    found = compare_run(by_name("base"), Run((passes[0], wrong, passes[2])), data.truth, data.bound)
    assert found["dx1"].worst.wrong == data.inputs.x1.size


def test_verdict_on_an_empty_tensor_of_another_shape() -> None:
    """No element is wrong where there is none, and yet the shape is."""
    bound = Bound({"dx1": np.zeros((0, 3))}, {"dx1": np.zeros((0, 3))})
    found = compare("dx1", np.zeros((0, 2), np.float32), np.zeros((0, 3)), bound)
    assert not found.agrees


NEVER_SHRINKS = '''
import numpy as np
from summed_euclidean_loss import SummedEuclideanLossLayer as Good


class NeverShrinks(Good):
    """A buffer that grows with the batch, never shrinks, and is summed as a whole."""

    def forward(self, bottom, top):
        Good.forward(self, bottom, top)
        squares = np.square(self.d, dtype=np.float64).reshape(len(self.d), -1)
        kept = getattr(self, "kept", squares)
        self.kept = squares if len(squares) >= len(kept) else kept
        self.kept[: len(squares)] = squares
        top[0].data[...] = self.kept.sum() / (2 * bottom[0].shape[0])
'''


@pytest.fixture
def never_shrinks(tmp_path: Path) -> CaffeVariant:
    """That layer as a variant of channel_sum."""
    (tmp_path / "never_shrinks.py").write_text(NEVER_SHRINKS)
    text = (NETS / "channel_sum_python.prototxt").read_text()
    text = text.replace('"summed_euclidean_loss"', '"never_shrinks"')
    text = text.replace('"SummedEuclideanLossLayer"', '"NeverShrinks"')
    path = (str(PYTHON_LAYERS), str(tmp_path))
    return CaffeVariant("never-shrinks", "channel_sum", lambda case: text, path=path)


def test_verdict_on_what_a_reshape_leaves_behind(never_shrinks: CaffeVariant) -> None:
    """A layer that is wrong only after a larger batch fails in the pass "reshaped" alone."""
    case = by_name("base")
    data = prepared("channel_sum", case)
    ran = never_shrinks.run(case, data.inputs, data.other, data.larger)
    found = compare_run(case, ran, data.truth, data.bound)
    assert found["loss"].failed_pass == "reshaped"
    assert found["dx1"].failed_pass is None
