"""The worker survives whatever a layer does, says what it was, and leaves nothing behind."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from caffe_impl.variants import NETS
from caffe_parity.caffe import client
from caffe_parity.caffe.client import (
    Caffe,
    CaffeCrash,
    CaffeHang,
    LayerError,
    NetError,
    Op,
    RequestError,
    fatal_line,
)
from caffe_parity.caffe.interpreter import find

RUNTIME = Path(__file__).parent.parent / "caffe_parity" / "caffe"
NATIVE = (NETS / "euclidean_native.prototxt").read_text()
LAYERS = """
import os, signal, sys, time
import caffe
import numpy as np

class Base(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(1)
    def forward(self, bottom, top): top[0].data[...] = 7
    def backward(self, top, propagate_down, bottom): pass

class Raises(Base):
    def forward(self, bottom, top):
        raise KeyError("no such thing")

class Exits(Base):
    def forward(self, bottom, top):
        sys.exit(3)

class ExitsAtOnce(Base):
    def forward(self, bottom, top):
        os._exit(0)

class Prints(Base):
    def forward(self, bottom, top):
        print("to stdout" * 200000)
        sys.stderr.write("to stderr\\n")
        os.write(1, b"\\x00\\x00\\x00\\x02{}")
        top[0].data[...] = 7

class Sleeps(Base):
    def forward(self, bottom, top):
        time.sleep(600)

class Segfaults(Base):
    def forward(self, bottom, top):
        os.kill(os.getpid(), signal.SIGSEGV)

class ForksAndDies(Base):
    def forward(self, bottom, top):
        if os.fork() == 0:
            time.sleep(600)
        os._exit(1)

class Num(Base):
    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].num
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with misbehaving layers."""
    path = tmp_path_factory.mktemp("layers")
    (path / "unruly.py").write_text(LAYERS)
    (path / "broken.py").write_text("import does_not_exist\n")
    return path


@pytest.fixture(scope="module")
def caffe() -> Iterator[Caffe]:
    """A Caffe of this module's own, with a short time-out."""
    with Caffe(find(), timeout=3) as each:
        yield each


def python_net(layer: str, folder: Path, module: str = "unruly", shape: str = "dim: 2") -> Op:
    """The op that builds a net of one Python loss layer."""
    text = f'''
        layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {shape} }} }} }}
        layer {{
          name: "loss" type: "Python" bottom: "x" top: "loss" loss_weight: 1
          python_param {{ module: "{module}" layer: "{layer}" }}
        }}'''
    return {"op": "net", "text": text, "path": [str(folder)]}


def forward(caffe: Caffe, layer: str, folder: Path, **more: str) -> float:
    """The loss of a Python layer."""
    *_, loss = caffe.request([python_net(layer, folder, **more), {"op": "forward"}, {"op": "loss"}])
    return float(loss["array"].sum())


def gone(pid: int) -> bool:
    """Whether a process ends within ten seconds; one that only waits to be reaped has ended."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def still_works(caffe: Caffe, folder: Path) -> bool:
    """Whether the next request is served."""
    return forward(caffe, "Base", folder) == 7


def test_arrays_travel_unchanged(caffe: Caffe) -> None:
    """What goes in comes out, bit for bit: NaN, subnormals, minus zero, no axes, no elements."""
    values = np.array([np.nan, 1e-45, -0.0, np.inf, 3.0], np.float32)
    text = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 5 } } }'
    text += 'layer { name: "l" type: "Reduction" bottom: "x" top: "l" loss_weight: 1 }'
    net = {"op": "net", "text": text}
    ops: list[Op] = [net, {"op": "set", "blob": "x", "array": values}, {"op": "data", "blob": "x"}]
    back = caffe.request(ops)[-1]["array"]
    assert back.tobytes() == values.tobytes()


def test_worker_stays_alive_between_requests(caffe: Caffe, folder: Path) -> None:
    """Caffe is imported once, not for every request."""
    assert still_works(caffe, folder)
    pid = caffe.pid
    assert still_works(caffe, folder)
    assert caffe.pid == pid


def test_failed_check_is_a_crash_with_caffes_words(caffe: Caffe, folder: Path) -> None:
    """A failed CHECK ends the process; the message is Caffe's own, with file and line."""
    with pytest.raises(CaffeCrash, match=r"blob\.hpp:\d+\] Check failed: num_axes\(\) <= 4"):
        forward(caffe, "Num", folder, shape="dim: 1 dim: 1 dim: 1 dim: 1 dim: 1")
    assert still_works(caffe, folder)


