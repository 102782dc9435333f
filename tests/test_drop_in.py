"""A Caffe with a user's own files: when it is built, of what, and what is said where it fails.

None is built here, which takes minutes; `python -m studies.drop_in` does.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import caffe_parity
from caffe_parity.caffe import cache, drop_in, install, source_build
from caffe_parity.caffe.client import Caffe
from caffe_parity.caffe.compile import CompileError
from caffe_parity.caffe.drop_in import Plan, planned
from caffe_parity.caffe.proto import merged, statements, without_comments
from caffe_parity.caffe.source_build import BuildFailed, Tree
from caffe_parity.cli.objects import load_object
from caffe_parity.contract import BadRequest
from caffe_parity.engine.judge import judge
from caffe_parity.nets import located
from caffe_parity.progress import Progress
from caffe_parity.report.record import Record
from tests.commands import check

FORK = Path(__file__).parents[1] / "studies/drop_in/fork"
CHECK = ("net.prototxt", "--reference", "ref.py:scaled", "--load", "scaled_layer.cpp")
WITH_PROTO = (*CHECK, "--proto", "fork.proto")


@pytest.fixture
def place(folder: Path) -> Path:
    """The current folder, with a layer that needs a changed message of Caffe's own."""
    shutil.copytree(FORK, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def headers() -> Path:
    """Those of the installed Caffe."""
    return install.ensure() / "usr/include/caffe"


# The merged caffe.proto

OWN = """
syntax = "proto2"; package caffe;  // a comment
enum Phase { TRAIN = 0; TEST = 1; }
message LayerParameter { optional string name = 1; optional uint32 a = 2; optional P p_param = 3; }
message P {
  enum Method { MAX = 0; AVE = 1; }
  optional Method method = 1 [default = MAX];
  repeated uint32 size = 2; optional uint32 pad = 3 [default = 0];
}
"""


def body(text: str, *names: str) -> dict[str, str]:
    """The statements of a message of a file, by what they declare."""
    for name in names:
        found = (
            re.match(rf"(?:message|enum) {name}\s*\{{(.*)\}}$", each, re.DOTALL)
            for each in statements(text)
        )
        text = next(each[1] for each in found if each)
    return {re.split(r"\s*=|\s*\{", each)[0].split()[-1]: each for each in statements(text)}


def number(statement: str) -> int:
    """Of a field or a value."""
    found = re.search(r"=\s*(\d+)", statement)
    assert found
    return int(found[1])


def test_the_users_numbers_win() -> None:
    """A field of Caffe's own whose number is taken gets one that nobody has; so do values."""
    theirs = """
message LayerParameter { optional Mine mine_param = 2; optional float b = 7; }
message P { enum Method { MAX = 0; SUM = 1; } optional bool ceil = 3; }
message Mine { optional float scale = 1; }
"""
    made = merged(OWN, theirs, lambda name: True)
    layer = {name: number(each) for name, each in body(made, "LayerParameter").items()}
    assert layer == {"name": 1, "a": 8, "p_param": 3, "mine_param": 2, "b": 7}
    inside = body(made, "P")
    assert {"size", "pad", "ceil", "method", "Method"} == {*inside}
    assert (number(inside["ceil"]), number(inside["pad"])) == (3, 4)
    methods = {name: number(each) for name, each in body(made, "P", "Method").items()}
    assert methods == {"MAX": 0, "SUM": 1, "AVE": 2}
    assert "message Mine" in made and made.count("message P ") == 1


@pytest.mark.parametrize(
    ("theirs", "wanted", "name", "declared"),
    [
        ("optional uint32 pad = 3 [default = 1];", False, "pad", "[default = 1]"),
        ("optional uint32 pad = 9 [default = 0];", False, "pad", "= 9"),
        ("optional uint32 size = 5;", False, "size", "repeated uint32 size = 5"),
        ("optional uint32 size = 5;", True, "size", "optional uint32 size = 5"),
    ],
)
def test_whose_declaration_counts(theirs: str, wanted: bool, name: str, declared: str) -> None:
    """The user's; but Caffe's own code cannot do without its own label, unless theirs wants it."""
    made = merged(OWN, f"message P {{ {theirs} }}", lambda each: wanted)
    assert declared in body(made, "P")[name]


def test_whole_file_of_an_older_caffe_leaves_what_it_does_not_know() -> None:
    """And merged with itself, a file stays as it is."""
    older = "package caffe; message P { repeated uint32 size = 2; }"
    kept = list(statements(without_comments(OWN)))
    assert list(statements(merged(OWN, older, lambda name: True))) != []
    assert body(merged(OWN, older, lambda name: True), "P").keys() == body(OWN, "P").keys()
    again = "".join(merged(OWN, OWN, lambda name: True).split())
    assert again == "".join("".join(kept).split())


# Which files go where


def test_files_go_where_caffe_has_them(place: Path, headers: Path) -> None:
    """A layer with its header, another version of a core file, a helper; nothing of Caffe's."""
    names = (
        "scaled_layer.cpp",
        "scaled_layer.hpp",
        "helper.hpp",
        "blob.hpp",
        "im2col.cpp",
        "pooling_layer.cpp",
    )
    for each in names[2:]:
        (place / each).write_text("// mine\n")
    (place / "unused.hpp").write_text("")
    shutil.copy(headers / "layers/neuron_layer.hpp", place)
    with (place / "scaled_layer.cpp").open("a") as file:
        file.write('#include "helper.hpp"\n#include "caffe/layers/neuron_layer.hpp"\n')
    given = [place / each for each in names if each.endswith(".cpp")]
    plan = planned(headers.parents[2], given, [], None)
    assert {at: file.name for at, file in plan.files.items()} == {
        "src/caffe/layers/scaled_layer.cpp": "scaled_layer.cpp",
        "include/caffe/layers/scaled_layer.hpp": "scaled_layer.hpp",
        "src/caffe/layers/helper.hpp": "helper.hpp",
        "include/caffe/blob.hpp": "blob.hpp",
        "src/caffe/util/im2col.cpp": "im2col.cpp",
        "src/caffe/layers/pooling_layer.cpp": "pooling_layer.cpp",
    }
    assert set(plan.core) == {"include/caffe/blob.hpp", "src/caffe/util/im2col.cpp"}
    assert plan.types == ("Scaled",)


def test_of_a_forks_tree_only_what_the_layer_needs(place: Path, headers: Path) -> None:
    """Its own header and what Caffe does not have; Caffe's core stays Caffe's."""
    layers, include = place / "fork/src/caffe/layers", place / "fork/include/caffe"
    layers.mkdir(parents=True)
    (include / "layers").mkdir(parents=True)
    (include / "util").mkdir()
    source = layers / "scaled_layer.cpp"
    source.write_text('#include "caffe/layers/scaled_layer.hpp"\n#include "caffe/blob.hpp"\n')
    (include / "layers/scaled_layer.hpp").write_text('#include "caffe/util/boxes.hpp"\n')
    for each in ("util/boxes.hpp", "util/unused.hpp", "blob.hpp", "net.hpp"):
        (include / each).write_text("// the fork's\n")
    plan = planned(headers.parents[2], [source], [], None)
    assert sorted(plan.files) == [
        "include/caffe/layers/scaled_layer.hpp",
        "include/caffe/util/boxes.hpp",
        "src/caffe/layers/scaled_layer.cpp",
    ]


def test_two_files_of_one_name_are_refused(place: Path, headers: Path) -> None:
    """They belong at the same place, and one would be lost."""
    (place / "more").mkdir()
    shutil.copy(place / "scaled_layer.cpp", place / "more")
    with pytest.raises(CompileError, match=r"two files are called scaled_layer\.cpp"):
        planned(
            headers.parents[2],
            [place / "scaled_layer.cpp", place / "more/scaled_layer.cpp"],
            [],
            None,
        )


def test_the_name_in_the_cache_is_made_of_all_files(place: Path, headers: Path) -> None:
    """An edit of any of them is another Caffe; a file's folder is not."""
    root = headers.parents[2]

    def name() -> str:
        return planned(root, [place / "scaled_layer.cpp"], [], place / "fork.proto").name

    before = name()
    seen = {before}
    for each in ("scaled_layer.cpp", "scaled_layer.hpp", "fork.proto"):
        file = place / each
        text = file.read_text()
        file.write_text(text + "\n")
        seen.add(name())
        file.write_text(text)
    assert len(seen) == 4 and name() == before


@pytest.mark.parametrize(
    ("text", "registered", "classes"),
    [
        ("REGISTER_LAYER_CLASS(Euclid);", "REGISTER_LAYER_CLASS(Euclid);", "Euclid"),
        ("REGISTER_LAYER_CREATOR(Euclid, Get);", "REGISTER_LAYER_CLASS(Euclid);", "MyEuclid"),
    ],
)
def test_a_type_that_the_user_registers_is_no_longer_caffes(
    tmp_path: Path, text: str, registered: str, classes: str
) -> None:
    """The same class leaves with its file; another class of that type only its registration."""
    layers = tmp_path / "source/src/caffe/layers"
    layers.mkdir(parents=True)
    factory = layers.parent / "layer_factory.cpp"
    factory.write_text(
        "REGISTER_LAYER_CREATOR(Euclid, GetEuclid);\nREGISTER_LAYER_CREATOR(A, B);\n"
    )
    (layers / "euclid_layer.cpp").write_text(f"INSTANTIATE_CLASS(EuclidLayer);\n{registered}\n")
    (layers / "a_layer.cpp").write_text("INSTANTIATE_CLASS(ALayer);\nREGISTER_LAYER_CLASS(A);\n")
    mine = tmp_path / "mine.cpp"
    mine.write_text(f"INSTANTIATE_CLASS({classes}Layer);\n{text}\n")
    plan = Plan(tmp_path, {"src/caffe/layers/mine.cpp": mine})
    drop_in._lay(plan, Tree(tmp_path, tmp_path, "log", ""))
    assert factory.read_text() == "\nREGISTER_LAYER_CREATOR(A, B);\n"
    assert "REGISTER_LAYER_CLASS(A);" in (layers / "a_layer.cpp").read_text()
    assert "REGISTER" in (layers / "mine.cpp").read_text()
    left = layers / "euclid_layer.cpp"
    assert left.exists() == (classes == "MyEuclid")
    assert not left.exists() or "REGISTER" not in left.read_text()


# When one is built


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda place: None, "another PowerParameter.gain in Caffe's own messages"),
        (lambda place: _without_new(place), "another PowerParameter.gain in Caffe's own messages"),
        (lambda place: (place / "net.hpp").write_text("//"), "another net.hpp in Caffe's core"),
        (lambda place: _in_the_code(place), "another PowerParameter.gain in Caffe's own messages"),
        (lambda place: _written(place), "a new field of LayerParameter that its layer writes"),
    ],
)
def test_what_a_plug_in_cannot_have(
    caffe: Caffe,
    place: Path,
    wanted: list[Plan],
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], object],
    words: str,
) -> None:
    """It is said in a line what, how long that takes, and where it is kept; then it is built."""
    change(place)
    assert check(*WITH_PROTO) == 2
    (plan,) = wanted
    said = capsys.readouterr().out
    assert f"a plug-in cannot have {words}, so a Caffe is built with scaled_layer.cpp, " in said
    assert f"fork.proto: about 4 minutes on 2 cores, once; it is kept as {cache.folder()}" in said
    assert plan.name in said and plan.proto == Path("fork.proto")


