"""Truths and bounds that are kept between runs are what would be computed, or are not there."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from caffe_parity import BadLayer, Layer
from caffe_parity.contract import Bound, Case, Expected, Structure
from caffe_parity.engine import expected as engine
from caffe_parity.engine import truths
from caffe_parity.engine.expected import Question, question
from reference import rounding
from reference.cases import case_of
from reference.layers import LAYERS

LOSS = Structure(("loss",), is_loss=True)
HERE = (Path(__file__),)


def kinky(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A loss with kinks, whose bound is found by rounding at random."""
    return (x * (x - 2)).abs().sum() + (y * y).mean()


def _two(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.exp(), x.sum(1)


KINKY = Layer("kinky", kinky, {"x": (3, 4), "y": (5,)}, data={"x": "int:-2,2"}, sources=HERE)
TWO = Layer("two", _two, {"x": (3, 4)}, sources=HERE)
ASKED: list[tuple[Layer, Case, Structure]] = [
    *((layer, case, LOSS) for layer in LAYERS.values() for case in layer.all_cases()[:9]),
    *((LAYERS["channel_sum"], case, LOSS) for case in LAYERS["channel_sum"].all_cases()[-13:]),
    *((KINKY, case, LOSS) for case in KINKY.all_cases()),
    (TWO, TWO.case(0), Structure(("top[0]", "top[1]"), is_loss=False)),
]
SMALL = LAYERS["channel_sum"], case_of("small", (2, 3, 2)), LOSS


@pytest.fixture(autouse=True)
def _kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of this test's own; whatever was edited is what is loaded."""
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PARITY_TRUTHS", "keep")
    monkeypatch.setattr(truths, "_BEGAN", math.inf)
    monkeypatch.setattr(truths, "_left", [0])
    truths._code.cache_clear()
    question.cache_clear()
    yield
    truths._code.cache_clear()
    question.cache_clear()


def key_of(layer: Layer, case: Case, structure: Structure = LOSS, bits: str = "bits") -> str:
    """The name of an entry, inputs as they are."""
    return truths.key(layer, case, structure, case.arrays(case), bits)


def entry() -> Path:
    """The one that is kept."""
    [file] = truths.folder().iterdir()
    return file


def flat(asked: Question) -> list[Any]:
    """All that a question expects, to the bit, in order."""

    def bits(tensors: Any) -> list[Any]:
        return [(k, each.dtype.str, each.shape, each.tobytes()) for k, each in tensors.items()]

    bounds = [each.bound for each in asked.expected]
    ups = [None if each is None else bits(each) for each in asked.upstreams]
    return [
        asked.digest,
        ups,
        *([bits(each.truth) for each in asked.expected]),
        *([bits(part) for each in bounds for part in (each.worst, each.typical, each.kinks)]),
        *(each.typical is each.worst for each in bounds),
    ]


def test_what_is_found_is_what_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit: truths, bounds and kinks of losses and other layers; and it is found."""
    with monkeypatch.context() as without:
        without.setenv("PARITY_TRUTHS", "anew")
        anew = [flat(question(*each)) for each in ASKED]
    assert not truths.folder().exists()
    question.cache_clear()
    written = [flat(question(*each)) for each in ASKED]
    question.cache_clear()
    calls: list[Any] = []
    monkeypatch.setattr(engine, "_anew", lambda *each: calls.append(each))
    assert anew == written == [flat(question(*each)) for each in ASKED if not calls]


def test_an_entry_that_was_touched_is_computed_anew() -> None:
    """Whichever byte is another, and wherever it ends; so is one under another's name."""
    was = flat(question(*SMALL))
    file, whole = entry(), entry().read_bytes()
    touched = [whole[:end] for end in range(0, len(whole), 11)] + [whole + b"\0"]
    for place in range(0, len(whole), 7):
        other = bytearray(whole)
        other[place] ^= 1 << place % 8
        touched.append(bytes(other))
    for each in touched:
        file.write_bytes(each)
        assert truths.found(file.name) is None
    question.cache_clear()
    assert flat(question(*SMALL)) == was and entry().read_bytes() == whole
    file.with_name("another").write_bytes(whole)
    assert truths.found("another") is None and truths.found(file.name) is not None


SOURCE = """
import torch

def loss(x: torch.Tensor) -> torch.Tensor:
    return (x * x).sum()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module with a reference."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept_reference.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path / "mine")
    yield importlib.import_module("kept_reference")
    del sys.modules["kept_reference"]


def test_an_edit_of_the_sources_is_another_entry(module: ModuleType) -> None:
    """Of the file, or of a file that comes into the folder; and of the tool's own engine."""
    file = Path(str(module.__file__))
    layer = Layer("mine", module.loss, {"x": (3,)}, sources=(file.parent,))
    keys = [key_of(layer, layer.case(0))]
    for edit in (SOURCE.replace("x * x", "x + x"), SOURCE + "\n"):
        file.write_text(edit)
        truths._code.cache_clear()
        keys.append(key_of(layer, layer.case(0)))
    file.with_name("more.py").write_text("")
    truths._code.cache_clear()
    truths._files.cache_clear()
    keys.append(key_of(layer, layer.case(0)))
    assert len(set(keys)) == 4 and all(keys)
    files = truths._files(tuple(layer.sources))
    names = ("contract.py", "layer.py", "expected.py", "functions.py", "random_rounding.py")
    assert {*names, "truths.py", "more.py"} <= {each.name for each in files}


TREE = {
    "kept_top.py": "import kept_far.one, torch, caffe_parity, json\nfrom kept_far import LAST",
    "kept_far/__init__.py": "from .two import TWO\nLAST = 1",
    "kept_far/one.py": "def late():\n    from ..kept_far.sub import three",
    "kept_far/two.py": "import kept_far.nothing\nTWO = 2",
    "kept_far/sub/__init__.py": "import kept_top",
    "kept_far/sub/three.py": "import numpy as np",
}


def test_what_the_sources_import_decides_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absolute and relative, late, and in a circle; not what is installed, nor a bystander."""
    for name, text in {**TREE, "kept_far/other.py": "", "torch.py": ""}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    truths._places.cache_clear()
    files = {*truths._files((tmp_path / "kept_top.py",))} - {*truths._files(())}
    assert {f"{each.relative_to(tmp_path)}" for each in files} == {*TREE}


def test_what_was_copied_since_may_not_be_what_is_loaded(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy has the time of the last edit, not that of the copy."""
    file = Path(str(module.__file__))
    os.utime(file, (1, 1))
    layer = Layer("mine", module.loss, {"x": (3,)}, sources=(file,))
    monkeypatch.setattr(truths, "_TOOL", file.parent / "none")
    for began, kept in ((file.stat().st_ctime, False), (math.inf, True)):
        monkeypatch.setattr(truths, "_BEGAN", began)
        truths._code.cache_clear()
        truths._files.cache_clear()
        assert bool(key_of(layer, layer.case(0))) is kept
    truths._files.cache_clear()


@pytest.mark.parametrize("sources", ["reference", ("reference",), (3,)], ids=str)
def test_sources_are_paths(sources: Any) -> None:
    """And else it is said at once."""
    with pytest.raises(BadLayer, match=r"sources=.* are no paths: expected \[Path\(__file__\)\]"):
        Layer("mine", kinky, {"x": (3,), "y": (2,)}, sources=sources)


def test_all_that_decides_is_in_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer, functions and what they are given, case, structure, shapes, inputs, the machine."""
    layer, case, _ = SMALL
    keys = [
        key_of(layer, case),
        key_of(layer, case, bits="others"),
        key_of(layer, case_of("small", (2, 3, 2), loss_weight=2.0)),
        key_of(layer, case_of("small", (2, 3, 2), gradients=("x1",))),
        key_of(layer, case_of("small", (2, 3, 2), sharing="split")),
        key_of(layer, case_of("small", (2, 2, 3))),
        key_of(layer, case, replace(LOSS, outputs=("total",))),
        key_of(replace(layer, name="another"), case),
        key_of(replace(layer, reference=LAYERS["euclidean"].reference), case),
        key_of(replace(layer, bound=partial(rounding.bound, "tail")), case),
        key_of(replace(layer, bound=None), case),
    ]
    flattened = {name: each.reshape(-1) for name, each in case.arrays(case).items()}
    keys.append(truths.key(layer, case, LOSS, flattened, "bits"))  # as parameters may be
    monkeypatch.setattr(truths, "_machine", lambda: "another")
    keys.append(key_of(layer, case))
    assert len(set(keys)) == len(keys) and all(keys)


def test_what_no_name_decides_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closure, what took a function's place, what lies elsewhere, or may not be what is loaded.

    Nor is anything without sources, nor what is large.
    """
    layer, case, _ = SMALL

    def closure(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        return x1.sum() - x2.sum()

    large = case_of("large", (2, 2**16))
    assert not key_of(replace(layer, reference=closure), case)
    assert not key_of(replace(layer, reference=torch.nn.MSELoss()), case)
    assert not key_of(replace(layer, reference=kinky), case)
    given: Any
    for given in (partial(rounding.bound, Path("channel")), partial(rounding.bound, sum=Path("x"))):  # type: ignore
        assert not key_of(replace(layer, bound=given), case)
    assert not key_of(replace(layer, sources=()), case)
    assert not key_of(layer, large) and key_of(replace(layer, bound=None), large)
    for value in ("anew", "", "1"):
        with monkeypatch.context() as other:
            other.setenv("PARITY_TRUTHS", value)
            assert not key_of(layer, case)
    with monkeypatch.context() as other:
        other.setattr(rounding, "bound", lambda *_: None)
        assert not key_of(layer, case)
    known = [each.stat() for each in truths._files(tuple(layer.sources))]
    newest = max(max(each.st_mtime, each.st_ctime) for each in known)
    for began, kept in ((newest + truths.FRESH + 1, True), (newest + truths.FRESH - 1, False)):
        monkeypatch.setattr(truths, "_BEGAN", began)
        truths._code.cache_clear()
        assert bool(key_of(layer, case)) is kept


def test_without_a_place_to_write_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder that cannot be made changes nothing, nor does one that gets full."""

    def full(*_: object) -> None:
        raise OSError(28, "no space left")

    was = flat(question(*SMALL))
    question.cache_clear()
    with monkeypatch.context() as other:
        other.setenv("PARITY_CACHE", f"{__file__}/none")
        assert flat(question(*SMALL)) == was
    entry().unlink()
    question.cache_clear()
    monkeypatch.setattr(os, "replace", full)
    assert flat(question(*SMALL)) == was
    assert [*truths.folder().iterdir()] == []


def _of(size: int) -> list[Expected]:
    tensors = {"loss": np.full(size, float(size))}
    return [Expected(tensors, Bound(tensors, tensors))]


def test_two_at_once_are_no_danger() -> None:
    """Whoever reads while others write finds a whole entry."""
    done: list[bool] = []

    def write() -> None:
        for _ in range(100):
            truths.keep("one", _of(5000))
        done.append(True)

    writers = [threading.Thread(target=write) for _ in range(2)]
    truths.keep("one", _of(5000))
    for each in writers:
        each.start()
    while len(done) < 2:
        found = truths.found("one")
        assert found is not None and found[0].truth["loss"][-1] == 5000
    for each in writers:
        each.join()


def test_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder stays within its size and a quarter; the newest entry is there."""
    monkeypatch.setattr(truths, "TOTAL", 100_000)
    for number in range(60):
        truths.keep(f"{number}", _of(1000))
        os.utime(truths.folder() / f"{number}", (number, number))
        assert sum(each.stat().st_size for each in truths.folder().iterdir()) <= 125_000
        assert truths.found(f"{number}") is not None
    assert truths.found("0") is None


MINE = """
from dataclasses import replace
import caffe_parity
from reference.layers import LAYERS

LAYER = LAYERS["channel_sum"]
SOME = [each for each in LAYER.cases if each.name in ("base", "weight-3.7")]

def wrong(x1, x2):
    return LAYER.reference(x1, x2) * 1.5

VARIANTS = {"right": LAYER.reference, "wrong": wrong}

@caffe_parity.parametrize(replace(LAYER, cases=SOME, variants=VARIANTS))
def test_it(comparison):
    comparison.check()
"""
THREE = """
import math, os
from caffe_parity.cli.main import main
from caffe_parity.engine import truths
from caffe_parity.engine.expected import question

truths._BEGAN = math.inf
for number, how in enumerate(("anew", "keep", "keep")):
    os.environ["PARITY_TRUTHS"] = how
    question.cache_clear()
    assert main(["run", "test_mine.py", "--report", f"{number}", "-p", "no:cacheprovider"]) == 1
    folder = truths.folder()
    kept = sorted((each.name, each.stat().st_ino) for each in folder.glob("*"))
    with open(f"kept-{number}", "w") as file:
        print(*kept, sep="\\n", file=file)
"""


def test_a_report_is_the_same_with_kept_truths(tmp_path: Path) -> None:
    """results.json, but for the times: computed anew, written, and found; a wrong port is wrong."""
    (tmp_path / "test_mine.py").write_text(MINE)
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", THREE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    reports = []
    for number in range(3):
        report = json.loads((tmp_path / f"{number}" / "results.json").read_text())
        for each in report["results"]:
            del each["seconds"]
        reports.append(json.dumps(report))
    assert reports[0] == reports[1] == reports[2] and '"fail"' in reports[0]
    anew, written, found = ((tmp_path / f"kept-{each}").read_text().split() for each in range(3))
    assert not anew and written and written == found
