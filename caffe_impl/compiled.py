"""The suite's own compiled layer, `ChannelSumEuclideanLoss`, for the Caffe that it shall run in."""

import os
from functools import cache
from pathlib import Path

from caffe_parity.caffe import plugin
from caffe_parity.caffe.client import Caffe
from caffe_parity.caffe.compile import CompileError

CUDA = Path(__file__).parent / "cuda"
NAME = "channel_sum_euclidean_loss"
SOURCE = CUDA / f"{NAME}_layer.cpp"
TYPE = "ChannelSumEuclideanLoss"


@cache
def compiled_layer(caffe: Caffe) -> tuple[str, ...]:
    """The plug-in to load for the layer; none where Caffe has the layer built in.

    PARITY_PLUGIN names one that was built by hand (caffe_impl/cuda/CMakeLists.txt), which another
    Caffe than the installed one needs; else it lies beside the program of CAFFE_PYTHON.

    Raises:
        CompileError: it cannot be built.
        NoCaffe: Caffe does not start.
    """
    chosen = os.environ.get("PARITY_PLUGIN", "")
    if chosen:
        return (str(Path(chosen).absolute()),)
    if TYPE in caffe.start()["layers"]:  # to load it as well would abort
        return ()
    if caffe.interpreter.root is not None:
        return (str(plugin.build(caffe.interpreter.root, [SOURCE])),)
    beside = Path(caffe.interpreter.command[-1]).with_name(f"{NAME}.so")
    if beside.is_file():
        return (str(beside),)
    raise CompileError(
        "This Caffe does not have the compiled layer.\n"
        "  to do: copy caffe_impl/cuda's files into its source tree, or build the plug-in for it\n"
        "         with CMake and set PARITY_PLUGIN to what was built (docs/compiled_layer.md)."
    )
