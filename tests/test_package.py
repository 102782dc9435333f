"""What `pip install` brings, and beside what it works."""

from __future__ import annotations

import configparser
import json
import re
import zipfile
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path

import pytest

from caffe_parity.report.record import read
from tests.conftest import CROWD, ROOT, Installed

METADATA = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
NEEDED = (
    "caffe/caffe-python.sh",
    "caffe/count_launches.cpp",
    "caffe/worker/worker.py",
    "py.typed",
    "report/diff.schema.json",
    "report/results.schema.json",
)


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, str]:
    """What the wheel holds."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def files_of(package: str) -> Iterator[Path]:
    """The files of a package, without what Python writes beside them."""
    for file in (ROOT / package).rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            yield file.relative_to(ROOT)


def test_wheel_brings_the_tool_whole_and_nothing_else(contents: dict[str, str]) -> None:
    """Each file of caffe_parity and the metadata: no suite, no layer, no test, no study."""
    expected = {file.as_posix() for file in files_of("caffe_parity")}
    assert {f"caffe_parity/{name}" for name in NEEDED} <= expected
    metadata = {name for name in contents if name.partition("/")[0].endswith(".dist-info")}
    assert set(contents) - metadata == expected
    assert {name.partition("/")[2] for name in metadata} == METADATA
    [top_level] = (each for name, each in contents.items() if name.endswith("top_level.txt"))
    assert top_level.split() == ["caffe_parity"]


def test_wheel_declares_the_command_the_plugin_and_what_it_needs(
    contents: dict[str, str],
) -> None:
    """`parity`, one plugin of pytest, and what it needs: no more than that."""
    [points] = (each for name, each in contents.items() if name.endswith("entry_points.txt"))
    declared = configparser.ConfigParser()
    declared.read_string(points)
    assert {name: dict(declared[name]) for name in declared.sections()} == {
        "console_scripts": {"parity": "caffe_parity.__main__:main"},
        "pytest11": {"caffe_parity.pytest_plugin": "caffe_parity.pytest_plugin"},
    }
    [metadata] = (each for name, each in contents.items() if name.endswith("/METADATA"))
    needs = message_from_string(metadata).get_all("Requires-Dist", [])
    names = {each.partition(">")[0] for each in needs if "extra ==" not in each}
    wanted = {"jinja2", "numpy", "pygal", "pytest", "rich", "safetensors", "shtab", "torch"}
    assert names == wanted


def test_commands_work_where_nothing_but_the_wheel_is(tmp_path: Path, installed: Installed) -> None:
    """No part of the tool needs the checkout: a layer is checked, and each command has its help."""
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }\n'
        'layer { name: "l" type: "Reduction" bottom: "x" top: "l" loss_weight: 1 }\n'
    )
    for name in ("reference", "engine"):  # names of this project's, as a user's may be
        (tmp_path / f"{name}.py").write_text("def total(x): return x.sum()\n")
    parity = ("-m", "caffe_parity")
    functions = ("--reference", "reference:total", "--port", "engine.py:total")
    check = ("check", "net.prototxt", *functions, "--json", "found.json")
    status, said = installed.run(tmp_path, *parity, *check)
    assert status == 0, said
    assert read(tmp_path / "found.json").agrees
    status, said = installed.run(tmp_path, *parity, "diff", "found.json", "found.json")
    assert status == 0, said
    status, said = installed.run(tmp_path, *parity, "doctor", "--json")
    assert json.loads(said)["caffe"], said


IMPORTS = """
import sys
import caffe_parity, caffe_parity.pytest_plugin, caffe_parity.cli.main
caffe_parity.cli.main.main(["--help"])
raise SystemExit(bool({"torch", "numpy"} & set(sys.modules)))
"""


def test_import_alone_brings_neither_pytorch_nor_numpy(
    tmp_path: Path, installed: Installed
) -> None:
    """pytest loads the plugin everywhere: nobody waits for what he does not use."""
    status, said = installed.run(tmp_path, "-c", IMPORTS)
    assert status == 0, said


TESTS = """
import caffe_parity
import pytest

def loss(x):
    return (x * x).sum() / 2

LAYER = caffe_parity.Layer(
    "half",
    reference=loss,
    inputs={"x": (2, 3)},
    variants={"caffe": caffe_parity.net("half.prototxt"), "port": loss},
    cases=3,
)

@caffe_parity.parametrize(LAYER)
def test_parity(comparison):
    comparison.check()

@pytest.mark.timeout(30)
def test_of_something_else(benchmark):
    assert benchmark(lambda: 3) == 3