def test_shapes_that_do_not_fit_are_a_crash_with_caffes_words(caffe: Caffe) -> None:
    """EuclideanLoss on unequal inputs: Caffe says which dimension."""
    edits = {"shapes": {"x1": [4, 3, 5, 6], "x2": [4, 2, 5, 6]}}
    with pytest.raises(CaffeCrash, match="Inputs must have the same dimension"):
        caffe.request([{"op": "net", "text": NATIVE, "edits": edits}])


def test_python_exception_comes_with_the_layers_traceback(caffe: Caffe, folder: Path) -> None:
    """The exception is named, its traceback leads into the layer, and the worker lives on."""
    pid = caffe.start()["pid"]
    with pytest.raises(LayerError, match="KeyError: 'no such thing'") as caught:
        forward(caffe, "Raises", folder)
    assert 'raise KeyError("no such thing")' in caught.value.traceback
    assert caffe.pid == pid


def test_import_that_fails_in_a_layer_is_shown(caffe: Caffe, folder: Path) -> None:
    """Caffe only says that something returned NULL; the module that is missing is in the output."""
    with pytest.raises(LayerError) as caught:
        forward(caffe, "Any", folder, module="broken")
    assert "does_not_exist" in caught.value.output + str(caught.value)


IMPORTS = """
import importlib
import caffe

FOUND = []
for name in {names!r}:
    try:
        FOUND.append(getattr(importlib.import_module(name), "__file__", None) or name)
    except ImportError:
        pass
ours = [file for file in FOUND if file.startswith({ours!r})]
assert not ours, ours

class Layer(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(1)
    def forward(self, bottom, top): top[0].data[...] = 7
    def backward(self, top, propagate_down, bottom): pass
"""


def test_layer_finds_no_module_of_this_project(caffe: Caffe, folder: Path) -> None:
    """No name of ours can be imported inside Caffe, also not where a layer lacks one such."""
    files = [file for file in RUNTIME.rglob("*.py") if "__pycache__" not in file.parts]
    names = sorted({file.stem for file in files} | {"caffe_parity"})
    assert {"client", "install", "session", "worker"} <= set(names)
    text = IMPORTS.format(names=names, ours=str(RUNTIME.parent))
    (folder / "imports_ours.py").write_text(text)
    assert forward(caffe, "Layer", folder, module="imports_ours") == 7
    for name in ("client", "session", "worker"):
        (folder / f"lacks_{name}.py").write_text(f"import {name}\n")
        with pytest.raises(LayerError) as caught:
            forward(caffe, "Any", folder, module=f"lacks_{name}")
        assert f"No module named '{name}'" in caught.value.output


def test_layer_may_be_called_as_a_module_of_this_project(tmp_path: Path) -> None:
    """Inside Caffe, `client` and `worker` are a user's own where he has them."""
    with Caffe(find(), timeout=10) as caffe:
        for name in ("client", "worker", "session"):
            (tmp_path / f"{name}.py").write_text(LAYERS)
            assert forward(caffe, "Base", tmp_path, module=name) == 7


def test_workers_folder_holds_the_worker_alone() -> None:
    """Whoever runs it, as a debugger does, has nothing else of ours on Python's path either."""
    found = {each.name for each in (RUNTIME / "worker").iterdir()} - {"__pycache__"}
    assert found == {"worker.py"}


MODULE = """
import caffe
{imports}

class Layer(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(1)
    def forward(self, bottom, top): top[0].data[...] = {value}
    def backward(self, top, propagate_down, bottom): pass
"""


@pytest.mark.parametrize("value", ["5", "helper.VALUE"], ids=["layer", "import"])
@pytest.mark.parametrize("place", ["same", "other"])
def test_a_layer_is_what_its_file_says_now(
    caffe: Caffe, tmp_path: Path, value: str, place: str
) -> None:
    """Edited, or found in another folder under the same name: never what was imported before."""
    one, other = tmp_path / "same", tmp_path / place
    for folder in {one, other}:
        folder.mkdir()

    def value_of(folder: Path, number: str) -> float:
        imports = "import helper" if value != "5" else ""
        text = MODULE.format(imports=imports, value=value.replace("5", number))
        (folder / "edited_layer.py").write_text(text)
        (folder / "helper.py").write_text(f"VALUE = {number}")
        return forward(caffe, "Layer", folder, module="edited_layer")

    assert value_of(one, "5") == 5
    assert value_of(other, "6") == 6
    assert value_of(one, "7") == 7


