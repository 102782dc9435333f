"""The corpus: what real Caffe computed, told from what is not, and what ports are held against."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from caffe_impl.variants import variants
from caffe_parity import Case, Port
from caffe_parity.contract import GRADIENT, Array32, Floating, Observation, Plan
from caffe_parity.engine.judge import judge
from caffe_parity.report.record import Record, read
from parity_tests.answers import expected_of
from parity_tests.recorded import __main__ as command
from parity_tests.recorded import corpus, record
from parity_tests.recorded.against import judged
from parity_tests.recorded.corpus import INDEX, SUMS, TENSORS, VALUES, Corpus, Recording
from parity_tests.recorded.variants import RecordedVariant, recorded_variants
from reference.cases import CASES, by_name
from reference.layers import LAYERS
from torch_impl.module import channel_sum_euclidean_loss

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "caffe_parity" / "report" / "results.schema.json").read_text())
LARGE = ("million", "exact-10-million")
"""The cases that take as long as all others; `tox -e record -- --check` has them."""

FEW = [
    by_name(name)
    for name in ("base", "five-axes", "weight-0", "exact", "nan", "weight-3.7", "only-dx1")
]


@pytest.fixture(scope="module")
def ours() -> Corpus:
    """The corpus of this suite."""
    return corpus.load()


def cut_down(whole: Corpus, cases: list[Case]) -> Corpus:
    """The same with a few cases only."""
    names = {case.name for case in cases}
    recordings = tuple(each for each in whole.recordings if each.case in names)
    used = {key for each in recordings for key in each.digests.values() if key}
    return replace(
        whole,
        cases={name: each for name, each in whole.cases.items() if name in names},
        recordings=recordings,
        tensors={key: each for key, each in whole.tensors.items() if key in used},
    )


@pytest.fixture
def small(ours: Corpus, tmp_path: Path) -> Path:
    """A folder with a few cases of it, to be tampered with."""
    folder = tmp_path / "corpus"
    corpus.write(cut_down(ours, FEW), folder)
    return folder


def test_real_caffe_computes_what_was_recorded(ours: Corpus) -> None:
    """All variants compute, refuse and claim what is recorded, within the bounds, none missing."""
    cases = [case for case in CASES if case.name not in LARGE]
    known = cut_down(ours, cases)
    found = record.difference(known, record.record(cases), cases)
    assert found.beyond == ()
    tensors = sum(key is not None for each in known.recordings for key in each.digests.values())
    assert found.identical + found.within.total() == tensors


def test_corpus_is_whole(ours: Corpus) -> None:
    """Every Caffe variant of every case of its layer is recorded, or named as left out."""
    recorded = {(each.layer, each.variant, each.case) for each in ours.recordings}
    left_out = {(each.layer, each.case) for each in ours.left_out}
    wanted = {
        (layer, variant, case.name)
        for layer, of_it in variants().items()
        for variant in of_it
        for case in LAYERS[layer].all_cases()
        if (layer, case.name) not in left_out
    }
    assert recorded == wanted
    assert left_out == {("euclidean", "million")}
    assert set(ours.cases) == {case.name for case in CASES}


def test_corpus_is_small_and_says_where_it_comes_from() -> None:
    """Less than 4 MB together; the Caffe, its BLAS, the machine, the day and the commit."""
    assert sum(file.stat().st_size for file in corpus.FOLDER.iterdir()) < 4_000_000
    provenance = corpus.load().provenance
    assert provenance["caffe"]["blas"]
    for name in ("platform", "processor", "date", "commit"):
        assert provenance[name]
    assert not provenance["commit"].endswith("+")


def test_recording_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two recordings of one machine are the same files, and the second is not even written."""
    folder = tmp_path / "corpus"
    arguments = ["--corpus", str(folder), "--case", "base", "--case", "weight-0"]
    assert record.main(arguments) == 0
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    cases = [by_name("base"), by_name("weight-0")]
    assert corpus.packed(record.record(cases)) == first
    index = folder / INDEX
    before = index.stat().st_mtime_ns
    assert record.main(arguments) == 0
    assert index.stat().st_mtime_ns == before
    assert record.main([*arguments, "--check"]) == 0


ODD = np.array([0.0, -0.0, np.nan, -np.inf, 2.0**-149, 3.0], np.float32)


