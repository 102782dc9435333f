"""The mutants, as data: one wrong edit of one source file each, and what must find it.

Add one by adding an entry: `old` must stand in the file exactly once. A mutant stands for a bug
that somebody could make; one that changes nothing observable is none and has no place here.
"""

from __future__ import annotations

from dataclasses import dataclass

LARGE = "not million"
"""Leaves out the two cases of a million values and more, which take longer than all the others."""


@dataclass(frozen=True)
class Judge:
    """What is run on the mutated copy: some arguments of pytest.

    Attributes:
        label: what it is called in the report.
        arguments: pytest's, without the files' folder.
        builds: whether the copy's compiled layer is built and used.
        own_cache: whether it gets an empty cache folder: what it compiles is not kept.
    """

    label: str
    arguments: tuple[str, ...]
    builds: bool = False
    own_cache: bool = False

    @property
    def compares(self) -> bool:
        """Whether it runs `tox -e parity`'s own cases, not the project's other tests."""
        return self.arguments[0] == "test_parity.py"


def parity(variant: str, layer: str = "", selection: str = LARGE, builds: bool = False) -> Judge:
    """The cases of `tox -e parity`, for one variant."""
    arguments = ["test_parity.py", "--variant", variant, "-k", selection]
    if layer:
        arguments += ["--layer", layer]
    return Judge(f"{layer or 'every layer'}, {variant}", tuple(arguments), builds)


def own_tests(*arguments: str, own_cache: bool = False) -> Judge:
    """The project's own tests: files, or files with the options that choose some of their tests."""
    return Judge(" ".join(arguments), arguments, own_cache=own_cache)


@dataclass(frozen=True)
class Mutant:
    """One wrong edit.

    Attributes:
        name: of its own; what `--only` takes.
        group: the heading that it stands under.
        file: the edited file, from the project's root.
        old, new: the text that is replaced, and by what.
        bug: what it stands for, in words.
        judge: what must find it.
    """

    name: str
    group: str
    file: str
    old: str
    new: str
    bug: str
    judge: Judge


def _group(group: str, file: str, *entries: tuple[str, str, str, str, Judge]) -> list[Mutant]:
    return [
        Mutant(name, group, file, old, new, bug, judge) for name, old, new, bug, judge in entries
    ]


PYTHON = parity("caffe-python")
CHANNEL_PYTHON = parity("caffe-python", "channel_sum")
TAIL_PYTHON = parity("caffe-python", "tail_sum")
EUCLIDEAN_PYTHON = parity("caffe-python", "euclidean")

_DIFFERENCE = "self.d = s1 - s2.reshape(s1.shape)"
_LOSS_IN_PYTHON = "total / (2 * bottom[0].shape[0])"