def _without_new(place: Path) -> None:
    text = (place / "fork.proto").read_text()
    (place / "fork.proto").write_text(text[text.index("message PowerParameter") :])


def _in_the_code(place: Path) -> None:
    """The net does not say the field, but the layer reads it."""
    net = place / "net.prototxt"
    text = net.read_text().replace("power_param { gain: 5 }", "").replace("gain: 7", "")
    net.write_text(text)


def _written(place: Path) -> None:
    _in_the_code(place)
    source = place / "scaled_layer.cpp"
    text = source.read_text().replace("layer.power_param().gain()", "5")
    write = "LayerParameter copy = this->layer_param_; copy.mutable_scaled_param()->set_scale(3);"
    source.write_text(
        text.replace("const LayerParameter& layer", f"{write} const LayerParameter& layer")
    )


def test_what_a_plug_in_can_have_is_one(
    caffe: Caffe, place: Path, wanted: list[Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    """A change of Caffe's messages that neither the net nor the code uses takes nine seconds."""
    _in_the_code(place)
    source = place / "scaled_layer.cpp"
    source.write_text(source.read_text().replace("layer.power_param().gain()", "5"))
    assert check(*WITH_PROTO, "--cases", "1") == 0
    assert not wanted
    assert "left out: PowerParameter.gain, which neither the net" in capsys.readouterr().out


def test_a_library_does_not_fit_another_caffe(
    caffe: Caffe, place: Path, wanted: list[Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    """It was built for Caffe 1.0 as it is."""
    (place / "other.so").write_bytes(b"")
    assert check(*WITH_PROTO, "--load", "other.so") == 2
    assert "--load other.so: it was built for another Caffe" in capsys.readouterr().err
    assert not wanted


def test_one_that_is_in_the_cache_is_used(
    caffe: Caffe,
    place: Path,
    wanted: list[Plan],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And that is said."""
    monkeypatch.setattr(Plan, "built", True)
    assert check(*WITH_PROTO) == 2
    assert "in the Caffe that was built with the files before, drop-in-" in capsys.readouterr().out


# What is said where it fails


def failing(printed: str) -> Callable[..., None]:
    """A build that prints this, and fails."""

    def compile(*_: object, **__: object) -> None:
        raise BuildFailed("make failed.", "", "", printed)

    return compile


@pytest.fixture
def building(
    caffe: Caffe, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """A build whose compiler says what is given; the source and its tools are stand-ins."""
    base = tmp_path / "base"
    layers = base / "source/src/caffe/layers"
    layers.mkdir(parents=True)
    (layers.parent / "layer_factory.cpp").write_text("")
    (layers.parent / "proto").mkdir()
    (layers.parent / "proto/caffe.proto").write_text(POWER)
    monkeypatch.setattr(drop_in, "_base", lambda root, progress: base)
    monkeypatch.setattr(Tree, "make_tools", lambda *_: None)

    def prepare(printed: str) -> None:
        monkeypatch.setattr(Tree, "compile", failing(printed))

    return prepare


POWER = 'syntax = "proto2"; package caffe; message PowerParameter { optional float power = 1; }'
GCC = """\
[  1%] Building CXX object src/caffe/CMakeFiles/caffe.dir/layers/scaled_layer.cpp.o
../../../source/include/caffe/layers/other.hpp:3: warning: unused
In file included from ../../../source/src/caffe/layers/scaled_layer.cpp:1:
../../../source/{place}:7:3: error: 'nothing' was not declared in this scope
    7 |   nothing;
make[3]: *** [x.o] Error 1
"""


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        (
            GCC.format(place="include/caffe/layers/scaled_layer.hpp"),
            ["scaled_layer.hpp:7:3: error: 'nothing' was not declared", "to do: correct the line"],
        ),
        (
            GCC.format(place="src/caffe/net.cpp"),
            ["src/caffe/net.cpp:7:3: error:", "net.cpp is Caffe 1.0's own", "--load net.cpp"],
        ),
        (
            "x.o: undefined reference to `_ZN5caffe4boxyEi'\ncollect2: error: ld returned 1\n",
            ["no file defines caffe::boxy(int)", "add the source file that does"],
        ),
    ],
)
def test_failing_build_shows_the_users_file_and_line(
    building: Callable[[str], None],
    place: Path,
    capsys: pytest.CaptureFixture[str],
    printed: str,
    words: list[str],
) -> None:
    """The first error alone, whose file it is, and what to do; nothing is left."""
    building(printed)
    before = {*cache.folder().iterdir()}
    assert check(*CHECK, "--proto", "part.proto") == 2
    said = capsys.readouterr().err
    for each in words:
        assert each in said, said
    assert "warning" not in said and "../../../source" not in said and "Traceback" not in said
    assert {each.name for each in {*cache.folder().iterdir()} - before} <= {"drop-in.lock"}


def test_interrupted_build_leaves_nothing(
    building: Callable[[str], None],
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C: 130, and no unfinished folder in the cache."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Tree, "compile", interrupt)
    assert check(*CHECK, "--proto", "part.proto") == 130
    assert not list(cache.folder().glob("drop-in.unfinished*"))


def test_proto_that_cannot_be_merged(
    building: Callable[[str], None], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before four minutes are spent: what protoc says, and of which line."""
    building("")
    text = (place / "part.proto").read_text()
    (place / "part.proto").write_text(text.replace("optional float gain", "optional Nothing gain"))
    assert check(*CHECK, "--proto", "part.proto") == 2
    said = capsys.readouterr().err
    assert "protoc refuses Caffe's caffe.proto with what part.proto changes in it" in said
    assert '"Nothing" is not defined. (optional Nothing gain = 1 [default = 1.0];)' in said


def test_missing_gpu_functions_are_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class without STUB_GPU, as in a plug-in; then the build goes on."""
    root = install.ensure()
    missing = "x.o: undefined reference to `_ZN5caffe7ALayerIfE11Forward_gpuEi'\n"
    tries: list[bool] = []
    tree = Tree(root, tmp_path, "log", "")
    stubs = tree.source / drop_in.STUBS
    stubs.parent.mkdir(parents=True)

    def compile(*_: object, **__: object) -> None:
        tries.append(stubs.exists())
        if len(tries) == 1:
            raise BuildFailed("make failed.", "", "", missing)

    monkeypatch.setattr(Tree, "compile", compile)
    drop_in._compile(Plan(root), tree, Progress())
    assert tries == [False, True]
    assert "_ZN5caffe7ALayerIfE11Forward_gpuEi" in stubs.read_text()


def test_progress_has_a_line_every_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With how far make is, and for how long, also while it says nothing."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)

    def run(
        command: object,
        folder: object,
        log: object,
        environment: object,
        watch: Callable[[str], None],
        advice: str,
    ) -> None:
        for said in ("[ 3%] Building x\n", *[""] * 25):
            clock.now += 1
            watch(said)

    monkeypatch.setattr(source_build, "run", run)
    Tree(tmp_path, tmp_path, "log", "building").compile({}, Progress())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and lines[-1].startswith("building 3 %, ")


# In a test file


OWN_MESSAGE = Path(__file__).parent / "cases/own_message"


def declared(**more: str) -> caffe_parity.Layer:
    """The layer with a message of its own, as a test file declares it."""
    net: Any = caffe_parity.net("net.prototxt", load=["power_focus_loss_layer.cpp"], **more)
    return caffe_parity.Layer(
        "focus",
        reference=load_object(f"{OWN_MESSAGE}/ref.py:loss", "--reference"),
        inputs={"x": (4, 5), "label": (4, 5)},
        variants={"caffe": net},
        data={"label": "binary"},
        cases=1,
    )


def record(layer: caffe_parity.Layer, folder: Path) -> Record:
    """What comes out of its only case."""
    declared: Any = layer.variants["caffe"]
    net = located(declared, folder)
    layer = replace(layer, variants={"caffe": net})
    return judge(layer, "caffe", layer.all_cases()[0])


def test_a_test_file_loads_what_the_command_loads(caffe: Caffe, place: Path) -> None:
    """Sources and a caffe.proto; without it the compiler's words say so, and no command's."""
    assert record(declared(proto="caffe.proto.part"), OWN_MESSAGE).agrees
    with pytest.raises(
        BadRequest, match=r"(?s)load power_focus_loss_layer.cpp: .*--proto FILE takes"
    ):
        record(declared(), OWN_MESSAGE)


def test_what_does_not_compile_is_not_tried_again(
    caffe: Caffe, place: Path, wanted: list[Plan]
) -> None:
    """A build takes minutes; each case of the layer would wait for it."""
    net = located(
        caffe_parity.net("net.prototxt", load=["scaled_layer.cpp"], proto="fork.proto"), place
    )
    for _ in range(3):
        with pytest.raises(BadRequest, match="none is built in tests"):
            net.made  # noqa: B018
    assert len(wanted) == 1
