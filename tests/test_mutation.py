"""The mutants are real, and their runner tells the truth."""

from __future__ import annotations

import ast
import json
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from parity_tests.layers import LAYERS
from studies.mutation import __main__ as command
from studies.mutation import catalogue, generated, page
from studies.mutation.catalogue import (
    FILE,
    ROOT,
    CatalogueError,
    Mutant,
    judge,
    misfits,
    mutated,
    read,
)
from studies.mutation.generated import Drawn
from studies.mutation.runner import (
    BROKEN,
    KILLED,
    NO_END,
    NOT_RUN,
    SURVIVED,
    Verdict,
    run,
    spread,
)

CATALOGUE = read()

HARMLESS = Mutant(
    name="harmless",
    group="torch ports",
    file="torch_impl/module.py",
    bug="-",
    judge=judge("parity torch-module euclidean -k 'base'"),
    old="Copy what you need.",
    new="Copy it.",
)
NONSENSE = replace(HARMLESS, name="nonsense", old="from torch import nn", new="from torch import n")
REAL = replace(HARMLESS, name="real", old="d = x1 - x2  #", new="d = x1 + x2  #")
UNJUDGED = replace(HARMLESS, name="unjudged", judge=judge("tests tests/test_of_nothing.py"))

ENTRY = """
[[mutant]]
name = "harmless"
group = "torch ports"
file = "torch_impl/module.py"
bug = "-"
judge = "parity torch-module euclidean -k 'base'"
old = "Copy what you need."
new = "Copy it."
"""


def test_every_mutant_fits() -> None:
    """Each old text stands once in its file, Python stays Python, and the judge's files exist."""
    assert list(misfits(CATALOGUE)) == []


def test_every_judge_of_a_variant_names_one() -> None:
    """The variant and the layer that a judge names are there: none runs nothing for a typing error.

    A judge that names a layer must name one that this variant computes.
    """
    both = {f"{name} {layer.name}" for layer in LAYERS.values() for name in layer.variants}
    names = {each.partition(" ")[0] for each in both}
    for mutant in CATALOGUE:
        kind, *words = mutant.judge.text.partition(" -k ")[0].split()
        if kind == "parity":
            assert " ".join(words) in (names if len(words) == 1 else both), mutant.name


def test_catalogue_covers_every_part() -> None:
    """There are mutants in every part of the project that computes, or decides."""
    files = {mutant.file for mutant in CATALOGUE}
    for folder in ("layers", "nets", "cuda"):
        assert any(file.startswith(f"caffe_impl/{folder}/") for file in files)
    for part in ("torch_impl/", "reference/", "caffe_parity/engine/"):
        assert any(file.startswith(part) for file in files)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[mutant", "catalogue.toml: "),
        ("other = 1\n" + ENTRY, "must hold .* nothing else"),
        ("", "must hold"),
        (ENTRY + ENTRY, "two mutants are called harmless"),
        (ENTRY.replace("bug", "bugs"), "mutant harmless: each of bug, bugs must be there"),
        (ENTRY.replace('"-"', "1"), "mutant harmless: each of bug must be there, be a text"),
        (ENTRY.replace('name = "harmless"', ""), "mutant number 1: each of name"),
        (ENTRY.replace('"Copy it."', '"Copy what you need."'), "harmless changes nothing"),
        (ENTRY.replace("parity torch", "run torch"), "harmless: the judge is .run torch"),
        (ENTRY.replace("'base'", "base"), "harmless: the judge is"),
        (ENTRY.replace("euclidean", "euclidean tail_sum"), "names more than one layer"),
    ],
)
def test_wrong_catalogue_is_refused(text: str, words: str, tmp_path: Path) -> None:
    """The message names the mutant and says what is wrong with it."""
    file = tmp_path / FILE.name
    file.write_text(ENTRY)
    assert read(file) == (HARMLESS,)
    file.write_text(text)
    with pytest.raises(CatalogueError, match=words):
        read(file)


def test_text_that_has_changed_is_an_error() -> None:
    """A mutant whose old text is gone, or stands there twice, is refused by its name."""
    for text in ("", "Copy what you need. Copy what you need."):
        with pytest.raises(CatalogueError, match="harmless: its old text stands"):
            mutated(text, HARMLESS)


