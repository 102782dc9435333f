"""`parity diff`: to the bit what changed, whose verdict, what got slower; and its exit status."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from caffe_impl.variants import LAYERS, NETS
from caffe_parity.caffe.client import Caffe
from caffe_parity.caffe.interpreter import find
from caffe_parity.check import computed
from caffe_parity.check.command import main as check
from caffe_parity.check.observe import Observation
from caffe_parity.cli.diff import main
from caffe_parity.contract import Array32
from caffe_parity.report import show
from caffe_parity.report.bits import SAMPLE, WHOLE, as_json, digest, keep, places, ulps
from caffe_parity.report.changes import RANKS, SHORT, SLOWER, difference
from tests.test_check import FORGETFUL
from tests.test_cli import ROOT, parity

PACKAGE = Path(show.__file__).parents[1]
RUN_SCHEMA = json.loads((PACKAGE / "results.schema.json").read_text())
CHECK_SCHEMA = json.loads((PACKAGE / "check" / "check.schema.json").read_text())
DIFF_SCHEMA = json.loads((PACKAGE / "diff" / "diff.schema.json").read_text())

Content = dict[str, Any]


def f32(*values: float) -> Array32:
    """Some numbers."""
    return np.array(values, np.float32)


def of_bits(*bits: int) -> Array32:
    """Numbers by their bits."""
    return np.array(bits, np.uint32).view(np.float32)


def result(case: str, dx1: Array32, verdict: str = "pass", **fields: Any) -> Content:
    """A record of a run; all three passes computed the same dx1."""
    passes = dict.fromkeys(("first", "second", "reshaped"), dx1)
    agreement = {"error": 0, "bound": 1, "worst_index": [0], "fraction": 0.25, "suspicious": False}
    return {
        "layer": "channel_sum", "variant": "caffe-python", "case": case, "verdict": verdict,
        "seconds": 1.0, "tensors": {"dx1": agreement}, "reason": "", "explanations": {},
        "inputs": digest(f32(1)),
        "computed": {"dx1": [as_json(each) for each in keep(passes)]}, **fields,
    }  # fmt: skip


def report(*results: Content, **fields: Any) -> Content:
    """What a run writes."""
    caffe = {"version": "1", "python": "3", "numpy": "1", "source": "installed", "blas": ["b"]}
    environment = {
        "python": "3.11", "numpy": "2", "torch": "2", "platform": "Linux", "processor": "x",
        "device": "cpu", "gpu": None, "commit": "abc", "caffe": caffe,
    }  # fmt: skip
    return {
        "schema": "parity-results-2", "environment": environment, "selection": {},
        "selected": len(results), "results": list(results), **fields,
    }  # fmt: skip


@pytest.fixture
def diff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, Content]]:
    """Writes two reports, compares them; returns the exit status, what is printed, and the JSON."""
    monkeypatch.chdir(tmp_path)

    def compared(before: Content, after: Content, *options: str) -> tuple[int, str, Content]:
        for name, content in (("before.json", before), ("after.json", after)):
            jsonschema.validate(content, RUN_SCHEMA)
            Path(name).write_text(json.dumps(content))
        status = main(["before.json", "after.json", "--json", "diff.json", *options])
        said = capsys.readouterr()
        assert not said.err
        content = json.loads(Path("diff.json").read_text(), parse_constant=pytest.fail)
        jsonschema.validate(content, DIFF_SCHEMA)
        return status, said.out, content

    return compared


Diff = Callable[..., tuple[int, str, Content]]
BASE = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
LARGE = np.linspace(-1, 1, 3 * 40, dtype=np.float32).reshape(3, 40)


def moved(array: Array32, *place: int, steps: int) -> Array32:
    """A copy in which one element is some float32 numbers farther from 0."""
    changed = array.copy()
    changed.view(np.uint32)[place] += steps
    return changed


def only_difference(content: Content) -> Content:
    """The only difference of the only case that changed."""
    (one,) = (each for case in content["cases"] for each in case["differences"])
    return dict(one)


def test_ulps_count_the_float32_numbers_between() -> None:
    """Neighbours are 1 apart, on both sides of 0 and of a power of two, and up to infinity."""
    largest, tiny = float(np.finfo(np.float32).max), 2.0**-149
    pairs = {
        (1.0, float(np.nextafter(np.float32(1), np.float32(2)))): 1,
        (1.0, float(np.nextafter(np.float32(1), np.float32(0)))): 1,
        (1.0, 2.0): 2**23,
        (0.0, -0.0): 0,
        (-tiny, tiny): 2,
        (largest, math.inf): 1,
        (-math.inf, math.inf): 2 * 0x7F800000,
        (math.nan, math.nan): 0,
        (math.nan, 1.0): math.inf,
        (-1.0, math.nan): math.inf,
    }
    for (one, another), steps in pairs.items():
        for pair in ((one, another), (another, one)):
            before, after = (f32(value).view(np.uint32) for value in pair)
            assert ulps(before, after) == steps, pair


def test_what_is_kept_is_exact() -> None:
    """A small tensor comes back to the bit; figures and digest are what they are called."""
    odd = of_bits(0x7FC00001, 0x80000000, 0x7F800000, 0x00000001, 0xC0400000)
    (kept,) = keep({"first": odd})
    written = as_json(kept)
    assert written["elements"] == "7fc00001800000007f80000000000001c0400000"
    assert (written["nan"], written["inf"]) == (1, 1)
    assert (written["min"], written["max"], written["mean_abs"]) == (-3.0, "inf", "nan")
    assert written["sha256"] == digest(odd)
    other = odd.copy()
    other.view(np.uint32)[0] ^= 2  # another bit of the NaN
    assert digest(other) != digest(odd)
    (kept,) = keep({"first": f32(1, -2, 4)})
    assert kept.mean_abs == 7 / 3
    (kept,) = keep({"first": np.zeros((0, 3), np.float32)})
    assert math.isnan(kept.smallest)


def test_passes_with_the_same_bits_share_an_entry() -> None:
    """A zero of the other sign is another entry, a tensor that was not computed is none."""
    passes = {"first": f32(0), "second": f32(-0.0), "reshaped": f32(0), "never": None}
    assert [each.passes for each in keep(passes)] == [("first", "reshaped"), ("second",)]


@pytest.mark.parametrize("size", [0, 1, WHOLE, WHOLE + 1, 1000, 10_240_000])
def test_places_are_all_or_a_fixed_sample(size: int) -> None:
    """Small: every element; large: as many distinct ones as promised, both ends among them."""
    chosen = places(size).tolist()
    if size <= WHOLE:
        assert chosen == list(range(size))
    else:
        assert len(set(chosen)) == SAMPLE
        assert (chosen[0], chosen[-1]) == (0, size - 1)


def test_the_same_bits(diff: Diff) -> None:
    """Exit 0, and every case is counted as bit-identical."""
    both = report(result("base", BASE), result("odd", LARGE))
    status, said, content = diff(both, both)
    assert status == 0
    assert said.splitlines()[-1] == "2 of 2 cases bit-identical; no verdict got worse"
    assert [each["bits"] for each in content["cases"]] == ["identical", "identical"]
    assert "environment: the same" in said
    assert "asked for: the same" in said


def test_one_ulp(diff: Diff) -> None:
    """Exit 0: it is named with its place and both values, and the distance is exact."""
    after = moved(BASE, 2, 1, steps=1)
    status, said, content = diff(
        report(result("base", BASE), result("odd", BASE)),
        report(result("base", BASE), result("odd", after)),
        "--all",
    )
    assert status == 0
    found = only_difference(content)
    assert (found["ulps"], found["exact"], found["index"]) == (1, True, [2, 1])
    assert found["values"] == [float(BASE[2, 1]), float(after[2, 1])]
    assert re.search(r"caffe-python +2 +1 +1 +1 +dx1 of odd", said)
    assert "channel_sum-caffe-python-odd  pass  changed" in said
    assert "dx1: 1 ulp at [2, 1]: 0.636363626 -> 0.636363685" in said
    assert "1 of 2 cases bit-identical; 1 changed, by up to 1 ulp; no verdict got worse" in said


def test_only_one_pass_differs(diff: Diff) -> None:
    """A second pass that gives other bits than before is found, and named."""
    after = result("base", BASE)
    passes = {"first": BASE, "second": moved(BASE, 0, 0, steps=3), "reshaped": BASE}
    after["computed"]["dx1"] = [as_json(each) for each in keep(passes)]
    _, said, content = diff(report(result("base", BASE)), report(after), "--all")
    assert only_difference(content)["passes"] == ["second"]
    assert "dx1 (second): 3 ulps at [0, 0]" in said


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f32(0, 1), f32(-0.0, 1)),
        (of_bits(0x7FC00001), of_bits(0x7FC00002)),
        (of_bits(0x7FC00001), of_bits(0xFFC00001)),
    ],
    ids=["zero", "payload", "nan-sign"],
)
def test_bits_without_a_value(diff: Diff, before: Array32, after: Array32) -> None:
    """The sign of a zero and the bits of a NaN are a change, by 0 ulps, and are called so."""
    status, said, content = diff(
        report(result("base", before)), report(result("base", after)), "--all"
    )
    assert status == 0
    assert content["cases"][0]["bits"] == "changed"
    assert only_difference(content)["ulps"] == 0
    assert "only the sign of zeros or the bits of NaN" in said


@pytest.mark.parametrize("size", [12, 120])
def test_nan_that_appears(diff: Diff, size: int) -> None:
    """A NaN where a number was is infinitely far, also where that element is not kept."""
    before = np.linspace(1, 2, size, dtype=np.float32)
    after = before.copy()
    after[5] = np.nan
    assert (5 in places(size)) == (size == 12)
    _, said, content = diff(report(result("base", before)), report(result("base", after)), "--all")
    assert only_difference(content)["ulps"] == "inf"
    assert f"dx1: a NaN, 0 -> 1 NaN among {size}" in said
    assert "1 changed, a NaN on one side" in said


def test_large_tensors_say_at_least(diff: Diff) -> None:
    """Of a large tensor the distance is a lower bound: by a kept element or by the extremes."""
    kept = tuple(int(each) for each in np.unravel_index(places(LARGE.size)[3], LARGE.shape))
    inner = 1, 3
    assert 43 not in places(LARGE.size)
    peak = LARGE.copy()
    peak[inner] = 5
    for before, after, expected, words in (
        (LARGE, moved(LARGE, *kept, steps=7), 7, f">=7 ulps at {list(kept)}: "),
        (LARGE, moved(LARGE, *inner, steps=7), 0, "dx1: changed, not at the 32 of 120 elements"),
        (peak, moved(peak, *inner, steps=7), 7, ">=7 ulps in its maximum: 5 -> 5.00000334"),
        (-peak, -moved(peak, *inner, steps=9), 9, ">=9 ulps in its minimum: -5 -> -5.00000429"),
    ):
        _, said, content = diff(
            report(result("base", before)), report(result("base", after)), "--all"
        )
        found = only_difference(content)
        assert found["ulps"] == expected, words
        assert not found["exact"]
        assert words in said
        assert ">=: of large tensors some elements are kept" in said


def test_distance_is_never_more_than_the_true_one() -> None:
    """What is said of a large tensor is at most what the whole one shows, and often as much."""
    rng = np.random.RandomState(1)
    equal = 0
    for _ in range(300):
        size = int(rng.randint(WHOLE + 1, 300))
        before = rng.standard_normal(size).astype(np.float32)
        after = before.copy()
        after[rng.randint(0, size, rng.randint(1, 40))] *= np.float32(
            1 + rng.choice([1e-6, 1e-3, 1, -2])
        )
        true = max(ulps(before.view(np.uint32), after.view(np.uint32)))
        (old,), (new,) = keep({"first": before}), keep({"first": after})
        found = difference("dx1", (), old, new)
        assert found.ulps is not None
        assert found.ulps <= true
        equal += found.ulps == true
    assert equal > 30


def test_shape_and_missing_tensor(diff: Diff) -> None:
    """Another shape, and a tensor that is computed no longer, are changes without a distance."""
    before, after = result("base", BASE), result("base", BASE.reshape(4, 3))
    before["computed"]["loss"] = before["computed"]["dx1"]
    status, said, _ = diff(report(before), report(after), "--all")
    assert status == 0
    assert "dx1: shape (3, 4) -> (4, 3)" in said
    assert "loss: computed only before" in said
    assert "-: there are no two tensors of one shape" in said


def test_other_inputs_are_not_compared(diff: Diff) -> None:
    """Where a case has other inputs than before, its bits say nothing; its verdict still does."""
    after = result("base", -BASE, "fail", inputs=digest(f32(2)), reason="dx1: wrong")
    status, said, content = diff(report(result("base", BASE)), report(after))
    assert status == 1
    assert content["cases"][0]["bits"] == "other inputs"
    assert "1 with other inputs than before, so not compared" in said


LADDER = ["pass", "suspicious", "refused", "not run", "fail", "crash"]


def judged(case: str, verdict: str) -> Content:
    """A record with a verdict; "suspicious" is a pass with a doubt."""
    made = result(case, BASE, verdict, reason=f"because of {case}")
    if verdict == "suspicious":
        made["verdict"] = "pass"
        made["tensors"]["dx1"]["suspicious"] = True
    if verdict in ("crash", "hang", "not run"):
        made["computed"] = {}
    return made


@pytest.mark.parametrize("before", [*LADDER, "hang"])
@pytest.mark.parametrize("after", [*LADDER, "hang"])
def test_verdicts_have_an_order(diff: Diff, before: str, after: str) -> None:
    """Down the ladder is worse, with exit status 1; up is better, but for what did not run."""
    ladder = [*LADDER, "hang"]
    status, said, content = diff(report(judged("odd", before)), report(judged("odd", after)))
    down = ladder.index(after) > ladder.index(before) and (before, after) != ("crash", "hang")
    assert status == int(down)
    word = "same" if before == after else "worse" if down else "better"
    if {before, after} == {"crash", "hang"} or (word == "better" and after == "not run"):
        word = "other"
    assert content["cases"][0]["judged"] == word
    assert ("1 verdict got worse" in said) == down
    if word != "same":
        assert f"channel_sum  caffe-python: {before} -> {after}  [1: odd]" in said
    if down:
        assert "odd: because of odd" in said


def test_reason_is_the_explanation_where_there_is_one(diff: Diff) -> None:
    """What a failure means is said rather than its numbers, and once for both gradients."""
    words = {"code": "ignores-top-diff", "words": "the top diff is ignored"}
    meanings = {"dx1": words, "dx2": words}
    bad = result("base", BASE, "fail", reason="3 of 9 beyond the bound", explanations=meanings)
    said = diff(report(result("base", BASE)), report(bad))[1]
    assert "    base: the top diff is ignored\n" in said


def test_every_verdict_has_a_rank() -> None:
    """The ranks cover what the reports' schema knows."""
    known = RUN_SCHEMA["$defs"]["result"]["properties"]["verdict"]["enum"]
    assert set(known) | {"suspicious", "gone"} == set(RANKS)


