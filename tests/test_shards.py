"""A run in parts: each test is in one of them, and their reports make the whole again."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffe_parity import shards
from caffe_parity.cli.main import main
from caffe_parity.cli.merge import whole
from caffe_parity.errors import BadRequest
from caffe_parity.report.record import Report, read
from tests.test_cli import PARITY, python

IDS = st.sets(st.text("abc[]-:/é", min_size=1), max_size=40)


@given(ids=IDS, count=st.integers(1, 7), seed=st.randoms(), times=st.booleans())
def test_each_test_is_in_one_shard_whatever_the_order(
    ids: set[str], count: int, seed: Any, times: bool
) -> None:
    """The shard comes of the id and the times alone, and there is no other shard than those."""
    known = {each: len(each) / 8 for each in sorted(ids)[::2]} if times else {}
    found = shards.shards(sorted(ids), count, known)
    mixed = sorted(ids)
    seed.shuffle(mixed)
    assert found == shards.shards(mixed, count, known)
    assert set(found) == ids and set(found.values()) <= set(range(1, count + 1))
    assert shards.digest(found) == shards.digest(dict(reversed(found.items())))


@given(ids=IDS, more=IDS, count=st.integers(1, 7))
def test_a_new_test_moves_no_other(ids: set[str], more: set[str], count: int) -> None:
    """Without times a shard is that of the test, whatever else there is."""
    before, after = shards.shards(ids, count, {}), shards.shards(ids | more, count, {})
    assert before.items() <= after.items()


@given(times=st.lists(st.floats(0, 100), min_size=1, max_size=60), count=st.integers(1, 7))
def test_shards_are_equally_long(times: list[float], count: int) -> None:
    """With times, no shard is longer than another one by more than one test."""
    known = {f"test[{number}]": each for number, each in enumerate(times)}
    found = shards.shards([f"a/test.py::{each}" for each in known], count, known)
    loads = dict.fromkeys(range(1, count + 1), 0.0)
    for each, number in found.items():
        loads[number] += known[each.rpartition("::")[2]]
    assert max(loads.values()) - min(loads.values()) <= max(times) + 1e-6


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "1/0", "a/b", "-1/4", "1/4/2", "1.5/4"])
def test_what_is_no_shard_is_named(text: str) -> None:
    """A number and a count, the number from 1 to the count."""
    with pytest.raises(BadRequest, match=re.escape(f"shard {text!r}: expected")):
        shards.parsed(text)


TESTS = """
import caffe_parity

def loss(x1, x2):
    return ((x1 - x2) ** 2).sum()

def half(x1, x2):
    return loss(x1, x2) / 2

LAYER = caffe_parity.Layer(
    "mine", loss, {"x1": (4, 3), "x2": (4, 3)}, {"torch-right": loss, "torch-half": half}, cases=5
)

@caffe_parity.parametrize(LAYER)
def test_parity(comparison):
    comparison.check()

def test_of_something_else():
    assert True
"""


def run(folder: Path, report: str, *more: str) -> int:
    """The exit status of a run of the tests in a folder."""
    command = ("run", "test_mine.py", "--report", report, *more)
    status, said, errors = python(PARITY, *command, cwd=folder)
    assert "Traceback" not in said + errors
    return status


def plain(report: Report) -> dict[str, Any]:
    """The records by id, without what differs from run to run."""
    return {each.id: replace(each, seconds=0).as_json() for each in report.results}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as a whole, `all`; in three shards, `1` to `3`; and in two by its times, `a`, `b`."""
    made = tmp_path_factory.mktemp("shards")
    (made / "test_mine.py").write_text(TESTS)
    assert run(made, "all") == 1
    for number in "123":
        assert run(made, number, "--shard", f"{number}/3") in (0, 1)
    assert run(made, "a", "--shard", "1/2", "--times", "all") in (0, 1)
    assert run(made, "b", "--shard", "2/2", "--times", "all", "-n", "2") in (0, 1)
    return made


