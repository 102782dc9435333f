"""The commands as a user types them: what they print, and their exit status."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jsonschema
import pytest

from caffe_impl.variants import LAYERS, NETS
from caffe_parity.report.record import Report, read

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "caffe_parity" / "report" / "results.schema.json").read_text())
PARITY, MAIN_JOB = "caffe_parity", "parity_tests"


def python(module: str, *arguments: str, cwd: Path, **variables: str) -> tuple[int, str, str]:
    """Runs a module of the project in a folder of its own: exit status, output and errors."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def results(folder: Path) -> Report:
    """results.json, which fits its schema."""
    file = folder / "results.json"
    jsonschema.validate(json.loads(file.read_text()), SCHEMA)
    return read(file)


def names_in(junit: Path) -> list[str | None]:
    """The names of the tests in junit.xml."""
    return [case.get("name") for case in ElementTree.parse(junit).getroot().iter("testcase")]


def test_one_comparison_writes_both_reports(tmp_path: Path) -> None:
    """Exit 0, the table, results.json that fits its schema, and junit.xml with the same tests."""
    chosen = ("--variant", "caffe-native", "--case", "base")
    status, said, errors = python(MAIN_JOB, *chosen, cwd=tmp_path)
    assert status == 0, said + errors
    assert "euclidean  caffe-native" in said
    report = results(tmp_path / "parity-report")
    assert report.environment["caffe"]["blas"]
    assert dict(report.selection) == {"variant": "caffe-native", "case": "base"}
    assert [each.id for each in report.results] == ["euclidean-caffe-native-base"]
    junit = tmp_path / "parity-report" / "junit.xml"
    assert names_in(junit) == ["test_parity[euclidean-caffe-native-base]"]
    [case] = ElementTree.parse(junit).getroot().iter("testcase")
    assert case.get("classname") == "parity_tests.test_parity.euclidean.caffe-native"
    assert case.get("file") == "parity_tests/test_parity.py" and int(case.get("line", 0)) > 1


def broken_layer(folder: Path) -> Path:
    """The good Python layer with the top diff left out of its backward, and its net."""
    source = (LAYERS / "summed_euclidean_loss.py").read_text()
    spoilt = source.replace("top[0].diff.flat[0]", "np.float32(1)")
    assert spoilt != source
    (folder / "summed_euclidean_loss.py").write_text(spoilt)
    net = folder / "mine.prototxt"
    net.write_text((NETS / "channel_sum_python.prototxt").read_text())
    return net


SUITES_LAYER = ("--reference", "reference.channel_sum:LAYER")
TESTS_OF_ONES_OWN = """
from dataclasses import replace
import caffe_parity
from reference.channel_sum import LAYER

MINE = {"mine": caffe_parity.net("mine.prototxt")}

@caffe_parity.parametrize(replace(LAYER, variants=MINE))
def test_mine(comparison):
    comparison.check()
"""
IGNORED = "dx1 is off by exactly 1/loss_weight: the top diff is ignored"


