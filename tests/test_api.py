"""`caffe_parity` in a repository of a user's: installed from a wheel, run by pytest."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import caffe_parity
from caffe_parity.caffe.client import Caffe
from caffe_parity.cli.objects import load_object
from caffe_parity.contract import BadRequest
from caffe_parity.engine.judge import judge
from caffe_parity.nets import located
from caffe_parity.report.record import Record, Report, read
from tests.conftest import Installed

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "caffe_parity" / "report" / "results.schema.json").read_text())
SMOOTH_L1 = (ROOT / "examples" / "smooth_l1_layer.py").read_text()


def spoilt(old: str, new: str) -> str:
    """The source of the smooth L1 layer with one piece replaced."""
    assert SMOOTH_L1.count(old) == 1
    return SMOOTH_L1.replace(old, new)


OURS = sorted(
    {file.stem for file in (ROOT / "caffe_parity").iterdir() if file.suffix in ("", ".py")}
    - {"__init__", "__main__", "__pycache__", "caffe"}
)
OURS += ["reference", "caffe_impl", "torch_impl", "tests", "studies"]
"""What modules of this project are called, which a user's may be called, too."""

TESTS = """
IMPORTS  # the user's own, as parity_tests: not this project's, which are called so, too
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

@caffe_parity.parametrize(caffe_parity.Layer(
    "forgotten",
    reference.loss,
    {"x1": (2, 3), "x2": (2, 3)},
    {"torch-port": reference.port},
    cases=1,
))
def test_that_forgets(comparison):
    assert MARK and OWN
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
    for name in OURS:
        with (tests / f"{name}.py").open("a") as file:
            file.write("\nOWN = True\n")
    own = " and ".join(f"{name}.OWN" for name in OURS)
    text = f"import {', '.join(OURS)}\nOWN = {own}\n"
    (tests / "test_layers.py").write_text(TESTS.replace("IMPORTS", text))
    return folder


OPTIONS = ("-m", "pytest", "-q", "--parity-timeout", "3", "--parity-json", "found.json")


def reported(folder: Path) -> Report:
    """What the JSON file says, which fits its schema."""
    jsonschema.validate(json.loads((folder / "found.json").read_text()), SCHEMA)
    return read(folder / "found.json")


@dataclass(frozen=True)
class Outcome:
    """One run of a repository's tests: the exit status, the output, the records by id."""

    status: int
    said: str
    found: dict[str, Record]


def ran(installed: Installed, folder: Path, *options: str, **variables: str) -> Outcome:
    """A run of pytest that writes a JSON file."""
    status, said = installed.run(folder, *OPTIONS, *options, **variables)
    return Outcome(status, said, {each.id: each for each in reported(folder).results})


@pytest.fixture(scope="module")
def outcome(repository: Path, installed: Installed) -> Outcome:
    """All tests of that repository."""
    made = ran(installed, repository)
    assert reported(repository).environment["caffe"]
    assert not reported(repository).agrees
    return made


def codes(record: Record) -> list[str]:
    """The codes of a comparison's findings."""
    return [each.code for each in record.findings]


MEAN = ["port-forward", "port-gradient:x1", "port-gradient:x2"]
EXPECTED = {
    "smooth_l1-caffe-now": [],
    "smooth_l1-caffe-before": ["ignores-top-diff", "ignores-top-diff"],
    "smooth_l1-torch-port": [],
    "smooth_l1-torch-mean": MEAN,
    "softmax-caffe-net": [],
    "softmax-torch-port": [],
}


def test_each_layer_variant_and_case_is_a_test_with_its_findings(outcome: Outcome) -> None:
    """Right ones agree, wrong ones have their codes, though two layers are in files of one name."""
    assert outcome.status == 1
    parity = [each for each in outcome.found.values() if each.layer in ("smooth_l1", "softmax")]
    assert {each.id: codes(each) for each in parity} == {
        f"{start}-{case}": expected for start, expected in EXPECTED.items() for case in (0, 1)
    }
    assert {each.id for each in parity if not each.agrees} == {
        each.id for each in parity if each.findings
    }
    first, second = (outcome.found[f"smooth_l1-torch-port-{case}"].tensors for case in (0, 1))
    assert len(first) == 3 and {"gradient:x1", "gradient:x2"} < set(first)
    assert all(0 < each.fraction < 1 for each in first.values())
    assert first != second


