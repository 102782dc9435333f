"""`parity diff`: to the bit what changed, whose verdict, what got slower; and its exit status."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema
import numpy as np
import pytest

from caffe_parity.cli.main import main
from caffe_parity.contract import Array32, Finding
from caffe_parity.report import show
from caffe_parity.report.bits import SAMPLE, WHOLE, digest, from_json, keep, places, ulps
from caffe_parity.report.changes import RANKS, SHORT, SLOWER, difference
from caffe_parity.report.record import VERDICTS, Record, Report, plain, read
from tests.test_page import Parsed
from tests.test_report import ENVIRONMENT, agreement

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads(Path(show.__file__).with_name("diff.schema.json").read_text())

Content = dict[str, Any]
Compared = Callable[..., tuple[int, str, Content]]


def f32(*values: float) -> Array32:
    """Some numbers."""
    return np.array(values, np.float32)


def of_bits(*bits: int) -> Array32:
    """Numbers by their bits."""
    return np.array(bits, np.uint32).view(np.float32)


def result(case: str, dx1: Array32, verdict: str = "pass", **changes: Any) -> Record:
    """A record of a run; all three passes computed the same dx1."""
    passes = dict.fromkeys(("first", "second", "reshaped"), dx1)
    fields: dict[str, Any] = {
        "reason": "" if verdict == "pass" else f"because of {case}",
        "tensors": {"gradient:x1": agreement(0.25)},
        "seconds": 1.0,
        "inputs": digest(f32(1)),
        "computed": {"gradient:x1": keep(passes)},
    }
    return Record("channel_sum", "caffe-python", case, verdict, **{**fields, **changes})


def report(*results: Record, **changes: Any) -> Report:
    """What a run writes."""
    return replace(Report("run", ENVIRONMENT, {}, results), **changes)


@pytest.fixture
def diff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Compared:
    """Writes two reports, compares them; returns the exit status, what is printed, and the JSON."""
    monkeypatch.chdir(tmp_path)

    def compared(before: Report, after: Report, *options: str) -> tuple[int, str, Content]:
        before.write(Path("before.json"))
        after.write(Path("after.json"))
        files = ["--json", "diff.json", "--page", "diff.html"]
        status = main(["diff", "before.json", "after.json", *files, *options])
        parsed = Parsed(Path("diff.html").read_text("utf-8"))  # each page is well-formed
        ids = {each.id for each in [*before.results, *after.results]}
        assert ids <= set(parsed.ids) and len(set(parsed.ids)) == len(parsed.ids)
        assert {unquote(each[1:]) for each in parsed.links} <= set(parsed.ids)
        said = capsys.readouterr()
        assert not said.err
        content = json.loads(Path("diff.json").read_text(), parse_constant=pytest.fail)
        jsonschema.validate(content, SCHEMA)
        return status, said.out, content

    return compared


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


@pytest.mark.parametrize("more", [[], ["--all"], ["--json", "diff.json"]], ids=" ".join)
def test_nothing_is_written_but_what_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    """A comparison leaves both reports as they are, and no file beside them."""
    monkeypatch.chdir(tmp_path)
    report(result("base", f32(1, 2))).write(tmp_path / "before.json")
    report(result("base", f32(1, 3))).write(tmp_path / "after.json")
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    main(["diff", "before.json", "after.json", *more])
    after = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert after.pop("diff.json", None) is not None or "--json" not in more
    assert after == before


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
    written = plain(kept)
    assert written["elements"] == "7fc00001800000007f80000000000001c0400000"
    assert (written["nan"], written["inf"]) == (1, 1)
    assert (written["min"], written["max"], written["mean_abs"]) == (-3.0, "inf", "nan")
    assert written["sha256"] == digest(odd)
    assert plain(from_json(json.loads(json.dumps(written)))) == written
    other = odd.copy()
    other.view(np.uint32)[0] ^= 2  # another bit of the NaN
    assert digest(other) != digest(odd)
    (kept,) = keep({"first": f32(1, -2, 4)})
    assert kept.mean_abs == 7 / 3
    (kept,) = keep({"first": np.zeros((0, 3), np.float32)})
    assert math.isnan(kept.min)


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


def test_the_same_bits(diff: Compared) -> None:
    """Exit 0, and every case is counted as bit-identical."""
    both = report(result("base", BASE), result("odd", LARGE))
    status, said, content = diff(both, both)
    assert status == 0
    assert said.splitlines()[-1] == "2 of 2 cases bit-identical; no verdict got worse"
    assert [each["bits"] for each in content["cases"]] == ["identical", "identical"]
    assert "environment: the same" in said
    assert "asked for: the same" in said


def test_one_ulp(diff: Compared) -> None:
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


def test_only_one_pass_differs(diff: Compared) -> None:
    """A second pass that gives other bits than before is found, and named."""
    passes = {"first": BASE, "second": moved(BASE, 0, 0, steps=3), "reshaped": BASE}
    after = result("base", BASE, computed={"gradient:x1": keep(passes)})
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
def test_bits_without_a_value(diff: Compared, before: Array32, after: Array32) -> None:
    """The sign of a zero and the bits of a NaN are a change, by 0 ulps, and are called so."""
    status, said, content = diff(
        report(result("base", before)), report(result("base", after)), "--all"
    )
    assert status == 0
    assert content["cases"][0]["bits"] == "changed"
    assert only_difference(content)["ulps"] == 0
    assert "only the sign of zeros or the bits of NaN" in said


@pytest.mark.parametrize("size", [12, 120])
def test_nan_that_appears(diff: Compared, size: int) -> None:
    """A NaN where a number was is infinitely far, also where that element is not kept."""
    before = np.linspace(1, 2, size, dtype=np.float32)
    after = before.copy()
    after[5] = np.nan
    assert (5 in places(size)) == (size == 12)
    _, said, content = diff(report(result("base", before)), report(result("base", after)), "--all")
    assert only_difference(content)["ulps"] == "inf"
    assert f"dx1: a NaN, 0 -> 1 NaN among {size}" in said
    assert "1 changed, a NaN on one side" in said


def test_large_tensors_say_at_least(diff: Compared) -> None:
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


def test_shape_and_missing_tensor(diff: Compared) -> None:
    """Another shape, and a tensor that is computed no longer, are changes without a distance."""
    before, after = result("base", BASE), result("base", BASE.reshape(4, 3))
    before = replace(before, computed={**before.computed, "loss": keep({"first": f32(1)})})
    status, said, _ = diff(report(before), report(after), "--all")
    assert status == 0
    assert "dx1: shape (3, 4) -> (4, 3)" in said
    assert "loss: computed only before" in said
    assert "-: there are no two tensors of one shape" in said


def test_other_inputs_are_not_compared(diff: Compared) -> None:
    """Where a case has other inputs than before, its bits say nothing; its verdict still does."""
    after = result("base", -BASE, "fail", inputs=digest(f32(2)), reason="dx1: wrong")
    status, said, content = diff(report(result("base", BASE)), report(after))
    assert status == 1
    assert content["cases"][0]["bits"] == "other inputs"
    assert "1 with other inputs than before, so not compared" in said


def passes(**of: Array32) -> Record:
    """A record in which some passes computed dx1."""
    return result("base", BASE, computed={"gradient:x1": keep(of)})


def test_pass_that_one_report_lacks_is_no_change(diff: Compared) -> None:
    """What both have is compared; a pass more, or one less, says nothing about the bits."""
    fewer, more = passes(first=BASE), passes(first=BASE, again=-BASE)
    for before, after in ((fewer, more), (more, fewer)):
        status, said, content = diff(report(before), report(after))
        assert (status, content["cases"][0]["bits"]) == (0, "identical")
        assert "1 of 1 case bit-identical" in said
    content = diff(report(fewer), report(passes(first=moved(BASE, 1, 1, steps=1), again=BASE)))[2]
    assert only_difference(content)["ulps"] == 1
    assert only_difference(content)["passes"] == []


def test_without_a_pass_in_common_nothing_is_identical(diff: Compared) -> None:
    """Where no pass is in both, the bits were not compared, and no one says that they were."""
    said, content = diff(report(passes(first=BASE)), report(passes(again=BASE)))[1:]
    assert content["cases"][0]["bits"] == "other passes"
    assert "0 of 1 case bit-identical; 1 with other passes than before" in said


def test_commands_may_be_mixed(diff: Compared) -> None:
    """A run and a check of the same layer are compared where their cases meet."""
    status, said, content = diff(
        report(result("base", BASE), result("odd", BASE)),
        report(result("base", BASE), command="pytest"),
    )
    assert status == 0
    assert "before.json: parity run, 2 results" in said
    assert "after.json: pytest, 1 result" in said
    assert [each["judged"] for each in content["cases"]] == ["same", "old"]


LADDER = ["pass", "suspicious", "refused", "not run", "unproven", "fail", "crash", "hang"]


def judged(case: str, verdict: str) -> Record:
    """A record with a verdict; "suspicious" is a pass with a doubt."""
    if verdict == "suspicious":
        tensors = {"gradient:x1": agreement(0.25, times_typical=40.0)}
        return result(case, BASE, tensors=tensors)
    made = result(case, BASE, verdict)
    return replace(made, computed={}) if verdict in ("crash", "hang", "not run") else made


@pytest.mark.parametrize("before", LADDER)
@pytest.mark.parametrize("after", LADDER)
def test_verdicts_have_an_order(diff: Compared, before: str, after: str) -> None:
    """Down the ladder is worse, with exit status 1; up is better, but for what did not run."""
    status, said, content = diff(report(judged("odd", before)), report(judged("odd", after)))
    down = LADDER.index(after) > LADDER.index(before) and (before, after) != ("crash", "hang")
    assert status == int(down)
    word = "same" if before == after else "worse" if down else "better"
    if {before, after} == {"crash", "hang"} or (word == "better" and after == "not run"):
        word = "other"
    assert content["cases"][0]["judged"] == word
    assert ("1 verdict got worse" in said) == down
    if word != "same":
        assert f"channel_sum  caffe-python: {before} -> {after}  [1: odd]" in said
    if down and after != "suspicious":
        assert "odd: because of odd" in said


def test_reason_is_what_the_findings_mean(diff: Compared) -> None:
    """What a failure means is said rather than its numbers, and once for both gradients."""
    findings = [
        Finding(f"gradient:{name}", "the top diff is ignored", f"gradient:{name}")
        for name in ("x1", "x2")
    ]
    bad = result("base", BASE, "fail", reason="3 of 9 beyond the bound", findings=findings)
    said, content = diff(report(result("base", BASE)), report(bad))[1:]
    assert "    base: the top diff is ignored\n" in said
    assert content["cases"][0]["reason"] == "the top diff is ignored"


def test_every_verdict_has_a_rank() -> None:
    """The ranks cover what the reports' schema knows, and the schema of what is written."""
    assert {*VERDICTS, "suspicious", "gone"} == set(RANKS)
    known = SCHEMA["properties"]["cases"]["items"]["properties"]["verdicts"]["items"]["enum"]
    assert {*known} - {None} == set(RANKS)