PYTHON_LAYER = _group(
    "Python layer",
    "caffe_impl/layers/summed_euclidean_loss.py",
    (
        "py-top-diff-ignored",
        "scale = top[0].diff.flat[0] /",
        "scale = np.float32(1) /",
        "the gradient of Caffe's own example layer: right at loss_weight 1 only",
        CHANNEL_PYTHON,
    ),
    (
        "py-weight-in-loss",
        _LOSS_IN_PYTHON,
        f"{_LOSS_IN_PYTHON} * top[0].diff.flat[0]",
        "the loss is multiplied with loss_weight, which Caffe does by itself",
        CHANNEL_PYTHON,
    ),
    (
        "py-one-sign",
        "enumerate((1, -1))",
        "enumerate((1, 1))",
        "x2's gradient with x1's sign",
        CHANNEL_PYTHON,
    ),
    (
        "py-signs-swapped",
        "enumerate((1, -1))",
        "enumerate((-1, 1))",
        "the bottoms are swapped in the backward only",
        CHANNEL_PYTHON,
    ),
    (
        "py-gradient-by-count",
        "np.float32(bottom[0].shape[0])",
        "np.float32(bottom[0].count)",
        "the gradient is divided by the number of elements, not by N",
        CHANNEL_PYTHON,
    ),
    (
        "py-loss-by-count",
        _LOSS_IN_PYTHON,
        "total / (2 * bottom[0].count)",
        "a mean over all elements where Caffe divides by N: the loss alone is wrong",
        CHANNEL_PYTHON,
    ),
    (
        "py-half-forgotten",
        _LOSS_IN_PYTHON,
        "total / bottom[0].shape[0]",
        "the 1/2 of 1/(2N) is forgotten in the forward",
        CHANNEL_PYTHON,
    ),
    (
        "py-channels-for-batch",
        _LOSS_IN_PYTHON,
        "total / (2 * bottom[0].shape[1])",
        "an off-by-one in the axis: divided by the number of channels",
        CHANNEL_PYTHON,
    ),
    (
        "py-gradient-times-n",
        "/ np.float32(bottom[0].shape[0])",
        "* np.float32(bottom[0].shape[0])",
        "the gradient is multiplied with N where it is divided",
        CHANNEL_PYTHON,
    ),
    (
        "py-not-squared",
        "np.square(self.d, dtype=np.float64)",
        "np.abs(self.d, dtype=np.float64)",
        "the sum of absolute values, with the gradient of the squares",
        CHANNEL_PYTHON,
    ),
    (
        "py-summed-before-squaring",
        "np.square(self.d, dtype=np.float64).sum()",
        "np.square(self.d.sum(), dtype=np.float64)",
        "order of operations: the square of the sum for the sum of the squares",
        CHANNEL_PYTHON,
    ),
    (
        "py-first-sample-only",
        "np.square(self.d, dtype=np.float64).sum()",
        "np.square(self.d[:1], dtype=np.float64).sum()",
        "tried out on a batch of 1: the loss takes the first sample only",
        CHANNEL_PYTHON,
    ),
    (
        "py-integer-division",
        "total / (2 *",
        "total // (2 *",
        "Python 2's division",
        CHANNEL_PYTHON,
    ),
    (
        "py-half-precision",
        "bottom[i].diff[...] = gradient",
        "bottom[i].diff[...] = gradient.astype(np.float16)",
        "the gradient passes through another dtype, float16",
        CHANNEL_PYTHON,
    ),
    (
        "py-accumulates",
        "bottom[i].diff[...] = gradient",
        "bottom[i].diff[...] += gradient",
        "`+=`, as for parameters, where bottoms are overwritten",
        CHANNEL_PYTHON,
    ),
    (
        "py-second-not-written",
        "if propagate_down[i]:",
        "if propagate_down[i] and i == 0:",
        "a label needs no gradient, so x2's was left out",
        CHANNEL_PYTHON,
    ),
    (
        "py-asks-for-the-first-only",
        "if propagate_down[i]:",
        "if propagate_down[0]:",
        "propagate_down[0] decides for both bottoms",
        CHANNEL_PYTHON,
    ),
    (
        "py-scales-in-place",
        "gradient = sign * scale * self.d ",
        "gradient = np.multiply(self.d, sign * scale, out=self.d) ",
        "aliasing: the kept difference is scaled in place, and again for the second bottom",
        CHANNEL_PYTHON,
    ),
    (
        "py-axis-dropped",
        "keepdims=True",
        "keepdims=False",
        "wrong broadcast: without the summed axis, samples are lined up with channels",
        CHANNEL_PYTHON,
    ),
    (
        "py-last-axis",
        "axes = (1,) if",
        "axes = (x.ndim - 1,) if",
        "channels last: the wrong axis is summed",
        CHANNEL_PYTHON,
    ),
    (
        "py-mean-over-channels",
        "x.sum(axis=axes",
        "x.mean(axis=axes",
        "the channels are averaged, not summed",
        CHANNEL_PYTHON,
    ),
    (
        "py-last-channel-dropped",
        "return x.sum(",
        "return x[:, : max(1, x.shape[1] - 1)].sum(",
        "off by one: the last channel is not summed",
        CHANNEL_PYTHON,
    ),
    (
        "py-absolute-difference",
        _DIFFERENCE,
        "self.d = np.abs(s1 - s2.reshape(s1.shape))",
        "abs() before the square: the loss is right, the gradients lose their sign",
        CHANNEL_PYTHON,
    ),
    (
        "py-stale-difference",
        _DIFFERENCE,
        'if getattr(self, "d", np.empty(0)).shape != s1.shape:\n            ' + _DIFFERENCE,
        "cached state: the difference is made anew only when the shape changes",
        CHANNEL_PYTHON,
    ),
    (
        "py-batch-size-kept",
        _LOSS_IN_PYTHON,
        'total / self.__dict__.setdefault("twice_n", 2 * bottom[0].shape[0])',
        "cached state across a reshape: N is remembered from the first forward",
        CHANNEL_PYTHON,
    ),
    (
        "py-overwrites-x1",
        _DIFFERENCE,
        "self.d = np.subtract(s1, s2.reshape(s1.shape), out=s1)",
        "aliasing: the difference is written over the bottom that it is made from",
        EUCLIDEAN_PYTHON,
    ),
    (
        "py-two-element-top",
        "top[0].reshape(1)",
        "top[0].reshape(2)",
        "the top has one element for each bottom, and each holds the loss",
        CHANNEL_PYTHON,
    ),
    (
        "py-tail-starts-late",
        "tuple(range(1, x.ndim))",
        "tuple(range(2, x.ndim))",
        "off by one: the tail begins behind the channels",
        TAIL_PYTHON,
    ),
    (
        "py-tail-ends-early",
        "tuple(range(1, x.ndim))",
        "tuple(range(1, max(2, x.ndim - 1)))",
        "off by one: the tail ends before the last axis",
        TAIL_PYTHON,
    ),
    (
        "py-tail-of-four-axes",
        "tuple(range(1, x.ndim))",
        "(1, 2, 3)[: x.ndim - 1]",
        "written for images: an axis behind the fourth is forgotten",
        TAIL_PYTHON,
    ),
    (
        "py-tail-gradient-not-reshaped",
        'if self.sum == "tail":\n                    gradient',
        'if self.sum == "never":\n                    gradient',
        "a forgotten branch: inputs with different numbers of axes",
        TAIL_PYTHON,
    ),
)

CONVOLUTION = parity("caffe-convolution")
SLICE = parity("caffe-slice-eltwise")
REDUCTION = parity("caffe-reduction", "tail_sum")
NATIVE = parity("caffe-native")
ELTWISE = parity("caffe-eltwise-reduction")
CUDA_NET = parity("caffe-cuda")

_FILTER = """\
  top: "%s"
  param { lr_mult: 0 decay_mult: 0 }
  convolution_param {
    num_output: 1
    kernel_size: 1
    bias_term: false
    weight_filler { type: "constant" value: 1 }
"""
_SUM1, _SUM2 = _FILTER % "sum1", _FILTER % "sum2"
_BETWEEN = """\
  }
}
layer {
  name: "sum2"
  type: "Convolution"
  bottom: "x2"
"""
_BOTH = _SUM1 + _BETWEEN + _SUM2

_REDUCTIONS = """\
  reduction_param { operation: SUM axis: 1 }
}
layer {
  name: "sum2"
  type: "Reduction"
  bottom: "x2"
  top: "sum2"
  reduction_param { operation: SUM axis: 1 }
"""

_SECOND_ELTWISE = """\
  bottom: "x2_0"
  bottom: "x2_1"
  bottom: "x2_2"
  top: "sum2"
  eltwise_param { operation: SUM }
"""