def test_failure_is_its_findings_and_no_traceback(outcome: Outcome) -> None:
    """A line for each finding, which begins with its code; no frame of this project is shown."""
    said = outcome.said
    section = said.partition("test_parity[smooth_l1-torch-mean-1] _")[2].splitlines()[1:4]
    assert [each.partition(": ")[0] for each in section] == MEAN
    assert re.search(r"in the port, \w+ is off by 1/\(C\*S\) = 1/15: divided by the count", said)
    assert "testing.py" not in said and "judge.py" not in said and "During handling" not in said


def test_crash_hang_and_refusal_fail_and_the_next_test_goes_on(outcome: Outcome) -> None:
    """Each fault is its own test's; what was printed is shown; the layer after them agrees."""
    got = {name: outcome.found[f"faults-{name}-0"] for name in FAULTS}
    assert {name: codes(each) for name, each in got.items()} == {
        "aborts": ["crash"],
        "hangs": ["hang"],
        "raises": ["crash"],
        "refuses": ["crash"],
        "agrees": [],
    }
    assert {name for name, each in got.items() if each.agrees} == {"agrees"}
    assert "what was printed:\nfarewell" in outcome.said
    assert "name 'undefined' is not defined" in outcome.said
    assert "SmoothL1Loss needs 2 bottoms" in got["refuses"].reason


def test_test_that_never_compares_fails(outcome: Outcome) -> None:
    """Whoever forgets to call check() has proved nothing."""
    words = "the test did not call comparison.check()"
    forgotten = outcome.found["forgotten-torch-port-0"]
    assert not forgotten.agrees and words in forgotten.reason
    assert words in outcome.said


def without_seconds(record: Record) -> dict[str, Any]:
    """What must not differ from run to run, to the bit."""
    return replace(record, seconds=0).as_json()


def test_processes_of_xdist_find_the_same(
    repository: Path, installed: Installed, outcome: Outcome
) -> None:
    """The JSON file has the same comparisons, in the same order, from two processes as from one."""
    parallel = ran(installed, repository, "-n", "2", "-k", "test_parity")
    assert parallel.status == 1
    expected = [each for each in outcome.found.values() if each.layer in ("smooth_l1", "softmax")]
    got = list(parallel.found.values())
    assert list(map(without_seconds, got)) == list(map(without_seconds, expected))


PIDS = """
import pathlib

def pytest_runtest_teardown():
    from caffe_parity.caffe.session import SESSION
    pid = SESSION.used.pid if SESSION.used else None
    with open("pids", "a") as file:
        print(pid, file=file)

pytest_unconfigure = pytest_runtest_teardown
"""


def test_case_alone_is_the_same_as_among_others_in_one_process_that_ends(
    repository: Path, installed: Installed, outcome: Outcome
) -> None:
    """One case gives the very same figures alone; its Caffe is gone when pytest is."""
    (repository / "conftest.py").write_text(PIDS)
    alone = ran(installed, repository, "-k", "caffe-now-1 or caffe-net")
    (repository / "conftest.py").unlink()
    assert alone.status == 0, alone.said
    name = "smooth_l1-caffe-now-1"
    assert without_seconds(alone.found[name]) == without_seconds(outcome.found[name])
    *pids, at_the_end = (repository / "pids").read_text().split()
    assert len(pids) == 3 and pids[1] == pids[2] != "None" == at_the_end
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_ports_need_no_caffe_and_caffe_variants_say_that_there_is_none(
    repository: Path, installed: Installed, outcome: Outcome
) -> None:
    """Ports give the same results; a Caffe variant fails, is never skipped, and says what to do."""
    nowhere = str(repository / "no-python")
    without = ran(installed, repository, "-k", "smooth_l1", CAFFE_PYTHON=nowhere)
    assert without.status == 1
    environment = reported(repository).environment
    assert environment["caffe"] is None and environment["torch"]
    assert len(without.found) == 8
    for name, each in without.found.items():
        if each.variant.startswith("torch"):
            assert without_seconds(each) == without_seconds(outcome.found[name])
        else:
            assert each.verdict == "crash" and "no-python" in each.reason
    assert "could not be compared: CAFFE_PYTHON is " in without.said
    assert "to do: set it to the path" in without.said
    assert "skipped" not in without.said and "During handling" not in without.said
    listing = ("-m", "pytest", "--collect-only", "-q")
    status, said = installed.run(repository, *listing, CAFFE_PYTHON=nowhere)
    assert status == 0
    assert "tests/test_layers.py::test_parity[smooth_l1-caffe-now-0]" in said