def test_broken_line_is_found_and_explained(tmp_path: Path) -> None:
    """Exit 1; which line of thinking is wrong; and the printed command fails just so."""
    broken_layer(tmp_path)
    (tmp_path / "test_mine.py").write_text(TESTS_OF_ONES_OWN)
    status, said, _ = python(PARITY, "run", "test_mine.py", "-k", "base or weight", cwd=tmp_path)
    assert status == 1
    assert IGNORED in said
    (command,) = (line for line in said.splitlines() if "reproduce:" in line)
    done = subprocess.run(  # pasted, as it stands
        command.partition("reproduce: ")[2],
        shell=True,
        executable="/bin/bash",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert "1 failed" in done.stdout and IGNORED in done.stdout


def test_main_job_reproduces_by_the_name_that_it_has(tmp_path: Path) -> None:
    """What `tox -e parity` says fails is run again by `tox -e parity`; so with a spoilt plug-in."""
    (tmp_path / "plugin.so").write_text("no library")
    tox = tmp_path / "bin" / "tox"
    tox.parent.mkdir()
    tox.write_text("#!/bin/sh\n")
    tox.chmod(0o755)
    chosen = ("--variant", "caffe-cuda", "--case", "base")
    variables = {"PARITY_PLUGIN": "plugin.so", "TOX_ENV_NAME": "parity"}
    variables["PATH"] = f"{tox.parent}{os.pathsep}{os.environ['PATH']}"
    status, said, _ = python(MAIN_JOB, *chosen, cwd=tmp_path, **variables)
    assert status == 1
    assert "reproduce: tox -e parity -- -k '[channel_sum-caffe-cuda-base]'" in said
    assert "plugin.so: the compiled layer does not fit this Caffe" in said


def test_net_of_ones_own_against_a_layer_of_the_suite(tmp_path: Path) -> None:
    """Exit 0 for a copy of a good net, whose layer --path finds; 1 for a broken one, and why."""
    net = tmp_path / "mine.prototxt"
    net.write_text((NETS / "channel_sum_python.prototxt").read_text())
    options = ("check", "mine.prototxt", *SUITES_LAYER)
    status, said, errors = python(PARITY, *options, "--path", str(LAYERS), cwd=tmp_path)
    assert status == 0, said + errors
    assert "agrees, " in said
    broken_layer(tmp_path)
    status, said, _ = python(PARITY, *options, "--json", "found.json", cwd=tmp_path)
    assert status == 1
    assert f"ignores-top-diff: {IGNORED}" in said
    report = read(tmp_path / "found.json")
    assert {each.case for each in report.results} >= {"base", "weight-3.7", "split", "same-blob"}


NO_LOSS = 'layer { name: "i" type: "Input" top: "x1" input_param { shape { dim: 1 } } }'
NO_LOSS += NO_LOSS.replace("x1", "x2").replace('"i"', '"j"')
NATIVE = (NETS / "euclidean_native.prototxt").read_text()
DATA = NATIVE.replace('"x2"', '"label"')
MISFIT = NATIVE.replace("dim: 6", "dim: 7", 1)
NO_TESTS = "def test_mine():\n    pass\n"
SUM = ("--reference", "truth.py:loss")


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        (MAIN_JOB, ["--variant", "caffe-pyton"], "unknown variant 'caffe-pyton'. Did you mean"),
        (MAIN_JOB, ["--layer", "l1"], "unknown layer 'l1'. Known: euclidean"),
        (MAIN_JOB, ["--case", "bass"], "unknown case 'bass'. Did you mean 'base'"),
        (MAIN_JOB, ["-k", "nosuchthing"], "no comparison has that name"),
        (MAIN_JOB, ["--variant", "caffe-native", "--layer", "tail_sum"], "nothing to compare"),
        (MAIN_JOB, ["--no-such-option"], "unrecognized arguments"),
        (MAIN_JOB, ["--timeout", "0"], "timeout must be greater than 0"),
        (PARITY, ["run"], "required: TESTS"),
        (PARITY, ["run", "absent.py"], "there is no test file or folder absent.py"),
        (PARITY, ["run", "test_mine.py", "--layer", "l1"], "unknown layer 'l1'. Known: none"),
        (PARITY, ["run", "test_mine.py", "--net", "a.prototxt"], "unrecognized arguments: --net"),
        (PARITY, ["check", "absent.prototxt", *SUITES_LAYER], "cannot read the net"),
        (PARITY, ["check", "no_loss.prototxt"], "--reference"),
        (PARITY, ["check", "no_loss.prototxt", *SUITES_LAYER], "the net has no loss"),
        (PARITY, ["check", "text.prototxt", *SUITES_LAYER], "not a valid net prototxt"),
        (PARITY, ["check", "binary.prototxt", *SUITES_LAYER], "is no text in UTF-8"),
        (PARITY, ["check", "data.prototxt", *SUITES_LAYER], "no input 'x2'"),
        (
            PARITY,
            ["check", "mine.prototxt", *SUITES_LAYER, "--cases", "3", "--grad", ""],
            "--grad, --cases: reference.channel_sum:LAYER is a layer, which brings its own cases",
        ),
        (PARITY, ["check", "misfit.prototxt", *SUM], "must have the same dim"),
        (PARITY, ["dance"], "unknown command 'dance'"),
        (PARITY, [], "usage: parity"),
        (PARITY, ["install-caffe", "--now"], "--now"),
        (PARITY, ["diff", "absent.json", "absent.json"], "cannot read absent.json"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_bad_request_is_status_2_with_words(
    tmp_path: Path, module: str, arguments: list[str], words: str
) -> None:
    """What cannot be carried out is named, says what was expected, and is never a traceback."""
    nets = {"no_loss": NO_LOSS, "text": "Dear net,", "data": DATA, "misfit": MISFIT, "mine": NATIVE}
    for name, text in nets.items():
        (tmp_path / f"{name}.prototxt").write_text(text)
    (tmp_path / "binary.prototxt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "test_mine.py").write_text(NO_TESTS)
    (tmp_path / "truth.py").write_text("def loss(x1, x2): return ((x1 - x2) ** 2).sum()\n")
    status, said, errors = python(module, *arguments, cwd=tmp_path)
    assert status == 2, said + errors
    assert words in said + errors
    assert "Traceback" not in said + errors


@pytest.mark.parametrize("interpreter", [sys.executable, "/nonexistent/python"])
def test_no_caffe_is_an_error_with_advice(tmp_path: Path, interpreter: str) -> None:
    """CAFFE_PYTHON without a caffe ends the run with status 2 and says what to do."""
    chosen = ("--variant", "caffe-native")
    status, said, errors = python(MAIN_JOB, *chosen, cwd=tmp_path, CAFFE_PYTHON=interpreter)
    assert status == 2
    assert "no Caffe to compare with" in said + errors
    assert "CAFFE_PYTHON" in said + errors
    assert "passed" not in said


def test_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A report folder that is a file ends in status 2 and names it."""
    (tmp_path / "parity-report").write_text("in the way")
    chosen = ("--variant", "torch-module", "--case", "base")
    status, said, errors = python(MAIN_JOB, *chosen, cwd=tmp_path)
    assert status == 2, said + errors
    assert "parity-report" in said + errors


def test_help_names_every_command(tmp_path: Path) -> None:
    """`parity --help` exits 0 and names all commands and the exit statuses; each has its own."""
    commands = ("run", "check", "diff", "doctor", "install-caffe")
    status, said, _ = python(PARITY, "--help", cwd=tmp_path)
    assert status == 0
    for word in (*commands, "exit status"):
        assert word in said
    for command in commands:
        status, said, errors = python(PARITY, command, "--help", cwd=tmp_path)
        assert status == 0, errors
        assert f"usage: parity {command} " in said


def test_help_of_the_main_job_names_its_options(tmp_path: Path) -> None:
    """So does `tox -e parity -- --help`, without a Caffe."""
    status, said, _ = python(MAIN_JOB, "--help", cwd=tmp_path, CAFFE_PYTHON="/nonexistent/python")
    assert status == 0
    for word in ("--variant", "--case", "--device", "--report", "pytest"):
        assert word in said


ODD = """
import caffe_parity

def right(x):
    return (x * x).sum()

@caffe_parity.parametrize(
    *(
        caffe_parity.Layer(
            name, reference=right, inputs={"x": (2, 3)}, cases=1,
            variants={"torch-right": right, variant: lambda x: 2 * right(x)},
        )
        for name, variant in (("größe", "torch"), ("a b", "not x"), ("it's", "$H"), ("n", "p[0]"))
    )
)
def test_odd(comparison):
    comparison.check()
"""


@pytest.mark.parametrize("by", ["run", "pytest"])
def test_each_command_that_reproduces_can_be_pasted(by: str, tmp_path: Path) -> None:
    """Whatever the names are, and wherever the file: it runs that one comparison, which fails."""
    file = tmp_path / "my tests" / "test_odd.py"
    file.parent.mkdir()
    file.write_text(ODD)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    named = str(file.relative_to(tmp_path))
    first = {
        "run": ["caffe_parity", "run", named],
        "pytest": ["pytest", "-p", "caffe_parity.pytest_plugin", "--parity-table", named],
    }[by]
    status, said, errors = python(first[0], *first[1:], cwd=tmp_path)
    assert status == 1, said + errors
    commands = re.findall("reproduce: (.*)", said)
    assert len(commands) == 4
    for command in commands:
        if by == "pytest":  # where it is installed, it needs no -p
            command = command.replace(" -m pytest ", " -m pytest -p caffe_parity.pytest_plugin ")
        done = subprocess.run(
            ["/bin/bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True,
            text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 1, command + done.stdout + done.stderr
        assert "1 failed" in done.stdout, command + done.stdout


def test_summary_is_appended(tmp_path: Path) -> None:
    """To what is there; it has the table, what is wrong and the command; nothing else changes."""
    (tmp_path / "test_odd.py").write_text(ODD)
    summary = tmp_path / "summary"
    summary.write_text("# Before\n")
    status, said, _ = python(PARITY, "run", "test_odd.py", "--summary", "summary", cwd=tmp_path)
    assert status == 1
    text = summary.read_text()
    assert text.startswith("# Before\n\n### ✗ parity run: 4 of 8 comparisons do not agree\n")
    assert "| layer | variant |" in text and "| größe | torch-right | 1 |" in text
    assert all(command in text for command in re.findall("reproduce: (.*)", said))


@pytest.mark.parametrize(
    ("name", "words"),
    [("absent/s.md", "there is no folder"), (".", "is a folder"), ("test_odd.py", "no Markdown")],
)
@pytest.mark.parametrize("command", ["run", "check", "pytest"])
def test_summary_that_cannot_be_written_is_refused_before_the_run(
    name: str, words: str, command: str, tmp_path: Path
) -> None:
    """As another file is: a run must not be lost at its end."""
    (tmp_path / "test_odd.py").write_text(ODD)
    arguments = {
        "run": (PARITY, "run", "test_odd.py", "--summary", name),
        "check": (PARITY, "check", "x.prototxt", *SUM, "--summary", name),
        "pytest": ("pytest", "-p", "caffe_parity.pytest_plugin", "--parity-summary", name),
    }[command]
    status, said, errors = python(arguments[0], *arguments[1:], cwd=tmp_path)
    assert status in (2, 4)
    assert words in said + errors
    assert (tmp_path / "test_odd.py").read_text() == ODD


def test_quiet_is_one_line(tmp_path: Path) -> None:
    """Of a run, and of one that comes to nothing what pytest says; -v and -vv name more."""
    (tmp_path / "test_odd.py").write_text(ODD)
    run = ("run", "test_odd.py")
    status, said, _ = python(PARITY, *run, "-q", cwd=tmp_path)
    assert status == 1
    assert re.fullmatch(r"4 of 8 comparisons do not agree, \d+\.\d s\n", said)
    status, said, _ = python(PARITY, *run, "-q", "--variant", "torch-right", cwd=tmp_path)
    assert status == 0
    assert re.fullmatch(r"all agree, 4 comparisons, \d+\.\d s\n", said)
    status, said, errors = python(PARITY, *run, "-q", "--variant", "torch-rigt", cwd=tmp_path)
    assert status == 2
    assert "Did you mean 'torch-right'" in said + errors
    assert "test_odd.py::test_odd" not in python(PARITY, *run, cwd=tmp_path)[1]
    assert "test_odd.py::test_odd[n-p[0]-0]" in python(PARITY, *run, "-vv", cwd=tmp_path)[1]


def test_quiet_check_is_one_line(tmp_path: Path) -> None:
    """With the first thing that is wrong."""
    broken_layer(tmp_path)
    status, said, _ = python(PARITY, "check", "mine.prototxt", *SUITES_LAYER, "-q", cwd=tmp_path)
    assert status == 1
    (line,) = said.splitlines()
    assert line.startswith("mine.prototxt: disagrees: ") and IGNORED in line


def test_file_that_is_named_is_the_one_that_is_checked(tmp_path: Path) -> None:
    """Though the current folder and one of --path have another of that name."""
    good = (ROOT / "examples" / "smooth_l1_layer.py").read_text()
    for name in ("mine", "other", "."):
        (tmp_path / name).mkdir(exist_ok=True)
        text = good if name == "mine" else good.replace("sign * slope", "slope")
        (tmp_path / name / "a_layer.py").write_text(text)
    status, said, errors = python(
        PARITY, "check", "mine/a_layer.py:SmoothL1LossLayer", "--path", "other", "--bottom",
        "x1=2,3", "--bottom", "x2=2,3", "--reference", f"{ROOT}/examples/smooth_l1.py:loss", "-q",
        cwd=tmp_path,
    )  # fmt: skip
    assert status == 0, said + errors
