"""Inputs from practice: what people reported of their layers, small, with the right answers."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from caffe_parity.caffe.client import Caffe
from caffe_parity.cli.main import main

FOLDER = Path(__file__).parent / "cases"
CASES = tomllib.loads((FOLDER / "cases.toml").read_text("utf-8"))["case"]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case['folder']} {' '.join(case['arguments'])}"
)
def test_case_has_its_answer(
    caffe: Caffe,
    case: Mapping[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit status is right, and so are the findings: no code is missing, none too many."""
    monkeypatch.chdir(FOLDER / case["folder"])
    assert main(["check", *case["arguments"]]) == case["status"]
    said = capsys.readouterr()
    assert case.get("words", "").lstrip("\n") in (said.err if case["status"] == 2 else said.out)
    if case["status"] == 2:
        assert case["words"]
        return
    lines = said.out.split("  tops: ")[1].splitlines()[1:]
    *lines, verdict = lines
    lines = lines[: lines.index("")] if "" in lines else lines  # behind it is what was printed
    codes = [re.match(r"([a-z-]+(?::\S+)?): ", line) for line in lines]
    no_code = "note", "compared"
    assert [code[1] for code in codes if code and code[1] not in no_code] == case["findings"]
    assert verdict.startswith("disagrees" if case["findings"] else "agrees")


def test_every_folder_has_a_case() -> None:
    """No input lies there unused."""
    assert {case["folder"] for case in CASES} == {each.name for each in FOLDER.iterdir()} - {
        "cases.toml"
    }