HABITS = """
import os, sys, warnings
import caffe
import numpy as np

def seen():
    try:
        np.float32(1) / np.zeros(1, np.float32)
        warnings.warn("x")
        return float("PARITY_TEST" in os.environ or sys.getrecursionlimit() > 1500)
    except (FloatingPointError, Warning):
        return 1.0

class Layer(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(1)
    def forward(self, bottom, top): top[0].data[...] = seen()
    def backward(self, top, propagate_down, bottom): pass
"""


@pytest.mark.parametrize(
    "habit",
    [
        'np.seterr(all="raise")',
        'warnings.simplefilter("error")',
        'os.environ["PARITY_TEST"] = "1"',
        "sys.setrecursionlimit(2000)",
    ],
)
def test_a_layer_inherits_no_habit_of_another(caffe: Caffe, tmp_path: Path, habit: str) -> None:
    """What a module sets for all of Python holds for its own nets, each time, and for no others."""
    (tmp_path / "modest.py").write_text(HABITS)
    (tmp_path / "sets.py").write_text(f"{HABITS}\n{habit}\n")

    def inherits(module: str) -> tuple[float, int | None]:
        return forward(caffe, "Layer", tmp_path, module=module), caffe.pid

    assert inherits("modest")[0] == 0
    first, again = inherits("sets"), inherits("sets")
    assert first == again and first[0] == 1
    assert inherits("modest")[0] == 0


@pytest.mark.parametrize(
    "deed",
    [
        'import os; os.chdir("/")',
        "import os; os.close(1)",
        "import os; os.dup2(os.open(os.devnull, 1), 2)",
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))",
        'import threading, os; threading.Timer(0.1, os.chdir, "/").start()',
        "self.kept = np.ones(2**22)",
        "",
    ],
)
def test_a_process_serves_only_as_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: str
) -> None:
    """Folder, outputs, limits and memory: of one that is another by then the next is served."""
    monkeypatch.setattr(client, "GROWTH_LIMIT", 2**24)
    text = MODULE.format(imports="import numpy as np", value=f"7; {deed or 'pass'}")
    (tmp_path / "does.py").write_text(text)
    with Caffe(find(), timeout=10) as caffe:
        assert forward(caffe, "Layer", tmp_path, module="does") == 7
        pid = caffe.pid
        time.sleep(0.3)
        assert forward(caffe, "Layer", tmp_path, module="does") == 7
        assert (caffe.pid == pid) == (not deed)


def test_a_layer_of_another_folder_is_not_imported(caffe: Caffe, tmp_path: Path) -> None:
    """What a folder does not have cannot come from the one that was searched before."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    (one / "only_here.py").write_text(MODULE.format(imports="", value="5"))
    assert forward(caffe, "Layer", one, module="only_here") == 5
    with pytest.raises(LayerError) as caught:
        forward(caffe, "Layer", other, module="only_here")
    assert "No module named 'only_here'" in caught.value.output
    assert forward(caffe, "Layer", one, module="only_here") == 5
    assert not [*tmp_path.rglob("*.pyc")]


def test_exit_in_a_layer_is_an_error_not_an_end(caffe: Caffe, folder: Path) -> None:
    """sys.exit() in a layer comes back as the exception that it is."""
    with pytest.raises(LayerError, match="SystemExit"):
        forward(caffe, "Exits", folder)


@pytest.mark.parametrize(
    ("layer", "how"),
    [
        ("ExitsAtOnce", "exit status 0"),
        ("Segfaults", "signal SIGSEGV"),
        ("ForksAndDies", "exit status 1"),
    ],
)
def test_death_is_named(caffe: Caffe, folder: Path, layer: str, how: str) -> None:
    """However the process ends, that is what the error says, and the next one works."""
    with pytest.raises(CaffeCrash, match=how):
        forward(caffe, layer, folder)
    assert still_works(caffe, folder)


def test_kill_from_outside(caffe: Caffe, folder: Path) -> None:
    """kill -9 between two requests is no request's fault; in the middle of one it is a crash."""
    pid = caffe.start()["pid"]
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert still_works(caffe, folder)
    pid = caffe.pid
    assert pid is not None
    threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(CaffeCrash, match="SIGKILL"):
        forward(caffe, "Sleeps", folder)
    assert still_works(caffe, folder)