@pytest.mark.parametrize(
    "array",
    [
        np.float32(-0.0).reshape(()),
        ODD.reshape(2, 3),
        np.broadcast_to(ODD.reshape(2, 1, 3), (2, 4, 3)),
        np.zeros((2, 3), np.float32),
        np.array([[0.0, -0.0]], np.float32),
    ],
    ids=["scalar", "whole", "constant-axis", "constant", "signed-zeros"],
)
def test_what_is_packed_comes_out_bit_for_bit(array: Array32, tmp_path: Path) -> None:
    """NaN, signed zeros and constant axes survive; a negative is no second copy, and exact."""
    negative = np.negative(array)
    made = {corpus.digest(each): each for each in (array, negative)}
    case = {"x1_shape": list(array.shape), "x2_shape": list(array.shape)}
    keys = list(made)
    zero = np.zeros((), np.float32)
    digests = dict(zip(TENSORS, (corpus.digest(zero), keys[0], keys[-1]), strict=True))
    made[digests["loss"]] = zero
    recording = Recording("euclidean", "caffe-native", "one", digests)
    corpus.write(Corpus({}, {"one": case}, made, (recording,)), tmp_path)
    read = corpus.load(tmp_path)
    for key, each in made.items():
        assert read.tensors[key].shape == each.shape
        assert read.tensors[key].tobytes() == each.tobytes()
    values = np.load(tmp_path / VALUES, allow_pickle=False)["values"]
    assert values.size <= np.unique(ODD.view(np.uint32)).size + 1


def signed(folder: Path, **files: bytes) -> None:
    """Replaces files and corrects their checksums, as someone who covers his tracks would."""
    for name, data in files.items():
        (folder / {"index": INDEX, "values": VALUES}[name]).write_bytes(data)
    sums = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in (INDEX, VALUES)
    ]
    (folder / SUMS).write_text("".join(sums))


def edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Changes the index, and its checksum with it."""
    content = json.loads((folder / INDEX).read_text())
    edit(content)
    signed(folder, index=json.dumps(content).encode())


def archive(**arrays: Any) -> bytes:
    """An .npz file's bytes."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def flip_a_byte(folder: Path) -> None:
    """Changes a bit of the values' file."""
    data = bytearray((folder / VALUES).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / VALUES).write_bytes(bytes(data))


def change_a_value(folder: Path) -> None:
    """Changes one number, and the file's checksum with it."""
    values = np.load(folder / VALUES, allow_pickle=False)["values"]
    values[0] *= np.float32(1.001)
    signed(folder, values=archive(values=values))


def set_at(*path: str | int, value: Any) -> Callable[[Path], None]:
    """A change of one place in the index."""

    def edit(content: Any) -> None:
        *way, last = path
        for step in way:
            content = content[step if step != "first" else next(iter(content))]
        content[last] = value

    return lambda folder: edited(folder, edit)