def test_wrong_declaration_is_an_error_of_the_file_at_collection(
    tmp_path: Path, installed: Installed
) -> None:
    """Exit status 2, and the message alone: what is wrong, with which layer; so with a path."""
    start = "import caffe_parity\nLAYER = caffe_parity.Layer('mine', lambda x: x, {'x': (2,)}, "
    (tmp_path / "test_kind.py").write_text(f"{start}{{'port': abs}}, data={{'x': 'gauss'}})\n")
    (tmp_path / "test_path.py").write_text(
        f"{start}{{'caffe': caffe_parity.python_layer('no.py:Layer')}})\n"
        "@caffe_parity.parametrize(LAYER)\ndef test(comparison): comparison.check()\n"
    )
    status, said = installed.run(tmp_path, "-m", "pytest", "-q")
    assert status == 2
    assert "layer 'mine': data of x: data kind 'gauss': expected one of normal, uniform" in said
    assert f"layer 'mine', variant 'caffe': there is no file {tmp_path}/no.py" in said
    assert "Traceback" not in said and "layer.py" not in said


def test_repository_that_does_not_use_it_is_left_alone(
    tmp_path: Path, installed: Installed
) -> None:
    """The plugin is loaded by itself, and imports neither PyTorch nor anything of this project."""
    ours = ["torch", "numpy", "caffe_parity.contract", *OURS]
    (tmp_path / "test_mine.py").write_text(
        "import sys\n"
        "def test_nothing_is_imported(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.hasplugin('caffe_parity.pytest_plugin')\n"
        f"    assert not set({ours}) & set(sys.modules)\n"
    )
    status, said = installed.run(tmp_path, "-m", "pytest", "-q", "-W", "error")
    assert status == 0, said


