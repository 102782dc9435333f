"""The search finds what is wrong, makes it small, and leaves a folder that shows it again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from caffe_impl.variants import LAYERS as PYTHON_LAYERS
from caffe_impl.variants import NETS, CaffeVariant
from caffe_parity.caffe.interpreter import find
from caffe_parity.contract import SHARED_GRADIENT, Array32, Case
from parity_tests.registry import registered
from reference.layers import LAYERS
from studies.fuzz import folder as disk
from studies.fuzz.__main__ import main
from studies.fuzz.defined import is_defined
from studies.fuzz.execute import Finding, check, observe
from studies.fuzz.program import LAYOUTS, Program, Step
from studies.fuzz.search import Caffes, Search, Tally, with_caffe

MUTANTS = Path(__file__).parents[1] / "parity_tests" / "known_bad"

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


@pytest.fixture(scope="module")
def caffes() -> Iterator[Caffes]:
    """Workers of their own, which the tests may kill."""
    made = Caffes(find(), timeout=30.0)
    yield made
    made.close()


def python_layer(module: str, name: str, folder: Path) -> CaffeVariant:
    """A Python layer as a variant of channel_sum."""
    text = (NETS / "channel_sum_python.prototxt").read_text()
    text = text.replace('"summed_euclidean_loss"', f'"{module}"')
    text = text.replace('"SummedEuclideanLossLayer"', f'"{name}"')
    path = (str(PYTHON_LAYERS), str(folder))
    return CaffeVariant(f"caffe-{name}", "channel_sum", lambda case: text, path=path)


def searched(variant: CaffeVariant, caffes: Caffes, folder: Path, seconds: float) -> Tally:
    """What a search of one variant finds."""
    search = Search(folder, 0, time.monotonic() + seconds, say=lambda line: None)
    [tally] = search.run(with_caffe([variant], caffes))
    return tally


def arrays(*shape: int) -> tuple[Array32, Array32]:
    """1, 2, 3, ... and zeros."""
    count = int(np.prod(shape))
    return np.arange(1, count + 1, dtype=np.float32).reshape(shape), np.zeros(shape, np.float32)


def program(*shape: int) -> Program:
    """One plain step."""
    return Program(Case("fuzz", shape, shape), "asked", (Step(*arrays(*shape)),))


def is_complete(folder: Path) -> bool:
    """Whether a folder holds all that it takes to see the failure again."""
    names = {each.name for each in folder.iterdir()}
    return names == {"case.json", "arrays.npz", "net.prototxt", "README.md"}


def test_a_wrong_gradient_is_found_and_made_small(
    caffes: Caffes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A gradient rolled along the batch is found, shrunk to two samples, and replays from disk."""
    tally = searched(python_layer("mutants", "BatchRolled", MUTANTS), caffes, tmp_path, 60.0)
    assert tally.finding is not None
    assert tally.program is not None
    assert tally.folder is not None
    assert tally.finding.verdict == "fail"
    assert len(tally.program.steps) == 1
    assert tally.program.case.x1_shape[0] == 2
    assert tally.program.elements <= 8
    assert is_complete(tally.folder)
    assert str(tally.folder) in (tally.folder / "README.md").read_text()
    capsys.readouterr()
    path = ["--path", str(PYTHON_LAYERS), "--path", str(MUTANTS)]
    assert main(["--replay", str(tally.folder), *path]) == 1
    assert tally.finding.words in capsys.readouterr().out


def test_what_only_a_second_input_shows_is_found(caffes: Caffes, tmp_path: Path) -> None:
    """A layer that keeps its first answer is right on any one input; two on one net show it."""
    tally = searched(python_layer("mutants", "StaleForward", MUTANTS), caffes, tmp_path, 60.0)
    assert tally.program is not None
    assert len(tally.program.steps) == 2
    assert tally.program.elements <= 8