def test_silence_is_a_hang(caffe: Caffe, folder: Path) -> None:
    """No answer within the time-out: the process is killed and the error says how long it took."""
    pid = caffe.start()["pid"]
    with pytest.raises(CaffeHang, match="within 3 s"):
        forward(caffe, "Sleeps", folder)
    assert not Path(f"/proc/{pid}").exists()
    assert still_works(caffe, folder)


def test_every_op_is_in_the_protocol() -> None:
    """docs/worker.md tells of every op of the worker, and of no other."""
    told = (RUNTIME.parents[1] / "docs/worker.md").read_text()
    worker = (RUNTIME / "worker/worker.py").read_text()
    assert set(re.findall(r'{"op": "(\w+)"', told)) == set(re.findall(r"def op_(\w+)", worker))


def test_printing_cannot_break_the_protocol(caffe: Caffe, folder: Path) -> None:
    """A layer may print megabytes and even bytes that look like a message."""
    assert forward(caffe, "Prints", folder) == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layer {", "not a valid net prototxt: 1:"),
        ("", "the net has no layer"),
        ('layers { name: "a" type: SILENCE }', "the net has no loss"),  # Caffe upgrades it
        ('layer { name: "x" type: "Input" top: "x" }', "the net has no loss"),
    ],
)
def test_bad_net_is_an_error_with_words(caffe: Caffe, text: str, words: str) -> None:
    """What would make Caffe abort is said in words, and the worker lives on."""
    pid = caffe.start()["pid"]
    with pytest.raises(NetError, match=words):
        caffe.request([{"op": "net", "text": text}])
    assert caffe.pid == pid


def test_missing_input_is_named(caffe: Caffe) -> None:
    """An input that the net does not have is named, with those that it has."""
    with pytest.raises(NetError, match="no input 'data'; its inputs are x1, x2"):
        caffe.request([{"op": "net", "text": NATIVE, "edits": {"shapes": {"data": [1]}}}])


def test_wrong_request_is_an_error_with_words(caffe: Caffe) -> None:
    """Unknown ops, unknown blobs and arrays of another shape are refused by name."""
    zeros = np.zeros((1, 2), np.float32)
    for op, words in (
        ({"op": "dance"}, "unknown op 'dance'"),
        ({"op": "data", "blob": "nope"}, "no blob 'nope'"),
        ({"op": "set", "blob": "x1", "array": zeros}, r"shape \(4, 3, 5, 6\), the array \(1, 2\)"),
    ):
        with pytest.raises(RequestError, match=words):
            caffe.request([{"op": "net", "text": NATIVE}, op])


def test_legacy_inputs_are_understood(caffe: Caffe) -> None:
    """`input:` and `input_dim:` fields, as nets before 2016 have them."""
    body = NATIVE[NATIVE.index('layer {\n  name: "loss"') :]
    head = (
        'input: "x1" input: "x2"' + " input_dim: 2 input_dim: 3 input_dim: 1 input_dim: 1" * 2 + " "
    )
    net = {"op": "net", "text": head + body, "edits": {"gradients": ["x2"]}}
    reply = caffe.request([net])[0]
    assert reply["inputs"] == {"x1": [2, 3, 1, 1], "x2": [2, 3, 1, 1]}


def test_exactly_the_wanted_gradients_are_asked_for(caffe: Caffe) -> None:
    """A Bias behind x1 alone: Caffe writes the diff of x1 and leaves that of x2 as it was."""
    net = {"op": "net", "text": NATIVE, "edits": {"gradients": ["x1"]}}
    ones = np.ones((4, 3, 5, 6), np.float32)
    ops: list[Op] = [net, {"op": "set", "blob": "x1", "array": ones}, {"op": "forward"}]
    ops += [{"op": "fill_diff", "blob": each, "value": 5.0} for each in ("x1", "x2")]
    ops += [{"op": "backward"}, {"op": "diff", "blob": "x1"}, {"op": "diff", "blob": "x2"}]
    dx1, dx2 = (reply["array"] for reply in caffe.request(ops) if "array" in reply)
    assert np.all(dx1 == 0.25)
    assert np.all(dx2 == 5.0)


