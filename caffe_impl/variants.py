"""The Caffe variants: each net under the schedule that every variant runs, in a real Caffe."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from caffe_parity.caffe import compile as plugin
from caffe_parity.caffe import cuda_build, install
from caffe_parity.caffe.client import Caffe, CaffeCrash, CaffeHang, LayerError, Op, SpoiltInput
from caffe_parity.caffe.interpreter import find
from caffe_parity.contract import (
    PASSES,
    SHARED_GRADIENT,
    Array32,
    Case,
    Expectation,
    Inputs,
    Pass,
    Result,
    Run,
    VariantFailure,
)

NETS = Path(__file__).parent / "nets"
LAYERS = Path(__file__).parent / "layers"

BEFORE = 2.0**100
"""What the diffs hold before the pass that is not compared."""

SECOND_CONSUMER = f"""
layer {{
  name: "second_consumer"
  type: "Reduction"
  bottom: "x1"
  top: "second_consumer"
  loss_weight: {SHARED_GRADIENT}
}}
"""
"""What a "split" case appends: the sum of x1, a loss of its own."""


@cache
def shared_caffe() -> Caffe:
    """The one Caffe that the variants share; starts at its first request.

    Raises:
        NoCaffe, InstallError: there is none.
    """
    return Caffe(find())


@dataclass(frozen=True)
class CaffeVariant:
    """A net in a real Caffe; implements `caffe_parity.contract.Variant`.

    Attributes:
        name: `caffe-<how>`.
        layer: the layer that it computes.
        net: makes the prototxt text for a case; its inputs are named x1 and x2.
        claims: what it claims about a case that it does not simply compute.
        path: folders with Python layers.
        libraries: makes the paths of the compiled layers to load.
        caffe: the Caffe that it runs in.
        obstacle: says why it cannot run here, such as a device that is not there, or None.
    """

    name: str
    layer: str
    net: Callable[[Case], str]
    claims: Callable[[Case], Expectation | None] = lambda case: None
    path: tuple[str, ...] = (str(LAYERS),)
    libraries: Callable[[], tuple[str, ...]] = tuple
    caffe: Callable[[], Caffe] = shared_caffe
    obstacle: Callable[[], str | None] = lambda: None

    def expects(self, case: Case) -> Expectation | None:
        """What it claims about a case that it does not simply compute; None for all others."""
        return self.claims(case)

    def cannot_run(self) -> str | None:
        """Why its device is not there; a Caffe that is missing is an error, never a reason."""
        return self.obstacle()

    def run(self, case: Case, inputs: Inputs, other: Inputs, larger: Inputs) -> Run:
        """Computes the case as `caffe_parity.contract.Variant.run` says.

        Raises:
            VariantFailure: Caffe crashed, hung, a layer raised, or wrote into its bottom.
            NetError, RequestError: the net cannot be run at all.
            NoCaffe: there is no Caffe.
        """
        recorded = _Recorder(case)
        # Made and run for one sample first: what a layer keeps from its set-up is wrong after it.
        sample = Inputs(other.x1[:1], other.x2[:1])
        ops = self.net_ops(replace(case, x1_shape=sample.x1.shape, x2_shape=sample.x2.shape))
        ops += [*recorded.one_pass(sample, BEFORE), _reshape(case, inputs)]
        ops += recorded.one_pass(other, BEFORE)
        for name, poison in PASSES.items():
            if name == "reshaped":
                ops += [_reshape(case, larger), *recorded.one_pass(larger, poison, read=False)]
                ops += [_reshape(case, inputs)]
            ops += recorded.one_pass(inputs, poison)
        replies = self.request(ops)
        _, before, *results = recorded.results(replies, [BEFORE, BEFORE, *PASSES.values()])
        passes = zip(PASSES.items(), results, strict=True)
        return Run(tuple(Pass(name, poison, result) for (name, poison), result in passes), before)

    def request(self, ops: list[Op]) -> list[Op]:
        """The answers of its Caffe to some ops, what went wrong as a verdict.

        Raises:
            VariantFailure: Caffe crashed, hung, a layer raised, or wrote into its bottom.
        """
        try:
            return self.caffe().request(ops)
        except CaffeHang as error:
            raise VariantFailure("hang", str(error), error.output) from error
        except CaffeCrash as error:
            raise VariantFailure("crash", str(error), error.output) from error
        except LayerError as error:
            raise VariantFailure("crash", str(error), error.traceback + error.output) from error
        except SpoiltInput as error:
            raise VariantFailure("fail", str(error), error.output) from error

    def net_ops(self, case: Case) -> list[Op]:
        """The ops that load the compiled layers and build the net of a case.

        Raises:
            VariantFailure: a compiled layer cannot be built.
        """
        try:
            libraries = self.libraries()
        except plugin.PluginError as error:
            raise VariantFailure("crash", str(error)) from error
        return [{"op": "load", "library": each} for each in libraries] + [self._net_op(case)]

    def _net_op(self, case: Case) -> Op:
        edits: Op = {
            "shapes": {"x1": case.x1_shape, "x2": case.x2_shape},
            "loss_weight": case.loss_weight,
            "gradients": _wanted(case),
        }
        if case.sharing == "same-blob":
            edits["shapes"].pop("x2")
            edits["same"] = {"x2": "x1"}
        if case.sharing == "split":
            edits["append"] = SECOND_CONSUMER
        return {"op": "net", "text": self.net(case), "edits": edits, "path": self.path}


def _wanted(case: Case) -> list[str]:
    """The inputs whose gradient is asked for."""
    names = ("x1",) if case.sharing == "same-blob" else ("x1", "x2")
    return [name for name, want in zip(names, case.propagate_down, strict=False) if want]


def _reshape(case: Case, inputs: Inputs) -> Op:
    shapes = {"x1": inputs.x1.shape, "x2": inputs.x2.shape}
    if case.sharing == "same-blob":
        shapes.pop("x2")
    return {"op": "reshape", "shapes": shapes}


class _Recorder:
    """Writes the ops of the passes, and finds their answers among the replies."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def one_pass(self, inputs: Inputs, poison: float, read: bool = True) -> list[Op]:
        ops: list[Op] = [{"op": "set", "blob": "x1", "array": inputs.x1}]
        if self.case.sharing != "same-blob":
            ops += [{"op": "set", "blob": "x2", "array": inputs.x2}]
        ops += [{"op": "forward"}, {"op": "poison", "value": poison}, {"op": "backward"}]
        if read:
            ops += [{"op": "loss"}]
            ops += [{"op": "diff", "blob": name} for name in _wanted(self.case)]
        return ops

    def results(self, replies: list[Op], poisons: list[float]) -> list[Result]:
        arrays = [reply["array"] for reply in replies if "array" in reply]
        wanted = _wanted(self.case)
        each = 1 + len(wanted)
        results = []
        for index, poison in enumerate(poisons):
            loss, *diffs = arrays[index * each : (index + 1) * each]
            by_name: dict[str, Array32 | None] = dict(zip(wanted, diffs, strict=True))
            # Caffe prunes the backward of a layer whose loss weight is 0 (net.cpp): no gradient.
            if self.case.weight == 0 and all((diff == poison).all() for diff in diffs):
                by_name = {}
            results.append(Result(loss.sum(), by_name.get("x1"), by_name.get("x2")))
        return results