def test_check_says_where_to_look(tmp_path: Path) -> None:
    """A mutant whose text has moved or changed comes with the file, or the line, to look at."""
    source = tmp_path / "torch_impl" / "module.py"
    source.parent.mkdir()
    (tmp_path / "parity_tests").mkdir()
    (tmp_path / "parity_tests" / "test_parity.py").touch()
    source.write_text('"""Ports.\n\nCopy what you like.\n"""\n')
    [changed] = misfits([HARMLESS], tmp_path)
    assert "harmless: its old text stands 0 times in torch_impl/module.py" in changed
    assert "line 3: Copy what you like." in changed
    source.rename(source.with_name("ports.py"))
    source.with_name("ports.py").write_text("# Copy what you need.\n")
    [moved] = misfits([HARMLESS], tmp_path)
    assert "it stands in torch_impl/ports.py" in moved
    source.write_text("# Copy what you need.\n")
    [syntax] = misfits([replace(HARMLESS, old="# Copy what ", new="")], tmp_path)
    assert "makes no Python" in syntax
    [unjudged] = misfits([UNJUDGED], tmp_path)
    assert "there is no tests/test_of_nothing.py, which must find it" in unjudged


def test_runner_tells_the_truth() -> None:
    """Killed, survived and broken each are what they are, and the working tree stays as it is."""
    before = (ROOT / HARMLESS.file).read_bytes()
    killed, survived, nonsense, unjudged = run([REAL, HARMLESS, NONSENSE, UNJUDGED], jobs=1)
    assert (killed.verdict, survived.verdict) == (KILLED, SURVIVED)
    assert "base" in killed.reason
    assert (nonsense.verdict, unjudged.verdict) == (BROKEN, BROKEN)
    assert "ImportError" in nonsense.reason
    assert "without any mutant" in unjudged.reason
    assert (ROOT / HARMLESS.file).read_bytes() == before


def test_another_caffe_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Caffe has a compiled layer of its own, a mutant of ours is not run, and says so."""
    monkeypatch.setenv("PARITY_CAFFE", "cuda")
    mutant = next(each for each in CATALOGUE if each.name == "cpp-one-sign")
    [verdict] = run([mutant])
    assert verdict.verdict == NOT_RUN
    assert "PARITY_CAFFE" in verdict.reason


def test_survivor_fails_the_run_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1, and the last lines name the mutant that nothing found."""
    monkeypatch.setattr(catalogue, "read", lambda: (HARMLESS,))
    assert command.main(["--jobs", "1"]) == 1
    said = capsys.readouterr().out
    assert "survived: harmless" in said
    assert "0 of 1 mutants killed" in said


def test_budget_is_respected(capsys: pytest.CaptureFixture[str]) -> None:
    """A run ends in time, and says of the rest that it did not run; no proof is no success."""
    start = time.monotonic()
    assert command.main(["--budget", "0.2"]) == 2
    assert time.monotonic() - start < 20  # the budget, the copy, and what ends the processes
    assert f"not run: budget ({len(CATALOGUE)} mutants)" in capsys.readouterr().out


def test_status_is_the_worst_verdict() -> None:
    """0 only if every mutant that ran was killed, and one ran."""
    expected = {
        (KILLED,): 0,
        (KILLED, NOT_RUN): 0,
        (KILLED, SURVIVED): 1,
        (SURVIVED, BROKEN): 1,
        (KILLED, BROKEN): 2,
        (NOT_RUN,): 2,
    }
    for seen, status in expected.items():
        assert command.status([Verdict(HARMLESS, verdict) for verdict in seen]) == status