def test_poison_is_for_what_a_backward_writes(caffe: Caffe) -> None:
    """A layer that is told not to propagate down leaves its diff 0, not what was put there."""
    told = 'top: "loss" propagate_down: true propagate_down: false'
    text = NATIVE.replace('top: "loss"', told)
    net = {"op": "net", "text": text, "edits": {"gradients": ["x1", "x2"]}}
    ops: list[Op] = [net, {"op": "forward"}, {"op": "poison", "value": 5.0}]
    read: list[Op] = [{"op": "diff", "blob": "x1"}, {"op": "diff", "blob": "x2"}]
    replies = caffe.request([*ops, *read, {"op": "backward"}, *read])
    before1, before2, _, dx2 = (each["array"] for each in replies if "array" in each)
    assert np.all(before1 == 5.0)
    assert np.all(before2 == 0.0) and np.all(dx2 == 0.0)


TINY = """
input: "x" input_shape { dim: 1 dim: 1 dim: 2 dim: 1 }
layer { name: "n" type: "BatchNorm" bottom: "x" top: "y" }
layer { name: "b" type: "Bias" bottom: "y" top: "z" loss_weight: 1 }
"""


@pytest.mark.parametrize("layer", [None, 1, 2])
def test_a_layer_runs_once_however_short_it_is(caffe: Caffe, layer: int | None) -> None:
    """A forward in phase TRAIN counts in a BatchNorm, a backward adds to a parameter's diff."""
    number = {} if layer is None else {"layer": layer}
    ops: list[Op] = [
        {"op": "net", "text": TINY},
        {"op": "set", "blob": "x", "array": np.ones((1, 1, 2, 1), np.float32)},
        {"op": "forward", **number},
        {"op": "fill_diff", "blob": "z", "value": 1.0},
        {"op": "backward", **number},
        {"op": "param", "layer": "n", "index": 2},
        {"op": "param_diff", "layer": "b", "index": 0},
    ]
    *_, factor, diff = (each["array"] for each in caffe.request(ops) if "array" in each)
    assert factor == (layer != 2)
    assert diff == 2 * (layer != 1)


SCRIPT = """
import sys, time
from caffe_parity.caffe.client import Caffe
from caffe_parity.caffe.interpreter import find
caffe = Caffe(find())
print(caffe.start()["pid"], flush=True)
net = {"op": "net", "text": sys.argv[1], "path": [sys.argv[2]]}
caffe.request([net, {"op": "forward"}])
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind(folder: Path, how: signal.Signals) -> None:
    """When the client ends in the middle of a hanging request, its worker ends too."""
    shared_before = set(os.listdir("/dev/shm"))
    net = python_net("Sleeps", folder)["text"]
    client = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, net, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert client.stdout is not None
    with client.stdout:
        worker = Path("/proc") / client.stdout.readline().strip()
    time.sleep(0.3)
    assert worker.exists()
    client.send_signal(how)
    client.wait(10)
    assert gone(int(worker.name))
    assert set(os.listdir("/dev/shm")) == shared_before


def test_descriptors_are_given_back(folder: Path) -> None:
    """Crashes leave no descriptor open."""
    with Caffe(find(), timeout=10) as caffe:
        caffe.start()
        gc.collect()  # what other tests have left open would be closed meanwhile
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(CaffeCrash):
                forward(caffe, "ExitsAtOnce", folder)
        caffe.start()
        assert len(os.listdir("/proc/self/fd")) == before


def test_fatal_line_is_glogs() -> None:
    """The first FATAL line counts; what a layer prints that merely starts with F does not."""
    log = "Fine so far\nI1123 07:00:00.000001  12 net.cpp:1] ok\n"
    log += "F1123 07:00:00.000002  12 blob.hpp:140] Check failed: a < b (2 vs. 1) \n*** Check"
    assert fatal_line(log) == "blob.hpp:140] Check failed: a < b (2 vs. 1)"
    assert fatal_line("nothing\n") is None
