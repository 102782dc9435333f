"""The page shows every result, escapes whatever it is given, and stays small; no browser needed."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from caffe_parity.contract import Bound, Excerpt, Expected, Finding
from caffe_parity.engine.compare import EVEN, PLANE, STRETCHES, WORST, compare
from caffe_parity.report import INDEX, page, pictures
from caffe_parity.report.record import SCHEMA, VERDICTS, Record, Report, Unreadable, read
from caffe_parity.terminal import visible
from tests.commands import check
from tests.pages import ENVIRONMENT, REPORTS, command, disagreeing, failed, green, half, net, tensor

ROOT = Path(__file__).parent.parent

VOID = ("meta", "input", "br", "link")

HOSTILE = (
    "<script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "]]></script><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "&lt;b&gt;",
    "a\x00\x1b[31mb\x08",
    "\u202egnp.exe",
    "\ud800",
    "two words\nand a line",
    "#a?b%20",
)


class Parsed(HTMLParser):
    """A page's tags, ids, links and text; fails on what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == [], f"not closed: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        given = dict(attrs)
        if "id" in given:
            self.ids.append(given["id"] or "")
        if tag == "a":
            self.links.append(given["href"] or "")
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize("name", REPORTS)
def test_page_is_well_formed_and_each_result_has_its_anchor(name: str) -> None:
    """Ids are unique, the one of each result is its id, and every link leads somewhere."""
    report = REPORTS[name]()
    parsed = Parsed(page.html(report, command))
    ids = Counter(parsed.ids)
    assert [each for each, count in ids.items() if count > 1] == []
    assert {each.id for each in report.results} <= set(ids)
    assert all(each.startswith("#") for each in parsed.links)
    assert {unquote(each[1:]) for each in parsed.links} <= set(ids)


@pytest.mark.parametrize("name", REPORTS)
def test_page_needs_nothing_beside_itself(name: str) -> None:
    """It names no address, and its policy allows no script but its own."""
    text = page.html(REPORTS[name](), command)
    assert re.findall(r"\b(?:https?|ftp)://(?!www\.w3\.org/)|\bsrc\s*=|@import|url\(", text) == []
    assert "default-src 'none'" in text
    parsed = Parsed(text)
    assert parsed.tags.count("script") == 1
    assert not any(each.startswith("on") for each, _ in parsed.attributes)


def _hostile(words: str) -> Report:
    """A report in which every text is hostile."""
    bad = failed(words, words, words, 0)
    agreement = bad.tensors["gradient:x1"]
    bad = replace(
        bad, reason=words, findings=(Finding(words, words, words, words),), detail=words,
        notes=(Finding(words, words),), tensors={words: agreement},
    )  # fmt: skip
    others = [
        Record(words, words, f"{words}{verdict}", verdict, words)
        for verdict in VERDICTS
        if verdict not in ("pass", "fail")
    ]
    agreeing = replace(green(1, 1).results[0], layer=words, variant=words, case=f"{words} pass")
    facts = {**ENVIRONMENT, "platform": words, words: words}
    return Report("run", facts, {words: words}, (bad, agreeing, *others), 99)


@pytest.mark.parametrize("words", HOSTILE)
def test_no_text_injects_markup(words: str, tmp_path: Path) -> None:
    """A hostile text leaves the page's elements and attributes as a harmless one has them."""
    hostile = Parsed(page.html(_hostile(words), lambda each: words))
    harmless = Parsed(page.html(_hostile("harmless"), lambda each: "harmless"))
    ours = [each for each in hostile.tags if each not in ("text", "circle", "path", "g")]
    theirs = [each for each in harmless.tags if each not in ("text", "circle", "path", "g")]
    assert ours == theirs
    assert {each for each, _ in hostile.attributes} == {each for each, _ in harmless.attributes}
    assert visible(words).split() == [
        each for each in visible(words).split() if each in " ".join(hostile.text)
    ]
    page.write(_hostile(words), command, tmp_path / "page.html")
    assert len({unquote(each[1:]) for each in hostile.links} - set(hostile.ids)) == 0


@settings(max_examples=30, deadline=None)
@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_no_text_at_all_does(one: str, another: str) -> None:
    """The same for any text."""
    report = replace(_hostile(one), selection={another: one})
    parsed = Parsed(page.html(report, lambda each: another))
    assert parsed.tags.count("script") == 1
    assert {unquote(each[1:]) for each in parsed.links} <= set(parsed.ids)


def test_what_cannot_be_seen_is_written_out() -> None:
    """Control characters, half of a pair, and what turns the direction of a text."""
    assert visible("a\x1b[31m\u202eb\ud800\n\tc") == "a\\x1b[31m\\u202eb\\ud800\n\tc"
    assert visible("größer ≤ 3") == "größer ≤ 3"
    assert visible(3) == 3


def test_two_results_with_one_id_have_two_anchors() -> None:
    """The id joins layer, variant and case; two may be joined to the same."""
    records = [Record("a-b", "c", "d", "refused", "x"), Record("a", "b-c", "d", "refused", "x")]
    parsed = Parsed(page.html(Report("run", {}, {}, records), command))
    assert {"a-b-c-d", "a-b-c-d.2"} <= set(parsed.ids)