def test_case_that_is_gone(diff: Compared) -> None:
    """Asked for the same, a case that is missing is worse; so it is when AFTER is incomplete."""
    before = report(result("base", BASE), result("odd", BASE))
    after = report(result("base", BASE))
    status, said, content = diff(before, after)
    assert status == 1
    assert content["cases"][1]["verdicts"] == ["pass", "gone"]
    assert "channel_sum  caffe-python: pass -> gone  [1: odd]" in said
    narrow = replace(after, selection={"keyword": "base"})
    status, said, _ = diff(before, narrow)
    assert status == 0
    assert "asked for: keyword: none -> base" in said
    assert "only in BEFORE:\n  channel_sum  caffe-python: pass  [1: odd]" in said
    status, said, _ = diff(before, replace(narrow, selected=2))
    assert status == 1
    assert "1 result; 1 that were asked for are missing" in said


def test_failure_that_is_gone_is_not_better(diff: Compared) -> None:
    """A failing case that has no result any more was not mended."""
    before = report(result("base", BASE), result("odd", BASE, "fail"))
    status, _, content = diff(before, report(result("base", BASE)))
    assert status == 0
    assert content["cases"][1]["judged"] == "other"


def test_new_case_is_no_change_for_the_worse(diff: Compared) -> None:
    """A case that is in AFTER only is named with its verdict, and compared with nothing."""
    after = report(result("base", BASE), result("odd", BASE, "fail"))
    status, said, _ = diff(report(result("base", BASE)), after)
    assert status == 0
    assert "only in AFTER:\n  channel_sum  caffe-python: fail  [1: odd]" in said


