"""How near the machine's limit, and how far from every peer: all ratios of one run, with targets.

    python -m studies.benchmarks [--only {cpu,gpu,requests} ...] [--budget S] [--results DIR]

`tox -e bench` is this. A ratio says how many times as fast a contender is as its peer; the peer
"copy" is the limit: a copy of both inputs, as many bytes as each input read once and each gradient
written once. Both are the least of many repeats, in turns, in one process on one machine, one
thread each. Fresh memory costs page faults, which have a row of their own: everybody else gets
memory that was used before (WARM). What was measured goes to results/speed.json and .md.

Exit status: 1 if a target is missed by more than a quarter, 2 without a Caffe.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from caffe_parity import ParityError
from caffe_parity.caffe.driver import DriverError, devices
from caffe_parity.caffe.session import SESSION
from caffe_parity.cli import add_page
from caffe_parity.engine.port import no_cuda
from caffe_parity.report import INDEX
from caffe_parity.report.environment import environment
from caffe_parity.report.page import anchors, flat, rendered
from caffe_parity.report.pictures import can_draw, pygal_alone
from caffe_parity.report.pictures import shares as drawn
from caffe_parity.report.record import PAGE, must_be_writable, write_whole
from caffe_parity.report.table import many
from studies.benchmarks import gpu, requests
from studies.benchmarks.cpu import CHAIN
from studies.benchmarks.workloads import SHAPES, as_data

SCHEMA = "parity-benchmark-2"
RESULTS = Path(__file__).parents[2] / "results"
WARM = {
    "THP_MEM_ALLOC_ENABLE": "1",  # PyTorch asks for pages of 2 MB
    "MALLOC_MMAP_MAX_": "0",  # glibc takes large memory from the heap
    "MALLOC_TRIM_THRESHOLD_": str(2**33),  # and keeps it
}
"""The environment in which memory that was freed is used again, without page faults."""

FRESH = "fresh memory: "
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
FROM_1E6 = (10**6, 10**7, 10**8)
ALL = tuple(SHAPES)


@dataclass(frozen=True)
class Target:
    """A contender shall be `least` times as fast as a peer, at each of these sizes."""

    where: str
    contender: str
    peer: str
    least: Mapping[int, float]


TARGETS = (
    Target("cpu", "torch-fast", "copy", dict.fromkeys(FROM_1E6, 0.67)),
    Target("cpu", "torch-fast", "torch-module", {10**4: 1.0}),
    Target(
        "cpu", f"{CHAIN}torch-fast expanded", f"{CHAIN}torch-fast", dict.fromkeys(FROM_1E6, 1.2)
    ),
    Target("cpu", "caffe-cuda", "copy", dict.fromkeys(FROM_1E6, 0.6)),
    Target("cpu", "caffe-cuda", "caffe-convolution", dict.fromkeys(FROM_1E6, 5.0)),
    Target("gpu", "caffe-cuda", "copy", {10**7: 0.6, 10**8: 0.85, 10**9: 0.92}),
    Target("gpu", "torch-cuda graph", "copy", {10**8: 0.92, 10**9: 0.92}),
    Target("gpu", "torch-cuda call", "torch-module call", dict.fromkeys(ALL, 1.0)),
    Target("gpu", "torch-cuda call", "torch-compiled call", dict.fromkeys(ALL, 1.0)),
)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast the contender was as its peer; `reason` why it was not measured."""

    where: str
    what: str
    contender: str
    peer: str
    target: float
    ratio: float | None
    reason: str = ""

    @property
    def verdict(self) -> str:
        """Met, or missed."""
        if self.ratio is None:
            return f"not run: {self.reason}"
        return "met" if self.ratio >= self.target else "MISSED"

    @property
    def far(self) -> bool:
        """Whether the target is missed by more than a quarter."""
        return self.ratio is not None and self.ratio < 0.75 * self.target


def on_cpu(budget: float) -> list[dict[str, Any]]:
    """Everybody's timings, and under FRESH those with memory that the system gives anew each time.

    Raises:
        ParityError: there is no Caffe to measure.
    """
    fresh = ["--elements", str(10**8), "--only", "copy", "torch-fast", "torch-module"]
    timings = []
    for name, variables, chosen in (("", WARM, []), (FRESH, {}, fresh)):
        command = [sys.executable, "-m", "studies.benchmarks.cpu", "--budget", str(budget), *chosen]
        kept = {name: value for name, value in os.environ.items() if name not in WARM}
        made = {**kept, **THREADS, **variables}
        ran = subprocess.run(command, env=made, stdout=subprocess.PIPE, text=True)
        if ran.returncode:
            raise ParityError(f"studies.benchmarks.cpu ended with status {ran.returncode}")
        for each in json.loads(ran.stdout):
            timings.append({"where": "cpu", **each, "variant": name + each["variant"]})
    return timings