def test_page_of_nothing() -> None:
    """A report without a result is a page that says so."""
    text = page.html(Report("run", {}, {}, ()), command)
    Parsed(text)
    assert "nothing was compared" in text


def test_what_was_not_compared_is_told() -> None:
    """Missing, left out, unproven, refused and not run, each with how many and why."""
    text = " ".join(Parsed(page.html(half(), command)).text)
    for words in (
        "left out by --budget",
        "unproven by every case",
        "no CUDA device",
        "up to four axes",
        "12 of 12",
        "unproven: 1 tensor",
    ):
        assert words in text, words
    text = " ".join(Parsed(page.html(disagreeing(), command)).text)
    assert "3 of 99" in text


def test_failure_tells_what_it_means_and_how_to_see_it_again() -> None:
    """Findings, the explanation, the command, and the pictures."""
    report = disagreeing()
    text = page.html(report, command)
    bad = next(each for each in report.results if each.verdict == "fail")
    section = text[text.index(f'id="{bad.id}"') :].partition("</article>")[0]
    shown = " ".join(Parsed(f"<article {section}</article>").text)
    for words in (
        "dx1 has the wrong sign", "sign", command(bad), "per sample", "per channel", "over space",
        "their fitted ratio",
    ):  # fmt: skip
        assert words in shown, words


def test_five_thousand_results_are_less_than_five_megabytes() -> None:
    """Also where every second one is wrong; and they are written in a second or two."""
    for report in (green(625, 2), disagreeing(625, 2, every=1)):
        assert len(report.results) == 5000
        start = time.process_time()
        text = page.html(report, command)
        assert len(text.encode()) < 5e6
        assert time.process_time() - start < 10
        assert len(Parsed(text).ids) >= 5000


def test_page_without_the_library_for_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install; everything else is there."""
    monkeypatch.setattr(pictures, "can_draw", lambda: False)
    text = page.html(disagreeing(), command)
    assert "pip install pygal" in text
    assert "per channel" in text
    assert "<svg" not in text


shapes = arrays.array_shapes(max_dims=5, max_side=60).filter(lambda each: math.prod(each) < 5000)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-6, math.inf]))
def test_excerpt_has_the_worst_and_the_means(shape: tuple[int, ...], seed: int, off: float) -> None:
    """What is kept of a wrong tensor is little, is in the tensor, and has the worst place."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(shape)
    actual = truth.astype(np.float32)
    wrong = rng.random(shape) < 0.1
    wrong.flat[rng.integers(truth.size)] = True
    actual[wrong] += np.float32(1 if off == 0 else off or 1)
    bound = {"gradient:x": np.full(shape, 1e-7)}
    found = compare("gradient:x", actual, Expected({"gradient:x": truth}, Bound(bound, bound)))
    kept = found.excerpt
    assert kept is not None and kept.shape == shape
    assert len(kept.places) <= WORST + EVEN and list(kept.places) == sorted(set(kept.places))
    assert kept.actual == pytest.approx(actual.reshape(-1)[list(kept.places)], rel=1e-8)
    assert kept.expected == pytest.approx(truth.reshape(-1)[list(kept.places)], rel=1e-8)
    fractions = np.abs(actual.astype(np.float64) - truth) / 1e-7
    kept_fractions = fractions.reshape(-1)[list(kept.places)]
    assert kept_fractions.max() == fractions.max()
    assert [len(each) for each in kept.along] == [min(each, STRETCHES) for each in shape]
    assert all(max(len(kept.plane), *map(len, kept.plane)) <= PLANE for _ in kept.plane)
    if shape[0] <= STRETCHES:
        axes = tuple(range(1, len(shape)))
        assert kept.along[0] == pytest.approx(fractions.mean(axis=axes), rel=1e-8)
    pictures.strips(kept)
    pictures.scatter(kept)


def test_tensor_that_agrees_has_no_excerpt() -> None:
    """Nothing is computed where nothing is wrong."""
    assert tensor((4, 3)).excerpt is None
    assert tensor((4, 3), factor=-1).excerpt is not None