CONVOLUTION_NET = _group(
    "nets",
    "caffe_impl/nets/channel_sum_convolution.prototxt",
    (
        "conv-average",
        _SUM2,
        _SUM2.replace("value: 1", "value: 0.333333"),
        "one filter averages its three channels",
        CONVOLUTION,
    ),
    (
        "conv-random-weights",
        _SUM1,
        _SUM1.replace('"constant" value: 1', '"xavier"'),
        "a filler that was copied from a net that learns",
        CONVOLUTION,
    ),
    (
        "conv-bias",
        _SUM2,
        _SUM2.replace("bias_term: false", 'bias_filler { type: "constant" value: 0.1 }'),
        "a bias that was not switched off",
        CONVOLUTION,
    ),
    (
        "conv-3x3",
        _BOTH,
        _BOTH.replace("kernel_size: 1", "kernel_size: 3 pad: 1"),
        "a 3x3 kernel: neighbours are summed as well",
        CONVOLUTION,
    ),
    (
        "conv-stride",
        _BOTH,
        _BOTH.replace("kernel_size: 1", "kernel_size: 1 stride: 2"),
        "a stride of 2: three of four positions are left out",
        CONVOLUTION,
    ),
    (
        "conv-two-outputs",
        _BOTH,
        _BOTH.replace("num_output: 1", "num_output: 2"),
        "two equal outputs: every difference counts twice",
        CONVOLUTION,
    ),
    (
        "conv-x1-twice",
        _BETWEEN,
        _BETWEEN.replace("x2", "x1"),
        "copy and paste: both branches read x1",
        CONVOLUTION,
    ),
)

OTHER_NETS = [
    *_group(
        "nets",
        "caffe_impl/nets/tail_sum_reduction.prototxt",
        (
            "reduction-mean",
            _REDUCTIONS,
            _REDUCTIONS.replace("SUM axis", "MEAN axis"),
            "MEAN divides by the reduced size",
            REDUCTION,
        ),
        (
            "reduction-asum",
            _REDUCTIONS,
            _REDUCTIONS.replace("SUM axis", "ASUM axis"),
            "the sum of absolute values, right where all inputs are positive",
            REDUCTION,
        ),
        (
            "reduction-axis-2",
            _REDUCTIONS,
            _REDUCTIONS.replace("axis: 1", "axis: -1"),
            "the last axis only, right where there are two",
            REDUCTION,
        ),
        (
            "reduction-coefficient",
            'top: "sum1"\n  reduction_param { operation: SUM axis: 1 }',
            'top: "sum1"\n  reduction_param { operation: SUM axis: 1 coeff: 1.0001 }',
            "a coefficient that is off by a ten-thousandth",
            REDUCTION,
        ),
    ),
    *_group(
        "nets",
        "caffe_impl/nets/euclidean_native.prototxt",
        (
            "native-x1-twice",
            'bottom: "x2"',
            'bottom: "x1"',
            "copy and paste: the loss compares x1 with itself",
            NATIVE,
        ),
        (
            "native-no-propagation",
            '  top: "loss"\n',
            '  top: "loss"\n  propagate_down: true\n  propagate_down: false\n',
            "propagate_down is switched off for the second bottom",
            NATIVE,
        ),
    ),
    *_group(
        "nets",
        "caffe_impl/nets/euclidean_eltwise_reduction.prototxt",
        (
            "eltwise-sum",
            "coeff: 1 coeff: -1",
            "coeff: 1 coeff: 1",
            "the sum for the difference: a sign of a coefficient",
            ELTWISE,
        ),
        (
            "eltwise-no-coefficients",
            "operation: SUM coeff: 1 coeff: -1",
            "operation: PROD",
            "the wrong operation, PROD",
            ELTWISE,
        ),
        (
            "eltwise-half-forgotten",
            "axis: 1 coeff: 0.5",
            "axis: 1",
            "the 1/2 of 1/(2N) is forgotten: loss and gradients are twice as large",
            ELTWISE,
        ),
        (
            "eltwise-not-squared",
            "operation: SUMSQ",
            "operation: ASUM",
            "absolute values where squares are meant",
            ELTWISE,
        ),
        (
            "eltwise-sum-over-batch",
            "operation: MEAN",
            "operation: SUM",
            "the normaliser N is forgotten",
            ELTWISE,
        ),
    ),
    *_group(
        "nets",
        "caffe_impl/nets/channel_sum_python.prototxt",
        (
            "python-net-tail",
            'param_str: "channel"',
            'param_str: "tail"',
            "the trap: all axes behind N are summed",
            CHANNEL_PYTHON,
        ),
        (
            "python-net-no-loss-weight",
            "  loss_weight: 1\n",
            "",
            "a Python loss without loss_weight, which trains nothing",
            CHANNEL_PYTHON,
        ),
    ),
    *_group(
        "nets",
        "caffe_impl/nets/tail_sum_python.prototxt",
        (
            "python-net-channel",
            'param_str: "tail"',
            'param_str: "channel"',
            "the channels only, where all axes are meant",
            TAIL_PYTHON,
        ),
    ),
    *_group(
        "nets",
        "caffe_impl/nets/euclidean_python.prototxt",
        (
            "python-net-sums",
            'param_str: "none"',
            'param_str: "channel"',
            "a sum over the channels that nobody asked for",
            EUCLIDEAN_PYTHON,
        ),
    ),
    *_group(
        "nets",
        "caffe_impl/nets/channel_sum_cuda.prototxt",
        (
            "cuda-net-builtin",
            'type: "ChannelSumEuclideanLoss"',
            'type: "EuclideanLoss"',
            "the built-in loss in place of the custom one",
            CUDA_NET,
        ),
    ),
    *_group(
        "nets",
        "caffe_impl/variants.py",
        (
            "slice-maximum",
            "eltwise_param { operation: SUM }",
            "eltwise_param { operation: MAX }",
            "the largest channel for the sum",
            SLICE,
        ),
        (
            "slice-channel-twice",
            'bottoms = "".join(f\'  bottom: "{name}"\\n\' for name in names)',
            'bottoms = "".join(f\'  bottom: "{name}"\\n\' for name in [names[0], *names[:-1]])',
            "off by one: the first channel is added twice and the last one not at all",
            SLICE,
        ),
        (
            "slice-one-channel",
            "if shape[1] == 1:",
            "if shape[1] == 0:",
            "a forgotten branch: one channel cannot be cut and added",
            SLICE,
        ),
    ),
    *_group(
        "nets",
        "caffe_impl/nets/channel_sum_slice_eltwise.prototxt",
        (
            "slice-file-maximum",
            _SECOND_ELTWISE,
            _SECOND_ELTWISE.replace("SUM", "MAX"),
            "the file that users copy, wrong where the generated net is right",
            own_tests("test_nets.py", "-k", "file or generated"),
        ),
    ),
]