def test_every_group_has_its_share_of_a_short_run() -> None:
    """The first quarter has about a quarter of each group, in an order that the seed decides."""
    first = spread(CATALOGUE, seed=1)
    assert Counter(first) == Counter(CATALOGUE)
    assert first == spread(CATALOGUE, seed=1)
    assert first != spread(CATALOGUE, seed=2)
    quarter = Counter(each.group for each in first[: len(first) // 4])
    for group, size in Counter(each.group for each in CATALOGUE).items():
        assert abs(quarter[group] - size / 4) <= 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "py-one-sing"], "unknown mutant 'py-one-sing'; did you mean 'py-one-sign'"),
        (["--only", "py-one-sign", "--write-docs"], "is for all mutants"),
    ],
)
def test_bad_request_is_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be carried out is said in words."""
    assert command.main(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--budget", "0"], ["--jobs", "0"], ["--nonsense"], ["--list", "--check"]]
)
def test_bad_option_is_status_2(arguments: list[str]) -> None:
    """argparse ends the program itself."""
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2


SAMPLE = ("torch-broadcast", "py-stale-difference", "truth-trap", "compare-signed")


def test_sample_of_the_mutants_is_killed() -> None:
    """One of each kind of judge; `python -m studies.mutation` runs them all."""
    found = run([mutant for mutant in CATALOGUE if mutant.name in SAMPLE])
    assert sorted((each.mutant.name, each.verdict) for each in found) == [
        (name, KILLED) for name in sorted(SAMPLE)
    ]


SOURCE = '''
import os

LIMIT = 3

def f(x):
    """Says what it does."""
    x += 1
    if x > LIMIT:
        raise ValueError(x)
    os.remove("a")
    y = x
    if y:
        return y
    return 2 * y
'''


def test_each_statement_that_does_something_is_dropped() -> None:
    """One at a time; what binds a name, a docstring, and what is returned at the end all stay."""
    made = list(generated._without_statements(SOURCE))
    gone = [
        before.strip()
        for text in made
        for before, after in zip(SOURCE.splitlines(), text.splitlines(), strict=True)
        if before != after
    ]
    assert sorted(gone) == ['os.remove("a")', "raise ValueError(x)", "return y", "x += 1"]
    assert all(text.count("pass") == 1 for text in made)


def test_the_pieces_of_a_module_are_the_module() -> None:
    """Each begins where the one before ends, with its decorators and what stands behind it."""
    file = ROOT / "caffe_parity" / "engine" / "verdict.py"
    source = file.read_text()
    pieces = list(generated._pieces(source))
    assert all(before + piece + after == source for _, before, piece, after, _, _ in pieces)
    assert not pieces[0][1].strip()
    assert "".join(piece for _, _, piece, *_ in pieces) == source[len(pieces[0][1]) :]
    by_place = {where: (piece, head + piece + tail) for where, _, piece, _, head, tail in pieces}
    assert by_place["_View.of"][0].startswith("    @cached_property\n    def of(self)")
    assert by_place["Judged"][0].startswith("@dataclass\nclass Judged")
    for _, program in by_place.values():
        ast.parse(program)


def test_what_a_tool_mutates_is_there_and_so_are_its_judges() -> None:
    """In both settings; a mutant that is known to survive has its reason."""
    for file in (generated.FILE, generated.TOOL):
        given = generated.settings(file)
        for name, text in given["judges"].items():
            assert (ROOT / name).is_file() or name.endswith("/*"), name
            assert all((ROOT / each).is_file() for each in judge(text).files), text
        for each in given.get("left_out", ()):
            assert each["why"] and (ROOT / each["file"]).is_file()


def test_the_study_of_the_tool_has_every_file() -> None:
    """None of these folders' files is left out, but for the tests themselves."""
    given = generated.settings(generated.TOOL)
    there = {
        str(each.relative_to(ROOT))
        for folder in ("caffe_parity", "reference", "caffe_impl", "torch_impl", "parity_tests")
        for each in (ROOT / folder).glob("**/*.py")
        if not each.name.startswith("test_")
    }
    assert len(there) > 100 and set(generated.judges()) == there == set(generated.files())
    assert given["at_least"] >= 3 and not any("*" in each for each in there)


