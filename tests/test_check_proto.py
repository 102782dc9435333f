"""`parity check --proto FILE`: a compiled layer with messages of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffe_parity.caffe.client import Caffe
from caffe_parity.caffe.proto import statements, without_comments
from tests.commands import check

NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "one" type: "Focus" bottom: "x" top: "one"
  focus_param { level: HIGH filler { value: 4 } box { size: 8 size: 16 } }
  anchors: 32 anchors: 64 kind: "}#{" spots { size: 0.5 } spots { size: 0.25 size: 0.125 } }
layer { name: "two" type: "Focus" bottom: "one" top: "two" focus_param { mode: SUM } }
layer { name: "three" type: "Focus" bottom: "two" top: "three" }
"""

PROTO = """
syntax = "proto2";  // as in a fork: "{" { ;
package caffe;
/* a comment } */
enum Phase { TRAIN = 0; TEST = 1; }
message LayerParameter {
  optional string name = 1; // the layer name
  optional FocusParameter focus_param = 147;  // the number that Caffe 1.0 has for another
  repeated float anchors = 150;
  optional string kind = 151 [default = "a;}b"];
  repeated Box spots = 152;
}
message PoolingParameter { optional bool ceil = 13; optional uint32 pad = 4 [default = 1]; }
message FocusParameter {
  enum Mode { SUM = 0; MEAN = 1; }
  optional Mode mode = 1 [default = MEAN];
  optional FillerParameter filler = 2;
  optional Box box = 3;
  optional Level level = 4;
}
enum Level { LOW = 0; HIGH = 1; }
message Box { repeated float size = 1; }
"""

LAYER = """
#include <vector>
#include "caffe/layers/neuron_layer.hpp"
namespace caffe {
template <typename Dtype>
class FocusLayer : public NeuronLayer<Dtype> {
 public:
  explicit FocusLayer(const LayerParameter& param) : NeuronLayer<Dtype>(param) {}
  virtual inline const char* type() const { return "Focus"; }
 protected:
  Dtype Factor() {
    const LayerParameter& layer = this->layer_param_;
    const FocusParameter& focus = layer.focus_param();
    Dtype factor = layer.has_focus_param() + 2 * (focus.mode() == FocusParameter_Mode_MEAN);
    factor += focus.has_filler() ? focus.filler().value() : 0;
    for (int i = 0; i < focus.box().size_size(); ++i) factor += focus.box().size(i);
    for (int i = 0; i < layer.anchors_size(); ++i) factor += layer.anchors(i);
    for (const Box& spot : layer.spots()) factor += spot.size(spot.size_size() - 1);
    factor += focus.level() == HIGH ? 128 : 0;
    return factor + 256 * layer.kind().size();
  }
  virtual void Forward_cpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
    for (int i = 0; i < bottom[0]->count(); ++i)
      top[0]->mutable_cpu_data()[i] = bottom[0]->cpu_data()[i] * Factor();
  }
  virtual void Backward_cpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                            const vector<Blob<Dtype>*>& bottom) {
    for (int i = 0; i < bottom[0]->count(); ++i)
      bottom[0]->mutable_cpu_diff()[i] = top[0]->cpu_diff()[i] * Factor();
  }
};
INSTANTIATE_CLASS(FocusLayer);
REGISTER_LAYER_CLASS(Focus);
}  // namespace caffe
"""

REFERENCE = """
def focus(x):
    one = 1 + 2 + 4 + 8 + 16 + 32 + 64 + 0.5 + 0.125 + 128 + 256 * 3
    two = 1 + 256 * 4
    three = 2 + 256 * 4
    return x * (one * two * three)
"""


@pytest.fixture
def focus(folder: Path) -> list[str]:
    """A check of a layer with messages of its own, in the current folder."""
    files = {
        "net.prototxt": NET,
        "fork.proto": PROTO,
        "focus_layer.cpp": LAYER,
        "ref.py": REFERENCE,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return [
        *("net.prototxt", "--load", "focus_layer.cpp", "--reference", "ref.py:focus"),
        *("--cases", "2"),
    ]


def test_layer_reads_its_own_messages(
    caffe: Caffe, focus: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind of new field, set and not set, layer by layer; what is not added is named."""
    assert check(*focus, "--proto", "fork.proto") == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert "--proto: FocusParameter, Level, Box, focus_param, anchors, kind, spots" in said
    assert "left out: PoolingParameter.ceil, PoolingParameter.pad, which neither the net" in said


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("optional FocusParameter", "optional NoParameter", '"NoParameter" is not defined'),
        ("message FocusParameter {", "message FocusParameter { int }", "protoc refuses"),
    ],
)
def test_proto_that_does_not_fit(
    caffe: Caffe,
    focus: list[str],
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    words: str,
) -> None:
    """Exit 2, with what protoc or the compiler says."""
    file = Path("fork.proto")
    assert PROTO.count(old) >= 1
    file.write_text(PROTO.replace(old, new, 1))
    assert check(*focus, "--proto", "fork.proto") == 2
    assert words in capsys.readouterr().err


def test_proto_that_adds_nothing_or_belongs_to_nothing(
    caffe: Caffe, focus: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2: what would be ignored is refused; without it the net's own words say what to do."""
    Path("same.proto").write_text("message LayerParameter { optional string name = 1; }")
    assert check(*focus, "--proto", "same.proto") == 2
    assert "same.proto adds no message and no field of LayerParameter" in capsys.readouterr().err
    assert check("net.prototxt", "--reference", "ref.py:focus", "--proto", "fork.proto") == 2
    assert "--proto fork.proto: it belongs to a compiled layer's source" in capsys.readouterr().err
    assert check(*focus, "--proto", "none.proto") == 2
    assert "--proto none.proto: there is no such file" in capsys.readouterr().err
    assert check("net.prototxt", "--reference", "ref.py:focus") == 2
    said = capsys.readouterr().err
    assert 'has no field named "focus_param"' in said
    assert "--proto FILE takes the caffe.proto that has it" in said


_PLAIN = st.from_regex(r"\A[a-z]{1,5} = [0-9]\Z")
_TEXT = st.builds("name [default = {!r}]".format, st.text("ab{};/", max_size=5))
_STATEMENT = st.recursive(
    st.one_of(_PLAIN, _TEXT).map("{};".format),
    lambda inner: st.lists(inner, max_size=3).map(lambda each: f"m {{ {' '.join(each)} }}"),
    max_leaves=6,
)
_COMMENT = st.sampled_from(["", '// a { ; " }\n', "/* } ; ' */", "\n"])


@given(st.lists(st.tuples(_STATEMENT, _COMMENT), max_size=6))
def test_statements_are_found_whatever_is_in_strings_and_comments(
    parts: list[tuple[str, str]],
) -> None:
    """Each statement comes back whole, in order, and nothing else does."""
    text = "".join(f"{comment}{statement}{comment}" for statement, comment in parts)
    assert list(statements(without_comments(text))) == [statement for statement, _ in parts]
