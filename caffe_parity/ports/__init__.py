"""A PyTorch counterpart of each of Caffe's layer types.

    said = Said(layer, bottoms, messages)        what the prototxt says of one layer
    calls = PORTS[said.type].of(said)            the calls that compute it, or `Refused` by name
    tops = evaluated(calls, tensors)             what they give

The functions lie in a module for each family: activations, arithmetic, convolution, pooling,
normalisation, shapes, losses, recurrent. They take tensors and plain values, are plain PyTorch, and
say in their docstrings where Caffe differs from what one would write. docs/layers.md has what is
proved of each.
"""

from caffe_parity.ports.catalogue import Call as Call
from caffe_parity.ports.catalogue import Port as Port
from caffe_parity.ports.catalogue import Refused as Refused
from caffe_parity.ports.catalogue import Said as Said
from caffe_parity.ports.catalogue import evaluated as evaluated
from caffe_parity.ports.layers import PORTS as PORTS