def installed_root(caffe: Caffe) -> Path | None:
    """The folder of a Caffe that this project installed, with its compiler; None of another.

    Raises:
        InstallError: it is not there any more, and cannot be installed again.
    """
    sources = {"installed": install.ensure, "installed-cuda": cuda_build.build}
    find_root = sources.get(caffe.interpreter.source)
    return find_root() if find_root else None


@cache
def compiled_layer(in_caffe: Callable[[], Caffe] | None = None) -> tuple[str, ...]:
    """The plug-in to load for the compiled layer; none where Caffe has the layer built in.

    PARITY_PLUGIN names one that was built by hand (caffe_impl/cuda/CMakeLists.txt), which another
    Caffe than the installed one needs; else it lies beside the program of CAFFE_PYTHON.

    Args:
        in_caffe: gives the Caffe that it is for; the shared one if None.

    Raises:
        PluginError: it cannot be built.
        NoCaffe, InstallError: there is no Caffe.
    """
    chosen = os.environ.get("PARITY_PLUGIN", "")
    if chosen:
        return (str(Path(chosen).absolute()),)
    caffe = (in_caffe or shared_caffe)()
    if caffe.interpreter.source == "installed":
        return (str(plugin.build(install.ensure())),)
    if "ChannelSumEuclideanLoss" in caffe.start()["layers"]:  # to load it as well would abort
        return ()
    if caffe.interpreter.source == "installed-cuda":
        return (str(plugin.build(cuda_build.build())),)
    beside = Path(caffe.interpreter.command[-1]).with_name(f"{plugin.NAME}.so")
    if beside.is_file():
        return (str(beside),)
    raise plugin.PluginError(
        "This Caffe does not have the compiled layer.\n"
        "  to do: copy caffe_impl/cuda's files into its source tree, or build the plug-in for it\n"
        "         with CMake and set PARITY_PLUGIN to what was built (docs/compiled_layer.md)."
    )


