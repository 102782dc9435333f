"""A report says what happened: the record, its file and schema, the table, the lines of a check."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from caffe_parity.contract import Agreement, Finding
from caffe_parity.engine.explain import Failure, explain
from caffe_parity.report import one_layer, table
from caffe_parity.report.bits import digest, keep
from caffe_parity.report.record import (
    AGREEING,
    SCHEMA,
    VERDICTS,
    Record,
    Report,
    Unreadable,
    read,
)
from caffe_parity.report.schema import Misfit, check
from caffe_parity.terminal import rendered

ENVIRONMENT: dict[str, Any] = {
    "python": "3.11", "numpy": "2", "torch": "2", "platform": "Linux", "processor": "x",
    "device": "cpu", "gpu": None, "commit": "abc",
    "caffe": {"version": "1", "python": "3", "numpy": "1", "source": "installed", "blas": ["b"]},
}  # fmt: skip

ODD = np.array([np.nan, np.inf, -0.0], np.float32)


def printed(records: Sequence[Record]) -> list[str]:
    """The lines of the table without colours."""
    return [*rendered(table.table(records), False)]


def agreement(fraction: float, **changes: Any) -> Agreement:
    """A tensor at a fraction of its bound."""
    fields: dict[str, Any] = {
        "fraction": fraction, "error": fraction, "bound": 1.0, "actual": 1.0, "expected": 1.0,
        "worst_index": (), "wrong": int(not fraction <= 1), "size": 1, "compared": 1,
        "times_typical": fraction, "proves": True,
    }  # fmt: skip
    return Agreement(**{**fields, **changes})


def record(verdict: str = "pass", **changes: Any) -> Record:
    """One result."""
    reason = "" if verdict == "pass" else f"because of {verdict}"
    base = Record("channel_sum", "caffe-python", "base", verdict, reason)
    return replace(base, **changes)


def report(*records: Record, **changes: Any) -> Report:
    """What a run writes."""
    return replace(Report("run", ENVIRONMENT, {"keyword": "base"}, records), **changes)


def records() -> list[Record]:
    """One of every verdict."""
    ignored = Finding(
        "gradient:x1", "dx1 is off by exactly 1/loss_weight", "gradient:x1", "ignores-top-diff"
    )
    far = agreement(math.inf, worst_index=(1, 2))
    kept = {"loss": keep({"first": ODD, "second": -ODD})}
    python = record(variant="caffe-python")
    native = record(layer="euclidean", variant="caffe-native")
    return [
        replace(native, tensors={"loss": agreement(0)}),
        replace(
            python, case="weight-3.7", verdict="fail", reason="dx1: 3 of 9 beyond the bound",
            findings=(ignored,), notes=(Finding("kink:x1", "a kink"),), elements=100,
            tensors={"loss": agreement(0.1), "gradient:x1": far}, detail="dx1[0, :, :]\n  99",
        ),
        replace(
            python, verdict="crash", reason="blob.hpp:140] Check failed", detail="F1123 ...",
            elements=10,
        ),
        replace(python, case="odd", verdict="hang", reason="no answer within 60 s", seconds=60.0),
        replace(native, case="five-axes", verdict="refused", reason="up to four axes (Check)"),
        replace(python, variant="caffe-cuda", verdict="not run", reason="no CUDA device"),
        replace(
            python, layer="tail_sum", variant="torch-module", tensors={"loss": agreement(0.25)},
            inputs=digest(ODD), computed=kept, seconds=0.5,
        ),
        replace(
            python, layer="tail_sum", variant="torch-function", verdict="unproven",
            reason="the bound of loss is as large as its values",
            tensors={"loss": agreement(0, proves=False)},
        ),
    ]  # fmt: skip


def command(each: Record) -> str:
    """What a caller says reproduces a record."""
    return f"parity run -k '{each.id}'"


def test_report_comes_back_as_it_was(tmp_path: Path) -> None:
    """A report with every verdict is strict JSON, fits the schema, and is read to the same bits."""
    path = tmp_path / "results.json"
    written = report(*records(), selected=9)
    written.write(path)
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(content, SCHEMA)
    assert {each["verdict"] for each in content["results"]} == set(VERDICTS)
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]
    again = read(path)
    assert again.as_json() == written.as_json() == content
    assert again.missing == 1
    assert again.results[1].tensors["gradient:x1"].fraction == math.inf
    assert again.results[1] == records()[1]
    assert again.results[1].notes == (Finding("kink:x1", "a kink"),)


def test_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """What cannot be written leaves the file of before, and nothing beside it."""
    path = tmp_path / "results.json"
    report(record()).write(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        report(record(), selection={"keyword": object()}).write(path)
    assert [each.name for each in tmp_path.iterdir()] == ["results.json"]
    assert path.read_bytes() == before


def test_nothing_compared_has_no_environment(tmp_path: Path) -> None:
    """A report of nothing is one that can be read, and agrees with nothing."""
    path = tmp_path / "results.json"
    report(environment={}).write(path)
    assert json.loads(path.read_text())["environment"] is None
    assert read(path).environment == {}
    assert not read(path).agrees


@pytest.mark.parametrize("verdict", VERDICTS)
def test_each_verdict_alone_decides(verdict: str) -> None:
    """0: a pass, and what is refused as expected; 2: nothing ran, or is proved; 1: all others."""
    status = {"pass": 0, "refused": 0, "not run": 2, "unproven": 2}.get(verdict, 1)
    alone = report(record(verdict))
    assert alone.status == status
    assert alone.agrees == alone.as_json()["agrees"] == (status == 0)
    beside = report(record(), record(verdict, case="other"))
    assert beside.status == (0 if verdict in AGREEING else status)


def test_what_one_case_leaves_open_another_may_prove() -> None:
    """A tensor is unproven where no case of its variant proves it, whatever other variants do."""
    weak = {"loss": agreement(0.1, proves=False), "gradient:x1": agreement(0.1)}
    good = {"loss": agreement(0.1), "gradient:x1": agreement(0.1)}
    some = record("unproven", case="weak", tensors=weak)
    assert report(some).unproven == [(some.layer, some.variant, "loss")]
    assert report(some).status == 2
    assert report(some, record(case="good", tensors=good)).status == 0
    other = record(case="good", variant="torch-module", tensors=good)
    assert report(some, other).status == 2


def test_missing_result_does_not_agree() -> None:
    """A run that was stopped proves nothing of what it did not come to."""
    assert report(record(), selected=1).status == 0
    assert report(record(), selected=2).status == 1


@pytest.mark.parametrize("verdict", VERDICTS)
@pytest.mark.parametrize("passes", [0, 3])
def test_what_does_not_agree_is_never_shown_as_agreeing(verdict: str, passes: int) -> None:
    """Alone and among passes: neither the table nor the lines of a check say that it agrees."""
    some = [record(case=str(index), tensors={"loss": agreement(0.1)}) for index in range(passes)]
    shown = report(*some, record(verdict, case="odd", tensors={"loss": agreement(0.1)}))
    row = printed(shown.results)[2]
    last = one_layer.lines(shown, 1.0)[-1]
    proven = verdict == "pass" or (verdict == "refused" and passes > 0)
    assert ("agrees" in row) == proven
    assert (verdict in row) == (verdict != "pass")
    assert last.startswith("agrees") == shown.agrees
    said = table.failures(shown.results, command) + table.unproven(shown)
    assert bool(said) == (verdict not in AGREEING)


WRONG = [
    {"verdict": "passed"},
    {"verdict": "fail", "reason": ""},
    {"findings": (Finding("crash", "it died"),)},
    {"tensors": {"loss": agreement(2)}},
    {"tensors": {"loss": agreement(math.nan)}},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_record_cannot_contradict_itself(wrong: Mapping[str, Any]) -> None:
    """A pass has no finding and no wrong element, what is no pass has a reason."""
    with pytest.raises(ValueError, match="verdict"):
        record(**wrong)


@pytest.mark.parametrize("wrong", WRONG[2:])
def test_file_cannot_contradict_itself(tmp_path: Path, wrong: Mapping[str, Any]) -> None:
    """Nor does a file make a pass of what is none."""
    content = report(record("fail", **wrong)).as_json()
    content["results"][0]["verdict"] = "pass"
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(Unreadable, match=r"results\[0\]: verdict 'pass' of channel_sum-"):
        read(tmp_path / "results.json")


def nodes(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where each value within some JSON data stands."""
    yield path
    for step, each in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(each, dict | list):
            yield from nodes(each, (*path, step))
        else:
            yield (*path, step)


