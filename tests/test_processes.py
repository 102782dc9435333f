"""One run shared among several processes: which there are, and what stays together in one."""

from __future__ import annotations

import argparse
import math
import os
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from caffe_parity import Comparison, Layer, Port
from caffe_parity.caffe import interpreter
from caffe_parity.cli import run
from caffe_parity.errors import ParityError
from caffe_parity.pytest_plugin import LARGE, _turn
from caffe_parity.report.record import read
from studies.benchmarks.growth import exponent
from tests.test_cli import PARITY, ROOT, python


def processes(monkeypatch: pytest.MonkeyPatch, cores: int, **options: Any) -> list[str]:
    """The options of pytest that share the main job on a machine with so many cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    usual: dict[str, Any] = {
        "layer": None,
        "variant": None,
        "case": None,
        "more": [],
        "device": "cpu",
    }
    return run._processes(argparse.Namespace(**{**usual, "shared": True, **options}))


@pytest.mark.parametrize(("cores", "expected"), [(1, 0), (2, 2), (3, 3), (64, 4)])
def test_the_main_job_is_shared_where_there_are_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, expected: int
) -> None:
    """As many processes as cores, four at most, and none but this one on one core."""
    monkeypatch.setattr(interpreter, "find", lambda: None)
    said = processes(monkeypatch, cores)
    assert said == ([f"--numprocesses={expected}", run.GROUPED] if expected else [])


@pytest.mark.parametrize(
    "options",
    [
        {"shared": False},
        {"layer": "channel_sum"},
        {"variant": "caffe-python"},
        {"case": "base"},
        {"device": "cuda"},
        {"more": ["-k", "base"]},
        {"more": ["-x"]},
        {"more": ["--pdb"]},
    ],
)
def test_a_selection_is_not(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    """Another process costs more than a selection, and a debugger wants one; so do other suites."""
    monkeypatch.setattr(interpreter, "find", lambda: None)
    assert processes(monkeypatch, 8, **options) == []


def test_without_a_caffe_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process says once that there is none."""

    def none() -> None:
        raise ParityError("there is none")

    monkeypatch.setattr(interpreter, "find", none)
    assert processes(monkeypatch, 8) == []


TESTS = """
import os
from dataclasses import replace
import caffe_parity
from caffe_parity import Port

def loss(x):
    return (x * x).sum()

def noted(name):
    def port(x):
        with open("ran", "a") as file:
            print(name, x[0].numel(), os.getpid(), file=file)
        return loss(x)
    return port

def layer(name, extent):
    variants = {each: noted(each) for each in ("torch-a", "torch-b")}
    variants["torch-warm"] = Port(noted("torch-warm"), together=True)
    return caffe_parity.Layer(name, loss, {"x": (2, extent)}, variants, cases=1)

LAYERS = [layer(f"l{extent}", extent) for extent in range(3, 13)]

@caffe_parity.parametrize(*LAYERS)
def test_parity(comparison):
    comparison.check()
"""


def test_what_belongs_together_is_run_in_one_process(tmp_path: Path) -> None:
    """The variants of a case are, and all cases of what warms up; both processes have some."""
    (tmp_path / "test_mine.py").write_text(TESTS)
    status, said, errors = python(PARITY, "run", "test_mine.py", "-n", "2", cwd=tmp_path)
    assert status == 0, said + errors
    assert len(read(tmp_path / "parity-report").results) == 30
    ran = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    where: dict[str, set[str]] = defaultdict(set)
    for name, elements, process in ran:
        if name in ("torch-a", "torch-b"):
            where[elements].add(process)
    assert len(where) == 10 and all(len(each) == 1 for each in where.values())
    assert len({process for _, _, process in ran}) == 2


COLLECTED = """
import gc, os
from caffe_parity import Layer, parametrize
from caffe_parity.cli.main import main

def loss(x):
    assert gc.isenabled() and gc.get_freeze_count() > 100_000
    assert os.environ["MALLOC_MMAP_MAX_"] == "0"
    return (x * x).sum()

@parametrize(Layer("square", loss, {"x": (3,)}, {"torch": loss}, cases=1))
def test_parity(comparison):
    comparison.check()

if __name__ == "__main__":
    assert main(["run", __file__]) == 0
    assert gc.isenabled() and not gc.get_freeze_count() and "MALLOC_MMAP_MAX_" not in os.environ
"""


def test_garbage_is_not_sought_among_what_was_imported(tmp_path: Path) -> None:
    """While tests run, and only then; so are the variables that Caffe's process is given."""
    (tmp_path / "test_mine.py").write_text(COLLECTED)
    status, said, errors = python("test_mine", cwd=tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert status == 0, said + errors


CHECKED = """
import gc

def loss(x1, x2):
    with open("seen", "a") as file:
        print(gc.isenabled(), gc.get_freeze_count() > 100_000, file=file)
    return (x1 - x2).abs().sum() / x1.shape[0]
"""


def test_a_check_does_not_seek_it_either(folder: Path) -> None:
    """Not while all is imported; after that what is new is looked through."""
    (folder / "ref.py").write_text(CHECKED)
    net = "examples/forgetful_layer.py:ForgetfulL1LossLayer"
    shapes = [word for name in ("x1", "x2") for word in ("--bottom", f"{name}=4,3")]
    status, said, errors = python(
        PARITY, "check", net, *shapes, "--reference", "ref.py:loss", cwd=folder
    )
    assert status == 1, said + errors
    seen = (folder / "seen").read_text().splitlines()
    assert seen[0] == "False False" and seen[-1] == "True True"


def test_what_takes_long_begins_first() -> None:
    """What compiles, then large cases, the largest first, then all others as they stand."""

    def loss(x: torch.Tensor) -> torch.Tensor:
        return x.sum()

    variants: dict[str, Any] = {"now": loss, "warm": Port(loss, together=True)}

    def made(name: str, size: int) -> list[Any]:
        layer = Layer(name, loss, {"x": (size,)}, variants, cases=1)
        each = [Comparison(layer, variant, layer.case(0)) for variant in variants]
        params = [SimpleNamespace(params={"comparison": comparison}) for comparison in each]
        return [SimpleNamespace(callspec=param) for param in params]

    small, large, larger = made("s", 3), made("l", LARGE + 1), made("xl", LARGE + 2)
    items = [*small, SimpleNamespace(), *large, *larger]
    ordered = sorted(items, key=_turn)
    assert ordered[:3] == [small[1], large[1], larger[1]]
    assert ordered[3:] == [larger[0], large[0], small[0], items[2]]


def test_exponents_of_growth_are_those_of_the_formula() -> None:
    """A constant and a line is 1, a square 2, and where nothing grows nothing is said."""
    sizes = [100, 316, 1000, 3162, 10000]
    assert abs(exponent(sizes, [3 + 0.01 * each for each in sizes]) - 1) < 1e-9
    assert exponent(sizes, [3 + 1e-5 * each**2 for each in sizes]) > 1.5
    assert math.isnan(exponent(sizes, [3.0] * 5))
