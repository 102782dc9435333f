"""`parity check --load FILE.cpp`: a compiled layer from its source, in one command."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_parity.caffe import install, plugin
from caffe_parity.caffe.client import Caffe, Op
from caffe_parity.caffe.compile import compile_with, toolchain
from caffe_parity.caffe.drop_in import Plan
from caffe_parity.caffe.interpreter import Interpreter, find
from caffe_parity.caffe.session import SESSION
from tests.commands import check

ROOT = Path(__file__).parent.parent
LAYER = ROOT / "examples" / "squared_hinge_layer.cpp"
CHECK = ["examples/squared_hinge.prototxt", "--data", "label=binary"]
CHECK += ["--reference", "examples/squared_hinge.py:loss", "--cases", "2"]


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("", "", "agrees"),
        ("top[0]->cpu_diff()[0] / bottom", "Dtype(1) / bottom", "ignores-top-diff: "),
        ("sum / bottom[0]->shape(0)", "sum / bottom[0]->count()", "forward-value: loss is off by"),
    ],
)
def test_compiled_layer_is_compiled_and_judged(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    code: str,
) -> None:
    """The right layer agrees, a broken one has the code of its mistake."""
    text = LAYER.read_text()
    assert text.count(old) == 1 or not old
    (folder / "mine_layer.cpp").write_text(text.replace(old, new) if old else text)
    status = check(*CHECK, "--load", "mine_layer.cpp")
    said = capsys.readouterr()
    assert status == bool(old), said
    assert code in said.out


def test_source_that_the_compiler_refuses(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 and the compiler's own words, with the user's file and line, also in a header."""
    (folder / "mine_layer.cpp").write_text('#include "caffe/layers/mine_layer.hpp"\n')
    (folder / "mine_layer.hpp").write_text("\nint broken(;\n")
    assert check(*CHECK, "--load", "mine_layer.cpp") == 2
    said = capsys.readouterr().err
    assert "--load mine_layer.cpp: the compiler refuses it" in said
    assert "mine_layer.hpp:2:" in said and "error: " in said
    assert "/tmp/tmp" not in said and "caffe/layers/mine_layer.hpp:" not in said
    (folder / "mine_layer.hpp").unlink()
    assert check(*CHECK, "--load", "mine_layer.cpp") == 2
    assert "caffe/layers/mine_layer.hpp: No such file" in capsys.readouterr().err