def from_file(name: str) -> Callable[[Case], str]:
    """The text of a net of this package, the same for every case."""
    text = (NETS / name).read_text()
    return lambda case: text


def slice_eltwise(case: Case) -> str:
    """`channel_sum_slice_eltwise.prototxt` for the channels that a case has.

    The number of channels is the number of Slice's tops, so the text depends on it; the file in
    nets/ is this one for three channels. One channel is its own sum.
    """
    text = (NETS / "channel_sum_slice_eltwise.prototxt").read_text()
    head, body = text.split("# One channel each", 1)
    loss = body[body.index('layer {\n  name: "loss"') :]
    bottoms = []
    middle = ""
    for name, shape in (("x1", case.x1_shape), ("x2", case.x2_shape)):
        if shape[1] == 1:
            bottoms.append(name)
            continue
        bottoms.append(f"sum{name[1]}")
        middle += slice_and_sum(name, bottoms[-1], shape[1])
    for old, new in zip(("sum1", "sum2"), bottoms, strict=True):
        loss = loss.replace(f'bottom: "{old}"', f'bottom: "{new}"')
    return head + "# One channel each, then their sum.\n" + middle + loss


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
    if len(case.x1_shape) > 4:
        return Expectation("refused", FIVE_AXES, text="num_axes() <= 4")
    return None


def _reduction_as_channel_sum(case: Case) -> Expectation | None:
    """Reduction sums through the last axis, whatever was meant."""
    if any(extent != 1 for extent in (*case.x1_shape[2:], *case.x2_shape[2:])):
        reason = "Reduction sums axis 1 to the last: this is tail_sum"
        return Expectation("as-layer", reason, layer="tail_sum")
    return None


def variants() -> list[CaffeVariant]:
    """Every Caffe variant of every layer."""
    native = from_file("euclidean_native.prototxt")
    reduction = from_file("tail_sum_reduction.prototxt")
    convolution = from_file("channel_sum_convolution.prototxt")
    return [
        CaffeVariant("caffe-native", "euclidean", native, _euclidean_loss),
        CaffeVariant("caffe-python", "euclidean", from_file("euclidean_python.prototxt")),
        CaffeVariant(
            "caffe-eltwise-reduction",
            "euclidean",
            from_file("euclidean_eltwise_reduction.prototxt"),
        ),
        CaffeVariant("caffe-python", "channel_sum", from_file("channel_sum_python.prototxt")),
        CaffeVariant("caffe-convolution", "channel_sum", convolution, _euclidean_loss),
        CaffeVariant("caffe-slice-eltwise", "channel_sum", slice_eltwise, _euclidean_loss),
        CaffeVariant(
            "caffe-cuda",
            "channel_sum",
            from_file("channel_sum_cuda.prototxt"),
            libraries=compiled_layer,
        ),
        CaffeVariant("caffe-reduction", "channel_sum", reduction, _reduction_as_channel_sum),
        CaffeVariant("caffe-python", "tail_sum", from_file("tail_sum_python.prototxt")),
        CaffeVariant("caffe-reduction", "tail_sum", reduction),
    ]