def no_gpu() -> str | None:
    """Why nothing can be measured on a GPU, or None."""
    try:
        devices()
    except DriverError as error:
        return str(error)
    return no_cuda()


def ratios(timings: list[dict[str, Any]], chosen: list[str]) -> Iterator[Ratio]:
    """Every target with what was measured."""
    least = {
        (each["where"], each["variant"], each["elements"]): each.get("least_s") for each in timings
    }
    reasons = {
        (each["where"], each["variant"], each["elements"]): each.get("not_run", "")
        for each in timings
    }
    for each in (each for each in TARGETS if each.where in chosen):
        for elements, target in each.least.items():
            mine, its = ((each.where, name, elements) for name in (each.contender, each.peer))
            seconds, others = least.get(mine), least.get(its)
            ratio = others / seconds if seconds and others else None
            reason = reasons.get(mine) or reasons.get(its) or no_gpu() or "not measured"
            what = f"{elements:.0e}"
            yield Ratio(each.where, what, each.contender, each.peer, target, ratio, reason)


def of_requests() -> Iterator[Ratio]:
    """A case through the worker against one in a pycaffe process of one's own."""
    for shape, slower in requests.SHAPES.items():
        worker, own = requests.measured(shape, 15)
        what = "x".join(map(str, shape))
        yield Ratio("requests", what, "worker", "pycaffe", 1 / slower, own / worker)


def table(found: list[Ratio]) -> list[str]:
    """Every ratio with its target, as a table in Markdown."""
    lines = ["| where | size | contender | peer | times as fast | target | |", "|---" * 7 + "|"]
    for each in found:
        ratio = "-" if each.ratio is None else f"{each.ratio:.2f}"
        lines.append(
            f"| {each.where} | {each.what} | {each.contender} | {each.peer} | {ratio} "
            f"| {each.target:.2f} | {each.verdict} |"
        )
    return lines