COMPILED = parity("caffe-cuda", builds=True)
COMPILED_LARGE = parity("caffe-cuda", selection="million and not 10", builds=True)
KERNELS_ON_CPU = own_tests(
    "test_compiled_layer.py", "-k", "test_kernels_on_the_cpu and address", own_cache=True
)
COMPILED_TESTS = Judge(
    "test_compiled_layer.py -k 'force_backward or refusal'",
    ("test_compiled_layer.py", "-k", "force_backward or refusal"),
    builds=True,
)

COMPILED_LAYER = [
    *_group(
        "compiled layer",
        "caffe_impl/cuda/channel_sum_euclidean_loss_layer.cpp",
        (
            "cpp-top-diff-ignored",
            "top[0]->cpu_diff()[0]",
            "Dtype(1)",
            "the top diff is ignored: right at loss_weight 1 only",
            COMPILED,
        ),
        (
            "cpp-one-sign",
            "i == 0 ? scale : -scale",
            "scale",
            "x2's gradient with x1's sign",
            COMPILED,
        ),
        (
            "cpp-second-not-written",
            "for (int i = 0; i < 2; ++i) {",
            "for (int i = 0; i < 1; ++i) {",
            "off by one: the second bottom's diff is never written",
            COMPILED,
        ),
        (
            "cpp-propagates-first",
            "if (propagate_down[i]) {",
            "if (propagate_down[0]) {",
            "propagate_down[0] decides for both bottoms",
            COMPILED,
        ),
        (
            "cpp-gradient-by-positions",
            "channel_sum::Scale(top[0]->cpu_diff()[0], plan_.samples)",
            "channel_sum::Scale(top[0]->cpu_diff()[0], d_.count())",
            "the gradient is divided by the number of squares, not by N",
            COMPILED,
        ),
        (
            "cpp-positions-of-an-image",
            "bottom[0]->count(2)",
            "bottom[0]->count(3)",
            "off by one in the axes: the first spatial axis is forgotten",
            COMPILED,
        ),
        (
            "cpp-difference-not-reshaped",
            "d_.Reshape(shape1);",
            "if (!d_.count()) { d_.Reshape(shape1); }",
            "cached state across a reshape: the buffer keeps the first batch's size",
            COMPILED,
        ),
        (
            "cpp-plan-kept",
            "plan_ = channel_sum::MakePlan",
            "if (!partials_.count()) plan_ = channel_sum::MakePlan",
            "cached state across a reshape: N and S are remembered from the set-up",
            COMPILED,
        ),
        (
            "cpp-any-shapes",
            "CHECK(have_channels && shape1 == shape2)",
            "CHECK(have_channels)",
            "shapes that do not fit are read as if they did",
            COMPILED_TESTS,
        ),
    ),
    *_group(
        "compiled layer",
        "caffe_impl/cuda/channel_sum_euclidean_loss_layer.hpp",
        (
            "cpp-no-force-backward",
            "const int /* bottom */) const {\n    return true;",
            "const int bottom) const {\n    return bottom != 1;",
            "LossLayer's own rule: force_backward does not reach the second bottom",
            COMPILED_TESTS,
        ),
    ),
    *_group(
        "compiled layer",
        "caffe_impl/cuda/channel_sum_euclidean_loss_kernels.hpp",
        (
            "cpp-half-forgotten",
            "(squares / (2. * static_cast<double>(samples)))",
            "(squares / static_cast<double>(samples))",
            "the 1/2 of 1/(2N) is forgotten",
            COMPILED,
        ),
        (
            "cpp-integer-scale",
            "static_cast<double>(weight)\n",
            "static_cast<int>(weight)\n",
            "the loss weight passes through an integer",
            COMPILED,
        ),
        (
            "cpp-not-subtracted",
            "return sum + (x1 - x2);",
            "return sum + (x1 + x2);",
            "the sign of x2 in the forward",
            COMPILED,
        ),
        (
            "cpp-extra-channels-ignored",
            "const Index all = std::max(c1, c2);",
            "const Index all = std::min(c1, c2);",
            "the channels that only one input has are left out",
            COMPILED,
        ),
        (
            "cpp-extra-channels-sign",
            "sum[i] = Add(sum[i], Dtype(0), b[i]);",
            "sum[i] = Add(sum[i], b[i], Dtype(0));",
            "the channels that only x2 has are added, not subtracted",
            COMPILED,
        ),
        (
            "cpp-row-forgotten",
            "for (Index half = plan.rows / 2; half > 0; half /= 2) {\n    for (Index i = 0;",
            "for (Index half = plan.rows / 2; half > 1; half /= 2) {\n    for (Index i = 0;",
            "off by one in the reduction tree: every second row of channels is lost",
            COMPILED,
        ),
        (
            "cpp-last-strip-forgotten",
            "plan.strips = (positions + wide - 1) / wide;",
            "plan.strips = std::max<Index>(positions / wide, 1);",
            "a division that rounds down: the last positions do not count in the loss",
            COMPILED,
        ),
        (
            "cpp-last-tile-forgotten",
            "plan.tiles = (samples * plan.strips + groups - 1) / groups;",
            "plan.tiles = std::max<Index>(samples * plan.strips / groups, 1);",
            "a division that rounds down: the last samples do not count in the loss",
            COMPILED,
        ),
        (
            "cpp-one-channel-only",
            "for (Index c = 0; c < channels; ++c, diff += plan.positions) {",
            "for (Index c = 0; c < channels - 1; ++c, diff += plan.positions) {",
            "off by one: the last channel's diff is not written, and the next sample's is shifted",
            COMPILED,
        ),
        (
            "cpp-single-position",
            "std::fill(diff, diff + channels, Gradient(scale, *d));",
            "*diff = Gradient(scale, *d);",
            "a forgotten loop in the branch for inputs without spatial axes",
            COMPILED,
        ),
        (
            "cpp-sample-offset",
            "x2 + n * plan.channels[1] * plan.positions + s, width, &sums[0]);",
            "x2 + n * plan.channels[0] * plan.positions + s, width, &sums[0]);",
            "the stride of x1's samples is used for x2",
            COMPILED,
        ),
        (
            "cpp-sums-kept",
            "std::fill(sums, sums + plan.rows * width, Dtype(0));",
            "",
            "a forgotten initialisation: each sample's sums go on from the last one's",
            COMPILED,
        ),
        (
            "cpp-chunk-offset",
            "                d + n * plan.positions + s);",
            "                d + n * plan.positions);",
            "what is computed in several pieces is written over the first one",
            COMPILED_LARGE,
        ),
        (
            "cpp-partial-sums-overwritten",
            "totals[block % plan.threads] += SumSquares",
            "totals[block % plan.threads] = SumSquares",
            "with more blocks than threads, sums are overwritten, not added",
            COMPILED_LARGE,
        ),
        (
            "gpu-row-forgotten",
            "for (int half = plan.rows / 2; half > 0; half /= 2) {",
            "for (int half = plan.rows / 2; half > 1; half /= 2) {",
            "the GPU kernel: off by one in the reduction tree",
            KERNELS_ON_CPU,
        ),
        (
            "gpu-inactive-threads",
            "&& place.position < plan.positions;",
            "&& place.position <= plan.positions;",
            "the GPU kernel: off by one at the edge, a thread reads and writes beyond the end",
            KERNELS_ON_CPU,
        ),
    ),
]