def test_a_crash_is_found_and_made_small(
    caffes: Caffes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A layer that ends Caffe's process for some shapes leaves a small case that does it again."""
    (tmp_path / "crashes.py").write_text(CRASHES)
    variant = python_layer("crashes", "Crashes", tmp_path)
    tally = searched(variant, caffes, tmp_path, 60.0)
    assert tally.finding is not None
    assert tally.program is not None
    assert tally.folder is not None
    assert tally.finding.verdict == "crash"
    assert any(step.x1.shape[0] == 3 for step in tally.program.steps)
    assert len(tally.program.steps) == 1
    assert tally.program.elements <= 12
    assert is_complete(tally.folder)
    path = ["--path", str(PYTHON_LAYERS), "--path", str(tmp_path)]
    assert main(["--replay", str(tally.folder), *path]) == 1
    assert "SIGABRT" in capsys.readouterr().out


def test_the_case_is_on_disk_while_it_runs(caffes: Caffes, tmp_path: Path) -> None:
    """Each program is complete on disk before it runs: also a death of the search leaves it."""
    [variant] = with_caffe([python_layer("mutants", "Good", MUTANTS)], caffes)
    assert isinstance(variant, CaffeVariant)
    name = f"channel_sum-{variant.name}"
    seen = []

    def look() -> Caffes:
        seen.append(is_complete(tmp_path / "running" / str(os.getpid()) / name))
        return caffes

    watched = replace(variant, caffe=lambda: look()())
    search = Search(tmp_path, 0, time.monotonic() + 1.0, say=lambda line: None)
    [tally] = search.run([watched])
    assert tally.finding is None
    assert len(seen) == tally.examples > 0
    assert all(seen)
    assert not any(tmp_path.glob("running/*/*"))


def test_what_a_search_did_not_survive_is_kept(tmp_path: Path) -> None:
    """The next search keeps the program during which an earlier one died, and says where it is."""
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    disk.write(
        tmp_path / "running" / dead.stdout.decode().strip() / "layer-variant",
        registered()[0],
        program(1, 1),
        None,
        "",
    )
    said: list[str] = []
    Search(tmp_path, 0, time.monotonic() - 1, say=said.append).run([])
    [kept] = (tmp_path / "failures").iterdir()
    assert is_complete(kept)
    assert str(kept) in said[0]


def test_the_budget_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends in time, names its seed, and counts the programs of every variant."""
    start = time.monotonic()
    options = ["--budget", "5", "--variant", "caffe-python", "--seed", "7"]
    assert main([*options, "--report", str(tmp_path)]) == 0
    assert time.monotonic() - start < 5 + 5  # one example, and the start of Caffe
    output = capsys.readouterr().out
    assert "seed 7" in output
    for layer in LAYERS:
        assert f"{layer}-caffe-python" in output


def test_a_net_of_ones_own_is_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--net searches a user's net; a net that computes another layer is found in seconds."""
    net = ["--net", str(NETS / "tail_sum_reduction.prototxt"), "--layer", "channel_sum"]
    assert main([*net, "--budget", "60", "--report", str(tmp_path)]) == 1
    assert main(["--replay", str(tmp_path / "failures" / "channel_sum-caffe-net")]) == 1
    assert "beyond the bound" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "case.json").unlink(), "cannot read"),
        (lambda folder: (folder / "case.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "case.json").write_text("[]"), "must hold an object"),
        (lambda folder: edit(folder, format="parity-fuzz-0"), "parity-fuzz-0"),
        (lambda folder: edit(folder, layer="mean"), "must be one of euclidean"),
        (lambda folder: edit(folder, loss_weight="1"), "must be a finite number"),
        (lambda folder: edit(folder, propagate_down=[1, 2]), "two booleans"),
        (lambda folder: edit(folder, steps=[]), "no steps"),
        (lambda folder: edit(folder, steps=[3]), "must be an object"),
        (lambda folder: edit(folder, steps=[{}] * 3), "'layouts' must be"),
        (lambda folder: (folder / "arrays.npz").write_bytes(b"PK"), "cannot read the arrays"),
        (lambda folder: (folder / "arrays.npz").unlink(), "cannot read the arrays"),
        (lambda folder: np.savez(folder / "arrays.npz", x=np.zeros(1)), "has no array"),
        (lambda folder: objects(folder), "cannot read the arrays"),
        (lambda folder: doubles(folder), "must be float32"),
        (lambda folder: (folder / "net.prototxt").write_text("layer {"), "not a valid net"),
        (lambda folder: shutil.rmtree(folder), "cannot read"),
        (lambda folder: edit(folder, variant="caffe-of-old", net=None), "no variant"),
    ],
)
def test_a_damaged_folder_is_no_verdict(
    damage: object, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that cannot be replayed exits 2 and says what is wrong with it; nothing is run."""
    folder = tmp_path / "saved"
    variant = next(each for each in registered() if each.name == "caffe-python")
    disk.write(folder, variant, program(2, 2), Finding("fail", "words"), "")
    assert callable(damage)
    damage(folder)
    assert main(["--replay", str(folder)]) == 2
    assert words in capsys.readouterr().err


def edit(folder: Path, **fields: object) -> None:
    """Changes case.json; `net` None takes the net away."""
    if "net" in fields:
        (folder / "net.prototxt").unlink()
    content = json.loads((folder / "case.json").read_text())
    (folder / "case.json").write_text(json.dumps(content | fields))


def objects(folder: Path) -> None:
    """Arrays that only pickle could load."""
    array = np.array([{}], dtype=object)
    np.savez(folder / "arrays.npz", step0_x1=array, step0_x2=array)


def doubles(folder: Path) -> None:
    """Arrays that Caffe never saw."""
    np.savez(folder / "arrays.npz", step0_x1=np.zeros((2, 2)), step0_x2=np.zeros((2, 2)))


def test_a_folder_holds_the_program_to_the_bit(tmp_path: Path) -> None:
    """What is read back is what was written: values, strides, sharing, steps."""
    x1, x2 = arrays(2, 3, 2)
    x1[0, 0] = [np.nan, -0.0]
    case = Case("fuzz", x1.shape, x2.shape, loss_weight=0.1, propagate_down=(True, False))
    steps = (Step(x1, x2, ("swapped", "every-second"), 2, (1.0, 2.0**100)), Step(x2, x1))
    variant = registered()[0]
    for sharing in ("none", "split"):
        saved = Program(replace(case, sharing=sharing), "asked", steps)
        disk.write(tmp_path, variant, saved, None, "")
        found = disk.read(tmp_path).program
        assert found.digest() == saved.digest()
        assert found.case == saved.case


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


@pytest.mark.parametrize("poison", [0.0, 1.0])
def test_a_pruned_loss_leaves_its_old_diff_in_a_sum(caffes: Caffes, poison: float) -> None:
    """Caffe's Split adds the diff of a loss of weight 0 though nothing ever wrote it."""
    [variant] = with_caffe([next(each for each in registered())], caffes)
    x1, x2 = arrays(1, 2)
    case = Case("fuzz", x1.shape, x2.shape, loss_weight=0.0, sharing="split")
    step = Step(x1, x2, poisons=(poison,))
    backward = observe(variant, Program(case, "asked", (step,)))[-1]
    dx1 = backward.tensors["dx1"]
    assert dx1 is not None
    assert np.all(dx1 == SHARED_GRADIENT + poison)


def test_a_refusal_must_come_and_must_come_as_expected(caffes: Caffes) -> None:
    """A variant that says it refuses five axes is right if it does, and wrong if it computes."""
    native, python = (
        next(each for each in registered() if each.name == name and each.layer == "euclidean")
        for name in ("caffe-native", "caffe-python")
    )
    assert isinstance(native, CaffeVariant)
    assert isinstance(python, CaffeVariant)
    five = program(1, 2, 1, 1, 2)
    assert check(replace(native, caffe=caffes), five) is None
    found = check(replace(python, caffe=caffes, claims=native.claims), five)
    assert found is not None
    assert "must refuse" in found.words


@pytest.mark.parametrize(
    ("samples", "units", "value"), [(3, 4, 2.0**40), (5, 6, 2.0**40), (2, 1, 1.0), (1, 1, 1.0)]
)
def test_a_loss_weight_that_underflows_is_within_the_bound(
    caffes: Caffes, samples: int, units: int, value: float
) -> None:
    """w/N that rounds in the subnormal numbers, before d multiplies it, is rounding like any other.

    `units` counts the smallest subnormal numbers in the loss weight. With integers, too: the exact
    lane ends where w/(2N) underflows.
    """
    x1 = np.full((samples, 1), value, np.float32)
    case = Case("fuzz", x1.shape, x1.shape, loss_weight=units * 2.0**-149)
    found = Program(case, "asked", (Step(x1, np.zeros_like(x1)),))
    for variant in with_caffe(registered(), caffes):
        if variant.cannot_run() is None and variant.name != "torch-compiled":  # seconds
            assert check(variant, found) is None, (variant.layer, variant.name)