def test_excerpt_is_in_the_file(tmp_path: Path) -> None:
    """It fits the schema and comes back; one whose lists do not belong together is refused."""
    report = disagreeing(2)
    path = tmp_path / "results.json"
    report.write(path)
    content = json.loads(path.read_text())
    jsonschema.validate(content, SCHEMA)
    assert read(path).results == report.results
    [bad, *_] = [each for each in content["results"] if each["verdict"] == "fail"]
    bad["tensors"]["gradient:x1"]["excerpt"]["actual"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(Unreadable, match="excerpt"):
        read(path)


def test_a_whole_net(tmp_path: Path) -> None:
    """Its layers in the net's order, with what is their own and what they inherit; and the file."""
    report = net()
    text = page.html(report, command)
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", text.partition('id="failures"')[0])
    rows = [re.sub(r"<[^>]*>", " ", each).split() for each in rows]
    layers = [each for each in report.results if each.in_net]
    assert [each[1] for each in rows] == [each.case for each in layers]
    wrong = [each for each in rows if each[1] == "lrn2"]
    assert len(wrong) == 2
    assert all({"✗", "LRN", "self.lrn2", "0.1", "inf"} <= set(each) for each in wrong)
    assert [("✗" in each, each[1]) for each in rows].count((True, "lrn2")) == 2
    assert sum("✗" in each for each in rows) == 2
    assert all("nan" in each for each in rows if each[1] == "softmaxwithloss5")
    assert text.count('class="chart wide"') == 2 and "the loss weight of loss is 1" in text
    path = tmp_path / "results.json"
    report.write(path)
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    assert read(path).as_json() == report.as_json()


def _of(pairs: Sequence[tuple[float, float]]) -> Excerpt:
    expected, actual = zip(*pairs, strict=True)
    places = tuple(range(len(pairs)))
    return Excerpt((len(pairs),), ((),), (), places, actual, expected, (0.0,) * len(pairs))


def test_fitted_ratio() -> None:
    """By least squares, of what is finite and wrong; none where all is 0, or nothing is."""
    assert pictures.fitted_ratio(_of([(1, -2), (3, -6), (0, 0)])) == pytest.approx(-2)
    assert pictures.fitted_ratio(_of([(1, 2), (math.inf, 1), (2, math.nan)])) == pytest.approx(2)
    assert pictures.fitted_ratio(_of([(1e30, 3e30), (2e30, 6e30)])) == pytest.approx(3)
    mixed = replace(_of([(1, -2), (3, 3.5)]), bound=(0.0, 1.0))
    assert pictures.fitted_ratio(mixed) == pytest.approx(-2)
    assert pictures.fitted_ratio(_of([(0, 0)])) is None
    assert pictures.fitted_ratio(_of([(0, 1)])) is None
    assert pictures.fitted_ratio(_of([(math.nan, 1)])) is None


@given(
    st.lists(
        st.tuples(
            st.floats(width=32, allow_subnormal=True), st.floats(width=32, allow_subnormal=True)
        ),
        min_size=1,
        max_size=9,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_numbers_can_be_drawn(pairs: list[tuple[float, float]]) -> None:
    """Huge and tiny ones, infinities, NaN, all the same."""
    svg = pictures.scatter(_of(pairs))
    assert "nan" not in svg


def test_texts_of_charts_are_xml() -> None:
    """They have no character that XML does not know, which lxml, if pygal finds it, refuses."""
    bad = replace(green(1, 1).results[0], case="a\x00\x1b\ud800<b>")
    svg = pictures.against_size([bad])
    assert "a\\x00\\x1b\\ud800&lt;b&gt;" in svg
    ElementTree.fromstring(svg)


TESTS = """
import caffe_parity

LAYER = caffe_parity.Layer(
    "square",
    reference=lambda x: (x * x).sum(),
    inputs={"x": (2, 3)},
    variants={"torch-right": lambda x: (x * x).sum(), "torch-wrong": lambda x: (x * x).sum() * 2},
    cases=2,
)


@caffe_parity.parametrize(LAYER)
def test_parity(comparison):
    comparison.check()
"""


def test_commands_write_the_page(tmp_path: Path) -> None:
    """`parity run` beside results.json, pytest where it is asked for, each with its command."""
    (tmp_path / "test_square.py").write_text(TESTS)
    run = [sys.executable, "-m", "caffe_parity", "run", "test_square.py"]
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "caffe_parity.pytest_plugin"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    python = f"{shlex.quote(sys.executable)} -m"
    for arguments, name, said in (
        (run, "parity-report/index.html", f"{python} caffe_parity run test_square.py -k "),
        ([*pytest_, "--parity-page", "page.html"], "page.html", f"{python} pytest -k "),
    ):
        done = subprocess.run(
            arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 1, done.stdout + done.stderr
        parsed = Parsed((tmp_path / name).read_text("utf-8"))
        assert {"square-torch-right-0", "square-torch-wrong-1"} <= set(parsed.ids)
        assert f"{said}'[square-torch-wrong-0]'" in parsed.text
    assert (
        "parity-report/index.html"
        in subprocess.run(
            run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        ).stdout
    )


def test_check_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it is asked for, with its own command line; a folder is refused before that."""
    arguments = [
        "examples/smooth_l1_layer.py:SmoothL1LossLayer", "--bottom", "x1=2,3", "--bottom",
        "x2=2,3", "--reference", "examples/smooth_l1.py:loss", "--cases", "1", "--page",
    ]  # fmt: skip
    monkeypatch.chdir(ROOT)
    assert check(*arguments, str(tmp_path / "page.html")) == 0
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "parity check" in text and "all agree" in text
    assert check(*arguments, str(tmp_path)) == 2
    assert "--page" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    named = [each.replace("examples/", f"{ROOT}/examples/") for each in arguments]
    assert check(*named, "-v") == 0  # without FILE, in a folder that is made
    said, told = capsys.readouterr()
    assert told.endswith(f"page: {INDEX}\n") and INDEX.is_file()
    rows = [line.split()[1] for line in said.splitlines() if "-caffe-0 " in line]
    assert rows == ["top", "dx1", "dx2"]
