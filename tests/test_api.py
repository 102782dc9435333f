"""`caffe_parity` in a repository of a user's: installed from a wheel, run by pytest."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import caffe_parity
from caffe_parity import comparison, process
from caffe_parity.caffe.client import Caffe
from caffe_parity.caffe.interpreter import find
from caffe_parity.check import examine
from caffe_parity.check.command import parser
from caffe_parity.check.prepare import prepared
from caffe_parity.contract import BadRequest
from studies import false_alarms

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "caffe_parity" / "results.schema.json").read_text())
SMOOTH_L1 = (ROOT / "examples" / "smooth_l1_layer.py").read_text()


@pytest.fixture(scope="session")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the wheel is installed, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*command, "--target", str(folder), str(wheel)], check=True)
    return folder


def run(folder: Path, site: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """The exit status and the output of a Python command in a folder; this checkout is not seen."""
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site), **variables},
        timeout=300,
    )
    return done.returncode, done.stdout


def spoilt(old: str, new: str) -> str:
    """The source of the smooth L1 layer with one piece replaced."""
    assert SMOOTH_L1.count(old) == 1
    return SMOOTH_L1.replace(old, new)


TESTS = """
import reference  # the user's own, as parity_tests: not this project's, which are called so, too
import caffe_parity
from parity_tests.marks import MARK
from softmax import Port, loss

SMOOTH_L1 = caffe_parity.Layer(
    "smooth_l1",
    reference=reference.loss,
    inputs={"x1": (4, 3, 5), "x2": (4, 3, 5)},
    variants={
        "caffe-now": caffe_parity.python_layer("layers/smooth_l1_layer.py:SmoothL1LossLayer"),
        "caffe-before": caffe_parity.python_layer("before/smooth_l1_layer.py:SmoothL1LossLayer"),
        "torch-port": reference.port,
        "torch-mean": reference.port_with_mean,
    },
    cases=2,
    seed=7,
)
SOFTMAX = caffe_parity.Layer(
    "softmax",
    reference=loss,
    inputs={"logits": (5, 3, 2), "label": (5, 2)},
    variants={"caffe-net": caffe_parity.net("softmax.prototxt"), "torch-port": Port()},
    data={"label": "int:-1,2"},
    cases=2,
)
FAULTS = caffe_parity.Layer(
    "faults",
    reference=reference.loss,
    inputs={"x1": (2, 3), "x2": (2, 3)},
    variants={
        name: caffe_parity.python_layer(f"faults/{name}.py:SmoothL1LossLayer")
        for name in ("aborts", "hangs", "raises", "refuses", "agrees")
    },
    cases=1,
)

@caffe_parity.parametrize(SMOOTH_L1, SOFTMAX)
def test_parity(comparison):
    comparison.check()

@caffe_parity.parametrize(FAULTS)
def test_faults(comparison):
    comparison.check()

@caffe_parity.parametrize(FAULTS)
def test_that_forgets(comparison):
    assert MARK
"""

ABORT = "import os; print('farewell', flush=True); os.abort()"
FAULTS = {
    "aborts": ("slope = ", f"{ABORT}; slope = "),
    "hangs": ("slope = ", "import time; time.sleep(600); slope = "),
    "raises": ("slope = ", "undefined; slope = "),
    "refuses": ("len(bottom) != 2", "len(bottom) == 2"),
    "agrees": ("slope = ", "slope = 1.0 * "),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's repository with right and wrong layers and ports."""
    folder = tmp_path_factory.mktemp("repository")
    tests = folder / "tests"
    for name in ("layers", "before", "faults", "parity_tests"):
        (tests / name).mkdir(parents=True)
    (tests / "layers" / "smooth_l1_layer.py").write_text(SMOOTH_L1)
    forgetful = spoilt("(top[0].diff.flat[0] / bottom", "(1 / bottom")
    (tests / "before" / "smooth_l1_layer.py").write_text(forgetful)
    for name, (old, new) in FAULTS.items():
        (tests / "faults" / f"{name}.py").write_text(spoilt(old, new))
    shutil.copy(ROOT / "examples" / "smooth_l1.py", tests / "reference.py")
    (tests / "parity_tests" / "__init__.py").touch()
    (tests / "parity_tests" / "marks.py").write_text("MARK = True\n")
    for name in ("softmax.prototxt", "softmax.py", "softmax_layer.py"):
        shutil.copy(ROOT / "examples" / name, tests)
    (tests / "test_layers.py").write_text(TESTS)
    return folder