MODULE = parity("torch-module")
MODULE_CHANNEL = parity("torch-module", "channel_sum")
MODULE_TAIL = parity("torch-module", "tail_sum")
FUNCTION = parity("torch-function")
FUNCTION_CHANNEL = parity("torch-function", "channel_sum")
FEW = "base or two-axes or exact-channels-3-7 or weight-3.7"
FUSED = parity("torch-compiled", "channel_sum", FEW)
PORT_TESTS = own_tests("test_ports.py")

_CHANNEL_PORT = """\
    d = x1.sum(1) - x2.sum(1)  # N, S...
    return d.square().sum() / (2 * x1.shape[0])
"""
_TAIL_PORT = "d = x1.flatten(1).sum(1) - x2.flatten(1).sum(1)  # N"

TORCH_PORTS = [
    *_group(
        "torch ports",
        "torch_impl/module.py",
        (
            "torch-mse",
            "d = x1 - x2  # N, C, S...\n    return d.square().sum() / (2 * x1.shape[0])",
            "return torch.nn.functional.mse_loss(x1, x2)",
            "what people reach for first: another normaliser",
            parity("torch-module", "euclidean"),
        ),
        (
            "torch-half-forgotten",
            _CHANNEL_PORT,
            _CHANNEL_PORT.replace("(2 * x1.shape[0])", "x1.shape[0]"),
            "the 1/2 of 1/(2N) is forgotten",
            MODULE_CHANNEL,
        ),
        (
            "torch-mean-of-squares",
            _CHANNEL_PORT,
            _CHANNEL_PORT.replace("d.square().sum() / (2 * x1.shape[0])", "d.square().mean() / 2"),
            "a mean over all positions where Caffe divides by N",
            MODULE_CHANNEL,
        ),
        (
            "torch-last-axis",
            _CHANNEL_PORT,
            _CHANNEL_PORT.replace("sum(1)", "sum(-1)"),
            "channels last: the wrong axis is summed",
            MODULE_CHANNEL,
        ),
        (
            "torch-mean-over-channels",
            _CHANNEL_PORT,
            _CHANNEL_PORT.replace("x2.sum(1)", "x2.mean(1)"),
            "one input's channels are averaged, not summed",
            MODULE_CHANNEL,
        ),
        (
            "torch-broadcast",
            _CHANNEL_PORT,
            _CHANNEL_PORT.replace("x2.sum(1)", "x2.sum(1, keepdim=True)"),
            "wrong broadcast: an axis that one sum keeps lines samples up with samples",
            MODULE_CHANNEL,
        ),
        (
            "torch-detached",
            _CHANNEL_PORT,
            _CHANNEL_PORT.replace("d.square()", "(d * d.detach())"),
            "the loss is right, the gradient is half of it",
            MODULE_CHANNEL,
        ),
        (
            "torch-label-detached",
            _CHANNEL_PORT,
            _CHANNEL_PORT.replace("x2.sum(1)", "x2.detach().sum(1)"),
            "x2 is taken for a label: it gets no gradient",
            MODULE_CHANNEL,
        ),
        (
            "torch-half-precision",
            _CHANNEL_PORT,
            _CHANNEL_PORT.replace("d.square()", "d.bfloat16().float().square()"),
            "the difference passes through bfloat16",
            MODULE_CHANNEL,
        ),
        (
            "torch-euclidean-norm",
            _CHANNEL_PORT,
            _CHANNEL_PORT.replace("d.square().sum()", "d.norm()"),
            "the norm for its square",
            MODULE_CHANNEL,
        ),
        (
            "torch-common-channels",
            _CHANNEL_PORT,
            _CHANNEL_PORT.replace("x2.sum(1)", "x2[:, : x1.shape[1]].sum(1)"),
            "the channels that only x2 has are left out",
            MODULE_CHANNEL,
        ),
        (
            "torch-tail-starts-late",
            _TAIL_PORT,
            _TAIL_PORT.replace("flatten(1).sum(1)", "flatten(1)[:, 1:].sum(1)"),
            "off by one: the first element of each sample is not summed",
            MODULE_TAIL,
        ),
        (
            "torch-wrong-choice",
            '"tail": tail_sum_euclidean_loss,',
            '"tail": channel_sum_euclidean_loss,',
            "a line that was copied: the name stands for another loss",
            MODULE_TAIL,
        ),
        (
            "torch-clamped",
            "d = x1 - x2  # N, C, S...",
            "d = (x1 - x2).clamp(-3, 3)",
            "an outlier's gradient is cut off, as a robust loss would do",
            parity("torch-module", "euclidean"),
        ),
    ),
    *_group(
        "torch ports",
        "torch_impl/function.py",
        (
            "function-grad-ignored",
            "gradient: torch.Tensor = grad / d.shape[0] * d",
            "gradient: torch.Tensor = d / d.shape[0]",
            "the incoming gradient is ignored: right at loss_weight 1 only",
            FUNCTION_CHANNEL,
        ),
        (
            "function-grad-squared",
            "gradient: torch.Tensor = grad / d.shape[0] * d",
            "gradient: torch.Tensor = grad * grad / d.shape[0] * d",
            "the incoming gradient is applied twice",
            FUNCTION_CHANNEL,
        ),
        (
            "function-by-count",
            "gradient: torch.Tensor = grad / d.shape[0] * d",
            "gradient: torch.Tensor = grad / d.numel() * d",
            "the gradient is divided by the number of squares, the loss is not",
            FUNCTION_CHANNEL,
        ),
        (
            "function-one-sign",
            "(-grad).expand(shape2)",
            "grad.expand(shape2)",
            "x2's gradient with x1's sign",
            FUNCTION_CHANNEL,
        ),
        (
            "function-needs-swapped",
            "want1, want2 = ctx.needs_input_grad",
            "want2, want1 = ctx.needs_input_grad",
            "which input wants a gradient is read in the wrong order",
            FUNCTION_CHANNEL,
        ),
        (
            "function-one-shape",
            "ctx.shapes = (x1.shape, x2.shape)",
            "ctx.shapes = (x1.shape, x1.shape)",
            "C1 = C2 is taken for granted",
            FUNCTION_CHANNEL,
        ),
        (
            "function-rolled",
            "return grad.expand(shape1) if want1",
            "return grad.roll(1, 0).expand(shape1) if want1",
            "an off-by-one in the batch: every sample gets its neighbour's gradient",
            FUNCTION_CHANNEL,
        ),
        (
            "function-state-kept",
            "(d,) = ctx.saved_tensors",
            "d = HalfMeanSquare.__dict__.get('kept', ctx.saved_tensors[0])\n"
            "        if d.shape != ctx.saved_tensors[0].shape:\n"
            "            d = ctx.saved_tensors[0]\n"
            "        HalfMeanSquare.kept = d",
            "cached state: the difference is kept on the class and reused for the next inputs",
            FUNCTION_CHANNEL,
        ),
        (
            "function-differentiated-once",
            "gradient: torch.Tensor = grad / d.shape[0] * d",
            "gradient: torch.Tensor = grad / d.shape[0] * d.detach()",
            "the backward of the backward lacks a term, which training with it would need",
            PORT_TESTS,
        ),
        (
            "function-any-shapes",
            "if not fit or shape1[0] == 0:",
            "if shape1[0] == 0:",
            "shapes that do not fit are not refused",
            PORT_TESTS,
        ),
    ),
    *_group(
        "torch ports",
        "torch_impl/compiled.py",
        (
            "compiled-mean",
            "return d.square().sum()",
            "return d.square().mean()",
            "a mean where the sum is meant",
            FUSED,
        ),
        (
            "compiled-one-view",
            "(n, shape2[1], -1)),",
            "(n, shape1[1], -1)),",
            "C1 = C2 is taken for granted",
            FUSED,
        ),
        (
            "compiled-by-count",
            "/ (2 * n)",
            "/ (2 * x1[:, 0].numel())",
            "divided by the number of squares, not by N",
            FUSED,
        ),
    ),
]

