"""The page in a real browser, headless: it works, by keyboard too, and everyone can use it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from caffe_parity.report import diff_page, page
from caffe_parity.report.changes import Diff
from caffe_parity.report.record import Report
from studies.benchmarks import __main__ as benchmarks
from tests.pages import REPORTS, command, disagreeing, edited, green

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    with driver.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens the page of a report from disk; at the end, no script has failed."""
    errors: list[str] = []
    contexts = []

    def open_(
        report: Report | Diff | str, anchor: str = "", scheme: str = "light", size: str = "desktop"
    ) -> Any:
        width, height = SIZES[size]
        viewport = {"width": width, "height": height}
        context = browser.new_context(viewport=viewport, color_scheme=scheme, offline=True)
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        shown = context.new_page()
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.on("console", lambda message: errors.append(message.text))
        file = tmp_path / "index.html"
        if isinstance(report, Diff):
            file.write_text(diff_page.html(report), "utf-8")
        elif isinstance(report, str):
            file.write_text(report, "utf-8")
        else:
            page.write(report, command, file)
        shown.goto(file.as_uri() + (f"#{anchor}" if anchor else ""))
        return shown

    yield open_
    for each in contexts:
        each.close()
    assert errors == []


def speed() -> str:
    """The page of the benchmarks, of what was measured last."""
    data = json.loads((benchmarks.RESULTS / "speed.json").read_text("utf-8"))
    names = [each.name for each in fields(benchmarks.Ratio)]
    found = [benchmarks.Ratio(**{name: each[name] for name in names}) for each in data["ratios"]]
    return benchmarks.html(data, found)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", [*REPORTS, "edited", "speed"])
def test_everyone_can_use_it(opened: Open, name: str, scheme: str, size: str) -> None:
    """axe-core finds nothing serious, and nothing is wider than the screen."""
    made = {**REPORTS, "edited": edited, "speed": speed}[name]()
    shown = opened(made, scheme=scheme, size=size)
    shown.add_style_tag(content="article.failure { content-visibility: visible !important; }")
    found = axe.Axe().run(shown).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    told = [(each["id"], [node["html"][:120] for node in each["nodes"][:3]]) for each in serious]
    assert told == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]


def _results(shown: Any) -> list[str]:
    """The rows of the list that are to be seen: variant and case."""
    rows = "[...document.querySelectorAll('#all tbody tr:not([hidden])')]"
    cells = "[2, 3].map(i => row.cells[i].textContent).join(' ')"
    found: list[str] = shown.evaluate(f"{rows}.map(row => {cells})")
    return found


def test_filter(opened: Open) -> None:
    """By words, all of which must be there, and by verdict; the matrix and the sections follow."""
    report = disagreeing()
    shown = opened(report)
    assert len(_results(shown)) == len(report.results)
    shown.fill("#words", "PYTHON case-3")
    assert _results(shown) == ["caffe-python case-3"] * 2
    assert shown.text_content("#shown") == "2 of 96 results"
    assert shown.locator("article.failure:visible").count() == 2
    assert shown.locator("a.cell:not(.faded)").count() == 2
    shown.fill("#words", "")
    shown.uncheck("input[value=pass]")
    bad = [each for each in report.results if each.verdict != "pass"]
    assert len(_results(shown)) == len(bad)
    shown.check("input[value=pass]")
    assert shown.text_content("#shown") == "96 results"
    assert len(_results(shown)) == len(report.results)


def test_sort(opened: Open) -> None:
    """By any column, and the other way round; numbers as numbers."""
    shown = opened(green())
    shown.get_by_role("button", name="case").first.click()
    names = [each.split()[1] for each in _results(shown)]
    assert names == sorted(names, key=lambda each: int(each.removeprefix("case-")))
    button = shown.get_by_role("button", name="elements")
    button.click()
    button.click()
    assert button.locator("xpath=..").get_attribute("aria-sort") == "descending"
    column = "[...document.querySelectorAll('#all tbody tr')].map(row => +row.cells[6].textContent)"
    sizes = shown.evaluate(column)
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]


@pytest.mark.parametrize("verdict", ["pass", "fail", "crash", "hang"])
def test_link_to_a_result(opened: Open, verdict: str) -> None:
    """The page at a result's id shows it, also where a filter hid it."""
    [result, *_] = [each for each in disagreeing().results if each.verdict == verdict]
    shown = opened(disagreeing(), anchor=result.id)
    element = shown.locator(f"[id='{result.id}']")
    assert element.is_visible()
    driver.expect(element).to_be_in_viewport()
    shown.fill("#words", "nothing has this name")
    assert element.is_hidden()
    cell = shown.locator(f"a.cell[href='#{result.id}']")
    shown.evaluate("location.hash = ''")
    cell.click()
    driver.expect(element).to_be_in_viewport()


def test_copy(opened: Open) -> None:
    """The button gives the command to the clipboard, and says so."""
    report = disagreeing()
    [bad, *_] = [each for each in report.results if each.verdict == "fail"]
    shown = opened(report)
    button = shown.locator(f"[id='{bad.id}'] button.copy")
    button.click()
    driver.expect(button).to_have_text("copied")
    assert shown.evaluate("navigator.clipboard.readText()") == command(bad)
    driver.expect(button).to_contain_text("copy the command that reproduces", timeout=3000)