OPTIONS = ("-m", "pytest", "-q", "--parity-timeout", "3", "--parity-json", "found.json")
Found = dict[str, dict[str, Any]]


def found_by(folder: Path) -> Found:
    """The comparisons in the JSON file, by the last part of their test's id."""
    content = json.loads((folder / "found.json").read_text())
    jsonschema.validate(content, SCHEMA)
    assert content["environment"]["caffe"]
    assert content["agrees"] == all(each["agrees"] for each in content["comparisons"])
    return {each["test"].partition("::")[2]: each for each in content["comparisons"]}


@pytest.fixture(scope="module")
def outcome(repository: Path, site: Path) -> tuple[int, str, Found]:
    """The exit status, output and JSON file of one run of that repository's tests."""
    status, said = run(repository, site, *OPTIONS)
    return status, said, found_by(repository)


def codes(record: dict[str, Any]) -> list[str]:
    """The codes of a comparison's findings."""
    return [each["code"] for each in record["findings"]]


MEAN = ["port-forward", "port-gradient:x1", "port-gradient:x2"]
EXPECTED = {
    "test_parity[smooth_l1-caffe-now": [],
    "test_parity[smooth_l1-caffe-before": ["ignores-top-diff"],
    "test_parity[smooth_l1-torch-port": [],
    "test_parity[smooth_l1-torch-mean": MEAN,
    "test_parity[softmax-caffe-net": [],
    "test_parity[softmax-torch-port": [],
}


def test_each_layer_variant_and_case_is_a_test_with_its_findings(
    outcome: tuple[int, str, Found],
) -> None:
    """Right ones agree, wrong ones have their codes, though two layers are in files of one name."""
    status, _, found = outcome
    assert status == 1
    got = {test: codes(each) for test, each in found.items() if test.startswith("test_parity")}
    assert got == {
        f"{start}-{case}]": expected for start, expected in EXPECTED.items() for case in (0, 1)
    }
    for test, each in found.items():
        assert all(finding["cases"] == [each["case"]] for finding in each["findings"]), test
    ports = [found[f"test_parity[smooth_l1-torch-port-{case}]"] for case in (0, 1)]
    first, second = (each["largest_fraction"] for each in ports)
    assert set(first) == {"top", "gradient:x1", "gradient:x2"}
    assert all(0 < each < 1 for each in first.values())
    assert first != second


def test_failure_is_its_findings_and_no_traceback(outcome: tuple[int, str, Found]) -> None:
    """A line for each finding, which begins with its code; no frame of this project is shown."""
    _, said, _ = outcome
    section = said.partition("test_parity[smooth_l1-torch-mean-1] _")[2].splitlines()[1:4]
    assert [each.partition(": ")[0] for each in section] == MEAN
    assert "in the port, top is off by 1/15: divided by the number of squares, not by N" in said
    assert "comparison.py" not in said and "During handling" not in said


def test_crash_hang_and_refusal_fail_and_the_next_test_goes_on(
    outcome: tuple[int, str, Found],
) -> None:
    """Each fault is its own test's; what was printed is shown; the layer after them agrees."""
    _, said, found = outcome
    got = {name: found[f"test_faults[faults-{name}-0]"] for name in FAULTS}
    assert {name: codes(each) for name, each in got.items()} == {
        "aborts": ["crash"],
        "hangs": ["hang"],
        "raises": ["crash"],
        "refuses": [],
        "agrees": [],
    }
    assert "what was printed:\nfarewell" in said
    assert "name 'undefined' is not defined" in said
    assert "SmoothL1Loss needs 2 bottoms" in got["refuses"]["error"]
    assert not got["refuses"]["agrees"] and got["agrees"]["agrees"]


def test_test_that_never_compares_fails(outcome: tuple[int, str, Found]) -> None:
    """Whoever forgets to call check() has proved nothing."""
    _, said, found = outcome
    assert not found["test_that_forgets[faults-agrees-0]"]["agrees"]
    assert "the test did not call comparison.check()" in said


def without_seconds(found: Found) -> Found:
    """What must not differ from run to run."""
    return {
        test: {
            **each,
            "seconds": 0,
            "results": [{**one, "seconds": 0} for one in each.get("results", [])],
        }
        for test, each in found.items()
    }


