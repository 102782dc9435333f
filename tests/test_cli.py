"""The commands as a user types them: what they print, and their exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jsonschema
import pytest

from caffe_impl.variants import LAYERS, NETS
from caffe_parity.report import table as report

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "caffe_parity" / "report" / "results.schema.json").read_text())


def parity(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a folder of its own."""
    return subprocess.run(
        [sys.executable, "-m", "caffe_parity", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        timeout=300,
    )


def test_one_comparison_writes_both_reports(tmp_path: Path) -> None:
    """Exit 0, the table, results.json that fits its schema, and junit.xml with the same tests."""
    done = parity("run", "--variant", "caffe-native", "--case", "base", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "euclidean  caffe-native" in done.stdout
    results = json.loads((tmp_path / "parity-report" / "results.json").read_text())
    jsonschema.validate(results, SCHEMA)
    assert results["environment"]["caffe"]["blas"]
    assert [report.test_id(each) for each in results["results"]] == ["euclidean-caffe-native-base"]
    suite = ElementTree.parse(tmp_path / "parity-report" / "junit.xml").getroot()
    assert [case.get("name") for case in suite.iter("testcase")] == [
        "test_parity[euclidean-caffe-native-base]"
    ]


def broken_layer(folder: Path) -> Path:
    """The good Python layer with the top diff left out of its backward, and its net."""
    source = (LAYERS / "summed_euclidean_loss.py").read_text()
    spoilt = source.replace("top[0].diff.flat[0]", "np.float32(1)")
    assert spoilt != source
    (folder / "summed_euclidean_loss.py").write_text(spoilt)
    net = folder / "mine.prototxt"
    net.write_text((NETS / "channel_sum_python.prototxt").read_text())
    return net


def test_broken_line_is_found_and_explained(tmp_path: Path) -> None:
    """Exit 1; which line of thinking is wrong; and the printed command fails just so."""
    net = broken_layer(tmp_path)
    done = parity("run", "--net", str(net), "--layer", "channel_sum", cwd=tmp_path)
    assert done.returncode == 1
    assert "dx1 is off by exactly 1/loss_weight: the top diff is ignored" in done.stdout
    (command,) = (line for line in done.stdout.splitlines() if "reproduce:" in line)
    expression = command.split("-k '")[1].rstrip("'")
    options = ("--net", str(net), "--layer", "channel_sum", "-k", expression)
    again = parity("run", *options, cwd=tmp_path)
    assert again.returncode == 1
    assert "1 failed" in again.stdout


def test_net_of_ones_own_that_agrees(tmp_path: Path) -> None:
    """Exit 0 for a copy of a good net, with its layers found through --path."""
    net = tmp_path / "mine.prototxt"
    net.write_text((NETS / "channel_sum_python.prototxt").read_text())
    options = ("--net", "mine.prototxt", "--layer", "channel_sum", "--path", str(LAYERS))
    done = parity("run", *options, "--case", "weight-3.7", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


NO_LOSS = 'layer { name: "i" type: "Input" top: "x1" input_param { shape { dim: 1 } } }'
DATA = (NETS / "euclidean_native.prototxt").read_text().replace('"x2"', '"label"')
MISFIT = (NETS / "euclidean_native.prototxt").read_text().replace("dim: 6", "dim: 7", 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--variant", "caffe-pyton"], "unknown variant 'caffe-pyton'. Did you mean"),
        (["run", "--layer", "l1"], "unknown layer 'l1'. Known: euclidean"),
        (["run", "--case", "bass"], "unknown case 'bass'. Did you mean 'base'"),
        (["run", "-k", "nosuchthing"], "no comparison has that name"),
        (["run", "--variant", "caffe-native", "--layer", "tail_sum"], "nothing to compare"),
        (["run", "--net", "absent.prototxt", "--layer", "euclidean"], "cannot read the net"),
        (["run", "--net", "no_loss.prototxt"], "--net needs --layer"),
        (["run", "--net", "no_loss.prototxt", "--layer", "euclidean"], "the net has no loss"),
        (["run", "--net", "text.prototxt", "--layer", "euclidean"], "not a valid net prototxt"),
        (["run", "--net", "binary.prototxt", "--layer", "euclidean"], "cannot read the net"),
        (["run", "--net", "data.prototxt", "--layer", "euclidean"], "no input 'x2'"),
        (["run", "--net", "misfit.prototxt", "--layer", "euclidean"], "must have the same dim"),
        (["run", "--no-such-option"], "unrecognized arguments"),
        (["dance"], "unknown command 'dance'"),
        ([], "usage: parity COMMAND"),
        (["install-caffe", "--now"], "--now"),
        (["diff", "absent.json", "absent.json"], "cannot read absent.json"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_bad_request_is_status_2_with_words(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    """What cannot be carried out is named, says what was expected, and is never a traceback."""
    for name, text in (
        ("no_loss", NO_LOSS),
        ("text", "Dear net,"),
        ("data", DATA),
        ("misfit", MISFIT),
    ):
        (tmp_path / f"{name}.prototxt").write_text(text)
    (tmp_path / "binary.prototxt").write_bytes(b"\xff\xfe\x00")
    done = parity(*arguments, cwd=tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert words in said
    assert "Traceback" not in said


@pytest.mark.parametrize("python", [sys.executable, "/nonexistent/python"])
def test_no_caffe_is_an_error_with_advice(tmp_path: Path, python: str) -> None:
    """CAFFE_PYTHON without a caffe ends the run with status 2 and says what to do."""
    done = parity("run", "--variant", "caffe-native", cwd=tmp_path, CAFFE_PYTHON=python)
    assert done.returncode == 2
    assert "no Caffe to compare with" in done.stdout + done.stderr
    assert "CAFFE_PYTHON" in done.stdout + done.stderr
    assert "passed" not in done.stdout


def test_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A report folder that is a file ends in status 2 and names it."""
    (tmp_path / "parity-report").write_text("in the way")
    done = parity("run", "--variant", "torch-module", "--case", "base", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "parity-report" in done.stdout + done.stderr


def test_help_names_every_command(tmp_path: Path) -> None:
    """`parity --help` exits 0 and names all commands and the exit statuses."""
    done = parity("--help", cwd=tmp_path)
    assert done.returncode == 0
    for word in ("run", "check", "diff", "doctor", "install-caffe", "exit status"):
        assert word in done.stdout