def timed(**seconds: float) -> Report:
    """A report in which each variant took some time."""
    some = {name: result("base", BASE, seconds=each) for name, each in seconds.items()}
    return report(*(replace(each, variant=f"caffe-{name}") for name, each in some.items()))


def test_slower(diff: Compared) -> None:
    """Beyond the noise a variant is named with its ratio and the threshold, with exit status 0."""
    status, said, _ = diff(timed(a=1), timed(a=2.5))
    assert status == 0
    assert f"slower ({SLOWER:g} times as long or more, by {SHORT:g} s or more" in said
    assert "channel_sum  caffe-a: 1.0 -> 2.5 s, 2.5 times as long" in said
    for quick, slow in ((1, 1.9), (0.01, 0.09), (1, 0.3)):
        assert "times as long" not in diff(timed(a=quick), timed(a=slow))[1]


def test_slow_machine_is_not_a_slow_variant(diff: Compared) -> None:
    """All variants three times as long is the machine; one that takes longer still is not."""
    before = timed(a=1, b=1, c=1, d=1)
    assert "times as long" not in diff(before, timed(a=3, b=3.1, c=2.9, d=3))[1]
    said = diff(before, timed(a=3, b=3.1, c=2.9, d=9))[1]
    assert "caffe-d: 1.0 -> 9.0 s, 3.0 times as long (beside the run as a whole: 3.05)" in said
    assert "caffe-a:" not in said


