"""The report says what happened: JSON against its schema, the table, the explanations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from caffe_parity.engine.compare import Agreement
from caffe_parity.engine.explain import Explanation
from caffe_parity.engine.judge import Outcome
from caffe_parity.report import table as report
from caffe_parity.report.bits import digest, keep
from caffe_parity.report.environment import environment

SCHEMA = json.loads(Path(report.__file__).with_name("results.schema.json").read_text())


ODD = np.array([np.nan, np.inf, -0.0], np.float32)


def agreement(fraction: float, **fields: Any) -> Agreement:
    """A tensor at a fraction of its bound."""
    values: dict[str, Any] = {
        "name": "loss", "fraction": fraction, "error": fraction, "bound": 1.0, "actual": 1.0,
        "expected": 1.0, "worst_index": (), "wrong": int(not fraction <= 1), "size": 1,
        "times_typical": fraction, "proves": True,
    }  # fmt: skip
    return Agreement(**{**values, **fields})


def outcomes() -> list[Outcome]:
    """One of every verdict."""
    words = Explanation("ignores-top-diff", "dx1 is off by exactly 1/loss_weight")
    return [
        Outcome(
            "tail_sum", "torch-module", "base", "pass", "", 0.5, {"loss": agreement(0.25)},
            inputs=digest(ODD), computed={"loss": keep({"first": ODD, "second": -ODD})},
        ),
        Outcome("euclidean", "caffe-native", "base", "pass", "", 0.5, {"loss": agreement(0)}),
        Outcome(
            "channel_sum", "caffe-python", "weight-3.7", "fail", "dx1: 3 of 9 beyond the bound", 1,
            {"loss": agreement(0.1), "dx1": agreement(math.inf, name="dx1", worst_index=(1, 2))},
            {"dx1": words}, "dx1[0, :, :]\n  99", 100,
        ),
        Outcome(
            "channel_sum", "caffe-python", "base", "crash", "blob.hpp:140] Check failed", 1, {}, {},
            "F1123 ...", 10,
        ),
        Outcome("channel_sum", "caffe-python", "odd", "hang", "no answer within 60 s", 60),
        Outcome("euclidean", "caffe-native", "five-axes", "refused", "up to four axes (Check)", 1),
        Outcome("channel_sum", "caffe-cuda", "base", "not run", "no CUDA device"),
    ]  # fmt: skip


def records() -> list[report.Record]:
    """Those outcomes as they travel."""
    return [report.record(outcome) for outcome in outcomes()]


def test_results_match_their_schema(tmp_path: Path) -> None:
    """results.json with every verdict in it, infinities too, is strict JSON and fits the schema."""
    path = tmp_path / "deep" / "results.json"
    report.write_json(path, environment(), records())
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(content, SCHEMA)
    assert [each["verdict"] for each in content["results"]] == [
        "pass", "pass", "fail", "crash", "hang", "refused", "not run",
    ]  # fmt: skip
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_schema_refuses_what_is_not_a_result() -> None:
    """The schema is no rubber stamp: an unknown verdict and a missing bound are refused."""
    good = {
        "schema": report.SCHEMA,
        "environment": environment(),
        "selection": {},
        "selected": 7,
        "results": records(),
    }
    jsonschema.validate(good, SCHEMA)
    for spoil in ("verdict", "tensors", "case", "inputs", "computed"):
        bad = json.loads(json.dumps(good))
        del bad["results"][2][spoil]
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, SCHEMA)
    bad = json.loads(json.dumps(good))
    bad["results"][0]["verdict"] = "passed"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, SCHEMA)


def test_table_shows_every_verdict_for_what_it_is() -> None:
    """Nothing that failed is printed as agreeing, and nothing that did not run is silent."""
    rows = {line.split("  ")[0]: line for line in report.table(records())}
    text = "\n".join(report.table(records()))
    assert "1 fail, 1 crash, 1 hang" in text
    assert "agrees (1 refused, as expected)" in text
    assert "not run: no CUDA device" in text
    assert list(rows).index("euclidean") < list(rows).index("channel_sum")
    python = next(line for line in text.splitlines() if "caffe-python" in line)
    assert "inf" in python
    assert "agrees" not in python


def test_failures_are_explained_with_the_smallest_case_and_its_command() -> None:
    """The likely cause first, then the smallest explained case, its picture, and one command."""
    lines = report.failures(records())
    text = "\n".join(lines)
    assert lines[0] == "channel_sum  caffe-python: 3 of 3 cases disagree"
    assert "off by exactly 1/loss_weight  [1: weight-3.7]" in text
    assert "smallest case: weight-3.7 (fail)" in text
    assert "99" in text
    assert "tox -e parity -- -k '[channel_sum-caffe-python-weight-3.7]'" in text
    assert "no answer within 60 s" in text


def test_suspicious_results_are_named_with_their_factor() -> None:
    """Within the bound and far above the typical error: a line of its own, and still a pass."""
    odd = agreement(0.5, times_typical=40.0)
    lines = report.suspicious(
        [report.record(Outcome("euclidean", "caffe-native", "base", "pass", "", 1, {"loss": odd}))]
    )
    assert len(lines) == 1
    assert "40 times" in lines[0]
    assert report.suspicious(records()[:2]) == []