def test_our_validator_is_that_of_jsonschema() -> None:
    """Whatever is put in place of whatever: it is refused exactly where jsonschema refuses it."""
    content = report(
        *records()[1:2], *records()[6:7], selection={"path": ["a", {"b": 1}]}
    ).as_json()
    theirs = jsonschema.Draft202012Validator(SCHEMA)
    refused = kept = 0
    others = [None, True, 3, -1, 1.5, 10**301, "x", "inf", "pass", [], {}, [-1], {"x": 3}, ...]
    for path in list(nodes(content))[1:]:
        for other in others:
            spoiled = copy.deepcopy(content)
            inner = spoiled
            for step in path[:-1]:
                inner = inner[step]  # type: ignore[index]
            if other is ...:
                del inner[path[-1]]  # type: ignore[arg-type]
            else:
                inner[path[-1]] = other  # type: ignore[index]
            fits = theirs.is_valid(spoiled)
            assert ours(spoiled) == fits, (path, other)
            refused, kept = refused + (not fits), kept + fits
    assert refused > 500
    assert kept > 100


def ours(content: Any) -> bool:
    """Whether our validator takes some data for a report."""
    try:
        check(content, SCHEMA)
    except Misfit:
        return False
    return True


def _drop(name: str) -> Callable[[Any], Any]:
    return lambda content: content["results"][0].pop(name)


