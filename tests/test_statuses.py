"""Every verdict ends every kind of run rightly: exit status, JUnit, JSON, table and words agree."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import caffe_parity
from caffe_parity import Bound, Case, Expectation, Layer, testing
from caffe_parity.caffe.session import SESSION
from caffe_parity.cli import check as checking
from caffe_parity.cli import request
from caffe_parity.cli.main import main
from caffe_parity.contract import BadRequest, Observation, Outline, Plan, VariantFailure
from caffe_parity.report import one_layer, table
from caffe_parity.report.record import VERDICTS, Record, Report, read
from parity_tests.recorded import __main__ as recorded
from reference.cases import by_name
from reference.layers import LAYERS
from tests.answers import LOSS, right
from tests.test_report import command, printed, record, report

OURS = replace(LAYERS["channel_sum"], cases=(by_name("base"),))
REFUSES = Expectation("refused", "it takes four axes at most", text="num_axes() <= 4")


@dataclass(frozen=True)
class Says:
    """A variant that answers as it is told to, on a machine that may lack what it needs."""

    answer: Observation | Exception
    claim: Expectation | None = None
    lacks: str | None = None

    def expects(self, case: Case) -> Expectation | None:
        return self.claim

    def cannot_run(self) -> str | None:
        return self.lacks

    def outline(self, case: Case, with_params: bool) -> Outline | None:
        return None

    def observe(self, plan: Plan) -> Observation:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def answered(layer: str) -> Observation:
    """What a layer answers to that case."""
    passes = right(LAYERS[layer], by_name("base")).passes
    return Observation({name: dict(each) for name, each in passes.items()}, poisoned=True)


def wide(case: Case, inputs: object) -> Bound:
    """A bound that is wider than every value."""
    first = answered("channel_sum").tensors["first"]
    sizes = {name: 2.0 * np.abs(each) for name, each in first.items() if each is not None}
    return Bound(sizes, sizes)


def saying(says: Says, **changes: Any) -> Layer:
    """channel_sum with that variant alone."""
    return replace(OURS, variants={"stub": says}, **changes)


RIGHT = answered("channel_sum")
SAYING = {
    "pass": saying(Says(RIGHT)),
    "refused": saying(Says(VariantFailure("crash", "num_axes() <= 4"), REFUSES)),
    "fail": saying(Says(answered("tail_sum"))),
    "not-refused": saying(Says(RIGHT, REFUSES)),
    "crash": saying(Says(VariantFailure("crash", "signal SIGSEGV"))),
    "hang": saying(Says(VariantFailure("hang", "no answer within 60 s"))),
    "error": saying(Says(BadRequest("the net cannot be run on these inputs"))),
    "unproven": saying(Says(RIGHT), bound=wide),
    "not run": saying(Says(RIGHT, lacks="no CUDA device")),
}
"""A layer whose only comparison comes to each verdict, or to none."""

STATUS = {"pass": 0, "refused": 0, "not run": 0, "unproven": 2}
"""Of a run of tests; 1 for all others. pytest leaves out what cannot run, and says so."""

JUNIT = {"pass": "passed", "refused": "passed", "unproven": "passed", "not run": "skipped"}
"""The same test in junit.xml; "failure" for all others."""

OF = {"not-refused": "fail", "error": "crash"}
"""The verdict in the record, where it is called otherwise above."""

WAYS = {
    "checks": "comparison.check()",
    "swallows": "try: comparison.check()\n    except BaseException: pass",
    "looks": "comparison.findings()",
    "skips": "comparison.check(); pytest.skip('it is said to be fine')",
    "returns": "comparison.record = comparison.record or judge(LAYER, 'stub', CASE)",
}
TESTS = """
import pytest
import caffe_parity
from caffe_parity.engine.judge import judge
from tests.test_statuses import SAYING

LAYER = SAYING[{kind!r}]
[CASE] = LAYER.cases

{mark}@caffe_parity.parametrize(LAYER)
def test_it(comparison):
    {way}
