"""A hundred thousand cases on four shards, simulated: the layers cost nothing, the rest is real.

    python -m studies.benchmarks.shards [--cases N] [--shards N]

Each case has a time drawn at random; the shards are made by these times, each writes its report,
and `parity merge` makes one of them. Said are how equal the shards are, what merging takes, and
whether the whole is there. Exit status 1 if it is not, or if a shard is 1 % longer than the mean.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from caffe_parity import shards
from caffe_parity.cli.main import main as parity
from caffe_parity.contract import Agreement
from caffe_parity.report.record import Record, Report, read

VARIANTS = 10
LONGEST = 1.01
"""The longest shard as a multiple of the mean."""

AGREES = Agreement(0.1, 1e-9, 1e-8, 1.0, 1.0, (0,), 0, 12, 12, 0.2, True)


def simulated(cases: int) -> dict[str, Record]:
    """A result for each case, by the name of its test."""
    rng = np.random.default_rng(0)
    seconds = rng.lognormal(-4.0, 2.0, cases)
    tensors = dict.fromkeys(("loss", "gradient:x1", "gradient:x2"), AGREES)
    found = {}
    for index in range(cases):
        key = "fast", f"torch-{index % VARIANTS}", str(index // VARIANTS)
        record = Record(*key, "pass", tensors=tensors, seconds=float(seconds[index]), elements=24)
        found[f"test_parity[{record.id}]"] = record
    return found


def main(arguments: list[str] | None = None) -> int:
    """Simulates and prints; 1 if the shards are no whole, or not equally long."""
    parser = argparse.ArgumentParser(prog="python -m studies.benchmarks.shards")
    parser.add_argument("--cases", type=float, default=1e5)
    parser.add_argument("--shards", type=int, default=4)
    options = parser.parse_args(arguments)
    results = simulated(int(options.cases))
    times = {name: each.seconds for name, each in results.items()}
    start = time.process_time()
    found = shards.shards(results, options.shards, times)
    made = time.process_time() - start
    loads = [0.0] * options.shards
    for name, number in found.items():
        loads[number - 1] += times[name]
    longest = max(loads) / (sum(loads) / options.shards)
    print(
        f"{len(results)} cases in {options.shards} shards: {made:.1f} s; longest/mean {longest:.4f}"
    )
    environment = dict.fromkeys(("python", "numpy", "torch", "platform", "processor"), "simulated")
    with tempfile.TemporaryDirectory() as folder:
        reports = [Path(folder, str(number)) for number in range(1, options.shards + 1)]
        for number, report in enumerate(reports, 1):
            report.mkdir()
            own = {name: each for name, each in results.items() if found[name] == number}
            selection = {"shard": f"{number}/{options.shards}", "shards": shards.digest(found)}
            facts = {**environment, "device": "cpu", "commit": None, "caffe": None}
            Report("run", facts, selection, list(own.values())).write(report / "results.json")
            suite = ElementTree.Element("testsuite")
            for name in own:
                ElementTree.SubElement(suite, "testcase", name=name, time=str(times[name]))
            ElementTree.ElementTree(suite).write(report / "junit.xml")
        start = time.process_time()
        status = parity(["merge", *map(str, reports), "-o", str(Path(folder, "all"))])
        merged = time.process_time() - start
        whole = {each.key for each in read(Path(folder, "all")).results}
        size = Path(folder, "all", "index.html").stat().st_size / 1e6
    print(f"merged in {merged:.1f} s; {len(whole)} results; a page of {size:.1f} MB")
    right = status == 0 and whole == {each.key for each in results.values()}
    return int(not right or longest > LONGEST)


if __name__ == "__main__":
    sys.exit(main())