def _put(name: str, value: Any) -> Callable[[Any], Any]:
    return lambda content: content["results"][0].__setitem__(name, value)


def _kept(name: str, value: Any) -> Callable[[Any], Any]:
    return lambda content: content["results"][0]["computed"]["loss"][0].__setitem__(name, value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c: c.update(schema="parity-results-2"), "another version; write both files with"),
        (lambda c: c.update(schema="report-7"), "schema: expected parity-results-3, found"),
        (lambda c: c.pop("schema"), "the whole has no 'schema'"),
        (lambda c: c.pop("results"), "the whole has no 'results'"),
        (lambda c: c.update(more=1), "the whole has 'more', which is not known"),
        (lambda c: c.update(results={}), "results: expected a list, found {}"),
        (lambda c: c["results"].append(c["results"][0]), "results[1]: channel_sum-caffe-python-b"),
        (lambda c: c.update(environment=3), "environment: expected an object or null, found 3"),
        (lambda c: c.update(selected=-1), "selected: expected a count, found -1"),
        (_drop("verdict"), "results[0] has no 'verdict'"),
        (_put("verdict", "passed"), "results[0].verdict: expected one of pass, fail"),
        (_put("seconds", "long"), 'results[0].seconds: expected a number, found "long"'),
        (_put("seconds", True), "results[0].seconds: expected a number, found true"),
        (_put("case", ["base"]), 'results[0].case: expected a string, found ["base"]'),
        (_put("inputs", "12"), 'results[0].inputs: expected 64 hexadecimal digits, found "12"'),
        (_put("computed", []), "results[0].computed: expected an object, found []"),
        (_put("tensors", {"a": 1}), "results[0].tensors.a: expected an object, found 1"),
        (_kept("elements", "00"), "loss[0].elements: expected 8 hexadecimal digits for each"),
        (_kept("elements", "0" * 8), "loss[0].elements: expected 24 hexadecimal digits"),
        (_kept("shape", [2**40, 2**40]), "loss[0].shape: expected at most"),
        (_kept("shape", [-1]), "loss[0].shape[0]: expected a count"),
        (_kept("sha256", "x" * 64), "loss[0].sha256: expected 64 hexadecimal digits"),
        (_kept("sha256", "0" * 64 + "\n"), "loss[0].sha256: expected 64 hexadecimal digits"),
        (_kept("nan", 1.5), "loss[0].nan: expected a count, found 1.5"),
        (_kept("min", "-nan"), 'loss[0].min: expected a number, "inf", "-inf" or "nan", found'),
    ],
)
def test_file_that_is_no_report(tmp_path: Path, spoil: Callable[[Any], Any], words: str) -> None:
    """The file, the place in it, what was expected, and what is there; in one line."""
    content = report(record(computed={"loss": keep({"first": ODD})})).as_json()
    spoil(content)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    with pytest.raises(Unreadable) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read .*: No such file"),
        (b"", "is no JSON file"),
        (b'{"schema": ', "is no JSON file"),
        (b"\xff\xfe", "is no JSON file"),
        (b'{"schema": NaN}', "NaN is no JSON"),
        (b"[1, 2]", r"the whole: expected an object, found \[1, 2\]"),
        (b"[" * 100_000, "is no JSON file"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "is no JSON file"),
        (b"\x80\x04\x95", "is no JSON file"),
    ],
    ids=["absent", "empty", "cut", "utf-16", "nan", "list", "deep", "long", "pickle"],
)
def test_file_that_is_no_json(tmp_path: Path, text: bytes | None, words: str) -> None:
    """One line that names the file; never a traceback."""
    path = tmp_path / "results.json"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(Unreadable, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_deep_facts_are_refused(tmp_path: Path) -> None:
    """An environment that nests without end is told of, too."""
    deep: Any = "x"
    for _ in range(40):
        deep = {"a": deep}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(report(record()).as_json() | {"selection": deep}))
    with pytest.raises(Unreadable, match=r"selection\.a\..*: nested too deeply"):
        read(path)


