"""A user's own net as a variant of one of the layers."""

from __future__ import annotations

from pathlib import Path

from caffe_impl.variants import CaffeVariant
from caffe_parity.caffe import gpu
from caffe_parity.caffe.client import Caffe, CaffeCrash, CaffeError, CaffeHang


class UnusableNet(Exception):
    """The net cannot be compared at all; the message says why and what to do."""


def variant_of(
    file: Path, layer: str, path: list[str], timeout: float, device: str = "cpu"
) -> CaffeVariant:
    """The variant "caffe-net" for a prototxt file; the net is built once to see that it can be.

    Not so where the device is not there: then the variant only says that it cannot run.

    Args:
        file: a net with the inputs x1 and x2 and one loss.
        layer: the layer that it should compute.
        path: folders with its Python layers; the file's own folder when empty.
        timeout: seconds that building it may take.
        device: "cpu" or "cuda": where Caffe computes.

    Raises:
        UnusableNet: the file cannot be read, is no net, has no loss, lacks an input, or Caffe
            refuses it.
        NoCaffe, InstallError: there is no Caffe.
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableNet(f"cannot read the net {file}: {error}") from error
    folders = tuple(path or [str(file.resolve().parent)])
    variant = CaffeVariant("caffe-net", layer, lambda case: text, path=folders)
    if device == "cuda":
        variant = gpu.on_gpu(variant)
    if not variant.cannot_run():
        caffe = variant.caffe()
        caffe.timeout = timeout
        _try_out(caffe, file, text, folders)
    return variant


def _try_out(caffe: Caffe, file: Path, text: str, folders: tuple[str, ...]) -> None:
    edits = {"gradients": ["x1", "x2"], "loss_weight": 1.0}
    net = {"op": "net", "text": text, "path": folders, "edits": edits}
    try:
        caffe.request([net])
    except (CaffeCrash, CaffeHang) as error:
        advice = "Its own shapes do not fit, or a layer refuses them."
        raise UnusableNet(f"Caffe cannot build the net {file}: {error}\n{advice}") from error
    except CaffeError as error:
        said = f"\n{error.output.strip()}" if error.output.strip() else ""
        raise UnusableNet(f"the net {file} cannot be compared: {error}{said}") from error
