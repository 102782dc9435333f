"""The benchmarks' own claims: what a ratio is, what is missed, and whose figures the README has."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from caffe_parity.caffe.client import Caffe
from studies.benchmarks import __main__ as benchmarks
from studies.benchmarks import cpu
from studies.benchmarks.__main__ import FRESH, TARGETS, Ratio, ratios, share_table, shares

ROOT = Path(__file__).parents[1]


def timing(variant: str, elements: int, seconds: float, where: str = "cpu") -> dict[str, Any]:
    """One as the JSON file has it."""
    return {"where": where, "variant": variant, "elements": elements, "least_s": seconds}


def on_target(factor: float) -> list[dict[str, Any]]:
    """Timings on the CPU in which each ratio is `factor` times its target; convolution is slow."""
    found = [timing("torch-module", 10**4, factor), timing("torch-fast", 10**4, 1.0)]
    for size in (10**6, 10**7, 10**8):
        found += [timing("copy", size, factor), timing("caffe-convolution", size, 1e3)]
        found += [timing("torch-fast", size, 1 / 0.67), timing("caffe-cuda", size, 1 / 0.6)]
        found += [timing("chain: torch-fast", size, factor)]
        found += [timing("chain: torch-fast expanded", size, 1 / 1.2)]
    return found


MISSES = {"MISSED", "met"}


@pytest.mark.parametrize(
    ("factor", "verdicts", "status"),
    [(1.01, {"met"}, 0), (0.99, MISSES, 0), (0.76, MISSES, 0), (0.74, MISSES, 1)],
)
def test_a_target_that_is_missed_by_more_than_a_quarter(
    factor: float,
    verdicts: set[str],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each miss is named; a far one alone ends with status 1. All is written."""
    monkeypatch.setattr(benchmarks, "on_cpu", lambda budget: on_target(factor))
    page = tmp_path / "parity-report" / "index.html"
    arguments = ["--only", "cpu", "--results", str(tmp_path), "--page", str(page)]
    assert benchmarks.main(arguments) == status
    said = capsys.readouterr().out
    written = json.loads((tmp_path / "speed-cpu.json").read_text())
    assert {each["verdict"] for each in written["ratios"]} == verdicts
    assert said.count("MISSED: ") == [each["verdict"] for each in written["ratios"]].count("MISSED")
    assert all(line in (tmp_path / "speed-cpu.md").read_text() for line in said.splitlines()[:9])
    assert (tmp_path / "speed-cpu-cpu.svg").read_text().count("torch-fast") >= 1
    shown = page.read_text("utf-8")
    held = [each["verdict"] == "met" for each in written["ratios"]]
    assert shown.count('<tr id="') == len(held)
    assert shown.count("✓</span> held</td>") == sum(held)
    assert shown.count("✗</span> missed</td>") == len(held) - sum(held)
    assert 'class="s-target"' in shown and "as fast as a copy" in shown
    assert metadata.version("numpy")  # which the library that draws hides


def test_every_target_has_its_ratio() -> None:
    """None is left out: what was not measured says so, and a size that is 0 at best is no ratio."""
    found = list(ratios([timing("copy", 10**6, 1.0)], ["cpu", "gpu"]))
    assert len(found) == sum(len(each.least) for each in TARGETS)
    assert all(each.ratio is None and each.reason and not each.far for each in found)
    refused = {"where": "cpu", "variant": "torch-fast", "elements": 10**6, "not_run": "no g++"}
    [first, *_] = ratios([timing("copy", 10**6, 1.0), refused], ["cpu"])
    assert first.verdict == "not run: no g++"


def test_shares_are_of_the_copy_of_the_same_run() -> None:
    """With fresh memory the limit is a copy beside it, not that of the other run."""
    found = shares(
        [
            *(timing("copy", 10, 1.0), timing("a", 10, 4.0)),
            *(timing(f"{FRESH}copy", 10, 3.0), timing(f"{FRESH}a", 10, 4.0)),
            timing("chain: a", 10, 4.0),
        ]
    )
    assert found == {"a": {10: 0.25}, f"{FRESH}a": {10: 0.75}}
    assert Ratio("cpu", "", "a", "copy", 0.4, 0.31).far is False
    assert Ratio("cpu", "", "a", "copy", 0.4, 0.29).far is True


def test_everybody_is_measured(caffe: Caffe, capsys: pytest.CaptureFixture[str]) -> None:
    """Each variant has repeats of a forward and a backward, in seconds of a plausible size."""
    assert cpu.main(["--elements", "10000", "--budget", "0"]) == 0
    found = {each["variant"]: each for each in json.loads(capsys.readouterr().out)}
    assert tuple(found) == cpu.EVERYBODY
    for each in found.values():
        assert each.get("not_run") or (each["repeats"] >= 9 and 1e-8 < each["least_s"] < 1)
    assert found["copy"]["least_s"] == min(each["least_s"] for each in found.values())


def test_the_documentation_has_the_committed_figures() -> None:
    """Its table of speeds is that of results/speed.json."""
    written = json.loads((ROOT / "results/speed.json").read_text())
    here = [each for each in written["timings"] if each["where"] == "cpu"]
    table = "\n".join(share_table(here))
    assert table in (ROOT / "docs/suite.md").read_text()
    setting = " ".join(f"{name}={value}" for name, value in benchmarks.WARM.items())
    assert setting in (ROOT / "README.md").read_text()
    assert table in (ROOT / "results/speed.md").read_text()