def test_table_shows_every_verdict_for_what_it_is() -> None:
    """Nothing that failed is printed as agreeing, and nothing that did not run is silent."""
    shown = printed(records())
    rows = {tuple(line.split()[:2]): line for line in shown}
    assert shown[0].split() == [
        "layer", "variant", "cases", "compared", "loss", "dx1", "seconds", "verdict",
    ]  # fmt: skip
    assert rows["channel_sum", "caffe-python"].endswith("1 fail, 1 crash, 1 hang")
    assert " inf " in rows["channel_sum", "caffe-python"]
    assert rows["euclidean", "caffe-native"].endswith("agrees (1 refused, as expected)")
    assert rows["caffe-cuda", "1"].endswith("not run: no CUDA device")
    assert rows["torch-function", "1"].endswith("unproven")
    assert rows["tail_sum", "torch-module"].endswith("agrees")


def test_rows_are_in_the_order_of_the_records() -> None:
    """Layers as they first appear, the variants of a layer behind one another."""
    some = [record(layer=layer, variant=variant) for layer, variant in ("za", "ab", "zc", "aa")]
    assert list(table.by_variant(some)) == [("z", "a"), ("z", "c"), ("a", "b"), ("a", "a")]


def test_table_counts_what_was_compared() -> None:
    """100 % is every element of every tensor; one that is left out is counted."""
    whole = record(tensors={"loss": agreement(0), "x": agreement(0, size=1299, compared=1299)})
    part = record(tensors={"loss": agreement(0), "x": agreement(0, size=1299, compared=1203)})
    assert " 100 % " in printed([whole])[2]
    assert " 1,204 of 1,300 " in printed([part])[2]
    assert " 2,504 of 2,600 " in printed([whole, replace(part, case="odd")])[2]
    assert "several right gradients" in printed([part])[-1]
    assert "several right gradients" not in printed([whole])[-1]