def test_header_in_a_folder_of_path_is_found(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a Caffe tree, where a layer's header lies elsewhere; --path says where."""
    text = LAYER.read_text()
    head, rest = text.split("INSTANTIATE_CLASS", 1)
    (folder / "include").mkdir()
    (folder / "include" / "mine_layer.hpp").write_text(head + "}\n")
    (folder / "mine_layer.cpp").write_text(
        f'#include "caffe/layers/mine_layer.hpp"\nnamespace caffe {{\nINSTANTIATE_CLASS{rest}'
    )
    assert check(*CHECK, "--load", "mine_layer.cpp") == 2
    assert "No such file" in capsys.readouterr().err
    assert check(*CHECK, "--load", "mine_layer.cpp", "--path", "include") == 0


def test_source_in_a_forks_tree_finds_its_headers(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own header and what else is new there; Caffe's core and base classes stay Caffe's."""
    head, rest = LAYER.read_text().split("INSTANTIATE_CLASS", 1)
    layers, headers = folder / "fork/src/caffe/layers", folder / "fork/include/caffe"
    layers.mkdir(parents=True)
    (headers / "layers").mkdir(parents=True)
    (headers / "mine.hpp").write_text('#include "caffe/layers/mine_layer.hpp"\n')
    (headers / "layers/mine_layer.hpp").write_text(f"#pragma once\n{head}}}\n")
    for name in ("layer.hpp", "layers/loss_layer.hpp", "layers/mine_base_layer.hpp"):
        (headers / name).write_text("#error the fork's own\n")
    source = layers / "mine_layer.cpp"
    source.write_text(f'#include "caffe/mine.hpp"\nnamespace caffe {{\nINSTANTIATE_CLASS{rest}')
    assert check(*CHECK, "--load", "fork/src/caffe/layers/mine_layer.cpp") == 0


def test_base_class_that_is_another_than_caffes_is_built(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], wanted: list[Plan]
) -> None:
    """With a member more, its code in libcaffe would write beside it; a comment more is nothing."""
    own = (install.ensure() / "usr/include/caffe/layers/loss_layer.hpp").read_text()
    (folder / "mine_layer.cpp").write_text(LAYER.read_text())
    (folder / "loss_layer.hpp").write_text(f"// mine\n{own}")
    assert check(*CHECK, "--load", "mine_layer.cpp") == 0
    changed = own.replace(" public:", " public:\n  Dtype mine_;", 1)
    (folder / "loss_layer.hpp").write_text(changed)
    assert check(*CHECK, "--load", "mine_layer.cpp") == 2
    assert "a plug-in cannot have another loss_layer.hpp than Caffe 1.0's, so a Caffe is built" in (
        capsys.readouterr().out
    )
    places = ["include/caffe/layers/loss_layer.hpp", "src/caffe/layers/mine_layer.cpp"]
    assert [sorted(each.files) for each in wanted] == [places]


def test_source_for_a_caffe_that_is_not_ours_is_refused(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2: its compiler is unknown, so the library is asked for."""
    installed = find()
    own = Interpreter(installed.command, installed.environment, "CAFFE_PYTHON")
    with Caffe(own) as other:
        SESSION.use(other)
        assert check(*CHECK, "--load", "examples/squared_hinge_layer.cpp") == 2
    SESSION.use(caffe)
    assert "for the one of CAFFE_PYTHON give the library" in capsys.readouterr().err


CASES = ROOT / "tests/cases"
EDITED = CASES / "edited_built_in/euclidean_loss_layer.cpp"


def test_layer_without_a_backward_is_named_and_its_forward_compared(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything runs; --grad '' is what helps then."""
    text = LAYER.read_text()
    start, end = text.index("CHECK(!propagate_down[1])"), text.index("  Blob<Dtype> slope_;")
    (folder / "mine_layer.cpp").write_text(f"{text[:start]}NOT_IMPLEMENTED;\n  }}\n\n{text[end:]}")
    assert check(*CHECK, "--load", "mine_layer.cpp") == 1
    said = capsys.readouterr().out
    named = "mine_layer.cpp:47: SquaredHingeLossLayer::Backward_cpu is NOT_IMPLEMENTED: the layer"
    assert said.index(named) < said.index("inputs:")
    assert "crash: mine_layer.cpp:50] Not Implemented Yet (the layer has no backward" in said
    assert "no forward" not in said
    assert check(*CHECK, "--load", "mine_layer.cpp", "--grad", "") == 0


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("{ NOT_IMPLEMENTED; }", ["ALayer::Backward_cpu"]),
        ("{\n  // later\n  NOT_IMPLEMENTED ; }", ["ALayer::Backward_cpu"]),
        ("{ if (propagate_down[1]) NOT_IMPLEMENTED; }", []),
        ("{ } /* { NOT_IMPLEMENTED; } */", []),
        ("; // { NOT_IMPLEMENTED; }", []),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_function_without_code_is_found(
    tmp_path: Path, body: str, found: list[str], inside: bool
) -> None:
    """In the class and outside of it; a case that is refused is code."""
    taken = "(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down)"
    text = "class BLayer : public Layer<Dtype> {};\nclass ALayer : public Layer<Dtype> {\n"
    text += f"void Backward_cpu{taken} {body} }};" if inside else "};\n"
    text += (
        ""
        if inside
        else f"template <typename Dtype> void ALayer<Dtype>::Backward_cpu{taken} {body}"
    )
    (tmp_path / "a.cpp").write_text(text)
    missing = plugin.without_code([tmp_path / "a.cpp"])
    assert [each.function for each in missing] == found
    assert [each.where for each in missing] == [f"a.cpp:{3 if inside else 4}"] * len(found)


def test_edited_type_is_another_only_while_it_is_loaded(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also behind a library built elsewhere, through which libcaffe's own class is found first."""
    root = install.ensure()
    places, flags = [toolchain(root) / "include"], ["-shared", "-fPIC", "-DCPU_ONLY"]
    compile_with(root, folder / "foreign.so", [LAYER], places, flags)
    assert check(*CHECK, "--load", "foreign.so") == 0
    mine = [str(EDITED.with_name("net.prototxt")), "--reference"]
    mine += [f"{EDITED.with_name('ref.py')}:loss", "--cases", "2"]
    assert check(*mine, "--load", str(EDITED)) == 0
    assert "EuclideanLoss: yours, in place of Caffe's own" in capsys.readouterr().out
    assert check(*mine) == 1
    twice = EDITED.read_text().replace("/ count;", "/ count / 2;")
    (folder / "euclidean_loss_layer.cpp").write_text(twice)
    assert check(*mine, "--load", "euclidean_loss_layer.cpp") == 1
    assert check(*mine, "--load", str(EDITED)) == 0


def test_type_that_two_files_register_is_refused(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which of the two would run is nobody's guess."""
    text = LAYER.read_text()
    (folder / "mine_layer.cpp").write_text(text)
    (folder / "other_layer.cpp").write_text(text)
    both = ["--load", "mine_layer.cpp", "--load", "other_layer.cpp"]
    assert check(*CHECK, *both) == 2
    assert "two files of --load define the same" in capsys.readouterr().err
    text = text.replace("SquaredHingeLossLayer", "OtherLayer")
    creator = (
        "template <typename Dtype> shared_ptr<Layer<Dtype> > Create(const LayerParameter& p) "
        "{ return shared_ptr<Layer<Dtype> >(new OtherLayer<Dtype>(p)); }\n"
        "REGISTER_LAYER_CREATOR(SquaredHingeLoss, Create)"
    )
    text = text.replace("REGISTER_LAYER_CLASS(SquaredHingeLoss)", creator)
    (folder / "other_layer.cpp").write_text(text)
    assert check(*CHECK, *both) == 2
    assert "the layer type SquaredHingeLoss is registered twice" in capsys.readouterr().err


def test_library_without_a_layer_is_named_among_others(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It alone, although the source beside it has the net's layer."""
    (folder / "empty.cpp").write_text("int nothing;\n")
    flags = ["-shared", "-fPIC"]
    compile_with(install.ensure(), folder / "empty.so", [folder / "empty.cpp"], [], flags)
    assert check(*CHECK, "--load", "empty.so", "--load", str(LAYER)) == 2
    assert "parity check: --load empty.so registers no layer, so" in capsys.readouterr().err


def test_library_with_a_type_of_caffes_own_says_what_to_do(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that was built elsewhere registers at once, which Caffe answers with an abort."""
    root = install.ensure()
    places, flags = [toolchain(root) / "include"], ["-shared", "-fPIC", "-DCPU_ONLY"]
    compile_with(root, folder / "mine.so", [EDITED], places, flags)
    net = [str(EDITED.with_name("net.prototxt")), "--reference"]
    assert check(*net, f"{EDITED.with_name('ref.py')}:loss", "--load", "mine.so") == 2
    said = capsys.readouterr().err
    assert "--load mine.so: " in said and "EuclideanLoss already registered" in said
    assert "give the source, --load FILE.cpp, and it takes the place of Caffe's own" in said


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("a.cpp:1:9: error: 'FooParameter' does not name a type", "--proto FILE"),
        ("a.cpp:1: error: 'const class caffe::LayerParameter' has no member named 'x'", "--proto"),
        ("a.cpp:1: error: 'class caffe::LayerParameter' has no member named 'mutable_x'", "read"),
        ("a.cpp:1: error: 'class caffe::PoolingParameter' has no member named 'x'", "Caffe's own"),
        ("a.cpp:1: error: 'caffe_gpu_axpy' was not declared in this scope", "#ifndef CPU_ONLY"),
        ("a.cpp:1:10: fatal error: cuda_runtime.h: No such file or directory", "CPU_ONLY"),
        ("a.cpp:1:10: fatal error: thrust/sort.h: No such file or directory", "CPU_ONLY"),
        ("a.cpp:1: error: 'class caffe::Blob<float>' has no member named 'x'", "Caffe's core"),
        ("a.cpp:1:10: fatal error: caffe/util/nms.hpp: No such file or directory", "--path DIR"),
        ("a.cpp:1:10: error: expected ';' before '}' token", ""),
    ],
)
def test_what_a_compiler_says_of_a_forks_source_has_advice(said: str, advice: str) -> None:
    """One sentence that says what is in the way and what to do; none where nothing is known."""
    given = plugin.advice_on(f"a.cpp: In function:\n{said}\n")
    assert advice in given if advice else given == ""


ABSVAL = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 } } }
layer { name: "a" type: "AbsVal" bottom: "x" top: "a" }
layer { name: "b" type: "Reduction" bottom: "a" top: "b" loss_weight: 1 }
"""

TWIN = """
#include <vector>
#include "caffe/layers/absval_layer.hpp"
namespace caffe {
template <typename Dtype> class Twin : public Layer<Dtype> {
 public:
  explicit Twin(const LayerParameter& param) : Layer<Dtype>(param) {}
  virtual bool AutoTopBlobs() const { return true; }
  virtual int MinTopBlobs() const { return TOPS; }
  virtual void Reshape(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
    for (int i = 0; i < TOPS; ++i) { top[i]->ReshapeLike(*bottom[0]); }
  }
  virtual void Forward_cpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
    for (int i = 0; i < TOPS; ++i) {
      caffe_set(top[i]->count(), Dtype(i + 1), top[i]->mutable_cpu_data());
    }
  }
  virtual void Backward_cpu(const vector<Blob<Dtype>*>&, const vector<bool>&,
      const vector<Blob<Dtype>*>&) {}
};
INSTANTIATE_CLASS(Twin);
template <typename Dtype> shared_ptr<Layer<Dtype> > Create(const LayerParameter& param) {
  return shared_ptr<Layer<Dtype> >(new Twin<Dtype>(param));
}
REGISTER_LAYER_CREATOR(AbsVal, Create);
}
"""


def test_two_libraries_that_replace_a_type_may_differ_in_their_tops(tmp_path: Path) -> None:
    """One makes a top that the net does not name, so each blob behind it has another number."""
    ops: list[Op] = [{"op": "net", "text": ABSVAL}, {"op": "forward"}, {"op": "loss"}]
    found = []
    with Caffe(find(), timeout=20) as caffe:
        for tops in (1, 2, 1):
            source = tmp_path / f"twin{tops}.cpp"
            source.write_text(TWIN.replace("TOPS", str(tops)))
            root = caffe.interpreter.root
            assert root
            library = str(plugin.build(root, [source]))
            *_, loss = caffe.request([{"op": "load", "library": library}, *ops])
            found.append(loss["array"].tolist())
    assert found == [3.0, 3.0, 3.0]