def test_environment_that_differs_is_told(diff: Compared) -> None:
    """Other commits, versions, BLAS and processors are named, with both values."""
    other = {
        **ENVIRONMENT,
        "commit": "def+",
        "processor": "y",
        "caffe": {**ENVIRONMENT["caffe"], "blas": ["openblas"]},
    }
    base = report(result("base", BASE))
    said, content = diff(base, replace(base, environment=other))[1:]
    for line in ("commit: abc -> def+", "processor: x -> y", "caffe.blas: b -> openblas"):
        assert f"environment: {line}" in said
    assert content["environment"]["caffe.blas"] == ["b", "openblas"]


def test_reports_that_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 where no case is in both: nothing was compared, so nothing is said of it."""
    monkeypatch.chdir(tmp_path)
    report(result("base", BASE)).write(Path("before.json"))
    report(result("other", BASE)).write(Path("after.json"))
    assert main(["diff", "before.json", "after.json"]) == 2
    said = capsys.readouterr()
    assert "no case of before.json is in after.json" in said.err
    assert not said.out


def test_file_that_is_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 with one line that names the file and the place; never a traceback."""
    monkeypatch.chdir(tmp_path)
    report(result("base", BASE)).write(Path("good.json"))
    Path("bad.json").write_text(Path("good.json").read_text().replace('"seconds": 1.0', '"s": 1'))
    for files in (["good.json", "bad.json"], ["bad.json", "good.json"]):
        assert main(["diff", *files]) == 2
        said = capsys.readouterr()
        assert said.err == "parity diff: bad.json: results[0] has no 'seconds'\n"
        assert not said.out