def test_example_of_the_page_is_what_it_says(tmp_path: Path, installed: Installed) -> None:
    """The code of docs/api.md runs, with its ids and, on a broken layer, the words it shows."""
    page = (ROOT / "docs" / "api.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "tests" / "layers").mkdir(parents=True)
    (tmp_path / "tests" / "test_layers.py").write_text(code)
    layer = tmp_path / "tests" / "layers" / "smooth_l1_layer.py"
    layer.write_text(SMOOTH_L1)
    status, said = installed.run(tmp_path, "-m", "pytest", "-v")
    assert status == 0, said
    assert re.findall(r"::(test_parity\[.*?\]) PASSED", said) == [
        f"test_parity[smooth_l1-{variant}-{case}]"
        for case in range(8)
        for variant in ("caffe-python", "torch-port")
    ]
    ids = re.findall(r"`(test_parity\[\S+\])`", page)
    assert len(ids) == 2 and all(each in said for each in ids)
    layer.write_text(spoilt("(top[0].diff.flat[0] / bottom", "(1 / bottom"))
    status, said = installed.run(tmp_path, "-m", "pytest", "-k", "caffe-python-0")
    assert status == 1
    shown = re.findall(r"^    ((?:___|ignores-top-diff).*)$", page, re.MULTILINE)
    assert len(shown) == 2
    assert "\n".join(shown) in said


def test_example_file_passes(installed: Installed) -> None:
    """examples/test_smooth_l1.py is a test file as a user would have it."""
    status, said = installed.run(ROOT, "-m", "pytest", "-q", "examples/test_smooth_l1.py")
    assert status == 0, said


EXAMPLES = ROOT / "examples"


def test_port_alone_is_judged_as_beside_caffe(caffe: Caffe) -> None:
    """A port's findings and bits are the same whether Caffe computes the case as well or not."""
    names = ("loss", "port_with_mean")
    loss, port = (load_object(f"{EXAMPLES}/smooth_l1.py:{name}", "--port") for name in names)
    net = located(caffe_parity.python_layer("smooth_l1_layer.py:SmoothL1LossLayer"), EXAMPLES)
    inputs = {"x1": (4, 3, 5), "x2": (4, 3, 5)}
    beside = caffe_parity.Layer("smooth_l1", loss, inputs, {"caffe": net, "port": port}, cases=3)
    alone = replace(beside, variants={"port": port})
    for case in beside.all_cases():
        assert judge(beside, "caffe", case).verdict == "pass"
        one, another = (judge(layer, "port", case) for layer in (beside, alone))
        assert codes(one) == codes(another) == MEAN
        assert [each.cause for each in one.findings] == [each.cause for each in another.findings]
        for tensor in ("gradient:x1", "gradient:x2"):
            assert one.tensors[tensor] == another.tensors[tensor]
            assert one.as_json()["computed"][tensor] == another.as_json()["computed"][tensor]


def test_net_with_other_inputs_is_named(caffe: Caffe) -> None:
    """What no reading of a file sees, Caffe does: a net that is fed with something else."""
    net = located(caffe_parity.net("softmax.prototxt"), EXAMPLES)
    made = replace(layer(), variants={"caffe": net})
    words = r"the inputs of softmax\.prototxt are logits, label; those that are given are x, label"
    with pytest.raises(BadRequest, match=words):
        judge(made, "caffe", made.case(0))
    comparison = caffe_parity.Comparison(made, "caffe", made.case(0))
    with pytest.raises(pytest.fail.Exception, match=f"could not be compared: {words}"):
        comparison.check()
    assert comparison.record is not None and comparison.record.verdict == "crash"


def test_learned_parameters_are_compared(caffe: Caffe) -> None:
    """A reference with an argument `param` gets them; how they are filled is said as in a check."""

    def reference(x: torch.Tensor, param: list[torch.Tensor]) -> torch.Tensor:
        return param[0].reshape(-1, 1) * x + 3

    declared = caffe_parity.python_layer("channel_scale_layer.py:ChannelScaleLayer")
    made = caffe_parity.Layer(
        "scale",
        reference=reference,
        inputs={"x": (3, 4, 2)},
        variants={"caffe": located(declared, EXAMPLES)},
        data={"param[1]": "constant:3"},
        cases=1,
    )
    [found] = caffe_parity.Comparison(made, "caffe", made.case(0)).findings()
    assert found.code == "gradient:param[1]"  # which that reference says is 0


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


def layer(**changes: Any) -> caffe_parity.Layer:
    """A layer that is right, but for what the test is about."""
    made = declare(**changes)()
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
        (declare(variants={"a": 3}), "variant 'a' is 3: expected caffe_parity.python_layer"),
        (declare(variants={"a": int}), "variant 'a' is the class int: give an object"),
        (declare(variants={"a": lambda y: y}), "the port 'a' must take the net's inputs"),
        (declare(data={"param[0]": "normal"}), "no input 'param\\[0\\]'"),
        (declare(cases=0), "cases=0: expected 1 or more"),
        (declare(seed=-1), "seed=-1"),
        (lambda: caffe_parity.net("a.prototxt", path="layers"), "path='layers': expected a list"),
        (lambda: caffe_parity.parametrize(), "expected one caffe_parity.Layer or more"),
        (lambda: caffe_parity.parametrize(layer(variants={})), "no variants"),
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
        (caffe_parity.net("test_api.py", load=["no.so"]), "load no.so: there is no such file"),
    ],
)
def test_wrong_files_are_named(variant: object, words: str) -> None:
    """A file that is not there, or another net's, is an error of the declaration with its path."""
    made = layer(variants={"caffe": variant})
    with pytest.raises(caffe_parity.BadLayer, match=f"layer 'mine', variant 'caffe': {words}"):
        caffe_parity.parametrize(made)(of_a_user)