@pytest.mark.parametrize("parts", ["123", "312", "ba"])
def test_shards_together_are_the_whole(
    folder: Path, parts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every comparison once, with the same bits, verdicts and exit status; so does pytest's."""
    merged = folder / f"merged-{parts}"
    assert main(["merge", *(str(folder / each) for each in parts), "-o", str(merged)]) == 1
    told = capsys.readouterr().out
    assert re.search(r"torch-half +5 .* 5 fail", told) and re.search(
        r"torch-right +5 .* agrees", told
    )
    one, expected = read(merged), read(folder / "all")
    assert plain(one) == plain(expected) and len(one.results) == 10
    assert [each.id for each in one.results] == [each.id for each in expected.results]
    assert (one.missing, one.status, one.selection) == (0, 1, expected.selection)
    assert one.environment == expected.environment
    names = [
        sorted(each.attrib["name"] for each in ElementTree.parse(file).iter("testcase"))
        for file in (merged / "junit.xml", folder / "all" / "junit.xml")
    ]
    assert names[0] == names[1] and "test_of_something_else" in names[0]
    assert (merged / "index.html").read_text().count("mine-torch-half-3") > 0


def changed(report: Report, **facts: str) -> Report:
    """A shard whose environment has other facts."""
    return replace(report, environment={**report.environment, **facts})


def shard(report: Report, said: str) -> Report:
    """A shard that says that it is another one."""
    return replace(report, selection={**report.selection, "shard": said})


REFUSED: dict[str, tuple[Callable[[list[Report]], list[Report]], str]] = {
    "missing": (lambda all_: all_[:2], r"shard 3/3 is missing: give the reports of all 3"),
    "two missing": (lambda all_: all_[1:2], r"shards 1/3, 3/3 are missing"),
    "twice": (lambda all_: [*all_, all_[0]], r"shard 1/3 is there twice: .*1/results"),
    "other count": (
        lambda all_: [*all_[:2], shard(all_[2], "3/4")],
        r"not of one run: .* of 3 and .*3/results.json of 4",
    ),
    "overlap": (
        lambda all_: [*all_[:2], replace(all_[2], results=[*all_[2].results, all_[0].results[0]])],
        r"mine-torch-\w+-\d is in .*1/results.json and in .*3/results.json",
    ),
    "commit": (
        lambda all_: [*all_[:2], changed(all_[2], commit="fedc")],
        r"1/results.json and .*3/results.json are not of one run: commit is .* fedc in the other",
    ),
    "torch": (
        lambda all_: [changed(all_[0], torch="1.0"), *all_[1:]],
        r"not of one run: torch is 1.0 in the one and 2\.",
    ),
    "other tests": (
        lambda all_: [*all_[:2], replace(all_[2], selection={"shard": "3/3", "shards": "0"})],
        r"not of one run: shards is",
    ),
    "no shard": (
        lambda all_: [*all_[:2], replace(all_[2], selection={})],
        r"3/results.json is the report of no shard",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_whole_is_refused_by_name(folder: Path, what: str) -> None:
    """A shard that is missing, there twice, or of other code, versions or tests."""
    spoil, words = REFUSED[what]
    with pytest.raises(BadRequest, match=words):
        whole(spoil([read(folder / each) for each in "123"]))


@pytest.mark.parametrize("edited", [False, True])
def test_a_shard_of_edited_tests_is_refused(folder: Path, tmp_path: Path, edited: bool) -> None:
    """The same tests by name, in another checkout: what counts is what stands in them."""
    text = TESTS.replace("/ 2", "/ 4") if edited else TESTS
    (tmp_path / "test_mine.py").write_text(text)
    run(tmp_path, "3", "--shard", "3/3")
    reports = [read(folder / "1"), read(folder / "2"), read(tmp_path / "3")]
    if not edited:
        assert plain(whole(reports)) == plain(read(folder / "all"))
        return
    with pytest.raises(BadRequest, match="not of one run: code is"):
        whole(reports)


def test_shards_without_a_comparison_are_no_whole(folder: Path) -> None:
    """Where a name was mistyped, every shard is empty, and nothing agrees."""
    empty = [replace(read(folder / each), results=[], selected=0) for each in "123"]
    with pytest.raises(BadRequest, match="nothing was compared"):
        whole(empty)


def test_machines_may_differ(folder: Path) -> None:
    """Which processor it was stands in the report, for all of them."""
    one, *rest = (read(folder / each) for each in "123")
    merged = whole([changed(one, processor="Z80"), *rest])
    assert merged.environment["processor"] == f"Z80; {one.environment['processor']}"


def test_what_did_not_run_in_a_shard_is_missing_in_the_whole(folder: Path) -> None:
    """An interrupted shard makes the whole no pass."""
    one, *rest = (read(folder / each) for each in "123")
    agreeing = [each for each in one.results if not each.wrong]
    merged = whole([replace(one, results=agreeing, selected=len(one.results) + 1), *rest])
    assert merged.missing >= 1 and merged.status == 1


def test_a_failure_of_another_test_counts(folder: Path, tmp_path: Path) -> None:
    """A test that compares nothing stands in junit.xml alone; its failure is the whole's."""
    for number in "12":
        text = (folder / "all" / "results.json").read_text()
        data = json.loads(text)
        right = [each for each in data["results"] if each["verdict"] == "pass"]
        data["results"] = right[:3] if number == "1" else right[3:]
        data["selected"] = len(data["results"])
        data["selection"] = {"shard": f"{number}/2", "shards": "0"}
        (tmp_path / number).mkdir()
        (tmp_path / number / "results.json").write_text(json.dumps(data))
        failure = "<failure/>" * (number == "2")
        suite = f'<testsuite><testcase name="test" time="0">{failure}</testcase></testsuite>'
        (tmp_path / number / "junit.xml").write_text(f"<testsuites>{suite}</testsuites>")
    command = ["merge", str(tmp_path / "1"), str(tmp_path / "2"), "-o", str(tmp_path / "all")]
    assert main(command) == 1
    (tmp_path / "2" / "junit.xml").write_text((tmp_path / "1" / "junit.xml").read_text())
    assert main(command) == 0


def test_times_that_cannot_be_read_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything runs: a file that is not there, or of another kind."""
    tests, there = str(folder / "test_mine.py"), str(tmp_path / "no.xml")
    assert main(["run", tests, "--shard", "1/2", "--times", there]) == 2
    assert f"cannot read the times of {there}: No such file" in capsys.readouterr().err
    assert main(["run", tests, "--shard", "1/2", "--times", tests]) == 2
    assert f"{tests} is no JUnit XML file of pytest's" in capsys.readouterr().err
    assert main(["run", tests, "--shard", "3/2"]) == 2
    assert "shard '3/2': expected its number and how many" in capsys.readouterr().err


def test_an_empty_shard_is_no_failure(folder: Path, tmp_path: Path) -> None:
    """More shards than tests: one without a test ends with 0, and they make the whole."""
    (tmp_path / "test_mine.py").write_text(TESTS)
    for number in "12":
        assert run(tmp_path, number, "-k", "right and 0", "--shard", f"{number}/2") == 0
    reports = [read(tmp_path / number) for number in "12"]
    assert sorted(len(each.results) for each in reports) == [0, 1]
    assert whole(reports).status == 0