def test_copy_where_the_browser_forbids_it(opened: Open) -> None:
    """Without a clipboard the command is selected and copied as by hand."""
    shown = opened(disagreeing())
    forbidden = "() => Promise.reject(new Error())"
    shown.evaluate(f"() => {{ navigator.clipboard.writeText = {forbidden}; }}")
    button = shown.locator("button.copy").first
    button.click()
    driver.expect(button).to_have_text("copied")
    assert shown.evaluate("getSelection().toString()").startswith("tox -e parity")


def test_keyboard_alone(opened: Open) -> None:
    """Tab reaches the first cell, Enter opens it; the skip link leads to the list."""
    report = disagreeing()
    shown = opened(report)
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.className") == "skip"
    for _ in range(20):
        shown.keyboard.press("Tab")
        if shown.evaluate("document.activeElement.classList.contains('cell')"):
            break
    focused = shown.evaluate("document.activeElement.hash")
    shown.keyboard.press("Enter")
    assert focused == f"#{report.results[0].id}"
    shown.wait_for_function("document.activeElement.matches('article.failure')")
    assert shown.evaluate("document.activeElement.id") == report.results[0].id
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.className") == "copy"
    shown.keyboard.press("Enter")
    driver.expect(shown.locator("button.copy").first).to_have_text("copied")
    shown.focus("#words")
    shown.keyboard.type("torch-module")
    assert set(_results(shown)) == {f"torch-module case-{each}" for each in range(12)}
    shown.focus("#all button")
    shown.keyboard.press("Enter")
    assert shown.locator("th[aria-sort=ascending]").count() == 1


def test_what_an_edit_changed(opened: Open) -> None:
    """Each verdict that got worse has its section; the list is filtered by what became of it."""
    diff = edited()
    shown = opened(diff)
    worse = [each for each in diff.changes if each.judged == "worse"]
    assert worse and shown.locator("article.failure").count() == len(worse)
    assert shown.text_content("h1").split()[1:] == [str(len(worse)), "verdicts", "got", "worse"]
    assert shown.locator("a.cell").count() == len(diff.changes)
    for box in shown.locator("input[name=verdict]:not([value=changed])").all():
        box.uncheck()
    changed = [each for each in diff.changes if (each.judged, each.bits) == ("same", "changed")]
    assert _results(shown) == [f"{each.variant} {each.case}" for each in changed] != []
    [gone, *_] = [each for each in worse if each.verdicts[1] == "gone"]
    shown.locator(f"a.cell[href$='{gone.case}'][href*='{gone.variant}']").last.click()
    driver.expect(shown.locator(":target")).to_be_in_viewport()
    assert shown.locator("article.failure:target").count() == 1


def test_page_of_a_watch_is_reloaded_unless_that_disturbs(opened: Open, tmp_path: Path) -> None:
    """Every other second; not while the list is filtered."""
    banner = page.banner_of("compared at <noon>")
    shown = opened(green())
    file = tmp_path / "index.html"
    file.write_text(page.html(green(), command, banner))
    shown.reload()
    assert "compared at <noon>" in shown.text_content("#watched")
    file.write_text(page.html(disagreeing(), command, page.banner_of("later")))
    driver.expect(shown.locator("#watched")).to_contain_text("later", timeout=9000)
    shown.fill("#words", "case-1")
    file.write_text(page.html(green(), command, page.banner_of("at last")))
    shown.wait_for_timeout(5000)
    assert "later" in shown.text_content("#watched")
    shown.fill("#words", "")
    shown.evaluate("document.activeElement.blur()")
    driver.expect(shown.locator("#watched")).to_contain_text("at last", timeout=9000)
    file.write_text(page.html(green(), command, page.banner_of("the end", True, ended=True)))
    driver.expect(shown.locator("#watched.stale")).to_contain_text("the end", timeout=9000)
    assert shown.locator("#watched input").count() == 0


def test_hostile_names_run_nothing(opened: Open) -> None:
    """Nothing of a name, a message or a command becomes a part of the page."""
    from tests.test_page import HOSTILE, _hostile

    for words in HOSTILE:
        shown = opened(_hostile(words))
        shown.on("dialog", lambda dialog: pytest.fail(dialog.message))
        assert shown.locator("img, iframe, object, a[href^=javascript]").count() == 0
        for link in shown.locator("a.cell").all():
            link.click()
            driver.expect(shown.locator(":target")).to_have_count(1)


def test_page_of_five_thousand_results_opens_in_two_seconds(opened: Open) -> None:
    """Until it is painted, the best of three times; the filter answers as fast."""
    report = disagreeing(625, 2)
    frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    painted = []
    for _ in range(3):
        shown = opened(report)
        shown.evaluate(frames)
        painted.append(shown.evaluate("performance.getEntriesByType('paint').at(-1).startTime"))
    assert min(painted) < 2000
    assert len(_results(shown)) == 5000
    filtering = "() => { const t = performance.now(); const e = document.getElementById('words');"
    filtering += "e.value = 'case-17'; e.dispatchEvent(new Event('input'));"
    filtering += "document.body.offsetHeight; return performance.now() - t; }"
    assert shown.evaluate(filtering) < 2000
