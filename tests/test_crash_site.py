"""Where a net ends Caffe: by the layer's name, and the field."""

from __future__ import annotations

import pytest

from caffe_parity.caffe import crash_site
from caffe_parity.caffe.client import Caffe
from caffe_parity.contract import Case, VariantFailure
from caffe_parity.engine.caffe_net import CaffeNet

SHAPE = (2, 4, 8, 8)
FRONT = 'layer { name: "first" type: "Power" bottom: "x" top: "y" }\n'
BEHIND = 'layer { name: "last" type: "ReLU" bottom: "z" top: "z" }\n'


def layer(kind: str, says: str) -> str:
    """The second of three."""
    return f'layer {{ name: "mine" type: "{kind}" bottom: "y" top: "z" {says} }}\n'


def ended(text: str) -> str:
    """What is said of a net that ends Caffe."""
    front = 'layer { name: "x" type: "Input" top: "x" input_param { shape { '
    front += " ".join(f"dim: {each}" for each in SHAPE) + " } } }\n"
    net = CaffeNet(lambda case: front + text)
    case = Case("0", {"x": SHAPE}, lambda case: {}, lambda case, extra: {}, gradients=("x",))
    with pytest.raises(VariantFailure) as failure:
        net.request([*net.net_ops(case), {"op": "forward"}, {"op": "backward"}])
    return str(failure.value)


@pytest.mark.parametrize(
    ("kind", "says", "words"),
    [
        (
            "Convolution",
            "convolution_param { num_output: 2 kernel_size: 3 stride_w: 2 }",
            " as it is made: convolution_param.stride_w is said without stride_h, which is 0 then",
        ),
        ("Pooling", "pooling_param { kernel_size: 2 pad: 2 }", " as it is made"),
        (
            "Deconvolution",
            "convolution_param { num_output: 2 kernel_size: 3 stride_h: 2 }",
            " in its forward: convolution_param.stride_h is said without stride_w, which is 0 then",
        ),
        ("Filter", 'bottom: "none"', " in its backward"),
    ],
)
def test_layer_that_ends_caffe_is_named(caffe: Caffe, kind: str, says: str, words: str) -> None:
    """As it is made, in its forward and in its backward, between two that do not."""
    zeros = 'layer { name: "none" type: "DummyData" top: "none" '
    zeros += "dummy_data_param { shape { dim: 2 } } }"
    said = ended(f"{FRONT}{zeros}\n{layer(kind, says)}{BEHIND}")
    assert said.endswith(f"; at layer 'mine' ({kind}){words}")


@pytest.mark.parametrize(
    ("kind", "says", "field"),
    [
        ("Convolution", "convolution_param { num_output: 2 kernel_size: 3 group: 0 }", "group"),
        ("Pooling", "pooling_param { kernel_size: 2 stride: 0 }", "stride"),
    ],
)
def test_field_of_a_layer_alone_is_named(caffe: Caffe, kind: str, says: str, field: str) -> None:
    """Without a second run: there is no other layer."""
    said = ended(layer(kind, says).replace('"y"', '"x"'))
    assert said.endswith(f"; at layer 'mine' ({kind}): {says.split()[0]}.{field} is 0")


NAMES = ["x", "a", "b", "c"]
MADE = "I1 1:1 1 net.cpp:86] Creating Layer {}\n"
BUILT = "I1 1:1 1 net.cpp:257] Network initialization done.\n"
FORWARD = "I1 1:1 1 net.cpp:593]     [Forward] Layer {}, top blob t data: 0\n"
BACKWARD = "I1 1:1 1 net.cpp:619]     [Backward] Layer {}, bottom blob t diff: 0\n"
NEEDED = "I1 1:1 1 net.cpp:200] {} needs backward computation.\n"


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_place_is_where_the_log_ends(number: int) -> None:
    """At each layer of a net, at each time; Caffe's Splits are passed over."""
    before, name, behind = NAMES[:number], NAMES[number], NAMES[number + 1 :]
    made = "".join(MADE.format(each) + MADE.format(f"{each}_split") for each in before)
    place = crash_site._place
    assert place(made + MADE.format(name), NAMES) == (name, " as it is made")
    done = "".join(map(NEEDED.format, NAMES[1:])) + BUILT
    forward = done + "".join(map(FORWARD.format, before))
    assert place(forward, NAMES) == (name, " in its forward")
    backward = forward + "".join(map(FORWARD.format, [name, *behind]))
    backward += "".join(map(BACKWARD.format, reversed(behind)))
    assert place(backward, NAMES) == (name if number else "", " in its backward")