CLOSED_FORMS = own_tests("test_reference.py")

TRUTH = [
    *_group(
        "truth",
        "reference/channel_sum.py",
        (
            "truth-half-forgotten",
            "(2 * x1.shape[0])",
            "x1.shape[0]",
            "the reference forgets the 1/2: then nothing agrees with it",
            MODULE_CHANNEL,
        ),
        (
            "truth-axis",
            "x1.sum(1) - x2.sum(1)  # N, S...",
            "x1.sum(0) - x2.sum(0)",
            "the reference sums the batch",
            MODULE_CHANNEL,
        ),
        (
            "truth-refuses-too-little",
            "if (x1[0], x1[2:]) == (x2[0], x2[2:]):",
            "if x1[0] == x2[0]:",
            "the reference takes shapes for which it is not defined",
            CLOSED_FORMS,
        ),
    ),
    *_group(
        "truth",
        "reference/euclidean.py",
        (
            "truth-not-squared",
            "(d * d).sum()",
            "d.abs().sum()",
            "the reference sums absolute values",
            parity("torch-module", "euclidean"),
        ),
    ),
    *_group(
        "truth",
        "reference/tail_sum.py",
        (
            "truth-trap",
            "d = x1.flatten(1).sum(1) - x2.flatten(1).sum(1)  # N",
            "d = x1.sum(1) - x2.sum(1)",
            "the trap inside the reference: tail_sum sums the channels only",
            MODULE_TAIL,
        ),
    ),
    *_group(
        "truth",
        "reference/truth.py",
        (
            "truth-no-weight",
            "objective = case.weight * loss",
            "objective = loss",
            "the truth of one loss weight only",
            MODULE_CHANNEL,
        ),
        (
            "truth-no-second-consumer",
            'if case.sharing == "split":',
            'if case.sharing == "never":',
            "a forgotten branch: the second consumer's share of a gradient",
            MODULE_CHANNEL,
        ),
        (
            "truth-in-float32",
            "torch.from_numpy(inputs.x1).double()",
            "torch.from_numpy(inputs.x1).float()",
            "the truth itself is rounded to float32",
            CLOSED_FORMS,
        ),
        (
            "truth-wants-both",
            "dx2 = x2.grad.numpy() if want2 and not same",
            "dx2 = x2.grad.numpy() if not same",
            "the truth has a gradient that nobody asked for",
            CLOSED_FORMS,
        ),
    ),
]

BOUND_TESTS = own_tests("test_compare.py", "test_rounding.py")
EXACT_LANE = own_tests("test_compare.py")