def test_many_tensors_share_two_columns() -> None:
    """With more than four tensors the table has the worst of all tops and of all gradients."""
    names = ["loss", "gradient:a", "gradient:b", "gradient:c", "top"]
    tensors = {name: agreement(place / 10) for place, name in enumerate(names)}
    head, _, row = printed([record(tensors=tensors)])[:3]
    assert head.split()[4:6] == ["forward", "gradient"]
    assert row.split()[5:7] == ["0.4", "0.3"]
    tensors.pop("top")
    assert printed([record(tensors=tensors)])[0].split()[4:8] == ["loss", "da", "db", "dc"]


def test_worst_error_is_never_hidden_by_a_nan() -> None:
    """A NaN is the worst of all, wherever it stands; of what was refused nothing is shown."""
    some = [
        record("fail", case=str(case), tensors={"loss": agreement(each)})
        for case, each in enumerate((0.5, math.nan, 2.0))
    ]
    for order in (some, some[::-1]):
        assert "  nan  " in printed(order)[2]
    assert "  -  " in printed([record("refused", tensors={"loss": agreement(0.5)})])[2]


def test_failures_are_explained_with_the_smallest_case_and_its_command() -> None:
    """The likely cause first, then the smallest explained case, its picture, and one command."""
    lines = table.failures(records(), command)
    text = "\n".join(lines)
    assert lines[0] == "channel_sum  caffe-python: 3 of 3 cases do not agree"
    assert "off by exactly 1/loss_weight  [1: weight-3.7]" in text
    assert "smallest case: weight-3.7 (fail)" in text
    assert "99" in text
    assert "  reproduce: parity run -k 'channel_sum-caffe-python-weight-3.7'" in lines
    assert "no answer within 60 s" in text
    assert "torch-function" not in text  # which is not wrong, but unproven


def test_meanings_are_most_frequent_first() -> None:
    """The one behind most failures is the likely cause; one with another cause is another."""
    rare = Finding("gradient:x1", "a sign", "gradient:x1", "sign")
    often = Finding("gradient:x1", "a factor", "gradient:x1", "factor")
    some = [
        record("fail", case=str(case), findings=(rare,) if case == 0 else (often,))
        for case in range(7)
    ]
    lines = table.failures(some, command)
    assert lines[1:3] == ["  a factor  [6: 1, 2, 3, 4, ...]", "  a sign  [1: 0]"]


def test_refusals_are_named_once_for_each_kind() -> None:
    """With one case as the example."""
    some = [
        record("refused", case="a", reason="too many axes (Check failed)"),
        record("refused", case="b", reason="too many axes (another number)"),
        record("refused", case="c", reason="of another layer: 3"),
    ]
    assert [line.partition(")")[0] for line in table.refusals(some)] == [
        "channel_sum  caffe-python  (a", "channel_sum  caffe-python  (c",
    ]  # fmt: skip


def test_suspicious_results_are_named_with_their_factor() -> None:
    """Within the bound and far above the typical error: a line of its own, and still a pass."""
    odd = record(tensors={"gradient:x1": agreement(0.5, times_typical=40.0)})
    (line,) = table.suspicious([odd])
    assert line.startswith("channel_sum-caffe-python-base: dx1 is 40 times")
    assert table.suspicious(records()) == []


def test_sections_are_those_with_something_in_them() -> None:
    """The table is first; what is missing is said last; nothing has an empty title."""
    titles = [each.title for each in table.sections(report(*records(), selected=11), command)]
    assert [title.partition(",")[0] for title in titles] == [
        "compared with the float64 reference", "refused", "what disagrees", "incomplete",
    ]  # fmt: skip
    assert len(table.sections(report(record()), command)) == 1