def test_wrong_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 for one file, a folder, and a file of --json that cannot be written."""
    monkeypatch.chdir(tmp_path)
    report(result("base", BASE)).write(Path("a.json"))
    for arguments, words in (
        (["a.json"], "AFTER.json"),
        ([".", "a.json"], "cannot read results.json: No such file"),
        (
            ["a.json", "a.json", "--json", "no/such/folder.json"],
            "there is no folder no/such: make it",
        ),
    ):
        assert main(["diff", *arguments]) == 2
        assert words in capsys.readouterr().err


def test_schema_of_what_is_written_is_a_schema() -> None:
    """The JSON Schema of --json is one."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_diff_does_not_wait_for_pytorch() -> None:
    """The command imports no PyTorch: it answers at once."""
    program = "import sys, caffe_parity.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_edit_of_a_layer_end_to_end(folder: Path) -> None:
    """A mended layer is better, a broken or crashing one worse; the port next to it is the same."""
    layer = Path("examples/forgetful_layer.py")
    text = layer.read_text()

    def checked(name: str, edited: str) -> str:
        layer.write_text(edited)
        command = ["check", "examples/forgetful.prototxt", "--cases", "2", "--json", name]
        loss = "examples/forgetful.py:loss"
        parity(*command, "--reference", loss, "--port", loss)
        assert read(Path(name)).command == "check"
        return name

    mended = text.replace("self.sign / ", "top[0].diff.flat[0] * self.sign / ")
    before, again = checked("before.json", text), checked("again.json", text)
    after = checked("after.json", mended)
    crashed = checked("crashed.json", text.replace("def forward", "def forwards"))
    same = parity("diff", before, again)
    assert same.returncode == 0, same.stdout + same.stderr
    assert re.search(r"^(\d+) of \1 cases bit-identical; no verdict", same.stdout, re.MULTILINE)
    better = parity("diff", before, after)
    assert better.returncode == 0, better.stdout + better.stderr
    assert "caffe: fail -> pass  [2: 0, 1]" in better.stdout
    assert "port:" not in better.stdout
    worse = parity("diff", after, before)
    assert worse.returncode == 1, worse.stdout + worse.stderr
    assert "\n    0: the gradient of x1 is the same" in worse.stdout
    worse = parity("diff", after, crashed)
    assert worse.returncode == 1, worse.stdout + worse.stderr
    assert "caffe: pass -> crash  [1: 0]" in worse.stdout


def parity(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in the current folder."""
    command = [sys.executable, "-m", "caffe_parity", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


PASSES = ("first", "second", "reshaped")


def rows() -> list[Record]:
    """Three variants on three cases, of which each pass computed the same two tensors."""
    computed = {name: keep(dict.fromkeys(PASSES, BASE)) for name in ("loss", "gradient:x1")}
    return [
        replace(result(case, BASE, computed=computed), variant=variant)
        for variant in ("caffe-python", "caffe-native", "torch-module")
        for case in ("base", "odd", "exact")
    ]


@pytest.mark.parametrize("row", range(9))
@pytest.mark.parametrize("tensor", ["loss", "gradient:x1"])
def test_one_bit_of_one_pass_of_one_row(diff: Compared, row: int, tensor: str) -> None:
    """Whichever row, tensor and pass: that one is named, and all others are bit-identical."""
    lying = PASSES[row % 3]
    before, after = rows(), rows()
    passes = dict.fromkeys(PASSES, BASE) | {lying: moved(BASE, 2, 3, steps=1)}
    after[row] = replace(after[row], computed={**after[row].computed, tensor: keep(passes)})
    status, said, content = diff(report(*before), report(*after), "--all")
    changed = [each for each in content["cases"] if each["bits"] != "identical"]
    assert (status, len(changed)) == (0, 1)
    assert (changed[0]["variant"], changed[0]["case"]) == after[row].key[1:]
    found = only_difference(content)
    assert (found["tensor"], found["passes"], found["index"]) == (tensor, [lying], [2, 3])
    assert "8 of 9 cases bit-identical; 1 changed, by up to 1 ulp" in said


@pytest.mark.parametrize("verdict", ["fail", "crash", "hang", "unproven"])
@pytest.mark.parametrize("row", range(0, 9, 4))
def test_one_verdict_of_one_row(diff: Compared, row: int, verdict: str) -> None:
    """Though every bit is as before: exit status 1, and its name."""
    after = rows()
    after[row] = replace(after[row], verdict=verdict, reason="because")
    status, said, _ = diff(report(*rows()), report(*after))
    assert status == 1
    assert "1 verdict got worse" in said
    _, variant, case = after[row].key
    assert f"channel_sum  {variant}: pass -> {verdict}  [1: {case}]" in said