def test_processes_of_xdist_find_the_same(
    repository: Path, site: Path, outcome: tuple[int, str, Found]
) -> None:
    """The JSON file has the same comparisons, in the same order, from two processes as from one."""
    status, _ = run(repository, site, *OPTIONS, "-n", "2", "-k", "test_parity")
    assert status == 1
    expected = {t: each for t, each in outcome[2].items() if t.startswith("test_parity")}
    got = without_seconds(found_by(repository))
    assert list(got.items()) == list(without_seconds(expected).items())


def test_case_alone_is_the_same_as_among_others_in_one_process_that_ends(
    repository: Path, site: Path, outcome: tuple[int, str, Found]
) -> None:
    """One case gives the very same figures alone; its Caffe is gone when pytest is."""
    (repository / "conftest.py").write_text(
        "import pathlib\n"
        "def pytest_runtest_teardown():\n"
        "    from caffe_parity.comparison import SHARED\n"
        "    with open('pids', 'a') as file: print(SHARED.used.pid, file=file)\n"
        "pytest_unconfigure = pytest_runtest_teardown\n"
    )
    status, said = run(repository, site, *OPTIONS, "-k", "caffe-now-1 or caffe-net")
    (repository / "conftest.py").unlink()
    assert status == 0, said
    name = "test_parity[smooth_l1-caffe-now-1]"
    assert without_seconds(found_by(repository))[name] == without_seconds(outcome[2])[name]
    *pids, at_the_end = (repository / "pids").read_text().split()
    assert len(pids) == 3 and pids[1] == pids[2] != "None" == at_the_end
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_ports_need_no_caffe_and_caffe_variants_say_that_there_is_none(
    repository: Path, site: Path, outcome: tuple[int, str, Found]
) -> None:
    """Ports give the same results; a Caffe variant fails, is never skipped, and says what to do."""
    nowhere = str(repository / "no-python")
    options = (*OPTIONS, "-k", "smooth_l1")
    status, said = run(repository, site, *options, CAFFE_PYTHON=nowhere)
    assert status == 1
    content = json.loads((repository / "found.json").read_text())
    jsonschema.validate(content, SCHEMA)
    assert content["environment"]["caffe"] is None and content["environment"]["torch"]
    for each in content["comparisons"]:
        test = each["test"].partition("::")[2]
        if each["variant"].startswith("torch"):
            assert without_seconds({test: each})[test] == without_seconds(outcome[2])[test]
        else:
            assert not each["agrees"] and "no-python" in each["error"]
    assert "there is no Caffe to compare with" in said and "skipped" not in said
    status, said = run(
        repository, site, "-m", "pytest", "--collect-only", "-q", CAFFE_PYTHON=nowhere
    )
    assert status == 0
    assert "tests/test_layers.py::test_parity[smooth_l1-caffe-now-0]" in said


def test_wrong_declaration_is_an_error_of_the_file_at_collection(
    tmp_path: Path, site: Path
) -> None:
    """Exit status 2, and the message alone: what is wrong, with which layer; so with a path."""
    start = "import caffe_parity\nLAYER = caffe_parity.Layer('mine', lambda x: x, {'x': (2,)}, "
    (tmp_path / "test_kind.py").write_text(f"{start}{{'port': abs}}, data={{'x': 'gauss'}})\n")
    (tmp_path / "test_path.py").write_text(
        f"{start}{{'caffe': caffe_parity.python_layer('no.py:Layer')}})\n"
        "@caffe_parity.parametrize(LAYER)\ndef test(comparison): comparison.check()\n"
    )
    status, said = run(tmp_path, site, "-m", "pytest", "-q")
    assert status == 2
    assert "layer 'mine': data of x: data kind 'gauss': expected one of normal, uniform" in said
    assert f"layer 'mine', variant 'caffe': there is no file {tmp_path}/no.py" in said
    assert "Traceback" not in said and "layer.py" not in said


def test_repository_that_does_not_use_it_is_left_alone(tmp_path: Path, site: Path) -> None:
    """The plugin is loaded by itself, and imports neither PyTorch nor anything of this project."""
    (tmp_path / "test_mine.py").write_text(
        "import sys\n"
        "def test_nothing_is_imported(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.hasplugin('caffe-parity')\n"
        "    ours = {'torch', 'numpy', 'caffe_parity', 'caffe_impl', 'reference', 'parity_tests'}\n"
        "    assert not ours & set(sys.modules)\n"
    )
    status, said = run(tmp_path, site, "-m", "pytest", "-q", "-W", "error")
    assert status == 0, said