def cut_values(folder: Path) -> None:
    """Leaves the end of the values' file out, and corrects its checksum."""
    signed(folder, values=(folder / VALUES).read_bytes()[:-200])


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "byte": (flip_a_byte, "values.npz is not the file that was recorded"),
    "value": (change_a_value, "loss of euclidean-caffe-native-base is not what was recorded"),
    "missing-index": (lambda folder: (folder / INDEX).unlink(), "corpus.json"),
    "missing-values": (lambda folder: (folder / VALUES).unlink(), "values.npz"),
    "missing-sums": (lambda folder: (folder / SUMS).unlink(), "SHA256SUMS.txt"),
    "no-sum": (lambda folder: (folder / SUMS).write_text(""), "SHA256SUMS.txt says nothing"),
    "object": (
        lambda folder: signed(folder, values=archive(values=np.array([print], object))),
        "cannot be read as an array of float32: Object arrays cannot be loaded",
    ),
    "pickle": (lambda folder: signed(folder, values=b"\x80\x04N."), "cannot be read as an array"),
    "other-name": (lambda folder: signed(folder, values=archive(v=ODD)), "cannot be read"),
    "float64": (
        lambda folder: signed(folder, values=archive(values=np.zeros(9))),
        "holds float64 of shape (9,), not a row of float32",
    ),
    "truncated": (
        lambda folder: (folder / VALUES).write_bytes((folder / VALUES).read_bytes()[:-200]),
        "values.npz is not the file that was recorded",
    ),
    "truncated-signed": (cut_values, "cannot be read as an array of float32"),
    "schema": (set_at("schema", value="parity-corpus-2"), "schema 'parity-corpus-2'"),
    "not-json": (lambda folder: signed(folder, index=b"{"), "does not have the form of a corpus"),
    "a-list": (lambda folder: signed(folder, index=b"[]"), "does not have the form of a corpus"),
    "beyond": (set_at("tensors", "first", "at", value=10**9), "lies beyond the values"),
    "before": (set_at("tensors", "first", "at", value=-1), "lies beyond the values"),
    "shape": (
        set_at("cases", "base", "x1_shape", value=[4, 3, 6, 5]),
        "dx1 of euclidean-caffe-native-base has shape (4, 3, 5, 6) in the corpus",
    ),
    "no-loss": (set_at("recordings", 0, "loss", value=None), "has no loss in the corpus"),
    "unknown-digest": (set_at("recordings", 0, "loss", value="00"), "KeyError: '00'"),
    "seed": (set_at("cases", "base", "seed", value=5), "base: seed is 411, was 5"),
    "fill": (
        set_at("cases", "base", "x1", value="00"),
        "base: the same seed makes other numbers for x1",
    ),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_damaged_corpus_is_refused_by_name(
    small: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is changed, the run ends with status 2, says what is wrong, and compares nothing."""
    tamper, words = TAMPERED[kind]
    tamper(small)
    assert command.main(["--corpus", str(small), "--variant", "torch-module"]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert "agrees" not in said.out


def lie(small: Path, layer: str, case: str, tensor: str, factor: float) -> None:
    """Changes a tensor of every variant of a layer, with its digest and all checksums."""
    whole = corpus.load(small)
    tensors = dict(whole.tensors)
    recordings = []
    for each in whole.recordings:
        digests = dict(each.digests)
        if (each.layer, each.case) == (layer, case) and digests.get(tensor):
            changed = (whole.tensors[digests[tensor] or ""] * np.float32(factor)).astype(np.float32)
            digests[tensor] = corpus.digest(changed)
            tensors[digests[tensor] or ""] = changed
        recordings.append(replace(each, digests=digests))
    corpus.write(replace(whole, tensors=tensors, recordings=tuple(recordings)), small)


def test_corpus_that_lies_is_found(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all checksums right, a wrong number disagrees with the reference and with the port."""
    monkeypatch.setenv("PATH", "")  # no compiler: torch.compile takes its time
    lie(small, "channel_sum", "weight-3.7", GRADIENT + "x1", 1 / 3.7)
    options = ["--corpus", str(small), "--layer", "channel_sum", "--case", "weight-3.7"]
    assert command.main(options) == 1
    said = capsys.readouterr().out
    assert "channel_sum  caffe-cuda: 1 of 1 cases do not agree" in said
    assert "dx1 is off by exactly 1/loss_weight: the top diff is ignored" in said
    assert "channel_sum  torch-module-vs-caffe: 1 of 1 cases do not agree" in said
    assert "channel_sum  torch-module: " not in said


def test_lie_within_the_bounds_is_not_what_caffe_computes(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` tells bits that rounding explains from a number that it does not, and counts."""
    options = ["--check", "--corpus", str(small), "--case", "only-dx1"]
    lie(small, "tail_sum", "only-dx1", "loss", 1 + 2.0**-23)
    assert record.main(options) == 0
    said = capsys.readouterr().out
    assert "within the bounds: tail_sum caffe-python, 1 tensors have other bits" in said
    counted = re.search(r"(\d+) tensors have the recorded bits, (\d+) others within", said)
    assert counted
    assert int(counted[1]) + int(counted[2]) == 20  # 10 variants, a loss and a dx1 each
    lie(small, "tail_sum", "only-dx1", "loss", 1.001)
    assert record.main(options) == 1
    assert "beyond the bounds: tail_sum-caffe-python-only-dx1: loss: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda content: content["recordings"].pop(0), "euclidean-caffe-native-base: not in the"),
        (
            lambda content: content["recordings"][0].update(variant="caffe-gone"),
            "euclidean-caffe-gone-base: Caffe has no such result any more",
        ),
        (lambda content: content["recordings"][0].update(refusal="no"), "it said 'no', now "),
        (lambda content: content["recordings"][0].update(dx1=None), "it computes loss, dx1, dx2"),
        (
            lambda content: content["recordings"][0].update(
                expectation={"kind": "refused", "reason": "", "text": "no", "layer": ""}
            ),
            "what the variant claims of this case has changed",
        ),
        (lambda content: content["cases"]["base"].update(seed=5), "base: seed is 411, was 5"),
        (lambda content: content["left_out"].clear(), ""),
        (
            lambda content: content["left_out"].append(
                {"layer": "euclidean", "case": "base", "reason": ""}
            ),
            "other cases are left out",
        ),
    ],
    ids=["missing", "renamed", "refused", "pruned", "claims", "seed", "unasked", "left-out"],
)
def test_check_names_what_changed(
    small: Path,
    edit: Callable[[dict[str, Any]], None],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A recording too few or too many, another outcome or another case: status 1 and its name."""
    edited(small, edit)
    status = record.main(["--check", "--corpus", str(small), "--case", "base"])
    assert status == int(bool(words))
    assert words in capsys.readouterr().out


@dataclass(frozen=True)
class Given(Port):
    """A port that computes these tensors, whatever it is given."""

    tensors: dict[str, Floating] | None = None

    def observe(self, plan: Plan) -> Observation:
        assert self.tensors is not None
        return Observation({each.name: self.tensors for each in plan.passes})


def beside(layer: str, case: Case, port: dict[str, Floating], caffe: dict[str, Floating]) -> Record:
    """The verdict on a port that computes one thing where Caffe was recorded with another."""
    recording = Recording(
        layer, "caffe-python", case.name, dict(zip(TENSORS, TENSORS, strict=True))
    )
    recorded = RecordedVariant({case.name: recording}, caffe)
    given = Given(LAYERS[layer].reference, gradcheck=False, tensors=port)
    both = replace(LAYERS[layer], variants={"caffe-python": recorded, "torch-port": given})
    _, found = judged(both, "torch-port", case)
    assert found.variant == "torch-port-vs-caffe"
    return found


def shifted(layer: str, case: Case, bounds: float) -> dict[str, Floating]:
    """The truth, so many bounds off."""
    expected = expected_of(LAYERS[layer], case)
    return {
        name: np.asarray(each + bounds * expected.bound.worst[name])
        for name, each in expected.truth.items()
    }


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ["base", "512-channels", "positive-odd", "tiny"])
def test_twice_the_bound_is_the_limit(layer: str, name: str) -> None:
    """Two results on either side of the truth agree to 2 bounds, and not beyond."""
    case = by_name(name)
    low = shifted(layer, case, -0.99)
    for bounds, agrees in ((0.99, True), (1.02, False)):
        found = beside(layer, case, shifted(layer, case, bounds), low)
        assert [each.agrees for each in found.tensors.values()] == [agrees] * 3
        proved = all(each.proves for each in found.tensors.values())
        assert found.verdict == ("fail" if not agrees else "pass" if proved else "unproven")


def test_exact_results_must_be_the_same_number() -> None:
    """Where nothing rounds, a port that is one ulp off Caffe does not agree."""
    case = by_name("exact")
    right = shifted("channel_sum", case, 0)
    wrong = {**right, "loss": np.nextafter(right["loss"].astype(np.float32), np.float32(np.inf))}
    assert beside("channel_sum", case, right, right).agrees
    assert not beside("channel_sum", case, wrong, right).agrees


@pytest.mark.parametrize(
    ("port", "caffe", "agrees"),
    [
        (np.inf, 3e38, True), (3e38, np.inf, True), (np.inf, np.inf, True),
        (np.nan, np.inf, False), (np.nan, 3e38, False), (np.inf, np.nan, False),
    ],
)  # fmt: skip
def test_overflow_may_differ_and_nan_may_not(port: float, caffe: float, agrees: bool) -> None:
    """Where some order overflows, infinity and a number are both right; NaN is neither."""
    case = by_name("overflowing-sum")
    both = dict(expected_of(LAYERS["euclidean"], case).truth)
    one, another = ({**both, "loss": np.asarray(each)} for each in (port, caffe))
    found = beside("euclidean", case, one, another)
    assert found.verdict == ("unproven" if agrees else "fail")
    assert found.tensors["loss"].agrees == agrees


AWAY = """
import os, runpy, sys

ABSENT = {"fcntl", "termios", "resource", "pwd", "grp", "caffe", "caffe_impl", "pytest", "_pytest"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def no_proc(event, arguments):
    if event == "open" and str(arguments[0]).startswith("/proc"):
        raise FileNotFoundError(arguments[0])

for name in ABSENT:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())
for name in ("fork", "memfd_create", "pidfd_open", "posix_fallocate", "getuid", "killpg"):
    delattr(os, name)
sys.addaudithook(no_proc)
runpy.run_module("parity_tests.recorded", run_name="__main__")
"""


def test_it_runs_without_caffe_and_without_linux(tmp_path: Path) -> None:
    """No fcntl, no /proc, no fork, nothing on PATH, no caffe_impl: the ports are judged."""
    arguments = ["--case", "weight-3.7", "--json", "results.json"]
    done = subprocess.run(
        [sys.executable, "-c", AWAY, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "CAFFE_PYTHON": "/nonexistent"},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "recorded: Caffe 1.0.0" in done.stdout
    assert "not run: no C++ compiler" in done.stdout
    jsonschema.validate(json.loads((tmp_path / "results.json").read_text()), SCHEMA)
    report = read(tmp_path / "results.json")
    assert report.command == "recorded"
    assert report.environment["caffe"] is None
    assert report.environment["recorded"]["caffe"]["version"] == "1.0.0"
    passed = {each.id for each in report.results if each.verdict == "pass"}
    assert {
        "channel_sum-caffe-cuda-weight-3.7",
        "channel_sum-torch-module-weight-3.7",
        "channel_sum-torch-module-vs-caffe-weight-3.7",
    } <= passed


PORTS = """
import torch

def right(x1, x2):
    d = x1.sum(1) - x2.sum(1)
    return (d * d).sum() / (2 * x1.shape[0])

def by_count(x1, x2):
    d = x1.sum(1) - x2.sum(1)
    return (d * d).mean() / 2

def raises(x1, x2):
    raise ZeroDivisionError("by the author")

class Module(torch.nn.Module):
    def forward(self, x1, x2):
        return right(x1, x2)

class Forgetful(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return right(a, b)

    @staticmethod
    def backward(ctx, weight):
        a, b = ctx.saved_tensors
        d = (a.sum(1, keepdim=True) - b.sum(1, keepdim=True)) / a.shape[0]
        return d.expand(a.shape), -d.expand(b.shape)

def forgets(x1, x2):
    return Forgetful.apply(x1, x2)

def other_names(a, b):
    return right(a, b)

NUMBER = 3
"""


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("right", 0, "channel_sum  torch-port"),
        ("Module", 0, "torch-port-vs-caffe"),
        ("by_count", 1, "divided by the spatial extent as well"),
        ("forgets", 1, "dx1 is off by exactly 1/loss_weight: the top diff is ignored"),
        ("raises", 1, "ZeroDivisionError: by the author"),
    ],
)
def test_port_of_ones_own(
    tmp_path: Path, small: Path, name: str, status: int, words: str, capsys: Any
) -> None:
    """A right port agrees; a wrong one does not, with what that means and a command for it."""
    file = tmp_path / "my ports.py"
    file.write_text(PORTS)
    options = ["--port", f"{file}:{name}", "--layer", "channel_sum", "--corpus", str(small)]
    assert command.main([*options, "--variant", "torch-port", "--case", "weight-3.7"]) == status
    said = capsys.readouterr().out
    assert words in said
    if status:
        assert "channel_sum  torch-port-vs-caffe: " in said
        assert f"tox -e parity-recorded -- --port '{file}:{name}' --layer channel_sum" in said
    if name == "forgets":
        assert "beside the recorded caffe-python" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--variant", "torch-modul"], "unknown variant 'torch-modul'. Did you mean"),
        (["--layer", "l1"], "unknown layer 'l1'. Known: euclidean"),
        (["--case", "bass"], "unknown case 'bass'. Did you mean 'base'"),
        (["-k", "nosuchthing"], "nothing of that name"),
        (["-k", "euclidean-torch-module-vs-caffe-million"], "not in the corpus"),
        (["--port", "ports.py:right"], "--port needs --layer"),
        (["--port", "absent.py:right", "--layer", "channel_sum"], "there is no file absent.py"),
        (["--port", "ports.py:wrong", "--layer", "channel_sum"], "ports.py has no 'wrong'"),
        (["--port", "ports.py:NUMBER", "--layer", "channel_sum"], "not callable"),
        (["--port", "ports.py:other_names", "--layer", "channel_sum"], "it takes (a, b)"),
        (["--corpus", "absent"], "the corpus in absent cannot be read"),
        (["--json", "absent/", "--case", "base", "--variant", "caffe-native"], "absent"),
        (["--no-such-option"], "unrecognized arguments"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_bad_request_is_status_2_with_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, options: list[str], words: str
) -> None:
    """What cannot be carried out is named and says what was expected."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ports.py").write_text(PORTS)
    if "--json" in options:
        (tmp_path / "absent").mkdir()
    assert command.main(options) == 2
    assert words in capsys.readouterr().err


def test_record_refuses_what_it_cannot_do(tmp_path: Path, capsys: Any) -> None:
    """An unknown case, a cut-down corpus of the suite's own, a folder that is a file: status 2."""
    assert record.main(["--case", "bass"]) == 2
    assert "unknown case bass" in capsys.readouterr().err
    assert record.main(["--case", "base"]) == 2
    assert "would cut down the suite's own corpus" in capsys.readouterr().err
    (tmp_path / "file").write_text("in the way")
    assert record.main(["--case", "base", "--corpus", str(tmp_path / "file")]) == 2
    assert "file" in capsys.readouterr().err
    assert record.main(["--check", "--corpus", str(tmp_path / "absent")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_without_a_caffe_nothing_is_recorded(tmp_path: Path) -> None:
    """Status 2, what to do, and no files."""
    done = subprocess.run(
        [sys.executable, "-m", "parity_tests.recorded.record", "--corpus", "new"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CAFFE_PYTHON": "/nonexistent/python"},
        timeout=120,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "CAFFE_PYTHON" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()


def test_only_what_agrees_is_recorded(
    ours: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A Caffe that the reference contradicts is named, and nothing is written."""
    good = cut_down(ours, [by_name("base")])
    first = good.recordings[0]
    wrong = np.ones((), np.float32)
    key = corpus.digest(wrong)
    lying = replace(first, digests={**first.digests, "loss": key})
    bad = replace(good, recordings=(lying,), tensors={**good.tensors, key: wrong})
    arguments = ["--case", "base", "--corpus", str(tmp_path / "new")]
    monkeypatch.setattr(record, "record", lambda cases: bad)
    assert record.main(arguments) == 2
    said = capsys.readouterr().err
    assert "euclidean-caffe-native-base: fail: loss: 1 of 1 beyond the bound" in said
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(record, "record", lambda cases: good)
    assert record.main(arguments) == 0


def test_recorded_refusal_says_what_caffe_said(ours: Corpus) -> None:
    """A case that Caffe aborts on is in the corpus with the CHECK that failed, and is refused."""
    variants = recorded_variants(ours)["euclidean"]
    assert "num_axes() <= 4 (5 vs. 4)" in variants["caffe-native"].recordings["five-axes"].refusal
    layer = replace(LAYERS["euclidean"], variants=variants)
    found = judge(layer, "caffe-native", by_name("five-axes"))
    assert found.verdict == "refused"
    assert "num_axes() <= 4" in found.reason


def test_port_has_the_bits_of_caffe_where_nothing_rounds(ours: Corpus) -> None:
    """In the exact lane the plain port and the recorded layers give the same numbers."""
    case = by_name("exact")
    loss = channel_sum_euclidean_loss(*map(torch.from_numpy, case.arrays(case).values()))
    recorded = [each for each in ours.recordings if each.layer == "channel_sum"]
    losses = {
        float(ours.tensors[each.digests["loss"] or ""])
        for each in recorded
        if each.case == "exact" and each.expectation is None
    }
    assert losses == {loss.item()}
