"""The three layers by name."""

from caffe_parity import Layer
from reference import channel_sum, euclidean, tail_sum

LAYERS: dict[str, Layer] = {
    each.LAYER.name: each.LAYER for each in (euclidean, channel_sum, tail_sum)
}
"""Every layer by name, in the order in which they are reported."""

SUMMED = {"euclidean": "none", "channel_sum": "channel", "tail_sum": "tail"}
"""The axes that each of them sums before it squares the difference."""