def test_case_that_is_gone(diff: Diff) -> None:
    """Asked for the same, a case that is missing is worse; so it is when AFTER is incomplete."""
    before = report(result("base", BASE), result("odd", BASE))
    after = report(result("base", BASE))
    status, said, content = diff(before, after)
    assert status == 1
    assert content["cases"][1]["verdicts"] == ["pass", "gone"]
    assert "channel_sum  caffe-python: pass -> gone  [1: odd]" in said
    narrow = {**after, "selection": {"keyword": "base"}}
    status, said, _ = diff(before, narrow)
    assert status == 0
    assert "asked for: keyword: none -> base" in said
    assert "only in BEFORE:\n  channel_sum  caffe-python: pass  [1: odd]" in said
    status, said, _ = diff(before, {**narrow, "selected": 2})
    assert status == 1
    assert "1 result; 1 that were asked for are missing" in said


def test_failure_that_is_gone_is_not_better(diff: Diff) -> None:
    """A failing case that has no result any more was not mended."""
    before = report(result("base", BASE), result("odd", BASE, "fail"))
    status, _, content = diff(before, report(result("base", BASE)))
    assert status == 0
    assert content["cases"][1]["judged"] == "other"


def test_new_case_is_no_change_for_the_worse(diff: Diff) -> None:
    """A case that is in AFTER only is named with its verdict, and compared with nothing."""
    after = report(result("base", BASE), result("odd", BASE, "fail"))
    status, said, _ = diff(report(result("base", BASE)), after)
    assert status == 0
    assert "only in AFTER:\n  channel_sum  caffe-python: fail  [1: odd]" in said