def test_plugin_lives_beside_the_suites_own_and_pytest_timeout(tmp_path: Path, site: Path) -> None:
    """`parity run` works where this wheel and a plugin with an option --timeout are installed."""
    facts = tmp_path / "site" / "pytest_timeout-2.4.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: pytest-timeout\nVersion: 2.4.0\n")
    (facts / "entry_points.txt").write_text("[pytest11]\ntimeout = pytest_timeout\n")
    (tmp_path / "site" / "pytest_timeout.py").write_text(
        "def pytest_addoption(parser): parser.addoption('--timeout')\n"
    )
    path = f"{site}{os.pathsep}{tmp_path / 'site'}"
    chosen = ("--layer", "euclidean", "--variant", "torch-function", "--case", "base")
    arguments = ("-m", "caffe_parity", "run", *chosen)
    status, said = run(tmp_path, site, *arguments, PYTHONPATH=path)
    assert status == 0, said
    assert "torch-function" in said


def test_example_of_the_page_is_what_it_says(tmp_path: Path, site: Path) -> None:
    """The code of docs/api.md runs, with its ids and, on a broken layer, the words it shows."""
    page = (ROOT / "docs" / "api.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "tests" / "layers").mkdir(parents=True)
    (tmp_path / "tests" / "test_layers.py").write_text(code)
    layer = tmp_path / "tests" / "layers" / "smooth_l1_layer.py"
    layer.write_text(SMOOTH_L1)
    status, said = run(tmp_path, site, "-m", "pytest", "-v")
    assert status == 0, said
    assert re.findall(r"::(test_parity\[.*?\]) PASSED", said) == [
        f"test_parity[smooth_l1-{variant}-{case}]"
        for variant in ("caffe-python", "torch-port")
        for case in range(8)
    ]
    ids = re.findall(r"`(test_parity\[\S+\])`", page)
    assert len(ids) == 2 and all(each in said for each in ids)
    layer.write_text(spoilt("(top[0].diff.flat[0] / bottom", "(1 / bottom"))
    status, said = run(tmp_path, site, "-m", "pytest", "-k", "caffe-python-0")
    assert status == 1
    shown = re.findall(r"^    ((?:___|ignores-top-diff).*)$", page, re.MULTILINE)
    assert len(shown) == 2
    assert "\n".join(shown) in said


def test_example_file_passes(site: Path) -> None:
    """examples/test_smooth_l1.py is a test file as a user would have it."""
    status, said = run(ROOT, site, "-m", "pytest", "-q", "examples/test_smooth_l1.py")
    assert status == 0, said


def test_port_alone_is_judged_as_beside_caffe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port's findings are the same whether Caffe computes the case as well or not."""
    monkeypatch.chdir(ROOT)
    with Caffe(find()) as caffe:
        check = false_alarms.check_of("smooth_l1", caffe, 2)
        sys.path.insert(0, str(ROOT / "examples"))
        try:
            from smooth_l1 import port_with_mean  # type: ignore[import-not-found]
        finally:
            sys.path.pop(0)
        check = replace(check, port=port_with_mean)
        beside = examine.run(check, caffe, lambda case: None)
        # And what no reading of a file sees, Caffe does: a net with inputs that were not meant.
        options = parser().parse_args(["examples/softmax.prototxt", "--reference", "math:cos"])
        with pytest.raises(BadRequest, match="logits, label; those that are given are x: they"):
            prepared(options, caffe, {"x": (2,)})
    alone = examine.run(check, None, lambda case: None)
    assert alone.found == beside.found != {}


def test_learned_parameters_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference with an argument `param` gets them; how they are filled is said as in a check."""
    shared = process.SharedCaffe()
    monkeypatch.setattr(comparison, "SHARED", shared)

    def reference(x: torch.Tensor, param: list[torch.Tensor]) -> torch.Tensor:
        return param[0].reshape(-1, 1) * x + 3

    layer_of_two = caffe_parity.Layer(
        "scale",
        reference=reference,
        inputs={"x": (3, 4, 2)},
        variants={
            "caffe": caffe_parity.python_layer(
                "../examples/channel_scale_layer.py:ChannelScaleLayer"
            )
        },
        data={"param[1]": "constant:3"},
        cases=1,
    )

    def test_of_mine() -> None:
        pass

    caffe_parity.parametrize(layer_of_two)(test_of_mine)
    (only,) = test_of_mine.pytestmark[0].args[1]  # type: ignore[attr-defined]
    try:
        codes = [each.code for each in only.findings()]
    finally:
        shared.close()
    assert codes == ["gradient:param[1]"]  # which that reference says is 0


def declare(**changes: Any) -> Callable[[], object]:
    """Declares a layer that is right but for some fields, and parametrises a test with it."""

    def declared() -> object:
        fields: dict[str, Any] = {
            "name": "mine",
            "reference": lambda x, label: x,
            "inputs": {"x": (2, 3), "label": (2,)},
            "variants": {"torch-port": lambda x, label: x},
            "data": {"label": "int:0,2"},
        }
        return caffe_parity.Layer(**{**fields, **changes})

    return declared


def layer() -> caffe_parity.Layer:
    """A layer that is right."""
    made = declare()()
    assert isinstance(made, caffe_parity.Layer)
    return made


def of_a_user(comparison: caffe_parity.Comparison) -> None:
    """A test that is decorated here, and not run."""
    comparison.check()


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (declare(name=""), "a layer needs a name"),
        (declare(data={"label": "gauss"}), "data of label: data kind 'gauss': expected one of"),
        (declare(data={"label": "int:3,1"}), "must not exceed"),
        (declare(data={"label": "onehot:4"}), "data of label: onehot:4 needs a shape"),
        (declare(data={"lable": "binary"}), "no input 'lable'; the inputs are x, label"),
        (declare(grad=["y"]), "no input 'y'"),
        (declare(grad="x"), "expected a list, such as \\['x'\\]"),
        (declare(inputs={}), "inputs: expected a shape"),
        (declare(inputs={"x": (2, 0), "label": (2,)}), "x is \\(2, 0\\), expected a shape"),
        (declare(inputs={"x": 3, "label": (2,)}), "x is 3, expected a shape"),
        (declare(reference=lambda x, y: x), "the reference must take the net's inputs x, label"),
        (declare(reference=3), "reference=3 is no function"),
        (declare(variants={}), "no variants"),
        (declare(variants={"a": 3}), "variant 'a' is 3: expected caffe_parity.python_layer"),
        (declare(variants={"a": int}), "variant 'a' is the class int: give an object"),
        (declare(variants={"a": lambda y: y}), "the port 'a' must take the net's inputs"),
        (declare(data={"param[0]": "normal"}), "no input 'param\\[0\\]'"),
        (
            declare(reference=lambda x, label, param: x),
            "only a net says what that is: compare the port 'torch-port' by `parity check NET",
        ),
        (declare(cases=0), "cases=0: expected 1 or more"),
        (declare(seed=-1), "seed=-1"),
        (lambda: caffe_parity.net("a.prototxt", path="layers"), "path='layers': expected a list"),
        (lambda: caffe_parity.parametrize(), "expected one caffe_parity.Layer or more"),
        (lambda: caffe_parity.parametrize(3), "got 3"),  # type: ignore[arg-type]
        (lambda: caffe_parity.parametrize(layer(), layer())(of_a_user), "rename one"),
    ],
)
def test_wrong_use_is_named(declared: Callable[[], object], words: str) -> None:
    """Whatever is declared wrongly is refused at once; the message names it and what is right."""
    with pytest.raises(caffe_parity.BadLayer, match=words):
        declared()


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        (caffe_parity.net("no.prototxt"), "there is no file .*/no.prototxt"),
        (caffe_parity.python_layer("no.py:Layer"), "there is no file .*/no.py"),
        (caffe_parity.python_layer("test_api.py"), "'test_api.py': expected FILE.py:CLASS"),
        (caffe_parity.python_layer("test_api.py:L", path=["no"]), "there is no folder .*/no "),
        (caffe_parity.net("test_api.py", load=["no.so"]), "there is no file .*/no.so"),
        (
            caffe_parity.net("../examples/softmax.prototxt"),
            "the inputs of .*/softmax.prototxt are logits, label; the layer's are x, label",
        ),
    ],
)
def test_wrong_files_are_named(variant: object, words: str) -> None:
    """A file that is not there, or another net's, is an error of the declaration with its path."""
    made = declare(variants={"caffe": variant})()
    assert isinstance(made, caffe_parity.Layer)
    with pytest.raises(caffe_parity.BadLayer, match=f"layer 'mine', variant 'caffe': {words}"):
        caffe_parity.parametrize(made)(of_a_user)