def test_a_file_without_a_judge_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of its own goes before that of its folder; with neither, the study does not begin."""
    given = {"judges": {"reference/*": "tests b.py", "reference/fills.py": "tests a.py"}}
    monkeypatch.setattr(generated, "settings", lambda file: given)
    monkeypatch.setattr(generated, "files", lambda: ["reference/cases.py", "reference/fills.py"])
    assert generated.judges() == {
        "reference/cases.py": "tests b.py",
        "reference/fills.py": "tests a.py",
    }
    monkeypatch.setattr(generated, "files", lambda: ["torch_impl/module.py"])
    with pytest.raises(CatalogueError, match=r"no judge of torch_impl/module.py"):
        generated.judges()


def test_what_is_known_to_survive_has_its_reason_and_still_is_there() -> None:
    """Each has a kind and words, and its line stands in its file; none is given twice."""
    left_out = generated.settings(generated.TOOL)["left_out"]
    assert len({(each["file"], generated.changed(each)) for each in left_out}) == len(left_out)
    for each in left_out:
        assert each["kind"] in page.KINDS and each["why"], each
        source = " ".join((ROOT / each["file"]).read_text().split())
        assert " ".join(each["before"].split()) in source, each


@pytest.fixture
def imitated(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator in the place of cosmic-ray's, which not everybody has: a number more."""

    def positions(source: str) -> list[ast.Constant]:
        found = [each for each in ast.walk(ast.parse(source)) if isinstance(each, ast.Constant)]
        return [each for each in found if type(each.value) is int]

    def edited(slot: generated.Slot) -> str:
        whole = slot.head + slot.piece + slot.tail
        place = positions(whole)[slot.number]
        lines = whole.encode().splitlines(keepends=True)
        line = lines[place.lineno - 1]
        changed = str(int(str(place.value)) + 1).encode()
        start, end = place.col_offset, place.end_col_offset
        lines[place.lineno - 1] = line[:start] + changed + line[end:]
        text = b"".join(lines).decode()
        return text[len(slot.head) : len(text) - len(slot.tail)]

    monkeypatch.setattr(generated, "_counts", lambda s, _: Counter(Number=len(positions(s))))
    monkeypatch.setattr(generated.Slot, "edited", edited)
    given = {**generated.settings(generated.TOOL), "operators": ["Number"]}
    monkeypatch.setattr(generated, "settings", lambda file: given)