def timed(**seconds: float) -> Content:
    """A report in which each variant took some time."""
    return report(
        *(
            result("base", BASE, variant=f"caffe-{name}", seconds=each)
            for name, each in seconds.items()
        )
    )


def test_slower(diff: Diff) -> None:
    """Beyond the noise a variant is named with its ratio and the threshold, with exit status 0."""
    status, said, _ = diff(timed(a=1), timed(a=2.5))
    assert status == 0
    assert f"slower ({SLOWER:g} times as long or more, by {SHORT:g} s or more" in said
    assert "channel_sum  caffe-a: 1.0 -> 2.5 s, 2.5 times as long" in said
    for quick, slow in ((1, 1.9), (0.01, 0.09), (1, 0.3)):
        assert "times as long" not in diff(timed(a=quick), timed(a=slow))[1]


def test_slow_machine_is_not_a_slow_variant(diff: Diff) -> None:
    """All variants three times as long is the machine; one that takes longer still is not."""
    before = timed(a=1, b=1, c=1, d=1)
    assert "times as long" not in diff(before, timed(a=3, b=3.1, c=2.9, d=3))[1]
    said = diff(before, timed(a=3, b=3.1, c=2.9, d=9))[1]
    assert "caffe-d: 1.0 -> 9.0 s, 3.0 times as long (beside the run as a whole: 3.05)" in said
    assert "caffe-a:" not in said