def wrong(case: int, **changes: Any) -> Record:
    """A case of a check in which a gradient is wrong, explained in the odd ones."""
    cause = "sign" if case % 2 else ""
    finding = Finding("gradient:x1", f"dx1: {cause or 'wrong'}", "gradient:x1", cause)
    base = record("fail", layer="", variant="caffe", case=str(case), findings=(finding,))
    return replace(base, **changes)


def test_a_check_says_each_finding_once() -> None:
    """Once for a code and a tensor, with its cases; in words that explain it where some do."""
    kink = (Finding("kink:x1", "at 3 of 24 elements several are right", "gradient:x1"),)
    tensors = {"loss": agreement(0.1), "gradient:x1": agreement(3, size=24, compared=21)}
    some = [wrong(case, notes=kink, tensors=tensors) for case in range(3)]
    some.append(record(variant="caffe", layer="", case="3", tensors={"loss": agreement(0.2)}))
    assert one_layer.lines(report(*some), 5.14) == [
        "gradient:x1: dx1: sign  [3 of 4 cases]",
        "note: at 3 of 24 elements several are right  [3 of 4 cases]",
        "largest error as a fraction of its bound: loss 0.2, dx1 3",
        "compared: dx1 63 of 72 elements; "
        "the rest are at a kink, where several gradients are right, or overflow, "
        "or have a bound as large as their value",
        "disagrees: 1 finding, 4 cases, 5.1 s",
    ]


def test_a_check_says_what_was_printed_before_the_end() -> None:
    """The last lines of it, behind the findings; a port's figures stand beside those of Caffe."""
    printed = "\n".join(f"line {each}" for each in range(40))
    fine = {"loss": agreement(0.1)}
    some = [
        record(layer="", variant="caffe", case="0", tensors=fine),
        record(layer="", variant="port", case="0", tensors=fine),
        record("hang", layer="", variant="caffe", case="1", detail=printed),
    ]
    lines = one_layer.lines(report(*some), 60)
    assert lines[:3] == ["hang: because of hang  [1 of 2 cases]", "", "what was printed:"]
    assert lines[3:18] == [f"line {each}" for each in range(25, 40)]
    assert "largest error of port as a fraction of its bound: loss 0.1" in lines
    assert lines[-1] == "disagrees: 1 finding, 2 cases, 60.0 s"


def test_a_check_that_proves_too_little_says_so() -> None:
    """Unproven is neither agrees nor disagrees; one that agrees says so with what it took."""
    fine = [record(case=str(case), tensors={"loss": agreement(0.1)}) for case in range(8)]
    found = Finding("unproven", "no element of dx1 has one right gradient\nx", "gradient:x1")
    open_ = {"gradient:x1": agreement(0.1, proves=False)}
    weak = record("unproven", case="3", findings=[found], tensors=open_)
    lines = one_layer.lines(report(*fine[:3], weak), 1)
    said = "unproven: no element of dx1 has one right gradient  [1 of 4 cases]"
    assert lines[:2] == [said, "  x"]
    assert lines[-1] == "unproven: dx1, 4 cases, 1.0 s"
    proof = record(case="4", tensors={"gradient:x1": agreement(0.1)})
    assert one_layer.lines(report(weak, proof), 1)[-1].startswith("agrees, 2 cases")
    assert one_layer.lines(report(*fine), 5.1)[-1] == "agrees, 8 cases, 5.1 s"
    assert one_layer.lines(report(*fine, selected=9), 1)[-1].startswith("incomplete: 1 result")