ROUNDING = _group(
    "rounding bound",
    "reference/rounding.py",
    (
        "bound-unit-too-large",
        "UNIT_ROUNDOFF = 2.0**-24",
        "UNIT_ROUNDOFF = 2.0**-20",
        "a bound that was loosened until all was green, 16 times",
        BOUND_TESTS,
    ),
    (
        "bound-unit-too-small",
        "UNIT_ROUNDOFF = 2.0**-24",
        "UNIT_ROUNDOFF = 2.0**-28",
        "a bound that rounding itself breaks",
        parity("torch-module", "euclidean"),
    ),
    (
        "bound-loosened",
        "return float(np.expm1(roundings * np.log1p(UNIT_ROUNDOFF)))",
        "return float(np.expm1(1000 * roundings * np.log1p(UNIT_ROUNDOFF)))",
        "a factor of 1000 on every bound",
        BOUND_TESTS,
    ),
    (
        "bound-no-summation",
        "else growth(terms - 1) * size",
        "else 0 * size",
        "the rounding of the sums is forgotten",
        MODULE_CHANNEL,
    ),
    (
        "bound-of-the-result",
        "size = size1 + _tail_like(size2, size1.ndim)",
        "size = d",
        "the sum of absolute values is taken for the value of the sum: cancellation is forgotten",
        MODULE_TAIL,
    ),
    (
        "bound-ignores-the-weight",
        "scale = abs(case.weight) / samples",
        "scale = 1 / samples",
        "a diff's bound without its loss weight",
        parity("torch-module", "euclidean"),
    ),
    (
        "bound-not-by-n",
        "scale = abs(case.weight) / samples",
        "scale = abs(case.weight)",
        "a diff's bound that is N times too wide",
        BOUND_TESTS,
    ),
    (
        "bound-no-underflow",
        "underflow = (2 * (d + error) + 4) * SMALLEST_SUBNORMAL",
        "underflow = 0 * d",
        "underflow is forgotten",
        MODULE,
    ),
    (
        "bound-no-overflow",
        "np.where(_may_overflow(d, size, terms), np.inf,",
        "np.where(False, np.inf,",
        "overflow is forgotten",
        MODULE,
    ),
    (
        "bound-everything-exact",
        "        whole\n        and ",
        "        ",
        "inputs that are no integers count as exact",
        MODULE_CHANNEL,
    ),
    (
        "bound-nothing-exact",
        'if case.sharing != "none":\n        return False',
        "if case:\n        return False",
        "the exact lane gets the tolerance of the others",
        EXACT_LANE,
    ),
    (
        "bound-any-weight-exact",
        "and (case.weight == 0 or _is_power_of_two(abs(case.weight)))",
        "",
        "a weight that is no power of two counts as exact",
        MODULE,
    ),
)

VERDICTS = own_tests("test_mutation.py", "-k", "verdict")
SUITE = own_tests("test_mutants.py", "-k", "NeverWritten or Accumulates or Stale or IgnoresTopDiff")

SCHEDULE = [
    *_group(
        "inputs and schedule",
        "caffe_impl/variants.py",
        (
            "schedule-no-poison",
            '{"op": "forward"}, {"op": "poison", "value": poison}, {"op": "backward"}',
            '{"op": "forward"}, {"op": "backward"}',
            "what a diff held before is not poisoned, so an unwritten one may look right",
            SUITE,
        ),
        (
            "schedule-no-other-inputs",
            "ops += recorded.one_pass(other, BEFORE)",
            "ops += recorded.one_pass(inputs, BEFORE)",
            "the pass before has the same inputs, so a stale result looks right",
            SUITE,
        ),
        (
            "schedule-no-reshape",
            "ops += [_reshape(case, larger), *recorded.one_pass(larger, poison, read=False)]",
            "pass",
            "no larger batch goes before the last pass: state kept across a reshape is not seen",
            VERDICTS,
        ),
        (
            "schedule-unwritten-is-pruned",
            "if self.case.weight == 0 and all(",
            "if all(",
            "a diff that was never written is taken for one that Caffe pruned",
            SUITE,
        ),
        (
            "schedule-one-gradient",
            'names = ("x1",) if case.sharing == "same-blob" else ("x1", "x2")',
            'names = ("x1",)',
            "dx2 is never asked for",
            CHANNEL_PYTHON,
        ),
    ),
    *_group(
        "inputs and schedule",
        "caffe_parity/caffe/worker/worker.py",
        (
            "worker-weight-ignored",
            'losses[0].loss_weight[:] = [edits["loss_weight"]]',
            "losses[0].loss_weight[:] = [1]",
            "every case runs at loss_weight 1",
            CHANNEL_PYTHON,
        ),
        (
            "worker-poisons-inputs",
            "blob.diff[...] = value",
            "blob.data[...] = value",
            "the poison goes to the data, not to the diffs",
            SUITE,
        ),
    ),
    *_group(
        "inputs and schedule",
        "reference/fills.py",
        (
            "fills-one-seed",
            "np.random.RandomState(case.seed))",
            "np.random.RandomState(1))",
            "every case has the same numbers",
            CLOSED_FORMS,
        ),
        (
            "fills-positive",
            "rng.randint(-3, 4, size=shape)",
            "rng.randint(0, 4, size=shape)",
            "positive inputs only: TVM's Reduction was wrong for years behind these",
            CLOSED_FORMS,
        ),
    ),
]

COMPARING = own_tests("test_compare.py")

_WRONG = "np.count_nonzero(~(fractions <= 1))"