def test_environment_that_differs_is_told(diff: Diff) -> None:
    """Other commits, versions, BLAS and processors are named, with both values."""
    before, after = report(result("base", BASE)), report(result("base", BASE))
    after["environment"] |= {"commit": "def+", "processor": "y"}
    after["environment"]["caffe"]["blas"] = ["openblas"]
    said = diff(before, after)[1]
    for line in ("commit: abc -> def+", "processor: x -> y", "caffe.blas: b -> openblas"):
        assert f"environment: {line}" in said


def _without(name: str) -> Callable[[Content], Any]:
    return lambda content: content["results"][0].pop(name)


def _set(name: str, value: Any) -> Callable[[Content], Any]:
    return lambda content: content["results"][0].__setitem__(name, value)


def _kept(name: str, value: Any) -> Callable[[Content], Any]:
    return lambda content: content["results"][0]["computed"]["dx1"][0].__setitem__(name, value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c: c.__setitem__("schema", "parity-results-1"), "of another version"),
        (lambda c: c.__setitem__("schema", "report-7"), "unknown schema 'report-7'"),
        (lambda c: c.pop("schema"), "it has no 'schema'"),
        (lambda c: c.pop("results"), "the whole has no 'results'"),
        (lambda c: c.__setitem__("results", {}), "results: expected a list, found {}"),
        (lambda c: c["results"].append(c["results"][0]), "channel_sum-caffe-python-base is there"),
        (lambda c: c.__setitem__("environment", 3), "environment: expected an object, found 3"),
        (lambda c: c.__setitem__("selected", -1), "selected: expected a count, found -1"),
        (_without("verdict"), "results[0] has no 'verdict'"),
        (_set("verdict", "passed"), "results[0].verdict: expected one of pass, fail"),
        (_set("seconds", "long"), "results[0].seconds: expected a number"),
        (_set("seconds", True), "results[0].seconds: expected a number"),
        (_set("case", ["base"]), "results[0].case: expected a string"),
        (_set("inputs", "12"), "results[0].inputs: expected 64 hexadecimal digits"),
        (_set("computed", []), "results[0].computed: expected an object"),
        (_kept("elements", "00"), "dx1[0].elements: expected 96 hexadecimal digits"),
        (_kept("shape", [2**40, 2**40]), "dx1[0].shape: expected at most"),
        (_kept("shape", [-1]), "dx1[0].shape[0]: expected a count"),
        (_kept("sha256", "x" * 64), "dx1[0].sha256: expected 64 hexadecimal digits"),
        (_kept("nan", 1.5), "dx1[0].nan: expected a count"),
        (_set("case", "other"), "no case of before.json is in after.json"),
    ],
)
def test_report_that_is_none(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Content], Any],
    words: str,
) -> None:
    """Exit 2; the file, the place in it, what was expected, and what is there."""
    monkeypatch.chdir(tmp_path)
    good = report(result("base", BASE))
    bad = copy.deepcopy(good)
    spoil(bad)
    Path("before.json").write_text(json.dumps(good))
    Path("after.json").write_text(json.dumps(bad))
    assert main(["before.json", "after.json"]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert "after.json" in said.err
    assert not said.out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read after.json: No such file"),
        (b"", "after.json is no JSON file"),
        (b'{"schema": ', "after.json is no JSON file"),
        (b"\xff\xfe", "after.json is no JSON file"),
        (b'{"schema": NaN}', "NaN is no JSON"),
        (b"[1, 2]", "after.json: the whole: expected an object, found [1, 2]"),
        (b"[" * 100_000, "after.json is no JSON file"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "after.json is no JSON file"),
        (b"\x80\x04\x95", "after.json is no JSON file"),
    ],
    ids=["absent", "empty", "cut", "utf-16", "nan", "list", "deep", "long", "pickle"],
)
def test_file_that_is_no_json(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: bytes | None,
    words: str,
) -> None:
    """Exit 2 with one line that names the file; never a traceback."""
    monkeypatch.chdir(tmp_path)
    Path("before.json").write_text(json.dumps(report(result("base", BASE))))
    if text is not None:
        Path("after.json").write_bytes(text)
    assert main(["before.json", "after.json"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1


def test_wrong_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 for one file, a folder, and a file of --json that cannot be written."""
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_text(json.dumps(report(result("base", BASE))))
    for arguments, words in (
        (["a.json"], "AFTER.json"),
        ([".", "a.json"], "cannot read .: Is a directory"),
        (["a.json", "a.json", "--json", "no/such/folder.json"], "cannot write no/such/folder.json"),
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err


def test_definitions_of_the_schemas_are_the_same() -> None:
    """What both kinds of report hold is described alike; all three schemas are schemas."""
    for each in (RUN_SCHEMA, CHECK_SCHEMA, DIFF_SCHEMA):
        jsonschema.Draft202012Validator.check_schema(each)
    of_run, of_check = (
        dict(each["properties"]["environment"]["properties"]) for each in (RUN_SCHEMA, CHECK_SCHEMA)
    )
    of_run.pop("recorded")  # `parity recorded` writes a results.json, too
    assert of_run == of_check
    for name in ("number", "kept"):
        assert RUN_SCHEMA["$defs"][name] == CHECK_SCHEMA["$defs"][name]


def test_diff_does_not_wait_for_pytorch() -> None:
    """The command imports no PyTorch: it answers at once."""
    program = "import sys, caffe_parity.cli.diff; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_edit_of_a_layer_end_to_end(tmp_path: Path) -> None:
    """Two runs of one net are bit-identical; a sum in another order is not, and is no failure."""
    layer = tmp_path / "summed_euclidean_loss.py"
    shutil.copy(LAYERS / layer.name, layer)
    shutil.copy(NETS / "channel_sum_python.prototxt", tmp_path / "mine.prototxt")

    def run(name: str) -> str:
        options = ("--net", "mine.prototxt", "--layer", "channel_sum", "-k", "base or weight-3.7")
        parity("run", *options, "--parity-report", name, cwd=tmp_path)
        file = tmp_path / name / "results.json"
        content = json.loads(file.read_text(), parse_constant=pytest.fail)
        jsonschema.validate(content, RUN_SCHEMA)
        assert content["selection"]["keyword"] == "base or weight-3.7"
        return str(file)

    def edit(old: str, new: str) -> None:
        text = layer.read_text()
        assert text.count(old) == 1
        layer.write_text(text.replace(old, new))

    before, again = run("before"), run("again")
    done = parity("diff", before, again, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^(\d+) of \1 cases bit-identical; no verdict", done.stdout, re.MULTILINE)
    edit("return x.sum(", "return x[:, ::-1].sum(")
    done = parity("diff", before, run("reordered"), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed, by" in done.stdout
    edit("top[0].diff.flat[0]", "np.float32(1)")
    done = parity("diff", before, run("broken"), cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "channel_sum  caffe-net: pass -> fail" in done.stdout


def test_check_keeps_every_pass() -> None:
    """Each upstream gradient, the second backward and the second pass have their own entry."""
    seen = Observation(
        tops={"loss": f32(1)},
        second_tops={"loss": f32(2)},
        diffs=[{"x": f32(3)}, {"x": f32(4)}],
        again={"x": f32(5)},
        second_diffs={"x": f32(6)},
    )
    kept = {
        name: {entry.passes: entry.largest for entry in entries}
        for name, entries in computed.by_caffe(seen).items()
    }
    assert kept == {
        "loss": {("upstream 1",): 1, ("second",): 2},
        "gradient:x": {
            ("upstream 1",): 3,
            ("upstream 2",): 4,
            ("again",): 5,
            ("second",): 6,
        },
    }


def test_checks_end_to_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A mended layer is better and a broken one worse; a port is a variant of its own."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    command = [*FORGETFUL, "--cases", "2", "--port", "examples/forgetful.py:loss"]

    def checked(name: str) -> str:
        with Caffe(find()) as caffe:  # a layer that it has imported, it does not read again
            check([*command, "--json", name], caffe)
        content = json.loads(Path(name).read_text(), parse_constant=pytest.fail)
        jsonschema.validate(content, CHECK_SCHEMA)
        return name

    before = checked("before.json")
    layer = Path("examples/forgetful_layer.py")
    text = layer.read_text()
    layer.write_text(text.replace("self.sign / ", "top[0].diff.flat[0] * self.sign / "))
    after = checked("after.json")
    capsys.readouterr()
    assert main([before, after]) == 0
    said = capsys.readouterr().out
    assert "caffe: fail -> pass  [2: 0, 1]" in said
    assert re.search(r"^port +2 +2 +0 ", said, re.MULTILINE)
    assert "port:" not in said
    assert main([after, before]) == 1
    assert "0: ignores-top-diff: " in capsys.readouterr().out
    layer.write_text(text.replace("def forward", "def forwards"))
    crashed = checked("crashed.json")
    capsys.readouterr()
    assert main([after, crashed]) == 1
    assert "caffe: pass -> crash  [1: 0]" in capsys.readouterr().out
    Path("run.json").write_text(json.dumps(report(result("base", BASE))))
    assert main(["run.json", after]) == 2
    assert "compare two reports of the same command" in capsys.readouterr().err