@pytest.mark.usefixtures("imitated")
def test_a_draw_is_the_same_for_everybody() -> None:
    """Of every file in proportion to its length, at least three where there are so many."""
    first, second, other = (generated.drawn(seed) for seed in (1, 1, 2))
    names = [{m.name for d in each.values() for m in d.mutants} for each in (first, second, other)]
    assert names[0] == names[1] != names[2]
    assert list(first) == generated.files()
    for file, of in first.items():
        length = (ROOT / file).read_text().count("\n")
        assert len(of.mutants) <= max(3, length // 120)
        assert len(of.mutants) >= min(of.places, 3) - 1, file  # one may change nothing
        assert list(misfits(of.mutants)) == []
    file = "caffe_parity/caffe/worker/worker.py"
    worker = first[file]
    assert len(worker.mutants) == (ROOT / file).read_text().count("\n") // 120 > 3
    assert worker.places > 50
    [name] = [each.name for each in worker.mutants[:1]]
    assert [m.name for d in generated.drawn(7, [name]).values() for m in d.mutants] == [name]
    with pytest.raises(CatalogueError, match="unknown mutant 'caffe_parity/x"):
        generated.drawn(1, ["caffe_parity/x.py:-AddNot-0"])


@pytest.mark.usefixtures("imitated")
def test_an_edit_elsewhere_leaves_the_draw_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant is named by its function: a line more above it changes nothing."""
    file = "torch_impl/fused.py"
    source = (ROOT / file).read_text()
    before = {each.name for each in generated.slots(file, ["Number"])}
    (tmp_path / "torch_impl").mkdir()
    (tmp_path / file).write_text(source.replace("import torch\n", "import torch\n\nMORE = 3\n", 1))
    monkeypatch.setattr(generated, "ROOT", tmp_path)
    assert {each.name for each in generated.slots(file, ["Number"])} - before == {
        f"{file}:MORE-Number-0"
    }


def test_the_table_leaves_nothing_out() -> None:
    """Each mutant of a draw stands in one column; what was not run says why."""
    known = replace(HARMLESS, name="known", file="reference/fills.py")
    verdicts = [
        Verdict(replace(HARMLESS, file="reference/fills.py"), KILLED, "test_a"),
        Verdict(replace(REAL, file="reference/fills.py"), KILLED, NO_END),
        Verdict(replace(UNJUDGED, file="reference/fills.py"), NOT_RUN, "no CUDA device"),
        Verdict(replace(NONSENSE, file="reference/fills.py"), SURVIVED),
    ]
    files = {
        "reference/fills.py": Drawn(9, (known, *(v.mutant for v in verdicts)), {"known": "why"}),
        "reference/__init__.py": Drawn(0, (), {}),
    }
    head, _, fills, empty, total = command.table(files, verdicts)
    assert head == "| file | places | drawn | killed | no end | survived | known | not run | |"
    assert fills == "| reference/fills.py | 9 | 5 | 1 | 1 | 1 | 1 | 1 | no CUDA device |"
    assert (
        empty
        == "| reference/__init__.py | 0 | 0 | 0 | 0 | 0 | 0 | 0 | nothing in it can be changed |"
    )
    assert total == "| all | 9 | 5 | 1 | 1 | 1 | 1 | 1 |  |"


def test_what_was_killed_is_not_run_again(tmp_path: Path) -> None:
    """By the notes of an earlier run, of which the last counts; nothing is said of another edit."""
    notes = tmp_path / "notes.jsonl"
    lines = [
        ["real", REAL.bug, SURVIVED, ""],
        ["real", REAL.bug, KILLED, "test_b"],
        ["harmless", HARMLESS.bug, SURVIVED, ""],
        ["nonsense", "another edit", KILLED, "test_b"],
    ]
    notes.write_text("".join(json.dumps(each) + "\n" for each in lines))
    found = command._noted(notes, [REAL, HARMLESS, NONSENSE])
    assert found == {
        "real": Verdict(REAL, KILLED, "test_b"),
        "harmless": Verdict(HARMLESS, SURVIVED),
    }
    assert command._noted(None, [REAL]) == command._noted(tmp_path / "none", [REAL]) == {}


def test_what_finds_a_mutant_must_pass_without_it() -> None:
    """With few mutants for each judge the test that failed runs alone, and tells the same."""
    killed, survived, nonsense, unjudged = run(
        [REAL, HARMLESS, NONSENSE, UNJUDGED], jobs=1, whole=False
    )
    assert (killed.verdict, survived.verdict) == (KILLED, SURVIVED)
    assert "base" in killed.reason
    assert (nonsense.verdict, unjudged.verdict) == (KILLED, BROKEN)
    assert "cannot be collected" in nonsense.reason


def test_page_of_the_tool_has_every_file_and_survivor() -> None:
    """docs/mutants_tool.md is as `--tool --write-docs` wrote it, for the files of that day."""
    text = page.TOOL_PAGE.read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| (\w+/\S+\.py|all) \|", line)]
    [found] = re.findall(r"\(below\) \| (.*) \|", text)
    table = [text.partition("\n| file |")[2].partition("\n")[0], "|---" * 9 + "|"]
    table = [f"| file |{table[0]}", table[1], *rows]
    seed = generated.settings(generated.TOOL)["seed"]
    assert text == page.tool_page(table, found, seed)
    assert len(rows) > 100 and rows[-1].startswith("| all |")


def test_fast_judges_start_no_caffe() -> None:
    """Their tests are those that ask for none."""
    assert judge("fast tests/test_verdict.py").options == ("-m", "not caffe")
    assert judge("fast tests/a.py -k 'x'").options == ("-m", "not caffe", "-k", "x")
    assert judge("tests tests/a.py -k 'x'").options == ("-k", "x")


def test_page_is_the_catalogue() -> None:
    """docs/mutants.md has every mutant, all killed; `--write-docs` writes it anew."""
    assert page.PAGE.read_text() == page.page([Verdict(each, KILLED) for each in CATALOGUE])


def test_page_shows_survivors() -> None:
    """What a reader must not miss: a mutant that nothing found."""
    text = page.page([Verdict(REAL, KILLED), Verdict(HARMLESS, SURVIVED)])
    assert "**1 of 2 are killed.**" in text
    assert "- survived: `harmless`" in text
