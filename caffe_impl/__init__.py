"""How Caffe computes it: nets, layers, and the runtime that runs them."""