def shares(timings: list[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """The part of a copy's speed that everybody reaches, by variant and size; with its own copy.

    Not of a chain, which does more than the loss.
    """
    seconds = {(each["variant"], each["elements"]): each.get("least_s") for each in timings}
    found: dict[str, dict[int, float]] = {}
    for (name, size), mine in seconds.items():
        copy = seconds.get((FRESH + "copy" if name.startswith(FRESH) else "copy", size))
        if mine and copy and not name.endswith("copy") and not name.startswith(CHAIN):
            found.setdefault(name, {})[size] = copy / mine
    return found


def share_table(timings: list[dict[str, Any]]) -> list[str]:
    """The shares as a table in Markdown."""
    found = shares(timings)
    sizes = sorted({size for each in found.values() for size in each})
    lines = [f"| of a copy's speed | {' | '.join(f'{each:.0e}' for each in sizes)} |"]
    lines.append("|---" * (len(sizes) + 1) + "|")
    for name, each in found.items():
        cells = [f"{100 * each[size]:.0f} %" if size in each else "-" for size in sizes]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def plot(timings: list[dict[str, Any]]) -> bytes:
    """The same as a chart, SVG."""
    found = shares(timings)
    sizes = sorted({size for each in found.values() for size in each})
    pygal = pygal_alone()
    config = pygal.Config(js=[], width=800, height=420, range=(0, 1.2))
    chart = pygal.Line(config, title="Forward and backward, as a part of a copy's speed")
    chart.x_title = "elements of both inputs"
    chart.x_labels = [f"{each:.0e}" for each in sizes]
    for name, each in found.items():
        chart.add(name, [each.get(size) for size in sizes])
    drawn: bytes = chart.render()
    return drawn


def setting(data: Mapping[str, Any]) -> str:
    """Where, when and how it was measured, in words."""
    return (
        f"{data['date']}; {data['environment']['processor']}, load average "
        f"{data['load'][0]:.1f} before and {data['load'][1]:.1f} after: others may have used the "
        "machine. Everybody had one thread and turns in one process, timed by the processor's "
        "time of that process, and the least of many repeats counts."
    )


WORDS = {"fail": ("✗", "missed"), "not run": ("-", "not run"), "pass": ("✓", "held")}
"""By verdict, with the colours that those of a comparison have, its shape and words."""


def html(data: Mapping[str, Any], found: list[Ratio]) -> str:
    """The same as a page to look at, as `parity run` has one."""
    kinds = [
        "not run" if each.ratio is None else "pass" if each.verdict == "met" else "fail"
        for each in found
    ]
    names = anchors((each.where, f"{each.contender}-{each.peer}", each.what) for each in found)
    counts = Counter(kinds)
    missed = f"{many(counts['fail'], 'target')} missed"
    known = [kind for kind in WORDS if counts[kind]]
    heads = {"fail": missed, "pass": "all targets are held", "not run": "nothing was measured"}
    worst = "fail" if counts["fail"] else "pass" if counts["pass"] else "not run"
    return rendered(
        Path(__file__).with_name("page.html"),
        words={kind: WORDS[kind] for kind in WORDS if kind in known},
        counts=counts,
        verdict=(worst, heads[worst]),
        setting=setting(data),
        rows=list(zip(names.values(), kinds, found, strict=True)),
        charts=list(charts(data["timings"])) if can_draw() else [],
        facts=list(flat({**data["environment"], "date": data["date"], "memory": data["memory"]})),
        schema=data["schema"],
    )


def charts(timings: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """For everybody a chart of the part of a copy's speed against the size, and it in words."""
    for where in dict.fromkeys(each["where"] for each in timings):
        aims = {
            each.contender: [(float(size), least, "") for size, least in each.least.items()]
            for each in TARGETS
            if (each.where, each.peer) == (where, "copy")
        }
        for name, each in shares([each for each in timings if each["where"] == where]).items():
            points = [(float(size), part, f"{size:.0e}: {part:.2f}") for size, part in each.items()]
            said = ", ".join(f"{100 * part:.0f} % at {size:.0e}" for size, part in each.items())
            yield f"{where}, {name}", drawn(points, aims.get(name, [])), said


def write(folder: Path, stem: str, data: Mapping[str, Any], found: list[Ratio]) -> None:
    """Writes the results as JSON, their tables, and the plot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(data, indent=1) + "\n")
    words = setting(data)
    text = ["# Speed, as `python -m studies.benchmarks` measured it", "", words, "", *table(found)]
    for where in dict.fromkeys(each["where"] for each in data["timings"]):
        timings = [each for each in data["timings"] if each["where"] == where]
        picture = f"{stem}-{where}.svg"
        (folder / picture).write_bytes(plot(timings))
        text += ["", f"On the {where.upper()}:", "", *share_table(timings), "", f"![]({picture})"]
    (folder / f"{stem}.md").write_text("\n".join(text) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.benchmarks",
        description="Every speed as a ratio with its target.",
        epilog="exit status: 1 a target is missed by more than a quarter, 2 there is no Caffe. Two "
        "more measurements: python -m studies.benchmarks.growth (time and memory against elements "
        "and cases), and .shards (100,000 cases on four machines, simulated).",
    )
    parts = ("cpu", "gpu", "requests")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="(all)")
    parser.add_argument("--budget", type=float, default=30, help="seconds for each size (30)")
    parser.add_argument("--largest", type=float, default=1e9, help="elements on a GPU (1e9)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    add_page(parser)
    parser.set_defaults(page=INDEX)
    options = parser.parse_args(arguments)
    before = os.getloadavg()[0]
    try:
        must_be_writable("--page", options.page, PAGE)
    except ParityError as error:
        print(error, file=sys.stderr)
        return 2
    found: list[Ratio] = []
    timings: list[dict[str, Any]] = []
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    try:
        if "cpu" in options.only:
            timings += on_cpu(options.budget)
        if "requests" in options.only:
            found += of_requests()
        if "gpu" in options.only and no_gpu() is None:
            SESSION.close()
            timings += [{"where": "gpu", **as_data(each)} for each in gpu.measure(options.largest)]
        used = environment()
    except ParityError as error:
        print(f"no Caffe to measure.\n{error}", file=sys.stderr)
        return 2
    finally:
        SESSION.close()
    found = [*ratios(timings, options.only), *found]
    data = {
        "schema": SCHEMA,
        "date": date,
        "load": [before, os.getloadavg()[0]],
        "threads": 1,
        "memory": WARM,
        "environment": used,
        "ratios": [{**asdict(each), "verdict": each.verdict} for each in found],
        "timings": timings,
    }
    stem = "-".join(("speed", *(options.only if len(options.only) < len(parts) else ())))
    write(options.results, stem, data, found)
    write_whole(options.page, html(data, found) + "\n")
    print("\n".join(table(found)))
    missed = [each for each in found if each.verdict == "MISSED"]
    for each in missed:
        print(
            f"MISSED: {each.contender} at {each.what}: {each.ratio:.2f}, target {each.target:.2f}"
        )
    print(f"{len(found)} ratios, {len(missed)} missed; written: {options.results / stem}.json, .md")
    print(f"page: {options.page}")
    return int(any(each.far for each in found))


if __name__ == "__main__":
    sys.exit(main())