def test_failure_of_a_test_is_told_by_its_findings() -> None:
    """Each begins with its code; without any, it is the verdict with its reason."""
    assert one_layer.failure(wrong(1, detail="a picture")) == ["gradient:x1: dx1: sign"]
    crash = one_layer.failure(record("crash", detail="F1123\nend"))
    assert crash == ["crash: because of crash", "", "what was printed:", "F1123", "end"]
    assert one_layer.failure(record("unproven")) == ["unproven: because of unproven"]
    assert one_layer.failure(record()) == []


def _scalar(case: int, factor: float) -> tuple[Finding, str]:
    """What is said of a loss that is so many times what it should be."""
    truth = np.asarray(0.731 + case)
    where = np.ones((), np.bool_)
    failure = Failure(
        "loss", "loss", False, truth, 1e-7 * truth, factor * truth, where, (4, 3), is_loss=False
    )
    found = explain(failure)
    return Finding("forward-value", found.words, "loss", found.code), f"case{case}"


FACTORS = (0.5, 2.0, -1.0, 0.0, 0.313)


def test_an_explanation_holds_in_each_case_that_it_is_told_of() -> None:
    """One that another case contradicts is given up: an accuracy is not "half" of anything."""
    for factors in itertools.product(FACTORS, repeat=3):
        found = [_scalar(case, factor) for case, factor in enumerate(factors)]
        [(merged, cases)] = table.with_cases(found, lambda each: (each.code, each.tensor))
        assert cases == ["case0", "case1", "case2"]
        if len(set(factors)) == 1:
            assert merged.words in {each.words for each, _ in found}
        elif 0.313 in factors:
            assert "expected" in merged.words and merged.cause == "few"
        else:
            assert merged.words.startswith("not the same in every case: ") and not merged.cause


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (("normaliser", "by 1/C = 1/3: averaged"), ("normaliser", "by 1/C = 1/5: averaged"), True),
        (("normaliser", "by 1/C = 1/3: averaged"), ("normaliser", "by 1/S = 1/3: divided"), False),
        (("normaliser", "by 1/C = 1/3"), ("one-of-several", "0.25 (1/4) times"), True),
        (("constant-factor", "0.7 (7/10) times"), ("constant-factor", "0.7000001 times"), True),
        (("constant-factor", "is 0.7 (7/10) times"), ("constant-factor", "is 0.3 times"), False),
        (("one-of-several", "is 0.7 times"), ("one-of-several", "is 0.3 times"), False),
        (("offset", "x is 3 too much"), ("offset", "x is 4 too much"), False),
        (("saturated", "3 of 9 elements are cut off at 6"),
         ("saturated", "4 of 8 elements are cut off at 6"), True),
        (("saturated", "3 of 9 elements are cut off at 6"),
         ("saturated", "4 of 8 elements are cut off at 5"), False),
        (("rolled", "by 1 along axis 1"), ("few", "2 of 3 elements are wrong"), True),
        (("rolled", "by 1 along axis 1"), ("value", "2 of 30 elements are wrong"), False),
        (("sign", "has the wrong sign"), ("few", "2 of 3 elements are wrong"), False),
        (("sign", "has the wrong sign"),
         ("sign", "right at loss weight 1, at 3.7 not: has the wrong sign"), True),
        (("per-channel-factor", "for each channel: 1, 1.1"),
         ("per-channel-factor", "for each channel: 1, 1.1, 1.2, ..."), True),
        (("nan", "3 of 9 elements are NaN (axis 0: 1)"),
         ("nan", "1 of 4 elements are NaN (at [1])"), True),
    ],
)  # fmt: skip
def test_explanations_of_two_cases_are_one_or_none(
    first: tuple[str, str], second: tuple[str, str], same: bool
) -> None:
    """What differs with the size of a case alone is the same explanation."""
    found = [Finding("gradient:x", words, "gradient:x", cause) for cause, words in (first, second)]
    for order in (found, found[::-1]):
        told = [(each, str(number)) for number, each in enumerate(order)]
        [(merged, _)] = table.with_cases(told, lambda each: each.code)
        assert (merged.cause == first[0]) == same
