"""The pages about the command line, about CI, and the jobs to copy are those of the code."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from caffe_parity.caffe.client import Caffe
from caffe_parity.cli.main import main, parser
from caffe_parity.report.record import NAME, VERDICTS
from tests.conftest import ROOT
from tests.test_statuses import JUNIT, STATUS

DOCS = ROOT / "docs"


def test_readmes_own_layer_is_found_wrong_and_mended(
    caffe: Caffe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each command of that section ends as it says, with the words that stand there."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "README.md").read_text().split("\n## Your own layer\n")[1].split("\n## ")[0]
    [formula] = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    (tmp_path / "examples" / "forgetful.py").write_text(formula)
    lines = re.sub(r" \\\n +", " ", section.replace(formula, "")).splitlines()
    statuses = []
    for line in [each.strip() for each in lines if each.startswith("    ")]:
        command, _, status = line.partition("  # exit status ")
        if command.startswith("parity "):
            assert main(shlex.split(command)[1:]) == int(status or 0)
            statuses.append(status)
            said = capsys.readouterr().out
        elif command.startswith("sed "):
            caffe.close()
            subprocess.run(["bash", "-c", command], check=True)
        elif not command.startswith("python3 "):
            assert command in said
    assert statuses == ["1", ""]


def test_readmes_net_has_the_layer_that_it_says(
    caffe: Caffe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each command of that section ends as it says; what it prints there it prints, but numbers."""

    def plain(text: str) -> str:
        return " ".join(re.sub(r"(?<![\w.])\d[\d.e+]*", "#", text).split())

    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "README.md").read_text().split("\n## A whole net\n")[1].split("\n## ")[0]
    said, commands = "", []
    for line in [each for each in section.splitlines() if each.startswith("    ")]:
        command, _, status = line.strip().partition("  # exit status ")
        if command.startswith("parity "):
            words = shlex.split(command, comments=True)
            assert main(words[1:]) == int(status or 0)
            said = plain(capsys.readouterr().out)
            commands.append(words[1])
        else:
            assert plain(line) in said
    assert commands == ["net", "port", "weights"]


def table(heading: str) -> list[list[str]]:
    """The cells of the first table behind a text of docs/ci.md."""
    lines = (DOCS / "ci.md").read_text().split(heading)[1].splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|---"))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip(" `") for cell in line.strip("|").split("|")])
    return rows


def test_the_exit_status_of_each_verdict_stands_on_the_page() -> None:
    """As `parity run` ends, and as junit.xml has it, which tests/test_statuses.py holds."""
    said = {verdict: (int(status), junit) for verdict, status, junit, _ in table("What a single")}
    assert said == {each: (STATUS.get(each, 1), JUNIT.get(each, "failure")) for each in VERDICTS}


def test_the_names_of_the_formats_stand_on_the_page() -> None:
    """The versions that the schemas have now."""
    diff = (ROOT / "caffe_parity" / "report" / "diff.schema.json").read_text()
    [title] = re.findall(r'"title": "(parity-diff-\d+)', diff)
    told = re.findall(r"`(parity-[a-z]+-\d+)`", (DOCS / "ci.md").read_text())
    assert told == [NAME, title]


def steps(name: str) -> list[str]:
    """The shell lines of a job to copy, in order."""
    text = (DOCS / "ci" / name).read_text()
    begins = r"^ *(?:- )?(export .*|python3 .*|\.venv/.*)$"
    return re.findall(begins, text, re.MULTILINE)


def test_the_jobs_to_copy_do_the_same_with_commands_that_there_are() -> None:
    """GitHub's and GitLab's have one script; each `parity` in it has options that exist."""
    script = steps("github.yml")
    summary = ' --summary "$GITHUB_STEP_SUMMARY"'  # which GitLab has not
    assert script[-1].endswith(summary)
    alike = [line.removesuffix(summary) for line in script]
    assert alike == steps("gitlab.yml") and len(script) >= 5
    called = [shlex.split(line)[1:] for line in script if line.startswith(".venv/bin/parity ")]
    assert [each[0] for each in called] == ["install-caffe", "run"]
    for arguments in called:
        parser(arguments).parse_args(arguments)


def test_every_variable_of_the_environment_stands_in_the_table() -> None:
    """Those that the code reads: nothing is set without being told."""
    known = {"PARITY_LAUNCH_COUNTER"}  # the tool sets it for its own worker
    files = [
        file for name in ("caffe_parity", "caffe_impl") for file in (ROOT / name).rglob("*.py")
    ]
    read = set().union(*(re.findall(r'"(PARITY_[A-Z_]+)"', file.read_text()) for file in files))
    told = re.findall(r"`(PARITY_[A-Z_]+)`", (DOCS / "install.md").read_text())
    assert read - known == set(told)
