"""The nets of the known-bad layers."""

from __future__ import annotations

from pathlib import Path

from caffe_impl.variants import LAYERS, NETS
from caffe_parity import CaffeNet

FOLDER = Path(__file__).parent / "known_bad"


def net_of(layer: str) -> CaffeNet:
    """A class of known_bad.py in a net like any other of channel_sum."""
    text = (NETS / "channel_sum_python.prototxt").read_text()
    text = text.replace('"summed_euclidean_loss"', '"known_bad"')
    text = text.replace('"SummedEuclideanLossLayer"', f'"{layer}"')
    return CaffeNet(lambda case: text, layer, (str(LAYERS), str(FOLDER)))
