"""How Caffe computes it: nets, Python layers, the compiled layer, and the runtime that runs them."""
