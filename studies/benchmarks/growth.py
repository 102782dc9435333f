"""How time and memory grow with the elements of a case, and with the number of cases.

    python -m studies.benchmarks.growth [--largest N] [--cases N] [--rounds N]

Each size is judged in a process of its own, the whole way from the inputs to the record: a Python
layer in a real Caffe against `channel_sum`, whose memory is that of the larger of both processes;
and cases of a layer that costs next to nothing, by `parity run`. CPU seconds count, so that other
work on the machine does not. The whole takes five minutes, and 8 GB at 1e8 elements.

Written to results/: growth.json, growth-time.svg and growth-memory.svg. Exit status 1 if an
exponent is larger than its target.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from caffe_parity.report.host import host
from caffe_parity.report.pictures import pygal_alone
from caffe_parity.report.record import read

TARGET = 1.05
"""The largest exponent."""

FAR = 0.25
"""How far beyond the first value others must be, as a part of it: start-up varies by some 5 %."""

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
SMALLEST = {"elements": 10**3, "cases": 10**2}

ONE_CASE = """
import sys
from caffe_parity.caffe.session import SESSION
from caffe_parity.engine.judge import judge
from caffe_parity.pytest_plugin import keep_memory
from parity_tests.layers import LAYERS
from reference.cases import case_of

elements = int(sys.argv[1])
keep_memory()  # as in a run
shape = (10, 5, elements // 100)
record = judge(LAYERS["channel_sum"], "caffe-python", case_of("size", shape, loss_weight=3.7))
SESSION.close()
assert record.verdict == "pass", record
"""

MANY_CASES = """
import caffe_parity

def loss(x):
    return (x * x).sum()

LAYER = caffe_parity.Layer("many", loss, {{"x": (2, 3)}}, {{"port": loss}}, cases={count})

@caffe_parity.parametrize(LAYER)
def test(comparison):
    comparison.check()
"""

Point = tuple[int, float, float]
"""A size, the CPU seconds, and the largest resident memory of a process in MB."""


def spent(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """CPU seconds of a command and its children, and the MB of the largest of them.

    Raises:
        CalledProcessError: it fails.
    """
    measure = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, "
        "stdout=subprocess.DEVNULL); used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)"
    )
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", measure, *command],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds, memory = map(float, ran.stdout.split())
    return seconds, memory


def of_elements(size: int, folder: Path) -> tuple[float, float]:
    """What one case with so many elements in both inputs takes."""
    return spent([sys.executable, "-c", ONE_CASE, str(size)], folder)


def of_cases(size: int, folder: Path) -> tuple[float, float]:
    """What so many cases take in `parity run`, with its reports.

    Raises:
        ValueError: not all of them were compared.
    """
    (folder / "test_many.py").write_text(MANY_CASES.format(count=size))
    command = ["-m", "caffe_parity", "run", "test_many.py", "--report", str(folder)]
    found = spent([sys.executable, *command], folder)
    compared = len(read(folder).results)
    if compared != size:
        raise ValueError(f"{compared} of {size} cases were compared")
    return found


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The slope of what is beyond the first value over what is beyond the first size.

    Both as logarithms. What starting costs is in neither, and c + a*n has the exponent 1. NaN where
    fewer than two values are far enough beyond the first one for that to mean anything.
    """
    more = [(size - sizes[0], value - values[0]) for size, value in zip(sizes, values, strict=True)]
    known = [(size, value) for size, value in more if value > FAR * values[0]]
    if len(known) < 2:
        return float("nan")
    x, y = np.log(np.array(known)).T
    return float(np.polyfit(x, y, 1)[0])


def measured(what: str, largest: int, rounds: int) -> list[Point]:
    """Every size from the smallest to the largest, by factors of the square root of 10.

    The least of several rounds counts: what disturbs only adds.
    """
    measure = {"elements": of_elements, "cases": of_cases}[what]
    steps = round(2 * np.log10(largest / SMALLEST[what]))
    sizes = [int(round(SMALLEST[what] * 10 ** (step / 2), -2)) for step in range(steps + 1)]
    found: dict[int, list[tuple[float, float]]] = {each: [] for each in sizes}
    for _ in range(rounds):
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                found[size].append(measure(size, Path(folder)))
            print(".", end="", file=sys.stderr, flush=True)
    return [
        (size, *(min(each) for each in zip(*some, strict=True))) for size, some in found.items()
    ]


def plotted(title: str, unit: str, lines: Mapping[str, list[tuple[int, float]]], to: Path) -> None:
    """A chart with logarithmic axes: its numbers are the logarithms, its labels the powers."""
    chart = pygal_alone().XY(title=title, x_title="elements of both inputs, or cases", y_title=unit)
    for axis in (0, 1):
        logs = [np.log10(point[axis]) for points in lines.values() for point in points]
        powers = range(int(np.floor(min(logs))), int(np.ceil(max(logs))) + 1)
        labels = [{"value": each, "label": f"1e{each}"} for each in powers]
        setattr(chart, ("x_labels", "y_labels")[axis], labels)
    for name, points in lines.items():
        chart.add(name, [(float(np.log10(x)), float(np.log10(y))) for x, y in points])
    chart.config.js = []
    to.write_text(chart.render(is_unicode=True))


def main(arguments: list[str] | None = None) -> int:
    """Measures, writes and prints; 1 if an exponent is larger than its target."""
    parser = argparse.ArgumentParser(prog="python -m studies.benchmarks.growth")
    parser.add_argument("--largest", type=float, default=1e8, help="elements of both inputs (1e8)")
    parser.add_argument("--cases", type=float, default=1e4, help="how many cases at most (1e4)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    options = parser.parse_args(arguments)
    largest = {"elements": int(options.largest), "cases": int(options.cases)}
    points = {what: measured(what, largest[what], options.rounds) for what in largest}
    print(file=sys.stderr)
    data: dict[str, Any] = {"environment": host(), "target": TARGET, "growth": {}}
    missed = False
    for what, some in points.items():
        sizes = [size for size, _, _ in some]
        data["growth"][what] = {"sizes": sizes}
        for index, name in enumerate(("seconds", "megabytes"), 1):
            values = [each[index] for each in some]
            slope = exponent(sizes, values)
            missed |= not slope <= TARGET  # also where nothing could be said
            data["growth"][what] |= {name: values, f"exponent of {name}": round(slope, 3)}
            verdict = "reached" if slope <= TARGET else "missed"
            print(f"{what:9} {name:10} exponent {slope:.2f}, target <= {TARGET}: {verdict}")
            print("  " + ", ".join(f"{n:.0e}: {v:.4g}" for n, v in zip(sizes, values, strict=True)))
    (options.results / "growth.json").write_text(json.dumps(data, indent=1) + "\n")
    for index, name in enumerate(("time", "memory"), 1):
        lines = {what: [(each[0], each[index]) for each in some] for what, some in points.items()}
        unit = ("CPU seconds", "MB of the largest process")[index - 1]
        plotted(f"Growth of {name}", unit, lines, options.results / f"growth-{name}.svg")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