"""
SETTINGS = "[pytest]\ntimeout = 300\naddopts = --strict-markers --strict-config --cov=.\n"
NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer {
  name: "loss" type: "Reduction" bottom: "x" top: "loss" loss_weight: 1
  reduction_param { operation: SUMSQ coeff: 0.5 }
}
"""


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """A repository that uses this tool and other plugins."""
    (tmp_path / "half.prototxt").write_text(NET)
    (tmp_path / "test_half.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    return tmp_path


def test_options_do_not_clash_with_those_of_other_plugins(
    tmp_path: Path, crowded: Installed
) -> None:
    """`pytest --help` names those of each; all of ours begin with --parity-."""
    status, said = crowded.run(tmp_path, "-m", "pytest", "--help")
    assert status == 0, said
    section = said.partition("caffe-parity:\n")[2].partition("\n\n")[0]
    ours = [line.split()[0] for line in section.splitlines() if line.startswith("  --")]
    assert len(ours) >= 7
    assert all(option.startswith("--parity-") for option in ours)
    for option in ("--timeout=", "--cov=", "--randomly-seed=", "--html=", "--benchmark-only"):
        assert option in said


def test_tests_run_beside_other_plugins(others: Path, crowded: Installed) -> None:
    """In an order by chance, measured, timed, and with a page: the same comparisons agree."""
    used = ("--html", "page.html", "--randomly-seed", "3")
    status, said = crowded.run(
        others, "-m", "pytest", "-v", *used, "--parity-json", "found.json", "--parity-table"
    )
    assert status == 0, said
    listed = crowded.run(others, "-m", "pip", "list", "--format", "freeze")[1]
    assert all(f"{name}==" in listed for name in CROWD)
    assert "Using --randomly-seed=3" in said and "coverage: platform" in said
    report = read(others / "found.json")
    assert report.agrees and not report.missing
    assert sorted(each.id for each in report.results) == sorted(
        f"half-{variant}-{case}" for variant in ("caffe", "port") for case in range(3)
    )
    assert "half-caffe-0" in (others / "page.html").read_text()


@pytest.mark.parametrize("more", [(), ("-n", "2")], ids=["one", "xdist"])
def test_parity_run_works_beside_other_plugins(
    others: Path, crowded: Installed, more: tuple[str, ...]
) -> None:
    """Its report is the same as where it is alone: the inputs do not follow a shuffled seed."""
    run = ("-m", "caffe_parity", "run", "test_half.py")
    found = []
    for options in ((*more,), ("-p", "no:randomly")):
        status, said = crowded.run(others, *run, *options)
        assert status == 0, said
        assert re.search(r"caffe +3 +100 %.* agrees", said)
        report = read(others / "parity-report" / "results.json")
        assert report.agrees and len(report.results) == 6
        found.append({each.id: (each.inputs, each.tensors) for each in report.results})
    assert found[0] == found[1]


DEAF = (
    "[pytest]\nfilterwarnings = error\naddopts = --cov -n auto --no-such-option\nminversion = 99\n"
)
NOISY = "[pytest]\nfilterwarnings = error\naddopts = --cov -n auto --html=page.html\n"


def test_parity_run_is_deaf_to_how_the_repository_runs_its_tests(
    others: Path, crowded: Installed
) -> None:
    """Whatever its configuration and PYTEST_ADDOPTS say; a conftest.py counts."""
    (others / "pytest.ini").write_text(DEAF)
    (others / "conftest.py").write_text("import warnings\nwarnings.warn('of the repository')\n")
    (others / "test_half.py").write_text(TESTS.partition("@pytest.mark.timeout")[0])
    run = ("-m", "caffe_parity", "run", "test_half.py")
    status, said = crowded.run(others, *run, PYTEST_ADDOPTS="--no-such-option")
    assert status == 0, said
    assert "warning" not in said and "coverage" not in said
    report = read(others / "parity-report" / "results.json")
    names = [f"half-{variant}-{case}" for case in range(3) for variant in ("caffe", "port")]
    assert [each.id for each in report.results] == names


def test_plugin_and_check_work_where_all_plugins_and_warnings_are_strict(
    others: Path, crowded: Installed
) -> None:
    """On all cores, measured and shuffled, with warnings as errors; the table keeps its order."""
    (others / "pytest.ini").write_text(NOISY)
    (others / "test_half.py").write_text(TESTS.partition("@pytest.mark.timeout")[0])
    options = ("--parity-table", "--parity-json", "found.json")
    orders = set()
    for seed in ("1", "2"):
        status, said = crowded.run(others, "-m", "pytest", f"--randomly-seed={seed}", *options)
        assert status == 0, said
        orders.add(tuple(each.id for each in read(others / "found.json").results))
    assert len(orders) == 1
    check = ("-m", "caffe_parity", "check", "half.prototxt", "--reference", "test_half.py:loss")
    status, said = crowded.run(others, *check)
    assert status == 0, said


def test_time_out_of_another_plugin_ends_no_run(others: Path, crowded: Installed) -> None:
    """`parity run` has its own, for a silent Caffe: one of pytest-timeout's would kill it."""
    run = ("-m", "caffe_parity", "run", "test_half.py")
    status, said = crowded.run(others, *run, PYTEST_TIMEOUT="0.000001")
    assert status == 0, said


def test_parity_run_works_where_warnings_are_errors(others: Path, installed: Installed) -> None:
    """Neither this tool nor how it is called warns."""
    (others / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (others / "test_half.py").write_text(TESTS.partition("@pytest.mark.timeout")[0])
    run = ("-m", "caffe_parity", "run", "test_half.py")
    status, said = installed.run(others, *run)
    assert status == 0, said
    assert "warning" not in said