"""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, Report]]:
    """Runs a test of one comparison under `parity run`; no Caffe is started."""
    monkeypatch.setattr(SESSION, "launch", lambda: None)
    monkeypatch.setattr(SESSION, "close", lambda: None)
    monkeypatch.chdir(tmp_path)

    def ran(kind: str, way: str, mark: str = "") -> tuple[int, Report]:
        (tmp_path / "test_it.py").write_text(TESTS.format(kind=kind, way=way, mark=mark))
        monkeypatch.delitem(sys.modules, "test_it", raising=False)
        status = main(["run", "test_it.py", "-p", "no:cacheprovider", "--import-mode=importlib"])
        return status, read(tmp_path / "parity-report")

    return ran


def outcome(junit: Path) -> str:
    """What junit.xml says of its only test."""
    [case] = ElementTree.parse(junit).getroot().iter("testcase")
    kinds = [each.tag for each in case]
    return kinds[0] if kinds else "passed"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", SAYING)
def test_a_run_ends_as_its_only_comparison(
    alone: Callable[..., tuple[int, Report]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    way: str,
) -> None:
    """Whatever the test makes of what it learns: none that does not agree is green anywhere."""
    status, found = alone(kind, WAYS[way])
    [only] = found.results
    said = capsys.readouterr().out
    assert only.verdict == OF.get(kind, kind)
    assert status == STATUS.get(kind, 1)
    assert found.status == (2 if kind == "not run" else status)
    assert found.agrees == (status == 0 and kind != "not run")
    row = next(line for line in said.splitlines() if line.startswith("channel_sum  stub  "))
    assert ("agrees" in row) == (kind == "pass")
    assert kind == "pass" or only.verdict in row
    assert (f"-k '[{only.id}]'" in said) == (status == 1)
    shown = outcome(tmp_path / "parity-report" / "junit.xml")
    if way == "checks":
        assert shown == JUNIT.get(kind, "failure")
    elif way != "skips":
        assert (shown == "failure") == (status == 1)


@pytest.mark.parametrize("mark", ["skip", "xfail", "xfail(strict=True)"])
@pytest.mark.parametrize("kind", ["fail", "hang"])
def test_a_mark_makes_nothing_of_a_disagreement(
    alone: Callable[..., tuple[int, Report]],
    capsys: pytest.CaptureFixture[str],
    kind: str,
    mark: str,
) -> None:
    """A comparison that is left out, or that is expected to disagree, is named, and status 1."""
    status, found = alone(kind, WAYS["checks"], f"@pytest.mark.{mark}\n")
    said = capsys.readouterr().out
    assert (status, found.status) == (1, 1)
    words = "1 comparisons did not run" if mark == "skip" else "1 comparisons disagree"
    assert f"no test failed, and yet {words}" in said


@pytest.mark.parametrize("kind", SAYING)
def test_a_check_ends_as_its_only_case(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Status, file and last line; 2 also where nothing ran, and for what cannot be carried out."""
    layer = replace(SAYING[kind], variants={request.NET: SAYING[kind].variants["stub"]})
    monkeypatch.setattr(checking, "prepared", lambda *_: request.Check(layer, LOSS))
    monkeypatch.setattr(checking, "inputs_lines", lambda *_: [])
    monkeypatch.setattr(SESSION, "launch", lambda: None)
    monkeypatch.setattr(SESSION, "close", lambda: None)
    file = tmp_path / "found.json"
    status = main(["check", "a.prototxt", "--reference", "a.py:a", "--json", str(file)])
    assert status == {**STATUS, "not run": 2, "error": 2}.get(kind, 1)
    said = capsys.readouterr()
    if kind == "error":
        assert "cannot be run on these inputs" in said.err and not file.exists()
        return
    found = read(file)
    assert (found.status, found.agrees) == (status, status == 0)
    last = said.out.splitlines()[-1]
    words = {0: "agrees", 1: "disagrees", 2: "unproven" if kind == "unproven" else "nothing was"}
    assert last.startswith(words[status])


@pytest.mark.parametrize("kind", SAYING)
def test_the_recorded_comparison_ends_as_its_only_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """`tox -e parity-recorded`: status, file and last line; what nothing proves is not "ran"."""
    chosen = [(SAYING[kind], "stub", by_name("base"))]
    monkeypatch.setattr(recorded, "selected", lambda *_: chosen)
    status = recorded.main(["--json", str(tmp_path / "found.json")])
    assert status == {**STATUS, "not run": 2, "error": 2}.get(kind, 1)
    said = capsys.readouterr()
    if kind == "error":
        assert "cannot be run on these inputs" in said.err
        return
    found = read(tmp_path / "found.json")
    assert (found.status, found.agrees) == (status, status == 0)
    last = said.out.splitlines()[-1]
    words = {0: "agrees", 1: "disagrees", 2: "unproven" if kind == "unproven" else "nothing ran"}
    assert last.startswith(words[status])


RECORDS = st.lists(st.sampled_from(VERDICTS), max_size=5)


@given(RECORDS, st.integers(0, 6))
def test_what_does_not_agree_forces_a_status(verdicts: list[str], selected: int) -> None:
    """Any records: 0 only if each agrees, one ran, and none is missing; the words say the same."""
    tensors = {"loss": caffe_parity.contract.Agreement(0, 0, 1, 0, 0, (), 0, 1, 1, 0, True)}
    made: list[Record] = []
    for number, verdict in enumerate(verdicts):
        seen = {"loss": replace(tensors["loss"], proves=verdict != "unproven")}
        kept = seen if verdict in ("pass", "unproven") else {}
        made.append(record(verdict, case=str(number), tensors=kept))
    found = report(*made, selected=selected)
    bad = [each for each in verdicts if each in ("fail", "crash", "hang")]
    missing = selected > len(verdicts)
    proved = "pass" in verdicts or "unproven" not in verdicts
    ran = any(each != "not run" for each in verdicts)
    if bad or missing:
        assert found.status == 1
    else:
        assert found.status == (0 if ran and proved else 2)
    assert found.agrees == found.as_json()["agrees"] == (found.status == 0)
    last = one_layer.lines(found, 1.0)[-1]
    assert last.startswith("agrees") == (found.status == 0)
    rows = printed(made)[2:3]
    assert all(any(each in row for row in rows) for each in bad)
    assert bool(table.failures(made, command)) == bool(bad)
    assert bool(table.unproven(found)) == (not proved)


def test_comparison_that_cannot_be_made_fails_its_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason, also where the test only looks at the findings: none is not the answer."""

    def judged(*_: Any) -> Record:
        raise BadRequest("the net has no such top")

    monkeypatch.setattr(testing, "judge", judged)
    layer = LAYERS["euclidean"]
    comparison = caffe_parity.Comparison(layer, "torch-module", by_name("base"))
    with pytest.raises(pytest.fail.Exception, match="could not be compared: the net has no such"):
        comparison.findings()
    assert comparison.record is not None and not comparison.record.agrees