COMPARISON = [
    *_group(
        "comparison",
        "caffe_parity/engine/compare.py",
        (
            "compare-twice-the-bound",
            _WRONG,
            "np.count_nonzero(~(fractions <= 2))",
            "a factor of 2, to be on the safe side",
            COMPARING,
        ),
        (
            "compare-below-the-bound",
            _WRONG,
            "np.count_nonzero(~(fractions < 1))",
            "an error of exactly the bound fails",
            COMPARING,
        ),
        (
            "compare-mean",
            _WRONG,
            "int(fractions.mean() > 1)",
            "PaDiff's rule: the mean decides, so one wrong element passes",
            COMPARING,
        ),
        (
            "compare-sorted",
            "fractions = _fractions(actual, expected, worst)\n",
            "fractions = _fractions(np.sort(actual, None), np.sort(expected, None), "
            "np.sort(worst, None)).reshape(actual.shape)\n",
            "MMdnn's rule: values are sorted before they are compared",
            COMPARING,
        ),
        (
            "compare-most-elements",
            _WRONG,
            f"max(0, {_WRONG} - actual.size // 1000)",
            "one element in a thousand may be wrong",
            COMPARING,
        ),
        (
            "compare-absolute-tolerance",
            "np.abs(actual - expected) / bound)",
            "np.abs(actual - expected) / (bound + 1e-8))",
            "an atol, as everybody has: a tiny gradient may be zero",
            COMPARING,
        ),
        (
            "compare-relative-tolerance",
            "if np.array_equal(actual, expected):  #",
            "if np.allclose(actual, expected):  #",
            "the short cut for equal arrays takes close ones, too",
            COMPARING,
        ),
        (
            "compare-signed",
            "np.abs(actual - expected) / bound)",
            "(actual - expected) / bound)",
            "without abs(): whatever is too small passes",
            COMPARING,
        ),
        (
            "compare-broadcasts",
            "if actual.shape != expected.shape:",
            "if actual.ndim != expected.ndim:",
            "a tensor of another shape is broadcast",
            COMPARING,
        ),
        (
            "compare-nan-passes",
            "same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))",
            "same = (actual == expected) | np.isnan(actual)",
            "reprod_log's rule: NaN passes",
            COMPARING,
        ),
        (
            "compare-expected-nan",
            "same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))",
            "same = (actual == expected) | np.isnan(expected)",
            "where a NaN is expected, anything passes",
            COMPARING,
        ),
        (
            "compare-nan-never-agrees",
            "same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))",
            "same = actual == expected",
            "a NaN that must be there fails",
            parity("torch-module", "channel_sum"),
        ),
        (
            "compare-not-finite-passes",
            "fractions[odd] = np.where(same | overflow, 0.0, np.inf)[odd]",
            "fractions[odd] = 0.0",
            "whatever is not finite is left out of the comparison",
            COMPARING,
        ),
        (
            "compare-overflow-nan",
            "np.isposinf(bound) & ~np.isnan(actual) & np.isfinite(expected)",
            "np.isposinf(bound) & np.isfinite(expected)",
            "where an overflow is granted, NaN is granted as well",
            COMPARING,
        ),
        (
            "compare-any-infinity",
            "np.isposinf(bound) & ~np.isnan(actual) & np.isfinite(expected)",
            "np.isinf(actual) & np.isfinite(expected)",
            "an infinity passes everywhere",
            COMPARING,
        ),
        (
            "compare-no-overflow",
            "expected = as_float32(expected)",
            "expected = 1.0 * expected",
            "what float32 cannot hold is expected of it",
            COMPARING,
        ),
        (
            "compare-worst-place",
            "np.unravel_index(int(np.argmax(fractions))",
            "np.unravel_index(int(np.argmin(fractions))",
            "the report names the best place",
            COMPARING,
        ),
        (
            "compare-nothing-suspicious",
            "self.agrees and self.times_typical > 1",
            "self.agrees and self.times_typical > 100",
            "the second grade never shows",
            COMPARING,
        ),
        (
            "compare-always-proves",
            "bool(np.nanmax(worst, initial=0.0) < largest)",
            "True",
            "a bound that proves nothing is not marked",
            COMPARING,
        ),
        (
            "compare-note-ignored",
            "return self.wrong == 0 and not self.note",
            "return self.wrong == 0",
            "only numbers decide: a note alone is no failure",
            VERDICTS,
        ),
        (
            "compare-first-pass",
            "for each in run.passes:",
            "for each in run.passes[:1]:",
            "only the first pass counts",
            COMPARING,
        ),
        (
            "compare-last-pass",
            "if failed is None and not agreement.agrees:",
            "failed = None\n            if not agreement.agrees:",
            "the last pass decides",
            COMPARING,
        ),
        (
            "compare-seen-once",
            "elif seen is not None and _same_bits(actual, seen):",
            "elif seen is not None:",
            "the verdict of the first pass is taken for the later ones",
            COMPARING,
        ),
        (
            "compare-missing-gradient",
            "if case.weight == 0:\n                    continue",
            "if case:\n                    continue",
            "a gradient that was not computed passes",
            COMPARING,
        ),
        (
            "compare-forward-only",
            "for name in TENSORS:",
            "for name in TENSORS[:1]:",
            "only the loss is compared",
            COMPARING,
        ),
        (
            "compare-best-pass",
            "_rank(agreement) > _rank(worst)",
            "_rank(agreement) < _rank(worst)",
            "the best pass is reported for the worst",
            VERDICTS,
        ),
    ),
    *_group(
        "comparison",
        "caffe_parity/engine/judge.py",
        (
            "judge-crash-agrees",
            'AGREEING = ("pass", "refused", "not run")',
            'AGREEING = ("pass", "refused", "not run", "crash", "hang")',
            "a crash counts as agreement",
            own_tests("test_report.py"),
        ),
        (
            "judge-any-refusal",
            "expectation is not None and expectation.text in failure.message",
            "expectation is not None",
            "any crash is taken for the refusal that is expected",
            VERDICTS,
        ),
        (
            "judge-need-not-refuse",
            "if expectation is None:\n        return compared",
            'if expectation is None or expectation.kind == "refused":\n        return compared',
            "a variant that must refuse may compute",
            VERDICTS,
        ),
        (
            "judge-prediction-unchecked",
            'if outcome.verdict != "pass":\n        return outcome',
            "",
            "a layer that computes something else need not compute what is predicted",
            VERDICTS,
        ),
    ),
    *_group(
        "comparison",
        "parity_tests/test_parity.py",
        (
            "parity-crash-passes",
            "if not verdict.agrees:",
            'if verdict.verdict == "fail":',
            "a crash or a hang is printed as passed",
            VERDICTS,
        ),
    ),
]

CATALOGUE: tuple[Mutant, ...] = (
    *PYTHON_LAYER,
    *CONVOLUTION_NET,
    *OTHER_NETS,
    *COMPILED_LAYER,
    *TORCH_PORTS,
    *TRUTH,
    *ROUNDING,
    *SCHEDULE,
    *COMPARISON,
)
"""Every mutant, in the order in which they are reported."""
