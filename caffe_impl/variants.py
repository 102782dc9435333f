"""The Caffe variants of the three layers: which net computes which of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from caffe_impl.compiled import compiled_layer
from caffe_parity import CaffeNet, Case, Expectation
from caffe_parity.nets import input_layers

NETS = Path(__file__).parent / "nets"
LAYERS = Path(__file__).parent / "layers"


def from_file(name: str) -> Callable[[Case], str]:
    """The text of a net of this package, the same for every case."""
    text = (NETS / name).read_text()
    return lambda case: text


def slice_eltwise(case: Case) -> str:
    """`channel_sum_slice_eltwise.prototxt` for the channels that a case has.

    The number of channels is the number of Slice's tops, so the text depends on it; the file in
    nets/ is this one for three channels, with comments, which a test holds. One channel is its
    own sum.
    """
    text, bottoms = f'name: "channel_sum"\n{input_layers(case.shapes)}', []
    for number, (name, shape) in enumerate(case.shapes.items(), 1):
        bottoms.append(name if shape[1] == 1 else f"sum{number}")
        if shape[1] > 1:
            text += slice_and_sum(name, bottoms[-1], shape[1])
    lines = "".join(f'  bottom: "{name}"\n' for name in bottoms)
    return f'{text}layer {{\n  name: "loss"\n  type: "EuclideanLoss"\n{lines}  top: "loss"\n}}\n'


def slice_and_sum(bottom: str, top: str, channels: int) -> str:
    """A Slice into single channels and the Eltwise that adds them up again."""
    names = [f"{bottom}_{channel}" for channel in range(channels)]
    tops = "".join(f'  top: "{name}"\n' for name in names)
    bottoms = "".join(f'  bottom: "{name}"\n' for name in names)
    return (
        f'layer {{\n  name: "slice_{bottom}"\n  type: "Slice"\n  bottom: "{bottom}"\n{tops}'
        "  slice_param { axis: 1 }\n}\n"
        f'layer {{\n  name: "{top}"\n  type: "Eltwise"\n{bottoms}  top: "{top}"\n'
        "  eltwise_param { operation: SUM }\n}\n"
    )


FIVE_AXES = "EuclideanLoss asks for num(), which Caffe allows for up to four axes"


def _euclidean_loss(case: Case) -> Expectation | None:
    """EuclideanLoss divides by num(), and num() aborts on a blob of more than four axes."""
    if len(case.shapes["x1"]) > 4:
        return Expectation("refused", FIVE_AXES, text="num_axes() <= 4")
    return None


def _reduction_as_channel_sum(case: Case) -> Expectation | None:
    """Reduction sums through the last axis, whatever was meant."""
    if any(extent != 1 for shape in case.shapes.values() for extent in shape[2:]):
        reason = "Reduction sums axis 1 to the last: this is tail_sum"
        return Expectation("as-layer", reason, layer="tail_sum")
    return None


def _net(
    file: str,
    claims: Callable[[Case], Expectation | None] = lambda case: None,
    text: Callable[[Case], str] | None = None,
) -> CaffeNet:
    return CaffeNet(text or from_file(file), str(NETS / file), (str(LAYERS),), claims=claims)


def variants() -> dict[str, dict[str, CaffeNet]]:
    """Every Caffe variant of every layer: by layer and name."""
    slices = "channel_sum_slice_eltwise.prototxt"
    cuda = replace(_net("channel_sum_cuda.prototxt"), libraries=compiled_layer)
    return {
        "euclidean": {
            "caffe-native": _net("euclidean_native.prototxt", _euclidean_loss),
            "caffe-python": _net("euclidean_python.prototxt"),
            "caffe-eltwise-reduction": _net("euclidean_eltwise_reduction.prototxt"),
        },
        "channel_sum": {
            "caffe-python": _net("channel_sum_python.prototxt"),
            "caffe-convolution": _net("channel_sum_convolution.prototxt", _euclidean_loss),
            "caffe-slice-eltwise": _net(slices, _euclidean_loss, slice_eltwise),
            "caffe-cuda": cuda,
            "caffe-reduction": _net("tail_sum_reduction.prototxt", _reduction_as_channel_sum),
        },
        "tail_sum": {
            "caffe-python": _net("tail_sum_python.prototxt"),
            "caffe-reduction": _net("tail_sum_reduction.prototxt"),
        },
    }
